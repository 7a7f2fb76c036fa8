"""Writing an episode: its trace, then its verdict, each whole or not at all.

The verdict is a copy of what the trace holds, and is written last; one of an earlier episode goes first. So a verdict
never speaks of another trace than the one beside it, and one that is missing can be written again from the trace:
see `keepstate.traces.recorded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keepstate.files import sync_folder, write_error
from keepstate.many_files import write_together
from keepstate.staging import place, stage
from keepstate.tasks.base import Verdict
from keepstate.traces.record import Summary, Trace
from keepstate.traces.schema import trace_json, verdict_json

TRACE_SUFFIX = ".trace.json"


def trace_path(folder: Path, task_name: str) -> Path:
    """Where the trace of a task lies."""
    return folder / f"{task_name}{TRACE_SUFFIX}"


def traces_in(folder: Path) -> list[Path]:
    """The traces that lie in `folder` itself, sorted. A folder of such a name is none, and nobody's to remove."""
    return sorted(path for path in folder.glob(f"*{TRACE_SUFFIX}") if not path.is_dir())


def verdict_path(folder: Path, task_name: str) -> Path:
    """Where the verdict of a task lies."""
    return folder / f"{task_name}.json"


def write_trace(folder: Path, trace: Trace) -> Path:
    """Write `<task>.trace.json` and `<task>.json` durably; existing files are replaced.

    Returns:
        The path of the trace.

    Raises:
        UserError: The folder cannot be written or the disk is full.
    """
    write_traces([(folder, trace)])
    return trace_path(folder, trace.task.name)


def write_traces(episodes: Sequence[tuple[Path, Trace]]) -> None:
    """What `write_trace` does for each, waiting for the disk together.

    Raises:
        UserError: A folder cannot be written or the disk is full; none of the verdicts is there then.
    """
    verdicts = [(verdict_path(folder, trace.task.name), trace) for folder, trace in episodes]
    for path, _ in verdicts:
        _make_way(path)
    write_together([(trace_path(folder, trace.task.name), trace_json(trace)) for folder, trace in episodes])
    write_together([(path, verdict_json(trace)) for path, trace in verdicts], durable=False)


@dataclass(frozen=True, slots=True)
class Staged:
    """A graded episode that lies written beside its place, and what is counted of it."""

    summary: Summary
    verdict: Verdict
    mark: str
    """In the names of its files."""
    failure: None = None


def stage_trace(folder: Path, trace: Trace, mark: str) -> None:
    """Write both files beside their places; existing ones stay, and nobody reads these until `place_trace`.

    Raises:
        UserError: The folder cannot be written or the disk is full.
    """
    stage(trace_path(folder, trace.task.name), trace_json(trace), mark)
    stage(verdict_path(folder, trace.task.name), verdict_json(trace), mark, durable=False)


def place_trace(folder: Path, staged: Staged) -> None:
    """Put a staged episode in its place: what `write_trace` does, of files that are written already.

    Raises:
        UserError: It is gone, or the folder cannot be written.
    """
    name = staged.summary.task.name
    _make_way(verdict_path(folder, name))
    place(trace_path(folder, name), staged.mark)
    sync_folder(folder)
    place(verdict_path(folder, name), staged.mark)


def _make_way(verdict: Path) -> None:
    with suppress(OSError):  # a folder that cannot be written is explained by what follows
        verdict.unlink(missing_ok=True)


def remove_trace(path: Path) -> None:
    """Remove a trace and the verdict beside it, which goes first.

    Raises:
        UserError: It may not be removed.
    """
    try:
        verdict_path(path.parent, path.name.removesuffix(TRACE_SUFFIX)).unlink(missing_ok=True)
        path.unlink()
    except OSError as error:
        raise write_error(path, error) from error
