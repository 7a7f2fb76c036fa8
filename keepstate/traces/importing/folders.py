"""Importing whole folders: every trace and row in them, each written once, and what does not come through.

Chooses by content, not by name, what a file is; one that is of another kind is passed over by name, never silently.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO

from keepstate.errors import UserError
from keepstate.processes import only_one
from keepstate.traces.exporters import EXPORTERS
from keepstate.traces.importing import NOT_CARRIED, PLACE, SOURCE, UNTRAINED, file_word, stripped
from keepstate.traces.importing.sources import other_format
from keepstate.traces.reader import BadTrace, OtherFormat, iter_conversations, iter_traces, load_trace
from keepstate.traces.record import Trace, TraceError
from keepstate.traces.view import printable
from keepstate.traces.writer import TRACE_SUFFIX, trace_path, verdict_path, write_trace
from keepstate.vocabulary import RuntimeName

ROWS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz", ".eval")
"""Names of files that may hold rows, whatever their case. What a file is, is seen in its content."""
LOCK = ".import.lock"
NAMED = 5
"""Places named that one reason keeps from being read."""


@dataclass(slots=True)
class Left:
    """What does not come through: places that could not be read, what traces do not carry, files passed over.

    Places are named as they are met; `report` says the rest.
    """

    say: Callable[[str], None]
    """Takes a line for people."""
    empty_think: bool = False
    """Leave empty think blocks before answers out."""
    thinking: int = 0
    """Traces that hold such blocks, where they are not left out."""
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """How often each was met, its numbers left out."""
    lost: Counter[str] = field(default_factory=Counter)
    passed: list[str] = field(default_factory=list)

    def name(self, place: str, reason: str) -> None:
        """Count a place that could not be read, and name it unless others were named for the same."""
        self.bad += 1
        key = re.sub(r"\d+", "N", reason)
        self.reasons[key] += 1
        if self.reasons[key] <= NAMED:
            self.say(printable(f"{place}: {reason}"))

    def report(self) -> None:
        """Say the rest."""
        for reason, count in self.reasons.items():
            if count > NAMED:
                self.say(printable(f"and {count - NAMED} more: {reason}"))
        for what in self.passed[:NAMED]:
            self.say(printable(f"passed over: {what}"))
        if len(self.passed) > NAMED:
            self.say(f"passed over: and {len(self.passed) - NAMED} more")
        for what, count in self.lost.most_common():
            self.say(printable(f"not carried over in {count}: {what}"))
        if self.thinking:
            self.say(f"empty think blocks before answers in {self.thinking}: --strip-empty-think takes them off")


Progress = Callable[[tuple[int, int]], None]
"""Called before each file with how many were read, and how many there are in this source."""


def import_traces(
    sources: Iterable[Path],
    runtime: RuntimeName | None,
    left: Left,
    *,
    out: Path,
    on_progress: Progress = lambda _: None,
) -> Counter[str]:
    """Write the traces of `sources` to `<out>/<runtime>/`; what was imported before is not written twice.

    Two imports into one folder would take the same free names: the second waits for the first.

    Args:
        sources: Folders, or files of traces or rows.
        runtime: Of rows, which do not tell.
        left: Takes what does not come through.
        out: Made where it is missing, unless nothing is to be written.
        on_progress: See `Progress`.

    Returns:
        How many traces came, by runtime, those that lie there already among them.

    Raises:
        UserError: A source cannot be read, a row's runtime is not known, or `out` cannot be written.
    """
    traces = _good(_read(sources, runtime, left, on_progress), left)
    counts: Counter[str] = Counter()
    numbers: dict[str, int] = {}
    first = next(traces, None)
    if first is None:
        return counts
    with only_one(out / LOCK, f"an import into {out}"):
        for trace in chain([first], traces):
            if folder := _free(out / trace.runtime, trace, numbers):
                write_trace(folder, trace)
            counts[str(trace.runtime)] += 1
    return counts


def export_traces(
    sources: Iterable[Path],
    runtime: RuntimeName | None,
    left: Left,
    *,
    form: str,
    file: IO[bytes],
    on_progress: Progress = lambda _: None,
) -> Counter[str]:
    """Write the traces of `sources` to `file` instead, a row a line in the format `form` of `EXPORTERS`.

    Returns and raises as `import_traces`.
    """
    counts: Counter[str] = Counter()
    for trace in _good(_read(sources, runtime, left, on_progress), left):
        file.write(json.dumps(EXPORTERS[form](trace), allow_nan=False).encode() + b"\n")
        counts[str(trace.runtime)] += 1
    return counts


def _good(found: Iterator[tuple[str, Trace | BadTrace]], left: Left) -> Iterator[Trace]:
    """The traces that can be written; the others are named."""
    for place, read in found:
        trace = stripped(read) if left.empty_think and isinstance(read, Trace) else read
        if isinstance(trace, Trace) and not left.empty_think:
            left.thinking += stripped(trace) is not trace
        if isinstance(trace, BadTrace):
            left.name(place, trace.reason)
        elif file_word(trace.task.name) != trace.task.name:
            left.name(place, "its task's name cannot be part of a file name")
        else:
            left.lost.update(filter(None, trace.versions.get(NOT_CARRIED, "").split("; ")))
            yield trace


def _read(
    sources: Iterable[Path], runtime: RuntimeName | None, left: Left, on_progress: Progress
) -> Iterator[tuple[str, Trace | BadTrace]]:
    """Every trace of every source, with its place."""
    for source in sources:
        if source.is_dir():
            for path, trace in iter_traces(source, on_progress=on_progress):
                yield from _trace(path, trace, runtime)
            paths = sorted(source.rglob("*"))
            for number, path in enumerate(paths):
                on_progress((number, len(paths)))
                yield from _beside_traces(path, runtime, left)
        elif source.name.endswith(TRACE_SUFFIX):
            yield from _trace(source, _one(source), runtime)
        else:
            try:
                yield from _rows(source, runtime)
            except OSError as error:
                raise UserError(
                    f"cannot read {source}: {error.strerror or error}",
                    f"name a folder, a *{TRACE_SUFFIX} or a file of rows",
                ) from error


def _trace(path: Path, trace: Trace | BadTrace, runtime: RuntimeName | None) -> Iterator[tuple[str, Trace | BadTrace]]:
    """What lies in a file that is named as a trace, whatever its format."""
    if isinstance(trace, BadTrace) and trace.other:
        yield from _rows(path, runtime)
    else:
        yield str(path), _placed(path, trace)


def _beside_traces(path: Path, runtime: RuntimeName | None, left: Left) -> Iterator[tuple[str, Trace | BadTrace]]:
    """The rows in a file that was found in a folder; the file is said to be passed over if it is of another kind."""
    name = path.name.lower()
    if path.is_dir() or name.startswith(".") or path.name.endswith(TRACE_SUFFIX):
        return
    if path.suffix in {".json", ".html"} and trace_path(path.parent, path.stem).exists():  # its verdict, or its page
        return
    if path.is_fifo():
        left.passed.append(f"{path}: it is a pipe, no file")
        return
    if not name.endswith(ROWS):
        unknown = f"its name ends with none of {', '.join((TRACE_SUFFIX, *ROWS))}"
        left.passed.append(f"{path}: {other_format(path) or unknown}")
        return
    try:
        rows = _rows(path, runtime)
        first = next(rows, None)
        second = next(rows, None)
        no_rows = first[1].reason if first and not second and isinstance(first[1], BadTrace) else ""
        if no_rows and name.endswith((".json", ".json.gz")):
            left.passed.append(f"{path}: {no_rows}")  # any program writes *.json
        else:
            yield from filter(None, (first, second))
            yield from rows
    except OSError as error:
        yield str(path), BadTrace(path, error.strerror or str(error))


def _rows(source: Path, runtime: RuntimeName | None) -> Iterator[tuple[str, Trace | BadTrace]]:
    for place, trace in iter_conversations(source, runtime):
        yield place, _placed(Path(place), trace)


def _placed(path: Path, trace: Trace | BadTrace) -> Trace | BadTrace:
    """An imported trace with the place that it comes from."""
    if isinstance(trace, BadTrace) or SOURCE not in trace.versions or PLACE in trace.versions:
        return trace
    return trace.model_copy(update={"versions": trace.versions | {PLACE: str(path)}})


def _one(source: Path) -> Trace | BadTrace:
    try:
        return load_trace(source)
    except (TraceError, OSError) as error:
        return BadTrace(source, str(error), other=isinstance(error, OtherFormat))


def _free(folder: Path, trace: Trace, numbers: dict[str, int]) -> Path | None:
    """The folder for a trace: a numbered subfolder where another trace of the same task lies there already.

    None if it lies there itself, from whatever place it was imported.

    `numbers` holds the last number by path, so that the thousandth row of one task is not looked for a thousand times.
    """
    first = str(trace_path(folder, trace.task.name))
    number = numbers.get(first, 0)
    while True:
        number += 1
        place = folder if number == 1 else folder / f"run-{number}"
        path = trace_path(place, trace.task.name)
        if not path.exists() or _same(path, trace):
            numbers[first] = number
            return None if verdict_path(place, trace.task.name).exists() else place


def _same(path: Path, trace: Trace) -> bool:
    """Whether the trace at `path` is of the same episode, whatever version imported it from whatever place."""
    found = _one(path)
    if isinstance(found, BadTrace) or found.versions.get(UNTRAINED) != trace.versions.get(UNTRAINED):
        return False
    return all(
        getattr(found, name) == getattr(trace, name) for name in ("task", "runtime", "messages", "failure", "verdict")
    )
