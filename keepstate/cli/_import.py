"""`keepstate traces import`: traces of the research code, `messages` and ShareGPT JSONL in; also out again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from keepstate.agents.record import Trace
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.traces.conversations import iter_conversations
from keepstate.traces.exporters import EXPORTERS, NOT_CARRIED
from keepstate.traces.imported import NOT_CARRIED as LOST
from keepstate.traces.imported import file_word
from keepstate.traces.reader import BadTrace, TraceError, iter_traces, load_trace
from keepstate.traces.schema import trace_json
from keepstate.traces.writer import TRACE_SUFFIX, trace_path, write_trace
from keepstate.vocabulary import RuntimeName

RUNTIMES = click.Choice([str(name) for name in RuntimeName])
JSONL = ".jsonl"


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--runtime", type=RUNTIMES, help="Of JSONL rows, which do not tell.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="data/traces", show_default=True, help="Folder to write."
)
@click.option("--to", "form", type=click.Choice(list(EXPORTERS)), help="Print in this format, one a line, instead.")
def command(sources: tuple[Path, ...], runtime: str | None, out: Path, form: str | None) -> None:
    """Read SOURCES (folders or files of traces, JSONL of messages or ShareGPT) and write keepstate's traces.

    What was imported before is not written twice. Exit 1 if something could not be read; each is named.
    """
    lost: Counter[str] = Counter()
    written: Counter[str] = Counter()
    numbers: dict[Path, int] = {}
    bad = 0
    for place, trace in _read(sources, RuntimeName(runtime) if runtime else None):
        if isinstance(trace, BadTrace) or file_word(trace.task.name) != trace.task.name:
            bad += 1
            unsafe = "its task's name cannot be part of a file name"
            click.echo(f"{place}: {trace.reason if isinstance(trace, BadTrace) else unsafe}", err=True)
            continue
        lost.update(filter(None, trace.versions.get(LOST, "").split("; ")))
        written[str(trace.runtime)] += 1
        if form:
            click.echo(json.dumps(EXPORTERS[form](trace)))
        else:
            write_trace(_free(out / trace.runtime, trace, numbers), trace)
    for what, count in lost.most_common():
        click.echo(f"not carried over in {count}: {what}", err=True)
    if form:
        click.echo(f"{form} does not carry {NOT_CARRIED[form]}", err=True)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(written.items())) or "none"
    click.echo(f"{counts}; {bad} could not be read", err=True)
    if bad:
        raise click.exceptions.Exit(EXIT_PARTIAL)


def _read(sources: tuple[Path, ...], runtime: RuntimeName | None) -> Iterator[tuple[str, Trace | BadTrace]]:
    """Every trace of every source, with its place."""
    for source in sources:
        if source.is_dir():
            for path, trace in iter_traces(source):
                yield str(path), trace
            for path in sorted(source.rglob(f"*{JSONL}")):
                yield from _rows(path, runtime)
        elif source.suffix == JSONL:
            yield from _rows(source, runtime)
        else:
            yield str(source), _one(source)


def _rows(source: Path, runtime: RuntimeName | None) -> Iterator[tuple[str, Trace | BadTrace]]:
    if runtime is None:
        raise UserError(f"{source} does not tell its runtime", f"add --runtime {'|'.join(RuntimeName)}")
    try:
        yield from iter_conversations(source, runtime)
    except OSError as error:
        raise UserError(
            f"cannot read {source}: {error.strerror}", f"name a folder, a *{TRACE_SUFFIX} or a *{JSONL}"
        ) from error


def _one(source: Path) -> Trace | BadTrace:
    try:
        return load_trace(source)
    except (TraceError, OSError) as error:
        return BadTrace(source, str(error))


def _free(folder: Path, trace: Trace, numbers: dict[Path, int]) -> Path:
    """The folder for a trace: a numbered subfolder where another trace of the same task lies there already.

    `numbers` holds the last number by path, so that the thousandth row of one task is not looked for a thousand times.
    """
    first = trace_path(folder, trace.task.name)
    number = numbers.get(first, 0)
    while True:
        number += 1
        place = folder if number == 1 else folder / f"run-{number}"
        path = trace_path(place, trace.task.name)
        if not path.exists() or path.read_bytes() == trace_json(trace):
            numbers[first] = number
            return place
