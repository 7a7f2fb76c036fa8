"""`keepstate ls`: what there is, how far it is, how large, and which episodes failed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keepstate.cli._options import PATH, json_option
from keepstate.cli._output import FILE_COLUMNS, print_json, screen, size
from keepstate.errors import EXIT_PARTIAL

if TYPE_CHECKING:
    from keepstate.inventory import Holding, Inventory

UNITS = {"tasks": "tasks", "traces": "graded", "cell": "graded", "dataset": "rows"}
"""What is counted, by kind; of a training and an adapter: steps."""


@click.command()
@click.argument("path", type=PATH, default=".")
@click.option("--failed", is_flag=True, help="Name every episode that is recorded and not graded, and why.")
@json_option
def command(path: Path, *, failed: bool, as_json: bool) -> None:
    """List what lies below PATH: tasks, traces, data sets, trainings, adapters, cells of benchmarks, reports.

    How far each is, how large, when it last changed. Failed episodes: keepstate ls runs/bench --failed. Exit 1 if
    something could not be read.
    """
    from keepstate.inventory import look

    found = look(path)
    if failed:
        _failed(found.items, as_json)
    elif as_json:
        print_json([_entry(item) for item in found.items])
    else:
        _table(found.items)
    _words(path, found)
    if found.closed or any(item.problem for item in found.items):
        sys.exit(EXIT_PARTIAL)


def _entry(item: Holding) -> dict[str, Any]:
    changed = datetime.fromtimestamp(item.changed, UTC).isoformat(timespec="seconds")
    told = asdict(item) | {"path": str(item.path), "changed": changed, "problem": item.problem or None}
    return told | {"ungraded": len(item.ungraded)}


def _table(items: Sequence[Holding]) -> None:
    from rich.table import Table

    from keepstate.traces.view import printable

    longest = max((len(str(item.path)) for item in items), default=0)
    console = screen(longest + FILE_COLUMNS)
    for kind in dict.fromkeys(item.kind for item in items):
        table = Table(kind.upper(), "", "", "", "", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.columns[0].overflow = "fold"
        table.columns[0].min_width = min(longest, console.width // 2)
        table.columns[2].justify = "right"
        for column in table.columns[1:4]:
            column.no_wrap = True
        for item in items:
            if item.kind is kind:
                words = (str(item.path), far(item), size(item.bytes), age(item.changed), item.problem or item.what)
                table.add_row(*map(printable, words))
        console.print(table)


def far(item: Holding) -> str:
    """`7 of 10 graded, 5 solved, 2 failed`, `30 of 60 steps, running`; empty where there is nothing to count, `?` where
    it is not known."""
    if item.kind == "report":
        return ""
    running = ", running" if item.running else ""
    if item.done is None:
        return f"?{running}"
    of = "" if item.total is None else f" of {item.total:,}"
    solved = "" if item.solved is None else f", {item.solved:,} solved"
    failed = f", {len(item.ungraded):,} failed" if item.ungraded else ""
    return f"{item.done:,}{of} {UNITS.get(item.kind, 'steps')}{solved}{failed}{running}"


def age(changed: float) -> str:
    """How long ago: `5 min`."""
    seconds = max(0, time.time() - changed)
    for unit, most, length in (("s", 60, 1), ("min", 3600, 60), ("h", 2 * 86_400, 3600)):
        if seconds < most:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds // 86_400:.0f} days ago"


def _failed(items: Sequence[Holding], as_json: bool) -> None:
    from keepstate.traces.view import printable

    episodes = [episode for item in items for episode in item.ungraded]
    if as_json:
        print_json([asdict(episode) for episode in episodes])
        return
    for episode in episodes:
        click.echo(printable(": ".join(filter(None, (episode.path, episode.origin, episode.message)))))
    click.echo(f"{len(episodes)} episodes are not graded", err=True)
    if episodes:
        click.echo(f"look at one: keepstate traces view {episodes[0].path}", err=True)
        click.echo("the command that made them plays them again, and keeps the others", err=True)


def _words(path: Path, found: Inventory) -> None:
    """What a reader of the table needs beside it."""
    from keepstate.traces.view import printable

    for reason in found.closed:
        click.echo(printable(f"not looked into: {reason}"), err=True)
    if not found.items:
        click.echo(f"nothing of keepstate's lies below {path}; to begin: keepstate tasks generate", err=True)
