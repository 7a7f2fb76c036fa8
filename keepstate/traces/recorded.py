"""Whether an episode lies recorded: the one definition, for collecting, benchmarks, reports and checks.

The record of an episode is its trace. The verdict beside it is a copy for other programs, written after it: a run that
was killed in between leaves a trace without one, and the copy is made again, not the episode. A trace that cannot be
read, or that its verdict contradicts, is no record: it is named, and played again. A finished episode of another task
or of other options in the place of one that is due is refused, as all of other options is (see `keepstate.resume`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from keepstate.errors import UserError
from keepstate.files import content_hash, parse_json, write_atomic
from keepstate.resume import changed_keys
from keepstate.traces.reader import BadTrace, OtherVersion, load_trace, read_fault
from keepstate.traces.record import Trace, TraceError
from keepstate.traces.schema import verdict_json
from keepstate.traces.writer import trace_path, traces_in, verdict_path

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
    options: Mapping[str, Any]
    """What it is played with: `runtime`, `seed`, `model`, `limits`, `sampling`; None or missing: not known."""

    @property
    def path(self) -> Path:
        """Where its trace lies."""
        return trace_path(self.folder, self.task)


@dataclass(frozen=True, slots=True)
class OtherEpisode(BadTrace):
    """A finished, graded episode in its own place that is not the one that is due."""

    changes: tuple[str, ...]
    """What differs, as `keepstate.resume.changed_keys` has it."""


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
        if isinstance(error, OtherVersion):
            return OtherEpisode(due.path, str(error), (f"{error}, so it is of another version",))
        return BadTrace(due.path, str(error))
    except OSError as error:
        if mend:
            raise UserError(
                f"cannot read {due.path}: {error.strerror or error}",
                "make it readable, or move it away: it may hold a finished episode",
            ) from error
        return BadTrace(due.path, read_fault(error))
    copy = verdict_copy(due.folder, trace)
    if bad := _objection(due, trace, copy):
        return bad
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


def _objection(due: Due, trace: Trace, copy: Copy) -> BadTrace | None:
    """Why this is no record, or that of another episode."""
    if (trace.verdict is None) == (trace.failure is None):
        return BadTrace(due.path, GRADED_FAILURE if trace.verdict else UNGRADED)
    changes = changed_keys({"task": trace.task.name}, {"task": due.task})
    changes += changed_keys({"content of the task": trace.task.content_hash}, {"content of the task": due.content_hash})
    changes += other_options(trace, due.options)
    if not changes:
        contradicted = f"{verdict_path(due.folder, due.task).name} beside it says otherwise"
        return BadTrace(due.path, contradicted) if copy is Copy.DIFFERENT else None
    reason = f"another episode: {changes[0]}"
    finished = trace.verdict is not None and trace.task.name == due.task
    return OtherEpisode(due.path, reason, tuple(changes)) if finished else BadTrace(due.path, reason)


def other_options(trace: Trace, options: Mapping[str, Any]) -> list[str]:
    """What a trace tells of its own options that differs from `options`, where both are known. See `Due`."""
    told = {
        "runtime": str(trace.runtime),
        "model": trace.model,
        "seed": trace.seed,
        "limits": trace.limits and trace.limits.model_dump(),
        "sampling": trace.sampling,
    }
    return changed_keys(told, {key: options.get(key) for key in told}, unknown=told)


def graded(folder: Path) -> Iterator[tuple[Path, Trace | None]]:
    """The graded episodes that lie in `folder`, so what could be lost there; None for one that cannot be told here."""
    for path in traces_in(folder):
        try:
            trace = load_trace(path)
        except (OtherVersion, OSError):
            yield path, None
            continue
        except TraceError:
            continue
        if trace.verdict is not None and trace.failure is None:
            yield path, trace


def finished_others(folder: Path, found: Iterable[BadTrace]) -> dict[str, Sequence[str]]:
    """Finished episodes in the places of those that are due, in words, and what differs of the first.

    Args:
        folder: Of the episodes.
        found: What lies in those places and is no record of them.
    """
    others = [file for file in found if isinstance(file, OtherEpisode)]
    if not others:
        return {}
    return {f"{folder} holds {len(others)} finished episodes (first {others[0].path.name})": others[0].changes}
