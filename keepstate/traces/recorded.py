"""Whether an episode lies recorded: the one definition, for collecting, benchmarks, reports and checks.

The record of an episode is its trace. The verdict beside it is a copy for other programs, written after it: a run that
was killed in between leaves a trace without one, and the copy is made again, not the episode. A trace that cannot be
read, that is another episode's, or that its verdict contradicts is no record: it is named, and played again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from keepstate.agents.record import Trace
from keepstate.errors import UserError
from keepstate.files import content_hash, parse_json, write_atomic
from keepstate.traces.reader import BadTrace, TraceError, load_trace, read_fault
from keepstate.traces.schema import verdict_json
from keepstate.traces.writer import trace_path, verdict_path
from keepstate.vocabulary import RuntimeName


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

    @property
    def path(self) -> Path:
        """Where its trace lies."""
        return trace_path(self.folder, self.task)


class OtherEpisode(BadTrace):
    """A finished, graded episode that is not the one that is due."""


class Copy(Enum):
    """The verdict file beside a trace."""

    GOOD = auto()
    MISSING = auto()
    BROKEN = auto()
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
    if objection := _objection(due, trace):
        return (OtherEpisode if trace.verdict else BadTrace)(due.path, objection)
    copy = verdict_copy(due.folder, trace)
    if copy is Copy.DIFFERENT:
        return BadTrace(due.path, f"{verdict_path(due.folder, due.task).name} beside it says otherwise")
    if mend and copy is not Copy.GOOD:
        write_atomic(verdict_path(due.folder, due.task), verdict_json(trace))
    return trace


def verdict_copy(folder: Path, trace: Trace) -> Copy:
    """How the verdict file in `folder` agrees with the trace's own verdict."""
    try:
        beside = parse_json(verdict_path(folder, trace.task.name).read_bytes())
    except FileNotFoundError:
        return Copy.MISSING
    except (OSError, ValueError, RecursionError):
        return Copy.BROKEN
    same = content_hash(beside) == content_hash(parse_json(verdict_json(trace)))
    return Copy.GOOD if same else Copy.DIFFERENT


def _objection(due: Due, trace: Trace) -> str | None:
    """Why this is the trace of another episode."""
    found = {
        "task": (trace.task.name, due.task),
        "content of the task": (trace.task.content_hash[:12], due.content_hash[:12]),
        "runtime": (str(trace.runtime), str(due.runtime)),
        "seed": (trace.seed, due.seed),
    }
    wrong = (f"{what} {there}, not {here}" for what, (there, here) in found.items() if there != here)
    return next((f"another episode: {difference}" for difference in wrong), None)
