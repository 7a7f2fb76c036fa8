"""Reading traces: ours, and by `keepstate.traces.importing` those of the research code and rows of messages.

One bad file never stops a reader of many: it is named with its reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from keepstate.closed import UNKNOWN_KEY, explain
from keepstate.errors import UserError
from keepstate.files import existing_folder, parse_json
from keepstate.traces.importing import SOURCE
from keepstate.traces.importing.formats import foreign, format_of, traces_of
from keepstate.traces.importing.research import research_trace, verdict_of
from keepstate.traces.importing.sources import iter_values
from keepstate.traces.record import TRACE_SCHEMA, Trace, TraceError, json_kind
from keepstate.traces.writer import TRACE_SUFFIX, verdict_path
from keepstate.vocabulary import RuntimeName


@dataclass(frozen=True, slots=True)
class BadTrace:
    """A file that should be a trace and is not."""

    path: Path
    reason: str
    other: bool = field(default=False, kw_only=True)
    """It holds another format, which an import reads."""


class OtherFormat(TraceError):
    """The content is of another format, which an import reads."""


class OtherVersion(TraceError):
    """A graded trace with keys that are not known here, and no other fault: as a newer version may write it."""


def read_trace(path: Path) -> Trace:
    """Read one trace.

    Raises:
        UserError: There is no such file, or it is no trace.
    """
    try:
        return load_trace(path)
    except (TraceError, OSError) as error:
        folder = next(each for each in path.parents if each.is_dir())
        see = "what is there: keepstate ls" if isinstance(error, OSError) else "all of them: keepstate traces check"
        raise UserError(f"cannot read trace {path}: {read_fault(error)}", f"see {see} {folder}") from error


def iter_traces(
    folder: Path, *, on_progress: Callable[[tuple[int, int]], None] = lambda _: None
) -> Iterator[tuple[Path, Trace | BadTrace]]:
    """Every `*.trace.json` below `folder`, sorted by path, one at a time. See `trace_files`.

    Args:
        folder: Where to look.
        on_progress: Called before each with how many were read, and how many there are.

    Raises:
        UserError: No such folder.
    """
    paths, bad = trace_files(folder)
    yield from ((each.path, each) for each in bad)
    for number, path in enumerate(sorted(map(Path, paths))):
        on_progress((number, len(paths)))
        try:
            yield path, load_trace(path)
        except (TraceError, OSError) as error:
            yield path, BadTrace(path, read_fault(error), other=isinstance(error, OtherFormat))


def iter_conversations(path: Path, runtime: RuntimeName | None) -> Iterator[tuple[str, Trace | BadTrace]]:
    """Every row of a file as a trace of `runtime`, with its place `<path>:<line>`; bad rows are named.

    Traces that lie in it are read as they are.

    Raises:
        OSError: The file cannot be read.
        UserError: It holds a row, which does not tell its runtime, and `runtime` does not either.
    """
    own = path if TRACE_SUFFIX in path.name.lower() else None  # else its name tells nothing of a trace in it
    for place, value in iter_values(path):
        if isinstance(value, TraceError):
            yield place, BadTrace(Path(place), str(value))
            continue
        try:
            found = iter([trace_of(value, own)]) if is_trace(value) else traces_of(value, runtime, place, path)
            for trace in found:
                yield place, BadTrace(Path(place), str(trace)) if isinstance(trace, TraceError) else trace
        except (TraceError, ValueError, RecursionError) as error:
            yield place, BadTrace(Path(place), str(error))


def trace_files(root: Path) -> tuple[list[str], list[BadTrace]]:
    """Every trace file below `root`, sorted, and the folders that cannot be read.

    As text: 100,000 `Path`s take 60 MiB more.

    Raises:
        UserError: No such folder.
    """
    existing_folder(root, "traces", "keepstate traces collect")
    closed: list[OSError] = []
    found = [
        os.path.join(folder, name)
        for folder, folders, names in os.walk(root, onerror=closed.append)
        for name in (*names, *folders)
        if name.endswith(TRACE_SUFFIX) and not name.startswith(".")
    ]
    return sorted(found), [BadTrace(Path(error.filename), read_fault(error)) for error in closed]


def load_trace(path: Path) -> Trace:
    """The trace in a file; the one way that every command reads one.

    Raises:
        TraceError: It is none.
        OSError: It cannot be read.
    """
    if path.is_fifo():
        raise TraceError("it is a pipe, no file")  # reading would wait for ever
    trace = parse_trace(path.read_bytes(), path)
    if trace.verdict is not None or trace.failure is not None or SOURCE not in trace.versions:
        return trace
    beside = _beside(path)  # of an imported trace, which may have been graded since
    return trace.model_copy(update={"verdict": verdict_of(beside)[0]}) if beside else trace


def parse_trace(raw: bytes, path: Path | None = None) -> Trace:
    """The trace in the bytes of a file.

    Args:
        raw: The bytes.
        path: Where they lie. A file of the research code holds neither its task's name nor its verdict: the first is
            in the name of the file, the second in the file beside it.

    Raises:
        TraceError: They hold none.
    """
    return trace_of(_json_object(raw), path)


def is_trace(value: Any) -> bool:
    """Whether a JSON value is a trace, ours or the research code's, whole or not."""
    if not isinstance(value, dict):
        return False
    told = not {"schema", "messages", "conversations"} & value.keys()
    return value.get("schema") == TRACE_SCHEMA or (told and isinstance(value.get("events"), list))


def trace_of(value: dict[str, Any], path: Path | None = None) -> Trace:
    """The trace in a JSON value. See `parse_trace`.

    Raises:
        TraceError: It is none.
    """
    if value.get("schema") == TRACE_SCHEMA:
        try:
            return Trace.model_validate(value)
        except ValidationError as error:
            unknown = {fault["type"] for fault in error.errors(include_input=False)} <= UNKNOWN_KEY
            kind = OtherVersion if unknown and value.get("verdict") is not None else TraceError
            raise kind(explain(error, Trace).message) from error
    if is_trace(value):
        return _imported(value, path)
    if found := format_of(value):
        raise OtherFormat(f"it is {found.name}, no trace: keepstate traces import reads it")
    raise TraceError(foreign(value) or f"schema is {value.get('schema')!r}, expected {TRACE_SCHEMA!r}")


def _json_object(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        raise TraceError("the file is empty")
    try:
        value = parse_json(raw)
    except UnicodeDecodeError as error:
        raise TraceError(f"no valid JSON, as it is no {error.encoding}: convert or decompress it first") from error
    except (ValueError, RecursionError) as error:
        raise TraceError(f"no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise TraceError(f"holds {json_kind(value)}, an object is needed")
    return value


def _imported(value: dict[str, Any], path: Path | None) -> Trace:
    try:
        if path is None:
            return research_trace(value)
        return research_trace(value, _stem(path), _beside(path))
    except ValidationError as error:
        raise TraceError(explain(error, Trace).message) from error


def _stem(path: Path) -> str:
    """`<family>-<task id>`, of a compressed file too."""
    return re.sub(r"\.trace\.json(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _beside(path: Path) -> dict[str, Any] | None:
    """The verdict in the file beside the trace at `path`; None where there is none.

    Raises:
        TraceError: The file cannot be read.
    """
    path = verdict_path(path.parent, _stem(path))
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise TraceError(f"the verdict beside it, {path.name}, cannot be read: {error}") from error
    return value if isinstance(value, dict) and {"status", "result"} & value.keys() else None


def read_fault(error: TraceError | OSError) -> str:
    """Why a file could not be read as a trace, in a few words."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
