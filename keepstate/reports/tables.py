"""The tables of a report: their columns once, for terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keepstate.reports.comparison import Comparison
from keepstate.reports.figures import CellFigures
from keepstate.reports.model import Group, Report
from keepstate.reports.words import NONE, brief, number, p_value, percent, plain, points

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, what it means, and its text for a cell."""

    title: str
    meaning: str
    text: Callable[[CellFigures], str]


def _solved(figures: CellFigures) -> str:
    counted = f"{sum(episode.solved for episode in figures.cell.episodes)}/{figures.n}"
    _, bracket, interval = percent(figures.solved).partition(" ")
    return f"{counted} {interval}" if bracket else counted


def _corrected(figures: CellFigures) -> str:
    return number(figures.corrected, 2)


def _lost(figures: CellFigures) -> str:
    lost = figures.cell.not_graded
    return f"{sum(lost.values())} ({', '.join(f'{o} {n}' for o, n in lost.items())})" if lost else "0"


COLUMNS = (
    Column("cell", "who was trained where → the runtime it ran in", lambda f: f.cell.label),
    Column(
        "solved", "episodes that reached the optimum, of those graded; in brackets the share's interval, %", _solved
    ),
    Column("optimality %", "mean of value taken / optimal value", lambda f: percent(f.optimality)),
    Column("n", "graded episodes", lambda f: str(f.n)),
    Column("floor %", "the blind policy on the same tasks", lambda f: plain(f.floor)),
    Column("oracle %", "what no player exceeds on the same tasks, whatever his luck", lambda f: plain(f.oracle)),
    Column("corrected", "(score - floor) / (oracle - floor): 0 is blind, 1 the best there is", _corrected),
    Column("steps", "assistant turns in an episode, mean", lambda f: number(f.steps, 1, interval=False)),
    Column("tokens", "prompt and completion tokens of an episode, summed over its calls", lambda f: number(f.tokens)),
    Column("completion tokens", "of them, written by the model", lambda f: number(f.completion_tokens)),
    Column(
        "missing %", "episodes in which a step ended in NameError or UnboundLocalError", lambda f: percent(f.missed)
    ),
    Column("not graded", "episodes lost by a failure of ours, by origin; in no other figure", _lost),
    Column("rung", "how model-written code was isolated", lambda f: ", ".join(f.rungs) or NONE),
)

TERMINAL: tuple[tuple[str, Callable[[CellFigures], str]], ...] = (
    ("solved", lambda f: f"{sum(e.solved for e in f.cell.episodes)}/{f.n}"),
    ("optimality %", lambda f: brief(f.optimality)),
    ("steps", lambda f: number(f.steps, 1, interval=False)),
    ("tokens", lambda f: number(f.tokens, interval=False)),
    ("missing", lambda f: percent(f.missed, interval=False)),
    ("lost", lambda f: str(sum(f.cell.not_graded.values()))),
)
"""What fits 80 columns: brackets hold the 95 % interval, `missing` is in %, `lost` is `not graded`."""
REFERENCES = {
    "blind": "blind (the floor)",
    "greedy": "inspect, then greedy",
    "best": "best known player",
    "oracle": "oracle",
}
"""Rows of reference policies; one that not every task has (in older results, in other families) is left out."""

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
        f" tasks. The column p (equal) tests that the true difference is {100 * report.margin:g} points or more: below"
        " .05 the two are equivalent. Several comparisons are shown and none is corrected for their number."
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
    """Print the table of one group, and what the reference policies reach on its tasks."""
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("cell", no_wrap=True)
    for title, _ in TERMINAL:
        table.add_column(title, justify="right", no_wrap=True)
    for figures in group.figures:
        table.add_row(figures.cell.label, *(text(figures) for _, text in TERMINAL))
    references = list(group.figures[0].cell.references.values())
    for key, words in REFERENCES.items():
        if not all(key in reference for reference in references):
            continue
        scores = [reference[key] for reference in references]
        solved = f"{sum(score == 1.0 for score in scores)}/{len(scores)}"
        table.add_row(words, solved, f"{100 * sum(scores) / len(scores):.1f}", style="dim")
    console.print(table)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print one paired comparison as a block of lines."""
    first, second, paired = comparison.first, comparison.second, comparison.optimality
    left_out = f"; {comparison.left_out} graded in one of the two only" if comparison.left_out else ""
    console.print(f"[bold]{first.name} vs {second.name}[/bold] ({comparison.n} tasks in common{left_out})")
    only_first, only_second = comparison.solved_only
    shown = paired.verdict if comparison.n > 1 else "one task shows nothing"
    lines = {
        "optimality": f"{points(paired.difference)} points: {shown}",
        "equivalence": f"within {100 * paired.margin:g} points: p = {p_value(paired.p_equivalent)} (TOST)",
        "solved": f"by the first alone {only_first}, by the second alone {only_second}",
        "tokens": f"{number(comparison.tokens, 2)} times",
        "completion": f"{number(comparison.completion_tokens, 2)} times",
        "steps": f"{number(comparison.steps, 2)} times",
        "missing": " vs ".join(f"{percent(share)} %" for share in comparison.missed),
    }
    for title, words in lines.items():
        console.print(f"  {title:12} {words}", highlight=False)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
