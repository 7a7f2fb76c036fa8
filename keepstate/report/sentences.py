"""The result in sentences: what a mismatch of training and runtime cost, hedged by the intervals; then the remarks.

Every number comes from the episodes; the words follow from the intervals and tests alone. Remarks say what a reader
must know before believing a table: what is missing, and where cells differ beyond what is compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from keepstate.bench.results import CellResult, Fit
from keepstate.files import content_hash
from keepstate.report.behaviour import said_differences
from keepstate.report.figures import CellFigures, Comparison, other_tasks
from keepstate.report.pairs import Pair
from keepstate.report.repeats import Repeats
from keepstate.report.significance import Conclusion, tasks_needed
from keepstate.report.words import counted, p_value
from keepstate.vocabulary import BASE, FinishReason, Rung

SAME = ("limits", "sampling", "context", "nothink", "seed", "prompt")
"""Settings that cells on the same tasks should share (the prompt and the time limit within one runtime)."""

SHOWN = 8
"""Sentences of a headline that are seen at once, on a page and a terminal; those of a sweep of three trainings and two
caps are 40."""


class Table(StrEnum):
    """Where figures of a group stand."""

    CELLS = "cells"
    COMPARISONS = "comparisons"
    REPEATS = "repeats"


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the headline, and the figures it says."""

    words: str
    table: Table = Table.CELLS
    row: int | None = None
    """Of that table, from 0; None: all of them."""


def headline(
    figures: Sequence[CellFigures], comparisons: Sequence[Comparison], apart: Sequence[Pair], repeats: Sequence[Repeats]
) -> Iterator[Claim]:
    """Sentences on one group of cells, the most important first.

    Args:
        figures: Of the cells.
        comparisons: Of those that share graded tasks.
        apart: Pairs that would be compared if they shared any.
        repeats: Of several trainings or draws.
    """
    mismatches = [i for i, c in enumerate(comparisons) if _is_mismatch(c.first, c.second)]
    without = [pair for pair in apart if _is_mismatch(*pair)]
    one_for_all = [i for i, c in enumerate(comparisons) if _is_one_for_all(c.first, c.second)]
    yield from _over_trainings(repeats)
    for rows, whom in ((mismatches, "the adapter trained for it"), (one_for_all, "the adapter trained for it alone")):
        for row in rows:
            yield Claim(_in_place(comparisons[row], whom), Table.COMPARISONS, row)
    for first, second in without:
        counts = " and ".join(counted(len(cell.by_task), "task") for cell in (first, second))
        why = f"no task is graded in both ({counts} graded)"
        if other := other_tasks(first, second):
            why = f"their tasks are not the same, {second.label} {other}"
        yield Claim(f"Nothing can be said of {first.label} against {second.label}: {why}.")
    if figures and all(f.cell.fit is Fit.BASE for f in figures):
        yield Claim("Only the untrained base was played, so nothing here was trained for a runtime.")
        for row, swept in enumerate(comparisons):
            changed = f"{swept.first.label} in place of {swept.second.label} {_optimality(swept)}"
            yield Claim(f"{changed} ({counted(swept.n, 'task')}).", Table.COMPARISONS, row)
    elif not mismatches and not without and not one_for_all:
        yield Claim(
            "In no runtime was an adapter run beside the one trained for that runtime, so nothing can be said of a"
            " mismatch."
        )
    if reached := _reached(figures):
        yield Claim(reached)
    if weak := [f for f in figures if f.corrected and f.corrected.high is not None and f.corrected.high <= 0]:
        names = ", ".join(f.cell.label for f in weak)
        yield Claim(f"Below the floor, what playing blind reaches on these tasks: {names}.")


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
    to_see = [count for c in seen if (count := c.optimality.tasks_to_see) is not None]
    blurs = [round(100 * width) for c in seen if (width := c.optimality.difference.half_width) is not None]
    sees = f"A difference of {100 * margin:g} points is seen with about {_span(to_see)} tasks. " if to_see else ""
    return f"{first} {sees}How large one is, they tell to about {_span(blurs)} points."


def _can_show(comparison: Comparison) -> bool:
    """Whether its tasks are enough for equivalence, or did show it."""
    needed = comparison.optimality.tasks_needed
    shown = comparison.verdict in {Conclusion.EQUIVALENT, Conclusion.SMALL}
    return shown or (needed is not None and comparison.n >= needed)


def _about(count: int | None) -> str:
    return "more than ten million tasks" if count is None else f"about {counted(count, 'task')}"


def _span(counts: Sequence[int]) -> str:
    """`10`, or `59 to 480`."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _is_mismatch(first: CellResult, second: CellResult) -> bool:
    """A mismatched adapter against a matched one, in the same runtime."""
    return first.runtime is second.runtime and (first.fit, second.fit) == (Fit.MISMATCHED, Fit.MATCHED)


def _is_one_for_all(first: CellResult, second: CellResult) -> bool:
    """An adapter of several runtimes against the one trained for this runtime alone."""
    both = first.fit is second.fit is Fit.MATCHED
    return both and first.runtime is second.runtime and second.is_specialist and not first.is_specialist


def _over_trainings(repeats: Sequence[Repeats]) -> Iterator[Claim]:
    """How far the differences of several trainings lie apart."""
    for row, repeated in enumerate(repeats):
        if repeated.is_difference and repeated.by_seed and repeated.spread is not None:
            low, high = (100 * end for end in (min(repeated.each_training), max(repeated.each_training)))
            yield Claim(
                f"Over {repeated.trainings} trainings with different seeds, {repeated.label} came to {low:+.1f} to"
                f" {high:+.1f} points (standard deviation {100 * repeated.spread:.1f}).",
                Table.REPEATS,
                row,
            )


def _in_place(comparison: Comparison, whom: str) -> str:
    first, second = comparison.first, comparison.second
    facts = [fact for fact in (_optimality(comparison), _tokens(comparison), _missing(comparison)) if fact]
    joined = ", ".join(facts[:-1]) + (", and " if len(facts) > 1 else "") + facts[-1]
    intervals = ", 95 % intervals" if comparison.n > 1 else ""
    who = f"{first.adapter} adapter" + (f" ({first.told_apart_by})" if first.told_apart_by else "")
    named = second.adapter if second.adapter != second.runtime else ""
    other = ", ".join(filter(None, (named, second.told_apart_by)))
    return (
        f"Running the {who} in the {first.runtime} runtime, in place of {whom}{f' ({other})' if other else ''},"
        f" {joined} ({counted(comparison.n, 'task')}{intervals})."
    )


def _optimality(comparison: Comparison) -> str:
    paired, verdict = comparison.optimality, comparison.verdict
    difference = paired.difference
    change = f"{100 * difference.value:+.1f} points"
    if difference.low is None or difference.high is None:
        return f"changed one score by {change}, which shows nothing"
    low, high = 100 * difference.low, 100 * difference.high
    margin, measure = f"{100 * paired.margin:g} points", comparison.first.measure
    if verdict is Conclusion.UNDECIDED:
        return f"left undecided whether {measure} changes ({change}, {low:+.1f} to {high:+.1f})"
    if verdict is Conclusion.UNSIZED:
        tested = f"p {p_value(paired.p_different)} that nothing changed"
        return f"changed {measure} ({change}, {tested}), by how much is open ({low:+.1f} to {high:+.1f})"
    if verdict is Conclusion.EQUIVALENT:
        return f"changed {measure} by less than {margin} ({change}, {low:+.1f} to {high:+.1f})"
    word, ends = ("cost", (-high, -low)) if difference.value < 0 else ("gained", (low, high))
    tail = f", less than {margin}" if verdict is Conclusion.SMALL else ""
    size = abs(100 * difference.value)
    return f"{word} {size:.1f} points of {measure} ({ends[0]:.1f} to {ends[1]:.1f}{tail})"


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
    for kind, words in (
        (Fit.MATCHED, "Where training and runtime match"),
        (Fit.BASE, "The untrained base"),
        (Fit.UNKNOWN, "Trained for what is not known"),
    ):
        cells = [f.cell for f in figures if f.cell.fit is kind and f.cell.episodes]
        if cells:
            each = ", ".join(f"{_count(cell)} ({_place(cell)})" for cell in cells)
            parts.append(f"{words}: solved {each}.")
    return " ".join(parts)


def _count(cell: CellResult) -> str:
    return f"{sum(episode.solved for episode in cell.episodes)} of {len(cell.episodes)}"


def _place(cell: CellResult) -> str:
    usual = BASE if cell.fit is Fit.BASE else str(cell.runtime)
    where = str(cell.runtime) if cell.adapter == usual else f"{cell.adapter} → {cell.runtime}"
    return ", ".join(filter(None, (where, cell.told_apart_by)))


def behaviour_readings(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """In what mismatched agents are shown to behave otherwise than those trained for the runtime."""
    for comparison in comparisons:
        said = ", ".join(said_differences(comparison.behaviour))
        if said and _is_mismatch(comparison.first, comparison.second):
            yield f"{comparison.first.label} against {comparison.second.label}, on the median task: {said}."


def notes(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Remarks on one group of cells; none where all is well."""
    lost = [f"{f.cell.label} {_origins(f)}" for f in figures if f.cell.not_graded]
    if lost:
        yield f"Not graded by a failure of ours, and in no figure: {'; '.join(lost)}."
    yield from _repeats(figures)
    for figure in figures:
        yield from _cell_notes(figure)
    if alone := [figure.cell.label for figure in figures if figure.n == 1]:
        where = "Every cell" if len(alone) == len(figures) > 1 else ", ".join(alone)
        yield f"{where}: one task, so no interval."
    yield from _differences(figures)
    yield from _different_models(figures)
    yield from _what_scores_lack(figures)
    unsafe = [f.cell.label for f in figures if Rung.PROCESS in f.rungs]
    if unsafe:
        yield f"Model-written code ran without a sandbox in: {', '.join(unsafe)}."


def _repeats(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Cells with more episodes than tasks, together where they have as many of both."""
    cells: dict[str, list[str]] = {}
    for figure in figures:
        episodes = len(figure.cell.episodes)
        if episodes > figure.n:
            alike = f"{counted(episodes, 'graded episode')} of {counted(figure.n, 'task')}"
            cells.setdefault(alike, []).append(figure.cell.label)
    for alike, labels in cells.items():
        where = "Every cell" if len(labels) == len(figures) > 1 else ", ".join(labels)
        yield f"{where}: {alike}: repeats of a task are averaged, and n counts tasks."


def _cell_notes(figure: CellFigures) -> Iterator[str]:
    cell = figure.cell
    if unplayed := cell.missing - len(cell.unread):
        yield f"{cell.label}: {counted(unplayed, 'task')} not played yet; the figures are of the others."
    yield from (f"{cell.label}: {remark}." for remark in cell.remarks)
    for reason in cell.unreadable:
        yield f"{cell.label}: unreadable, left out: {reason}."
    late = figure.endings.get(FinishReason.TIME_LIMIT, 0)
    if late:
        yield f"{cell.label}: {counted(late, 'episode')} ended by the time limit, which depends on the machine's load."
    uncounted = sum(episode.tokens is None for episode in cell.episodes)
    if uncounted:
        yield f"{cell.label}: the tokens of {counted(uncounted, 'episode')} are not known, so none are shown."


def _what_scores_lack(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Where scores are no share of an optimum, or are not corrected for chance."""
    cells = [figure.cell for figure in figures]
    for family in dict.fromkeys(cell.family for cell in cells if not cell.optimum):
        yield f"The best answers of {family} are not known: a score is no share of an optimum."
    played = [figure for figure in figures if figure.cell.episodes]
    for family in dict.fromkeys(figure.cell.family for figure in played if None in (figure.floor, figure.oracle)):
        yield f"Not all tasks of {family} have a floor and a ceiling: no score is corrected for chance."


def _origins(figure: CellFigures) -> str:
    lost = figure.cell.not_graded
    return f"{sum(lost.values())} ({', '.join(f'{origin} {count}' for origin, count in lost.items())})"


def _differences(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Settings in which cells differ although they should not."""
    for runtime in sorted({figure.cell.runtime for figure in figures}):
        cells = [figure.cell for figure in figures if figure.cell.runtime is runtime]
        for key in SAME:
            values = _what_differs([cell.config.get(key) for cell in cells])
            if len(values) > 1:
                yield f"Cells in the {runtime} runtime differ in {key}: {'; '.join(values)}."


def _what_differs(values: Sequence[Any]) -> list[str]:
    """Different values in words; of mappings what is not the same in all."""
    if all(isinstance(value, dict) for value in values):
        same = set.intersection(*({(k, str(v)) for k, v in value.items()} for value in values))
        values = [{k: v for k, v in value.items() if (k, str(v)) not in same} for value in values]
    return sorted({_text(value) for value in values})


def different_tasks(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Where rows are not about the same tasks."""
    planned = Counter(frozenset(figure.cell.tasks.values()) for figure in figures)
    if len(planned) > 1:
        usual = planned.most_common(1)[0][0]
        cells = [figure.cell for figure in figures]
        first = next(cell for cell in cells if frozenset(cell.tasks.values()) == usual)
        each = "; ".join(f"{cell.label} {other}" for cell in cells if (other := other_tasks(first, cell)))
        yield (
            f"Not all cells have the {counted(len(usual), 'task')} of {first.label}, and cells of other tasks are not"
            f" compared: {each}."
        )


def _different_models(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Where cells were played on other base models, or one adapter had other contents, as far as these are known."""
    cells = [figure.cell for figure in figures]
    if differing := _parted(cells, "base"):
        yield f"The cells were played on different base models: {differing}."
    if differing := _parted(cells, "template"):
        yield f"The cells were played with different chat templates: {differing}."
    if differing := _parted(cells, "kv_cache"):
        yield f"The cells were played with different key-value caches: {differing}."
    for model in dict.fromkeys(cell.config.get("model") for cell in cells):
        served = [cell for cell in cells if cell.config.get("model") == model]
        for key, words in (("weights", "weights"), ("adapter_config", "configuration")):
            if differing := _parted(served, key):
                yield f"The adapter {model} was not played with the same {words} in all cells: {differing}."


def _parted(cells: Sequence[CellResult], key: str) -> str:
    """The cells by what their config says under `key`; empty where all that say anything say the same."""
    parts: dict[str, list[str]] = {}
    for cell in cells:
        if (value := cell.config.get(key)) is not None:
            parts.setdefault(content_hash(value), []).append(f"{cell.label} {_identity(value)}")
    return "; ".join(", ".join(labels) for labels in parts.values()) if len(parts) > 1 else ""


def _identity(value: Any) -> str:
    """A name, or the beginning of a hash."""
    if isinstance(value, dict):
        return str(value.get("name") or content_hash(value)[:12])
    return str(value)[:12]


def _text(value: Any) -> str:
    text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    if re.fullmatch("[0-9a-f]{64}", text):
        return f"{text[:12]}..."
    return text if len(text) < 200 else f"{text[:200]}..."
