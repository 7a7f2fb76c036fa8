"""`keepstate clean`: what is of no more use, and remove it where asked to."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote

import click

from keepstate.cli._options import PATH, json_option
from keepstate.cli._output import print_json, size
from keepstate.errors import EXIT_PARTIAL, UserError


@click.command()
@click.argument("path", type=PATH, default=".")
@click.option("--delete", is_flag=True, help="Remove what is listed; without it nothing is.")
@json_option
def command(path: Path, *, delete: bool, as_json: bool) -> None:
    """List what lies below PATH and is of no more use: keepstate clean runs --delete removes it.

    That is: files half written by killed runs, and of finished trainings their checkpoints and prepared data. Traces,
    results, data sets, adapters, kept answers, environments and models are never touched. Exit 1 if something in use or
    unreadable was left.
    """
    from keepstate.leftovers import leftovers
    from keepstate.traces.view import printable

    if not path.is_dir():
        raise UserError(f"{path} is no folder", "all below this one: keepstate clean .")
    closed: list[str] = []
    found = list(leftovers(path, closed))
    gone = [leftover.remove() if delete else False for leftover in found]
    if as_json:
        pairs = zip(found, gone, strict=True)
        print_json([{"path": str(e.path), "why": e.why, "bytes": e.bytes, "removed": done} for e, done in pairs])
    else:
        for leftover, done in zip(found, gone, strict=True):
            words = "removed" if done else "stays" if delete else "could go"
            line = f"{words}  {size(leftover.bytes):>9}  {leftover.path}  ({leftover.why})"
            click.echo(printable(line).replace("\n", "\\n"))  # no name is two lines
    for reason in closed:
        click.echo(printable(f"not looked into: {reason}"), err=True)
    total = size(sum(leftover.bytes for leftover, done in zip(found, gone, strict=True) if done == delete))
    if delete or not found:
        none = printable(f"nothing to remove below {path}")
        click.echo(f"removed {sum(gone)} of {len(found)}: {total}" if found else none, err=True)
    else:
        click.echo(f"{len(found)}, {total}; to remove them: keepstate clean {quote(str(path))} --delete", err=True)
    if delete and not all(gone):
        click.echo("what stays is used by a process now, or may not be removed by you", err=True)
    if closed or (delete and not all(gone)):
        sys.exit(EXIT_PARTIAL)
