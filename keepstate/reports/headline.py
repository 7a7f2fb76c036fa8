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
    if weak := [f for f in figures if f.corrected and (f.corrected.high if f.corrected.high is not None else 1) <= 0]:
        names = ", ".join(f.cell.label for f in weak)
        yield f"Below what blind taking reaches on these tasks: {names}."


def _is_mismatch(comparison: Comparison) -> bool:
    """A mismatched adapter against the matched one, in the same runtime."""
    first, second = comparison.first, comparison.second
    return first.runtime == second.runtime and str(second.adapter) == str(second.runtime) != str(first.adapter)


def _mismatch(comparison: Comparison) -> str:
    first = comparison.first
    facts = [_optimality(comparison), _tokens(comparison)]
    if missing := _missing(comparison):
        facts.append(missing)
    return (
        f"Trained {first.adapter}, run {first.runtime}: against the adapter trained for this runtime"
        f" ({counted(comparison.n, 'task')} in common), {'; '.join(facts)}."
    )


def _optimality(comparison: Comparison) -> str:
    paired = comparison.optimality
    size = points(paired.difference)
    if comparison.n == 1:
        return f"the one score differs by {size} points, which shows nothing"
    margin = f"{100 * paired.margin:.0f} points"
    if paired.verdict == "undecided":
        return f"whether optimality differs is undecided: {size} points"
    if paired.verdict == "equivalent":
        return f"optimality is equivalent within {margin}: {size}"
    word = "lower" if paired.difference.value < 0 else "higher"
    tail = f", yet within {margin}" if "within" in paired.verdict else ""
    return f"optimality is {word}: {size} points{tail}"


def _tokens(comparison: Comparison) -> str:
    ratio = comparison.tokens
    if ratio is None:
        return "tokens are not known"
    size = f"{number(ratio, 2)} times the tokens"
    if ratio.low is None or ratio.high is None:
        return f"it took {size}"
    if ratio.low > 1 or ratio.high < 1:
        return f"it took {size} per episode"
    return f"no difference in tokens is shown ({size})"


def _missing(comparison: Comparison) -> str:
    here, there = comparison.missed
    if here is None or there is None or not (here.value or there.value):
        return ""
    return f"a variable was missing in {percent(here)} % of its episodes, against {percent(there, interval=False)} %"


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
