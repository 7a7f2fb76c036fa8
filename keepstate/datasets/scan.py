"""Reading one arm's traces with all cores into a spool file: memory grows by ~450 bytes a row, whatever its length.

A spool holds two lines a row: its description and the row itself. What is taken from it is decided later, when every
arm was read. Chooses nothing itself.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from keepstate import machine
from keepstate.datasets.convert import LeftOut, Row, convert_all, start_worker
from keepstate.datasets.options import BuildOptions
from keepstate.datasets.templates import ChatTemplate
from keepstate.errors import UserError
from keepstate.files import existing_folder, write_error
from keepstate.traces.writer import TRACE_SUFFIX
from keepstate.vocabulary import RuntimeName

CHUNK = 16
"""Files given to a worker at once."""
IN_FLIGHT = 4
"""Chunks a worker may be ahead."""
SMALL = 128
"""Below so many files, starting processes costs more than they save."""

Progress = Callable[[int, int], None]
"""Called with files done and files in all."""


class Entry(NamedTuple):
    """What choosing needs to know of a row; the rest is in the spool at `offset`."""

    task: bytes
    """Half a SHA-256, as is `content`: enough to tell rows apart, and 100,000 of them stay in memory."""
    content: bytes
    offset: int
    turns: int
    tokens: int
    trained: int


@dataclass(slots=True)
class Arm:
    """One arm, read."""

    spool: Path
    read: int = 0
    entries: list[Entry] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def row(self, spool: IO[bytes], entry: Entry) -> tuple[dict[str, Any], bytes]:
        """The description of a row and its line, newline included."""
        spool.seek(entry.offset)
        return json.loads(spool.readline()), spool.readline()


def trace_files(root: Path) -> list[str]:
    """Every trace file below `root`, sorted. As text: 100,000 `Path`s take 60 MiB more.

    Raises:
        UserError: No such folder, or it holds none.
    """
    existing_folder(root, "traces", "keepstate traces collect")
    found = [
        os.path.join(folder, name)
        for folder, folders, names in os.walk(root)
        for name in (*names, *folders)
        if name.endswith(TRACE_SUFFIX) and not name.startswith(".")
    ]
    if not found:
        raise UserError(f"no *{TRACE_SUFFIX} below {root}", "record some: keepstate traces collect, or traces import")
    return sorted(found)


def _chunks(files: list[str]) -> Iterator[list[str]]:
    """The files, some at a time, in order; they are taken out of the list, which is of no use afterwards."""
    files.reverse()
    while files:
        yield [files.pop() for _ in range(min(CHUNK, len(files)))]


def scan(
    root: Path,
    runtime: RuntimeName,
    spool: Path,
    *,
    template: ChatTemplate,
    tokenizer_path: Path,
    options: BuildOptions,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Arm:
    """Convert every trace below `root` and write the rows to `spool`.

    Args:
        root: Folder of the arm.
        runtime: Traces of another one are left out.
        spool: File to write; overwritten.
        template: Renders conversations.
        tokenizer_path: A model folder or `tokenizer.json`.
        options: Which traces are wanted.
        jobs: Processes; by default one a core, or none beside this one for a few files.
        progress: Told after every chunk.

    Raises:
        UserError: Nothing to read, no tokenizer, a worker was killed, or `spool` cannot be written.
    """
    files = trace_files(root)
    arm = Arm(spool)
    total = len(files)
    jobs = jobs or (1 if total < SMALL else machine.cores())
    try:
        with spool.open("wb") as file:
            for results in _converted(_chunks(files), jobs, (template, tokenizer_path, options, runtime, jobs > 1)):
                for result in results:
                    _record(arm, result, file)
                if progress:
                    progress(arm.read, total)
    except OSError as error:
        raise write_error(spool, error) from error
    return arm


def _record(arm: Arm, result: Row | LeftOut, spool: IO[bytes]) -> None:
    arm.read += 1
    if isinstance(result, LeftOut):
        arm.left_out.append(result)
        return
    entry = Entry(result.task_hash, result.content_hash, spool.tell(), result.turns, result.tokens, result.trained)
    arm.entries.append(entry)
    about = {"path": result.path, "task": result.task, "shortened": result.shortened}
    spool.write(json.dumps(about).encode() + b"\n" + result.line.encode() + b"\n")


def _converted(
    chunks: Iterator[list[str]], jobs: int, worker: tuple[ChatTemplate, Path, BuildOptions, RuntimeName, bool]
) -> Iterator[list[Row | LeftOut]]:
    """Results chunk by chunk, in order; never more than a few chunks wait."""
    if jobs == 1:
        start_worker(*worker)
        yield from map(convert_all, chunks)
        return
    context = multiprocessing.get_context("spawn")  # fork would copy the tokenizer's locks
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=start_worker, initargs=worker)
    waiting: deque[Future[list[Row | LeftOut]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(convert_all, chunk))
            if len(waiting) > jobs * IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed while reading traces (out of memory?)", "repeat with fewer: --jobs 1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
