"""Writing an episode: its trace, then its verdict, each whole or not at all.

The verdict is written last: a `<task>.json` means that the trace beside it is complete.
"""

from __future__ import annotations

from pathlib import Path

from keepstate.agents.record import Trace
from keepstate.files import write_atomic
from keepstate.traces.schema import trace_json, verdict_json

TRACE_SUFFIX = ".trace.json"


def trace_path(folder: Path, task_name: str) -> Path:
    """Where the trace of a task lies."""
    return folder / f"{task_name}{TRACE_SUFFIX}"


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
    path = trace_path(folder, trace.task.name)
    write_atomic(path, trace_json(trace))
    write_atomic(verdict_path(folder, trace.task.name), verdict_json(trace))
    return path
