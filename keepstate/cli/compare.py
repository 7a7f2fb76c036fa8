"""`keepstate compare`: two results, task by task."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from keepstate.bench.results import CellResult, read_results
from keepstate.cli._options import PATH, json_option, margin_option
from keepstate.cli._output import print_json
from keepstate.errors import UserError
from keepstate.report.entries import comparison_entry
from keepstate.report.figures import MARGIN, compare_all, shared_tasks
from keepstate.report.tables import comparison_notes, print_comparison


@click.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@margin_option(MARGIN)
@json_option
def command(first: Path, second: Path, *, margin: float, as_json: bool) -> None:
    """Compare FIRST with SECOND task by task: two cells (runs/NAME/CELL) of the same tasks, or two whole runs."""
    comparisons = compare_all(_pairs(read_results(first), read_results(second)), margin=margin)
    if as_json:
        found = [
            asdict(comparison_entry(comparison)) | {"notes": comparison_notes(comparison)} for comparison in comparisons
        ]
        print_json(found)
        return
    console = Console()
    for comparison in comparisons:
        print_comparison(comparison, console)


def _pairs(first: list[CellResult], second: list[CellResult]) -> list[tuple[CellResult, CellResult]]:
    """Cells that belong together: the only ones, or those of one adapter and runtime that share graded tasks.

    Of several such cells those of one name; cells without their like are named on stderr.
    """
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    pairs: list[tuple[CellResult, CellResult]] = []
    for cell in first:
        kind = (cell.adapter, cell.runtime)
        others = [o for o in second if (o.adapter, o.runtime) == kind and shared_tasks(cell, o)]
        namesakes = [other for other in others if other.name == cell.name]
        pairs += [(cell, other) for other in namesakes or others]
    if not pairs:
        raise UserError(
            "no cell of the one has its like (adapter, runtime, a graded task) in the other",
            "name two cells instead, e.g. keepstate compare runs/bench/bench-easy-lora runs/bench/bench-easy-base",
        )
    for number, run in enumerate((first, second)):
        if alone := [cell.name for cell in run if all(pair[number] is not cell for pair in pairs)]:
            click.echo(f"without their like in the other: {', '.join(alone)}", err=True)
    return pairs
