"""The result in words: what a mismatch of training and runtime cost, hedged by the intervals.

Every number comes from the episodes; the words follow from the intervals and tests alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from keepstate.bench.results import CellResult
from keepstate.report.comparison import Comparison
from keepstate.report.figures import CellFigures
from keepstate.report.statistics import Finding, tasks_needed
from keepstate.report.words import counted

Pair = tuple[CellResult, CellResult]


def headline(figures: Sequence[CellFigures], comparisons: Sequence[Comparison], apart: Sequence[Pair]) -> Iterator[str]:
    """Sentences on one group of cells, the most important first.

    Args:
        figures: Of the cells.
        comparisons: Of those that share graded tasks.
        apart: Pairs that would be compared if they shared any.
    """
    mismatches = [c for c in comparisons if _is_mismatch(c.first, c.second)]
    without = [pair for pair in apart if _is_mismatch(*pair)]
    for comparison in mismatches:
        yield _mismatch(comparison)
    for first, second in without:
        counts = " and ".join(counted(len(cell.by_task()), "task") for cell in (first, second))
        yield (
            f"Nothing can be said of {first.label} against {second.label}: no task is graded in both ({counts} graded)."
        )
    if not mismatches and not without:
        yield (
            "In no runtime was an adapter run beside the one trained for that runtime, so nothing can be said of a"
            " mismatch."
        )
    if reached := _reached(figures):
        yield reached
    if weak := [f for f in figures if f.corrected and f.corrected.high is not None and f.corrected.high <= 0]:
        names = ", ".join(f.cell.label for f in weak)
        yield f"Below what blind taking reaches on these tasks: {names}."


def what_can_be_shown(figures: Sequence[CellFigures], comparisons: Sequence[Comparison], margin: float) -> str:
    """What so many tasks can show of a difference, by the spread that was seen from task to task."""
    within = f"equivalence within {100 * margin:g} points"
    seen = [c for c in comparisons if c.optimality.spread is not None]
    if not seen:
        least = tasks_needed(0.0, margin)
        played = max((figure.n for figure in figures), default=0)
        alone = "One task shows" if played == 1 else f"Without a comparison, {counted(played, 'task')} show"
        return f"{alone} nothing of a difference: {within} needs {_about(least)} at the least, more where scores vary."
    tasks = _span([c.n for c in seen])
    needed = [c.optimality.tasks_needed for c in seen if not _can_show(c)]
    known = [count for count in needed if count is not None]
    if not needed:
        first = f"{tasks} tasks are enough to show {within} as these scores vary."
    else:
        hopeless = max(c.n for c in seen) < (tasks_needed(0.0, margin) or math.inf)
        few = "cannot be shown" if hopeless else f"is hard to show in {len(needed)} of {len(seen)} comparisons"
        about = f"about {_span(known)} are needed" if len(known) == len(needed) else "more than ten million are needed"
        first = f"{within[0].upper()}{within[1:]} {few} with {tasks} tasks: {about}, as these scores vary."
    blurs = [100 * width for c in seen if (width := c.optimality.difference.half_width) is not None]
    return f"{first} A difference is told from none only beyond about {_span([round(blur) for blur in blurs])} points."


def _can_show(comparison: Comparison) -> bool:
    """Whether its tasks are enough for equivalence, or did show it."""
    needed = comparison.optimality.tasks_needed
    shown = comparison.verdict in {Finding.EQUIVALENT, Finding.SMALL}
    return shown or (needed is not None and comparison.n >= needed)


def _about(count: int | None) -> str:
    return "more than ten million tasks" if count is None else f"about {counted(count, 'task')}"


def _span(counts: Sequence[int]) -> str:
    """`10`, or `59 to 480`."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _is_mismatch(first: CellResult, second: CellResult) -> bool:
    """A mismatched adapter against the matched one, in the same runtime."""
    return first.runtime == second.runtime and str(second.adapter) == str(second.runtime) != str(first.adapter)


def _mismatch(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    facts = [fact for fact in (_optimality(comparison), _tokens(comparison), _missing(comparison)) if fact]
    joined = ", ".join(facts[:-1]) + (", and " if len(facts) > 1 else "") + facts[-1]
    intervals = ", 95 % intervals" if comparison.n > 1 else ""
    who = f"{first.adapter} adapter" + (f" ({first.told_apart_by})" if first.told_apart_by else "")
    other = f" ({second.told_apart_by})" if second.told_apart_by else ""
    return (
        f"Running the {who} in the {first.runtime} runtime, in place of the adapter trained for it{other},"
        f" {joined} ({counted(comparison.n, 'task')}{intervals})."
    )


def _optimality(comparison: Comparison) -> str:
    paired, verdict = comparison.optimality, comparison.verdict
    difference = paired.difference
    change = f"{100 * difference.value:+.1f} points"
    if difference.low is None or difference.high is None:
        return f"changed one score by {change}, which shows nothing"
    low, high = 100 * difference.low, 100 * difference.high
    margin = f"{100 * paired.margin:g} points"
    if verdict is Finding.UNDECIDED:
        return f"left undecided whether optimality changes ({change}, {low:+.1f} to {high:+.1f})"
    if verdict is Finding.EQUIVALENT:
        return f"changed optimality by less than {margin} ({change}, {low:+.1f} to {high:+.1f})"
    word, ends = ("cost", (-high, -low)) if difference.value < 0 else ("gained", (low, high))
    tail = f", less than {margin}" if verdict is Finding.SMALL else ""
    size = abs(100 * difference.value)
    return f"{word} {size:.1f} points of optimality ({ends[0]:.1f} to {ends[1]:.1f}{tail})"


def _tokens(comparison: Comparison) -> str:
    """A claim only where there is an interval and it excludes 1."""
    ratio = comparison.tokens
    if ratio is None or not ratio.excludes(1):
        return ""
    return f"took {ratio.value:,.2f} times the tokens on the median task ({ratio.low:,.2f} to {ratio.high:,.2f})"


def _missing(comparison: Comparison) -> str:
    here, there = comparison.missed
    if here is None or there is None or not here.value:
        return ""
    interval = "" if here.low is None or here.high is None else f" ({100 * here.low:.1f} to {100 * here.high:.1f})"
    return f"missed a variable in {100 * here.value:.1f} % of episodes{interval} against {100 * there.value:.1f} %"


def _reached(figures: Sequence[CellFigures]) -> str:
    """How well the matched adapters and the base do at all."""
    parts = []
    for kind, words in (("matched", "Where training and runtime match"), ("base", "The untrained base")):
        cells = [f.cell for f in figures if f.kind == kind and f.cell.episodes]
        if cells:
            each = ", ".join(f"{_count(cell)} ({_place(cell)})" for cell in cells)
            parts.append(f"{words}: solved {each}.")
    return " ".join(parts)


def _count(cell: CellResult) -> str:
    return f"{sum(episode.solved for episode in cell.episodes)} of {len(cell.episodes)}"


def _place(cell: CellResult) -> str:
    return ", ".join(filter(None, (str(cell.runtime), cell.told_apart_by)))
