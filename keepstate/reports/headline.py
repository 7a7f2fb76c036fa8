"""The result in words: what a mismatch of training and runtime cost, hedged by the intervals.

Every number comes from the episodes; the words follow from the intervals and tests alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keepstate.reports.comparison import Comparison
from keepstate.reports.figures import CellFigures
from keepstate.reports.statistics import Estimate
from keepstate.reports.words import counted, number, percent, points


def headline(figures: Sequence[CellFigures], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Sentences on one group of cells, the most important first."""
    mismatches = [c for c in comparisons if _is_mismatch(c)]
    for comparison in mismatches:
        yield _mismatch(comparison)
    if not mismatches:
        yield "No adapter was run both in its own runtime and beside another's, so nothing can be said of a mismatch."
    if reached := _reached(figures):
        yield reached
    if weak := [f for f in figures if f.corrected and f.corrected.high is not None and f.corrected.high <= 0]:
        names = ", ".join(f.cell.label for f in weak)
        yield f"Below what blind taking reaches on these tasks: {names}."


def _is_mismatch(comparison: Comparison) -> bool:
    """A mismatched adapter against the matched one, in the same runtime."""
    first, second = comparison.first, comparison.second
    return first.runtime == second.runtime and str(second.adapter) == str(second.runtime) != str(first.adapter)


def _mismatch(comparison: Comparison) -> str:
    first = comparison.first
    facts = [fact for fact in (_optimality(comparison), _tokens(comparison), _missing(comparison)) if fact]
    joined = ", ".join(facts[:-1]) + (", and " if len(facts) > 1 else "") + facts[-1]
    intervals = ", 95 % intervals" if comparison.n > 1 else ""
    return (
        f"Running the {first.adapter} adapter in the {first.runtime} runtime, in place of the adapter trained for it,"
        f" {joined} ({counted(comparison.n, 'task')}{intervals})."
    )


def _optimality(comparison: Comparison) -> str:
    paired = comparison.optimality
    change = points(paired.difference).replace(" (", " points, ").removesuffix(")")
    if comparison.n == 1:
        return f"changed one score by {change} points, which shows nothing"
    margin = f"{100 * paired.margin:g} points"
    if paired.verdict == "undecided":
        return f"left undecided whether optimality changes ({change})"
    if paired.verdict == "equivalent":
        return f"changed optimality by less than {margin} ({change})"
    value, low, high = (
        f"{abs(100 * (end or 0.0)):.1f}"
        for end in (paired.difference.value, paired.difference.low, paired.difference.high)
    )
    lost = paired.difference.value < 0
    ends = f"{high} to {low}" if lost else f"{low} to {high}"
    tail = f", less than {margin}" if "within" in paired.verdict else ""
    return f"{'cost' if lost else 'gained'} {value} points of optimality ({ends}{tail})"


def _tokens(comparison: Comparison) -> str:
    ratio = comparison.tokens
    if ratio is None:
        return ""
    size = number(ratio, 2).replace(" (", ", ").removesuffix(")")
    if ratio.low is None or ratio.high is None:
        return f"took {size} times the tokens"
    times = size.replace(",", " times the tokens,", 1)
    if ratio.low > 1 or ratio.high < 1:
        return f"took {number(ratio, 2, interval=False)} times the tokens ({ratio.low:,.2f} to {ratio.high:,.2f})"
    return f"showed no difference in tokens ({times})"


def _missing(comparison: Comparison) -> str:
    here, there = comparison.missed
    if here is None or there is None or not here.value:
        return ""
    share = (
        percent(here).replace(" (", " % of episodes (", 1) if "(" in percent(here) else f"{percent(here)} % of episodes"
    )
    return f"missed a variable in {share} against {percent(there, interval=False)} %"


def _reached(figures: Sequence[CellFigures]) -> str:
    """How well the matched adapters and the base do at all."""
    parts = []
    for kind, words in (("matched", "Where training and runtime match"), ("base", "The untrained base")):
        cells = [f for f in figures if f.kind == kind and f.solved is not None]
        if cells:
            each = ", ".join(f"{_count(f.solved)} ({f.cell.runtime})" for f in cells)
            parts.append(f"{words}: solved {each}.")
    return " ".join(parts)


def _count(solved: Estimate | None) -> str:
    return f"{round(solved.value * solved.n)} of {solved.n}" if solved else ""
