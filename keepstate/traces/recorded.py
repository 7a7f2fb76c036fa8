"""Whether an episode lies recorded: the one definition, for collecting, benchmarks, reports and checks.

The record of an episode is its trace. The verdict beside it is a copy for other programs, written after it: a run that
was killed in between leaves a trace without one, and the copy is made again, not the episode. A trace that cannot be
read, that is another episode's or another model's, or that its verdict contradicts is no record: it is named, and
played again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from keepstate.errors import UserError
from keepstate.files import content_hash, parse_json, write_atomic
from keepstate.traces.reader import BadTrace, load_trace, read_fault
from keepstate.traces.record import Trace, TraceError
from keepstate.traces.schema import verdict_json
from keepstate.traces.writer import trace_path, verdict_path
from keepstate.vocabulary import RuntimeName

GRADED_FAILURE = "failed by our doing and graded all the same"
UNGRADED = "neither graded nor failed"


@dataclass(frozen=True, slots=True)
class Due:
    """An episode that may lie recorded."""

    folder: Path
    task: str
    """Name of the task."""
    content_hash: str
    """Of the task."""
    runtime: RuntimeName
    seed: int
    """Of the run."""
    model: str | None
    """Who plays; None where that is not known."""

    @property
    def path(self) -> Path:
        """Where its trace lies."""
        return trace_path(self.folder, self.task)


class OtherEpisode(BadTrace):
    """A finished, graded episode in its own place that is not the one that is due."""


class Copy(Enum):
    """The verdict file beside a trace."""

    GOOD = auto()
    MISSING = auto()
    BROKEN = auto()
    """It cannot be read, or is no verdict."""
    DIFFERENT = auto()
    """It contradicts the trace."""


def read_record(due: Due, *, mend: bool = False) -> Trace | BadTrace | None:
    """What lies recorded of an episode: its trace, also one that failed by our doing; None where there is nothing.

    Args:
        due: Which episode.
        mend: Write a verdict that is missing or broken again, from the trace. What is no record will be replaced then,
            so a file that could not even be looked at is refused.

    Raises:
        UserError: The verdict cannot be written, or (`mend`) the trace cannot be looked at.
    """
    try:
        trace = load_trace(due.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except TraceError as error:
        return BadTrace(due.path, str(error))
    except OSError as error:
        if mend:
            raise UserError(
                f"cannot read {due.path}: {error.strerror or error}",
                "make it readable, or move it away: it may hold a finished episode",
            ) from error
        return BadTrace(due.path, read_fault(error))
    if bad := _objection(due, trace):
        return bad
    copy = verdict_copy(due.folder, trace)
    if copy is Copy.DIFFERENT:
        return BadTrace(due.path, f"{verdict_path(due.folder, due.task).name} beside it says otherwise")
    if mend and copy is not Copy.GOOD:
        write_atomic(verdict_path(due.folder, due.task), verdict_json(trace))
    return trace


def verdict_copy(folder: Path, trace: Trace) -> Copy:
    """How the verdict file in `folder` agrees with the trace's own verdict.

    What other programs add to it does not matter, nor how they write its numbers.
    """
    own = parse_json(verdict_json(trace), parse_int=float)
    try:
        beside = parse_json(verdict_path(folder, trace.task.name).read_bytes(), parse_int=float)
        if not isinstance(beside, dict) or own.keys().isdisjoint(beside):
            return Copy.BROKEN
        return Copy.GOOD if content_hash(beside) == content_hash(beside | own) else Copy.DIFFERENT
    except FileNotFoundError:
        return Copy.MISSING
    except (OSError, ValueError, RecursionError):
        return Copy.BROKEN


def _objection(due: Due, trace: Trace) -> BadTrace | None:
    """Why this is no record, or that of another episode."""
    if (trace.verdict is None) == (trace.failure is None):
        return BadTrace(due.path, GRADED_FAILURE if trace.verdict else UNGRADED)
    found = {
        "task": (trace.task.name, due.task),
        "content of the task": (trace.task.content_hash[:12], due.content_hash[:12]),
        "runtime": (str(trace.runtime), str(due.runtime)),
        "seed": (trace.seed, due.seed),
        "model": (trace.model, due.model or trace.model),
    }
    wrong = [f"{what} {there}, not {here}" for what, (there, here) in found.items() if there != here]
    if not wrong:
        return None
    finished = trace.verdict is not None and trace.task.name == due.task
    return (OtherEpisode if finished else BadTrace)(due.path, f"another episode: {wrong[0]}")
