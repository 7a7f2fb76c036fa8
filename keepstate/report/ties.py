"""Which cells of a group the data cannot tell apart: every two are tested, and those without a difference are tied.

A tied set is a largest set of cells of which no two differ below 5 % by the sign-flip test, adjusted by Holm for all
pairs of the group. Repeats of one cell are averaged task by task first. Being tied is no equivalence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from keepstate.bench.results import CellResult
from keepstate.report.figures import other_tasks
from keepstate.report.pairs import alike, arms_of
from keepstate.report.repeats import label_of, over_repeats, scores_of
from keepstate.report.significance import ERROR, holm, sign_flip


def tied_sets(cells: Sequence[CellResult]) -> tuple[tuple[str, ...], ...]:
    """The tied sets of a group, by label, each in the order of the arms; a set of one is told apart from all others.

    Cells of other tasks, or without a task that is graded in both, are not tested, so they are in no set together. None
    where nothing was tested.
    """
    parts = [part for arm in arms_of(cells) for part in alike(arm)]
    scores = {place: over_repeats(known) for place, part in enumerate(parts) if (known := scores_of(part))}
    pairs = [
        (a, b)
        for a, b in combinations(scores, 2)
        if not other_tasks(parts[a].cells[0], parts[b].cells[0]) and scores[a].keys() & scores[b].keys()
    ]
    adjusted = holm([_p_value(scores[a], scores[b]) for a, b in pairs])
    tied: dict[int, set[int]] = {place: set() for pair in pairs for place in pair}
    for (a, b), p in zip(pairs, adjusted, strict=True):
        if p is None or p >= ERROR:
            tied[a].add(b)
            tied[b].add(a)
    found = sorted(sorted(each) for each in _cliques(set(), set(tied), set(), tied))
    return tuple(tuple(label_of(parts[place]) for place in each) for each in found)


def _p_value(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    return sign_flip([first[task] - second[task] for task in sorted(first.keys() & second.keys())])


def _cliques(inside: set[int], open_: set[int], done: set[int], tied: Mapping[int, set[int]]) -> list[set[int]]:
    """The largest sets of which every two are tied (C. Bron and J. Kerbosch, CACM 16, 1973, with a pivot)."""
    if not open_ and not done:
        return [inside] if inside else []
    pivot = max(open_ | done, key=lambda place: len(tied[place] & open_))
    found: list[set[int]] = []
    for place in sorted(open_ - tied[pivot]):
        found += _cliques(inside | {place}, open_ & tied[place], done & tied[place], tied)
        open_, done = open_ - {place}, done | {place}
    return found


def in_words(sets: Sequence[Sequence[str]]) -> str:
    """A sentence; empty where nothing was tested."""
    several, alone = ([each for each in sets if (len(each) > 1) is kind] for kind in (True, False))
    parts = []
    if several:
        named = "; ".join(f"({', '.join(each)})" for each in several)
        parts.append(f"Shown neither to differ nor to be equal: {named}.")
    if alone:
        parts.append(f"Shown to differ from all others: {', '.join(each[0] for each in alone)}.")
    return " ".join(parts)
