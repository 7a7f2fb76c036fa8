"""Reading one arm's traces with all cores into a spool file: memory grows by ~450 bytes a row, whatever its length.

A spool holds two lines a row: its description and the row itself. What is taken from it is decided later, when every
arm was read. Chooses nothing itself.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from keepstate import machine
from keepstate.dataset.convert import NOT_A_TRACE, Converter, LeftOut, Row, convert_share, open_converter
from keepstate.dataset.manifest import BuildOptions, RowOrigin
from keepstate.dataset.templates import ChatTemplate
from keepstate.errors import UserError
from keepstate.files import write_error
from keepstate.processes import interrupts_held
from keepstate.traces.reader import trace_files
from keepstate.traces.writer import TRACE_SUFFIX
from keepstate.vocabulary import RuntimeName

if TYPE_CHECKING:
    from keepstate.play.cluster import Cluster

CHUNK = 16
"""Files whose results a worker sends at once."""
SMALL = 128
"""Below so many files, starting processes costs more than they save."""

OnProgress = Callable[[tuple[int, int]], None]
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

    def row(self, spool: IO[bytes], entry: Entry) -> tuple[RowOrigin, bytes]:
        """The description of a row and its line, newline included."""
        spool.seek(entry.offset)
        return json.loads(spool.readline()), spool.readline()


def scan(  # noqa: PLR0913 - one parameter an option
    root: Path,
    runtime: RuntimeName,
    spool: Path,
    *,
    template: ChatTemplate,
    tokenizer_path: Path,
    options: BuildOptions,
    jobs: int | None = None,
    cluster: Cluster | None = None,
    on_progress: OnProgress | None = None,
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
        cluster: Convert on its nodes instead.
        on_progress: Told after every chunk.

    Raises:
        UserError: Nothing to read, no tokenizer, a worker was killed, or `spool` cannot be written.
    """
    files, bad = trace_files(root)
    if not files:
        raise UserError(f"no *{TRACE_SUFFIX} below {root}", "record some: keepstate traces collect, or traces import")
    arm = Arm(spool)
    total = len(files)
    jobs = jobs or (1 if total < SMALL else machine.cores())
    converter = partial(open_converter, template, tokenizer_path, options, runtime)
    try:
        with spool.open("wb") as file, closing(_converted(files, cluster or jobs, converter)) as chunks:
            for each in bad:
                _record(arm, LeftOut(str(each.path), NOT_A_TRACE, each.reason), file)
            for results in chunks:
                for result in results:
                    _record(arm, result, file)
                if on_progress:
                    on_progress((arm.read, total + len(bad)))
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
    about: RowOrigin = {"path": result.path, "task": result.task, "shortened": result.shortened}
    if result.masked:
        about["masked"] = result.masked
    if result.source:
        about["source"] = result.source
    spool.write(json.dumps(about).encode() + b"\n" + result.line.encode() + b"\n")


def _converted(
    files: list[str], jobs: int | Cluster, converter: Callable[[], Converter]
) -> Generator[list[Row | LeftOut], None, None]:
    """Results chunk by chunk, in the order of the files."""
    if not isinstance(jobs, int):
        from keepstate.dataset.shards import converted_on  # the loop, the sandbox, and Ray

        yield from converted_on(jobs, files, converter)
        return
    starts = range(0, len(files), CHUNK)
    if jobs == 1:
        convert = converter().convert
        yield from ([convert(Path(path)) for path in files[start : start + CHUNK]] for start in starts)
        return
    chunks = [files[start : start + CHUNK] for start in starts]
    files.clear()  # of no use any more: every worker has its own
    with _workers([chunks[number::jobs] for number in range(jobs)], converter) as pipes:
        for number in range(len(chunks)):
            try:
                yield pipes[number % jobs].recv()
            except EOFError as error:
                raise UserError(
                    "a worker process ended while reading traces (killed for memory, unless it says more above)",
                    "repeat with fewer: --jobs 1",
                ) from error


@contextmanager
def _workers(shares: list[list[list[str]]], converter: Callable[[], Converter]) -> Iterator[list[Connection]]:
    """A process for each share of the chunks, and the pipe that its results come from, one chunk at a time.

    A worker that is ahead waits in its full pipe. Nothing is ever sent to one, and the end of the block kills them, so
    that no cut of this process, at whatever moment, can leave one waiting. Ctrl-C is left to this process.
    """
    context = multiprocessing.get_context("spawn")  # fork would copy the tokenizer's locks
    processes: list[SpawnProcess] = []
    pipes: list[Connection] = []
    try:
        resource_tracker.ensure_running()  # unblocks the signals where it has to start first
        with interrupts_held():
            for share in shares:
                ours, theirs = context.Pipe(duplex=False)
                pipes.append(ours)
                processes.append(context.Process(target=convert_share, args=(theirs, share, converter)))
                processes[-1].start()
                theirs.close()
        yield pipes
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
