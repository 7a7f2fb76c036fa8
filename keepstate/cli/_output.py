"""What commands print to stdout: JSON for programs, tables for people. Words go to stderr.

Loads nothing that `--help` of a command need not wait for.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

FILE_COLUMNS = 160
"""Width of a table that goes into a file or pipe."""
COLUMNS = 80
"""Most of a line of words on a terminal, as of click's help."""
COMMAND = re.compile(r"\b(?:keepstate|make|export|pip|python) (?:[^;,:()`]|:(?! ))+")
"""What stands on one line where it can, as it is to be copied."""
GLUE = "\0"
MOST_NAMED = 10
"""Files named one by one."""


def print_json(value: Any) -> None:
    """Print `value` as strict JSON (no NaN) in ASCII, which any terminal and program takes; nothing else may follow."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def screen(columns: int = FILE_COLUMNS) -> Console:
    """Where tables go: as wide as the terminal; `columns` where there is none."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
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


def name_left_out(found: Mapping[str, str]) -> None:
    """Say why files were left out, by name; of many the first."""
    from keepstate.traces.view import printable

    for name, why in [*found.items()][:MOST_NAMED]:
        click.echo(printable(f"left out: {name}: {why}"), err=True)
    if len(found) > MOST_NAMED:
        click.echo(f"left out: {len(found) - MOST_NAMED} more", err=True)


def folded(label: str, text: str, columns: int | None = None) -> str:
    """`label` and `text`, whose further lines begin below the text. Commands stay whole, so that they can be copied.

    Args:
        label: What it begins with, such as `hint:  `.
        text: One or several lines.
        columns: Of a line; by default those of the terminal, at most 80; without one lines stay as they are.
    """
    if columns is None and not sys.stderr.isatty():
        return label + text
    most = columns or min(COLUMNS, shutil.get_terminal_size().columns)
    lines: list[str] = []
    for number, part in enumerate(text.split("\n")):
        line = label if not number else " " * (len(part) - len(part.lstrip()))
        empty = len(line)
        for piece in _pieces(part):
            if len(line) > empty and len(line) + 1 + len(piece) > most:
                lines.append(line)
                line, empty = " " * len(label), len(label)
            line += piece if len(line) == empty else f" {piece}"
        lines.append(line)
    return "\n".join(lines)


def _pieces(line: str) -> list[str]:
    """Words, and commands as one."""

    def whole(found: re.Match[str]) -> str:
        command = found[0].rstrip()
        return command.replace(" ", GLUE) + found[0][len(command) :]

    return [piece.replace(GLUE, " ") for piece in COMMAND.sub(whole, line).split()]
