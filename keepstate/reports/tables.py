"""The tables of a report: their columns once, for terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keepstate.reports.comparison import Comparison
from keepstate.reports.figures import CellFigures
from keepstate.reports.model import Group, Report
from keepstate.reports.words import NONE, number, p_value, percent, plain, points

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, what it means, and its text for a cell."""

    title: str
    meaning: str
    text: Callable[[CellFigures], str]
    short: bool = True
    """Also shown on a terminal."""


def _corrected(figures: CellFigures) -> str:
    return number(figures.corrected, 2)


def _lost(figures: CellFigures) -> str:
    lost = figures.cell.not_graded
    return f"{sum(lost.values())} ({', '.join(f'{o} {n}' for o, n in lost.items())})" if lost else "0"


COLUMNS = (
    Column("cell", "who was trained where → the runtime it ran in", lambda f: f.cell.label),
    Column(
        "solved",
        "episodes that reached the optimum, of those graded; share in % with Wilson's interval",
        lambda f: f"{sum(e.solved for e in f.cell.episodes)}/{f.n}",
    ),
    Column("solved %", "the same as a share", lambda f: percent(f.solved), short=False),
    Column("optimality %", "mean of value taken / optimal value, with its interval", lambda f: percent(f.optimality)),
    Column("n", "graded episodes", lambda f: str(f.n), short=False),
    Column("floor %", "the blind policy on the same tasks", lambda f: plain(f.floor)),
    Column("oracle %", "the best that the inspections can buy, on the same tasks", lambda f: plain(f.oracle)),
    Column(
        "corrected",
        "(score - floor) / (oracle - floor): 0 is blind, 1 the best there is",
        _corrected,
        short=False,
    ),
    Column("steps", "assistant turns in an episode, mean", lambda f: number(f.steps, 1, interval=False)),
    Column(
        "tokens",
        "prompt and completion tokens of an episode, summed over its calls, mean with its interval",
        lambda f: number(f.tokens),
    ),
    Column("completion tokens", "completion tokens of an episode, mean", lambda f: number(f.completion_tokens), False),
    Column(
        "missing variable %",
        "episodes in which a step ended in NameError or UnboundLocalError",
        lambda f: percent(f.missed),
    ),
    Column("not graded", "episodes lost by a failure of ours, by origin; in no other figure", _lost),
    Column("rung", "how model-written code was isolated", lambda f: ", ".join(f.rungs) or NONE, short=False),
)

COMPARISON_HEAD = (
    "comparison",
    "n",
    "optimality, points",
    "verdict",
    "p (equal)",
    "tokens, ratio",
    "missing variable %",
)


def comparison_row(comparison: Comparison) -> tuple[str, ...]:
    """The texts under `COMPARISON_HEAD`."""
    missed = " vs ".join(percent(share, interval=False) for share in comparison.missed)
    return (
        f"{comparison.first.label} vs {comparison.second.label}",
        str(comparison.n),
        points(comparison.optimality.difference),
        comparison.optimality.verdict if comparison.n > 1 else NONE,
        p_value(comparison.optimality.p_equivalent),
        number(comparison.tokens, 2),
        missed,
    )


def markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# {report.name}: what match and mismatch cost", ""]
    for group in report.groups:
        lines += [f"## {group.title}", "", *(f"- {sentence}" for sentence in group.headline), ""]
        rows = [[column.text(figures) for column in COLUMNS] for figures in group.figures]
        lines += _markdown_table([column.title for column in COLUMNS], rows)
        if group.comparisons:
            lines += ["", "Paired differences, first minus second on the same tasks:", ""]
            lines += _markdown_table(COMPARISON_HEAD, [comparison_row(c) for c in group.comparisons])
        if group.notes:
            lines += ["", *(f"- {note}" for note in group.notes)]
        lines += [""]
    lines += ["![Optimality by cell](optimality.svg)", "", "![Tokens by cell](tokens.svg)", ""]
    lines += [*(f"- **{column.title}**: {column.meaning}." for column in COLUMNS), f"- {how(report)}"]
    return "\n".join(lines) + "\n"


def how(report: Report) -> str:
    """How the figures were made, in one paragraph."""
    return (
        "In brackets: 95 % intervals. Optimality and its differences: Gaffke's bound (a Bayesian bootstrap completed by"
        " the worst value still possible, seeded); shares: Wilson; tokens, steps and ratios: seeded BCa bootstrap over"
        f" tasks. `p (equal)` tests that the true difference is {100 * report.margin:g} points or more: below .05 the"
        " two are equivalent. Several comparisons are shown and none is corrected for their number."
    )


def print_report(report: Report, console: Console) -> None:
    """Print headline, table and notes on a terminal."""
    for group in report.groups:
        console.print(f"\n[bold]{group.title}[/bold]")
        print_table(group, console)
        for sentence in group.headline:
            console.print(f"• {sentence}", highlight=False)
        for note in group.notes:
            console.print(f"[yellow]! {note}[/yellow]", highlight=False)


def print_table(group: Group, console: Console) -> None:
    """Print the table of one group."""
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [column for column in COLUMNS if column.short]
    for column in shown:
        left = column.title == "cell"
        table.add_column(column.title, justify="left" if left else "right", no_wrap=left)
    for figures in group.figures:
        table.add_row(*(column.text(figures) for column in shown))
    console.print(table)


def print_comparisons(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print paired differences."""
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in COMPARISON_HEAD:
        table.add_column(title, justify="left" if title in ("comparison", "verdict") else "right")
    for comparison in comparisons:
        table.add_row(*comparison_row(comparison))
    console.print(table)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
