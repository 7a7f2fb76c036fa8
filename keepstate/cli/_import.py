"""`keepstate traces import`: traces of the research code, rows of `messages` and ShareGPT in; also out again."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from keepstate.cli._options import PATH, RUNTIME
from keepstate.display import CountDisplay
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.files import atomic_file
from keepstate.traces.exporters import EXPORTERS, NOT_CARRIED
from keepstate.traces.importing.folders import Left, export_traces, import_traces
from keepstate.traces.writer import TRACE_SUFFIX
from keepstate.vocabulary import RuntimeName

OUT = "data/traces"


@click.command()
@click.argument("sources", nargs=-1, required=True, type=PATH)
@click.option("--runtime", type=RUNTIME, help="Of rows of messages, which do not tell.")
@click.option("--out", type=PATH, help=f"Folder to write, else {OUT}; with --to a file, else stdout.")
@click.option("--strip-empty-think", is_flag=True, help="Take empty think blocks off: the template writes them again.")
@click.option("--to", "form", type=click.Choice(list(EXPORTERS)), help="Write this format, one row a line, instead.")
def command(
    sources: tuple[Path, ...], runtime: str | None, out: Path | None, strip_empty_think: bool, form: str | None
) -> None:
    """Read SOURCES (folders or files of traces, rows of messages, logs of other programs) and write keepstate's traces.

    What was imported before is not written twice. Exit 1 if something could not be read: it is named.
    """
    name = RuntimeName(runtime) if runtime else None
    if form and out and out.is_dir():
        raise UserError(f"{out} is a folder; with --to one file is written", f"name a file: --out {out / form}.jsonl")
    with CountDisplay("reading files") as shown:
        left = Left(shown.say, strip_empty_think)
        read = partial(export_traces, sources, name, left, form=form or "", on_progress=shown)
        if form is None:
            counts = import_traces(sources, name, left, out=out or Path(OUT), on_progress=shown)
        elif out is None:
            counts = read(file=sys.stdout.buffer, on_progress=lambda _: None)  # a bar would stand among the rows
        else:
            with atomic_file(out) as file:
                counts = read(file=file)
                if not counts:
                    left.report()
                    raise _nothing(sources, left)
    left.report()
    if not counts and not left.bad:
        raise _nothing(sources, left)
    if form:
        click.echo(f"{form} does not carry {NOT_CARRIED[form]}", err=True)
    told = ", ".join(f"{count} {runtime}" for runtime, count in sorted(counts.items())) or "none"
    click.echo(f"{told}; {left.bad} could not be read", err=True)
    if left.bad:
        raise click.exceptions.Exit(EXIT_PARTIAL)


def _nothing(sources: tuple[Path, ...], left: Left) -> UserError:
    found = f"{left.bad} could not be read" if left.bad else "they hold no trace and no row of messages"
    return UserError(
        f"nothing was imported from {', '.join(map(str, sources))}: {found}",
        f"name folders or files of *{TRACE_SUFFIX}, or of JSON rows with `messages` or `conversations`",
    )
