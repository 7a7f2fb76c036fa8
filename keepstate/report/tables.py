"""The tables of a report: their columns once, for terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keepstate.report.behaviour import BEHAVIOUR_COLUMNS, said_differences
from keepstate.report.contrasts import Contrast
from keepstate.report.figures import CellFigures, Comparison, cell_figures
from keepstate.report.model import CellGroup, Report
from keepstate.report.plots import PLOTS
from keepstate.report.repeats import Repeats
from keepstate.report.sentences import SHOWN, behaviour_readings, notes
from keepstate.report.significance import Conclusion, PairedDifference, tasks_needed
from keepstate.report.words import NONE, brief, counted, interval_of_share, number, p_value, percent, plain, points
from keepstate.traces.record import MISSING_VARIABLE
from keepstate.traces.view import printable

if TYPE_CHECKING:
    from rich.console import Console


MEASURE = "optimality %"
"""Head of the column of scores, where an optimum is known."""


def called(title: str, group: CellGroup) -> str:
    """A head of a column as it is called in a group."""
    return title.replace("optimality", group.measure)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, what it means, and its text for a cell."""

    title: str
    meaning: str
    text: Callable[[CellFigures], str]


def _solved(figures: CellFigures) -> str:
    episodes = figures.cell.episodes
    return f"{sum(episode.solved for episode in episodes)}/{len(episodes)}{interval_of_share(figures.solved)}"


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
    Column(MEASURE, "mean score; optimality is the share of the best answer's", lambda f: percent(f.optimality)),
    Column("n", "graded tasks; repeats of one are averaged and count once", lambda f: str(f.n)),
    Column("floor %", "the blind policy on the same tasks", lambda f: plain(f.floor)),
    Column("oracle %", "what no player exceeds on the same tasks, whatever his luck", lambda f: plain(f.oracle)),
    Column("corrected", "(score - floor) / (oracle - floor): 0 is blind, 1 the best there is", _corrected),
    Column("steps", "assistant turns in an episode, mean", lambda f: number(f.steps, 1, interval=False)),
    Column(
        "tokens", "prompt and completion tokens of an episode, summed over its calls, mean", lambda f: number(f.tokens)
    ),
    Column("median tokens", "half of the tasks took more", lambda f: number(f.median_tokens)),
    Column("completion tokens", "written by the model, mean", lambda f: number(f.completion_tokens)),
    Column(
        "missing %",
        f"episodes in which a step ended in {' or '.join(sorted(MISSING_VARIABLE))}",
        lambda f: percent(f.missed),
    ),
    Column("not graded", "episodes lost by a failure of ours, by origin; in no other figure", _lost),
    Column("rung", "how model-written code was isolated", lambda f: ", ".join(f.rungs) or NONE),
)

TERMINAL: tuple[tuple[str, Callable[[CellFigures], str]], ...] = (
    ("solved", lambda f: f"{sum(e.solved for e in f.cell.episodes)}/{len(f.cell.episodes)}"),
    (MEASURE, lambda f: brief(f.optimality)),
    ("steps", lambda f: number(f.steps, 1, interval=False)),
    ("tokens", lambda f: number(f.tokens, interval=False)),
    ("missing", lambda f: percent(f.missed, interval=False)),
    ("lost", lambda f: str(sum(f.cell.not_graded.values()))),
)
"""What fits 80 columns: brackets hold the 95 % interval, `missing` is in %, `lost` is `not graded`."""
LABEL = len("persistent → persistent")
"""Longer labels are wrapped, so that the table still fits."""
REFERENCES = {"blind": "blind (the floor)", "oracle": "oracle (the ceiling)"}
"""Rows of reference policies that have a name of their own; others have that of their family. One that not every task
has is left out."""

REPEATS = (
    "Several trainings or draws taken together: the scores of a task are averaged first, so the interval over tasks is"
    " that of n tasks; how far other trainings, or other draws of one, may lie off, the two"
    " spreads tell (standard deviations)"
)
"""What the table under `REPEATS_HEAD` holds."""

BEHAVIOUR = "How the agents used their runtimes: what happened in these episodes, means over tasks"
"""What the table under `BEHAVIOUR_HEAD` holds."""
BEHAVIOUR_HEAD = ("cell", *(column.title for column in BEHAVIOUR_COLUMNS))


def behaviour_row(figures: CellFigures) -> tuple[str, ...]:
    """The texts under `BEHAVIOUR_HEAD`."""
    return (figures.cell.label, *(column.text(figures.behaviour) for column in BEHAVIOUR_COLUMNS))


COMPARISON_HEAD = (
    "comparison",
    "n",
    f"{MEASURE.removesuffix(' %')}, points",
    "verdict",
    "p (same)",
    "p (same), Holm",
    "p (margin)",
    "tasks to see the margin",
    "tasks for equivalence",
    "solved by one alone",
    "tokens, median ratio",
    "tokens in all, ratio",
    "missing variable %",
)


def comparison_row(comparison: Comparison) -> tuple[str, ...]:
    """The texts under `COMPARISON_HEAD`."""
    missed = " vs ".join(percent(share, interval=False) for share in comparison.missed)
    return (
        f"{comparison.first.label} vs {comparison.second.label}",
        str(comparison.n) + (f" ({comparison.left_out} left out)" if comparison.left_out else ""),
        points(comparison.optimality.difference),
        comparison.verdict,
        p_value(comparison.optimality.p_different),
        p_value(comparison.p_holm),
        p_value(comparison.optimality.p_equivalent),
        needed(comparison.optimality, comparison.optimality.tasks_to_see),
        needed(comparison.optimality, comparison.optimality.tasks_needed),
        " vs ".join(map(str, comparison.solved_only)) + f" (p {p_value(comparison.p_solved)})",
        number(comparison.tokens, 2),
        plain(comparison.tokens_in_all, 1.0, 2),
        missed,
    )


REPEATS_HEAD = (
    "repeats taken together",
    "cells",
    "n",
    f"{MEASURE}, over tasks",
    "each training",
    "spread over trainings",
    "spread over draws",
)


CONTRASTS = (
    "Contrasts of training, runtime and cap on tool calls: XY is trained in X, played in Y (P persistent, S forget);"
    " each on the tasks that all of its cells have"
)
"""What the table under `CONTRASTS_HEAD` holds."""
CONTRASTS_HEAD = ("contrast", "of cells", "n", "points")


def contrast_row(contrast: Contrast) -> tuple[str, ...]:
    """The texts under `CONTRASTS_HEAD`; `rho` is a share, not points."""
    share = contrast.name.startswith("rho")
    value = number(contrast.value, 2) if share else points(contrast.value)
    return (contrast.name, contrast.formula, str(contrast.value.n), value)


def repeats_row(repeats: Repeats) -> tuple[str, ...]:
    """The texts under `REPEATS_HEAD`."""
    sign = "+" if repeats.is_difference else ""
    several = len(repeats.each_training) > 1
    return (
        repeats.label,
        str(len(repeats.cells)),
        str(repeats.optimality.n),
        points(repeats.optimality) if repeats.is_difference else percent(repeats.optimality),
        ", ".join(f"{100 * mean:{sign}.1f}" for mean in repeats.each_training) if several else NONE,
        plain(repeats.spread),
        plain(repeats.spread_of_draws),
    )


def needed(paired: PairedDifference, tasks: int | None) -> str:
    """About how many tasks would show something, as far as the spread is known."""
    if paired.spread is None:
        return NONE
    return "> 10,000,000" if tasks is None else f"{tasks:,}"


def markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# {report.name}: what match and mismatch cost", ""]
    for group in report.groups:
        lines += [f"## {group.title}", "", *(f"- {sentence}" for sentence in (*group.headline, group.shows)), ""]
        rows = [[column.text(figures) for column in COLUMNS] for figures in group.figures]
        lines += _markdown_table([called(column.title, group) for column in COLUMNS], rows)
        if group.comparisons:
            lines += ["", "Paired differences, first minus second on the same tasks:", ""]
            head = [called(title, group) for title in COMPARISON_HEAD]
            lines += _markdown_table(head, [comparison_row(c) for c in group.comparisons])
        if group.contrasts:
            lines += [
                "",
                f"{CONTRASTS}:",
                "",
                *_markdown_table(CONTRASTS_HEAD, list(map(contrast_row, group.contrasts))),
            ]
        if group.repeats:
            lines += ["", f"{REPEATS}:", ""]
            head = [called(title, group) for title in REPEATS_HEAD]
            lines += _markdown_table(head, [repeats_row(repeats) for repeats in group.repeats])
        lines += ["", f"{BEHAVIOUR}:", "", *_markdown_table(BEHAVIOUR_HEAD, list(map(behaviour_row, group.figures)))]
        lines += ["", *(f"- {sentence}" for sentence in behaviour_readings(group.comparisons))]
        if group.notes:
            lines += ["", *(f"- {' '.join(note.split())}" for note in group.notes)]
        lines += [""]
    there = [plot for plot in PLOTS if any(map(plot.draw, report.groups))]
    lines += [line for plot in there for line in (f"![{plot.title}]({plot.name}.svg)", "")]
    explained = [(each.title, each.meaning) for each in (*COLUMNS, *BEHAVIOUR_COLUMNS)]
    lines += [*(f"- **{title}**: {meaning}." for title, meaning in explained), f"- {how(report)}"]
    return "\n".join(lines) + "\n"


def how(report: Report) -> str:
    """How the figures were made, in one paragraph."""
    margin = f"{100 * report.margin:g} points"
    return (
        "In brackets: 95 % intervals. Optimality, its differences and steps: Gaffke's bound (a Bayesian bootstrap"
        " completed by the worst value still possible, seeded); shares: Wilson; medians of tokens and of their ratios:"
        " order statistics, from 6 tasks on. Means of tokens and ratios of all tokens have no interval: a few runaway"
        " episodes decide them. p (same): the exact sign-flip test, task by task, that the two cells are the same;"
        " below .05 they differ, and how much the mean differs is what the interval says. Beside it, adjusted by Holm"
        f" for all comparisons of its table. p (margin): that the mean differs by {margin} or more; below .05 the"
        f" two are equivalent. Tasks to see the margin: about so many would show a difference of {margin} with a"
        " chance of 80 %; tasks for equivalence: would show that there is none, if there is none. Solved by one alone:"
        " tasks that the first alone solved, or more often, against those of the second, with McNemar's exact p."
        " Tests and interval are the same in every report, whichever is the narrower: docs/statistics.md says why."
    )


def print_report(report: Report, console: Console) -> None:
    """Print headline, table and notes on a terminal."""
    for group in report.groups:
        _print(console, f"\n{group.title}", "bold")
        print_table(group, console)
        for sentence in group.headline[:SHOWN]:
            _print(console, f"• {sentence}")
        if more := len(group.headline[SHOWN:]):
            _print(console, f"  ... {counted(more, 'sentence')} more: report.md")
        _print(console, f"• {group.shows}")
        for note in group.notes:
            _print(console, f"! {note}", "yellow")


def _print(console: Console, words: str, style: str | None = None) -> None:
    """Print words in which names of files, models and cells stand: as they are, never as markup or control codes."""
    console.print("\n".join(map(printable, words.split("\n"))), style=style, markup=False, highlight=False)


def print_table(group: CellGroup, console: Console) -> None:
    """Print the table of one group, and what the reference policies reach on its graded tasks."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("cell", overflow="fold", no_wrap=all(len(f.cell.label) <= LABEL for f in group.figures))
    for title, _ in TERMINAL:
        table.add_column(called(title, group), justify="right", no_wrap=True)
    for figures in group.figures:
        table.add_row(Text(printable(figures.cell.label)), *(text(figures) for _, text in TERMINAL))
    for key, score in group.references.items():
        solved = f"{group.solved_by[key]}/{group.graded_tasks}"
        table.add_row(Text(printable(REFERENCES.get(key, key))), solved, f"{100 * score:.1f}", style="dim")
    console.print(table)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print one paired comparison as a block of lines."""
    first, second = _names(comparison)
    left_out = f"; {comparison.left_out} graded in one of the two only" if comparison.left_out else ""
    title = f"{first} vs {second} ({counted(comparison.n, 'task')} in common{left_out})"
    _print(console, title, "bold")
    for head, words in _comparison_lines(comparison):
        _print(console, f"  {head:12} {words}")
    for note in comparison_notes(comparison):
        _print(console, f"! {note}", "yellow")


def comparison_notes(comparison: Comparison) -> list[str]:
    """What a reader must know of the two cells: what of them is in no figure, and where they differ otherwise."""
    cells = [comparison.first, comparison.second]
    if cells[0].label == cells[1].label:
        cells = [replace(cell, told_apart_by=name) for cell, name in zip(cells, _names(comparison), strict=True)]
    return list(dict.fromkeys(notes([cell_figures(cell) for cell in cells])))


def _comparison_lines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """What there is to say, by its head."""
    paired = comparison.optimality
    if comparison.verdict is Conclusion.SAME:
        yield (
            comparison.first.measure,
            "the same episodes on both sides: every difference is zero by construction; play the cell again with"
            " another seed to see how far two runs differ",
        )
        return
    only_first, only_second = comparison.solved_only
    within = f"within {100 * paired.margin:g} points"
    yield comparison.first.measure, f"{points(paired.difference)} points: {comparison.verdict}"
    if paired.p_different is not None:
        tested = f"p = {p_value(paired.p_different)} that both are the same (sign-flip)"
        family = f"; {p_value(comparison.p_holm)} by Holm" if comparison.p_holm != paired.p_different else ""
        seen = needed(paired, paired.tasks_to_see)
        yield "difference", f"{tested}{family}; {100 * paired.margin:g} points are seen with about {seen} tasks"
    if paired.spread == 0:
        yield "", f"the difference is the same on each of the {comparison.n} tasks; others may differ"
    tested = "" if paired.p_equivalent is None else f"p = {p_value(paired.p_equivalent)} (TOST); "
    yield "equivalence", f"{within}: {tested}about {_tasks_for(paired)}"
    solved = f"{only_first} tasks by the first alone or more often, {only_second} by the second"
    yield "solved", f"{solved}: p = {p_value(comparison.p_solved)} (McNemar)"
    total = plain(comparison.tokens_in_all, 1.0, 2)
    yield "tokens", f"{number(comparison.tokens, 2)} times on the median task; {total} times in all"
    yield "completion", f"{number(comparison.completion_tokens, 2)} times on the median task"
    yield "steps", f"{number(comparison.steps, 2)} times on the median task"
    yield "missing", " vs ".join(f"{percent(share)} %" for share in comparison.missed)
    yield "behaviour", "; ".join(said_differences(comparison.behaviour)) or "nothing is shown to differ"


def _tasks_for(paired: PairedDifference) -> str:
    """How many tasks would show equivalence, in words."""
    if paired.spread is None:
        return f"{tasks_needed(0.0, paired.margin):,} tasks at the least would show it, more where scores vary"
    return f"{needed(paired, paired.tasks_needed)} tasks would show it, if there is no difference"


def _names(comparison: Comparison) -> tuple[str, str]:
    """The cells' names; with their runs where these are equal, and whole paths where those are too."""
    first, second = comparison.first, comparison.second
    if first.name != second.name:
        return first.name, second.name
    runs = first.folder.parent.name, second.folder.parent.name
    if runs[0] != runs[1] or first.folder == second.folder:
        return f"{runs[0]}/{first.name}", f"{runs[1]}/{second.name}"
    return str(first.folder), str(second.folder)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(text.replace("|", "\\|") for text in row) for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {line} |" for line in lines)]
