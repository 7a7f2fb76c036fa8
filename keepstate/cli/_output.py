"""What commands print to stdout: JSON for programs, tables for people. Words go to stderr.

Loads nothing that `--help` of a command need not wait for.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

FILE_COLUMNS = 160
"""Width of a table that goes into a file or pipe."""


def print_json(value: Any) -> None:
    """Print `value` as strict JSON (no NaN) in ASCII, which any terminal and program takes; nothing else may follow."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def screen(columns: int = FILE_COLUMNS) -> Console:
    """Where tables go: as wide as the terminal; `columns` where there is none."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = columns
    return console


def size(count: int) -> str:
    """Bytes for people: `4.0 KiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
