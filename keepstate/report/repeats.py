"""Cells that repeat one another, taken together: several trainings of one adapter, or several draws.

A task that was played several times is one observation: its scores are averaged before the interval over tasks. How far
trainings differ from one another stands beside it, as a spread of its own: tasks say nothing of other trainings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance
from typing import Any

from keepstate.bench.results import CellResult
from keepstate.report.figures import other_tasks
from keepstate.report.pairs import MeasuredArm, alike, arms_of, compared_arms, settings_of, swept, training_of
from keepstate.report.significance import paired_difference
from keepstate.report.statistics import Estimate, bounded_mean


@dataclass(frozen=True, slots=True)
class Repeats:
    """One arm, or one arm against another, over several trainings or draws."""

    label: str
    """Who acted where; `first vs second` of a difference."""
    cells: tuple[str, ...]
    """Names of all that were averaged."""
    trainings: int
    """Different trainings among them; of a difference, those that are compared one by one."""
    by_seed: bool
    """Whether these are known to differ in their seed alone; else they are models of one adapter's name."""
    is_difference: bool
    """Whether the figures are differences, first minus second."""
    optimality: Estimate
    """Mean over tasks of what each task has on average, with its interval over tasks."""
    each_training: tuple[float, ...]
    """The mean of each training, in the order of their seeds; of a difference, of each that has its like."""
    spread: float | None
    """Standard deviation of these; None of fewer than two."""
    spread_of_draws: float | None
    """Standard deviation of the means of several draws of one training, within trainings; None of fewer than two."""


def repeats_of(cells: Sequence[CellResult], margin: float) -> Iterator[Repeats]:
    """Every arm with several cells, then every two arms that compare and of which one has.

    Args:
        cells: Of one group.
        margin: As `compare_cells` has it.
    """
    arms = [part for arm in arms_of(cells) for part in alike(arm)]
    usable = {id(arm): scores for arm in arms if (scores := scores_of(arm))}
    for arm in arms:
        if len(arm.cells) > 1 and (known := usable.get(id(arm))):
            yield _alone(arm, known)
    under_one = ((a, b) for a, b in compared_arms(arms) if settings_of(a.cells[0]) == settings_of(b.cells[0]))
    for first, second in (*under_one, *swept(arms)):
        ours, theirs = usable.get(id(first)), usable.get(id(second))
        several = max(len(first.cells), len(second.cells)) > 1 and not other_tasks(first.cells[0], second.cells[0])
        if several and ours and theirs and (found := _apart(first, second, ours, theirs, margin)):
            yield found


Scores = Mapping[object, Mapping[object, Mapping[str, float]]]
"""By training, by seed of the draw, by content hash of the task. All draws have the same tasks."""


def scores_of(arm: MeasuredArm) -> Scores | None:
    """Scores on the tasks that are graded in every cell of an arm; None where there is none."""
    by_cell = [(training_of(cell), (cell.config["seed"], cell.name), cell.by_task) for cell in arm.cells]
    shared = sorted(set.intersection(*(set(tasks) for *_, tasks in by_cell)))
    if not shared:
        return None
    found: dict[object, dict[object, dict[str, float]]] = {}
    for training, draw, tasks in sorted(by_cell, key=lambda each: (*_order(each[0]), each[1])):
        draws = found.setdefault(training, {})
        draws[draw if draw[0] in draws else draw[0]] = {task: tasks[task].score for task in shared}
    return found


def _order(training: object) -> tuple[str, Any]:
    """Of trainings: by seed, or else by name."""
    return str(type(training)), training


def over_repeats(scores: Scores) -> dict[str, float]:
    """What each task has on average: over the draws of each training, then over these."""
    trainings = [_over_draws(draws) for draws in scores.values()]
    return {task: fmean(of[task] for of in trainings) for task in trainings[0]}


def _over_draws(draws: Mapping[object, Mapping[str, float]]) -> dict[str, float]:
    return {task: fmean(of[task] for of in draws.values()) for task in next(iter(draws.values()))}


def _alone(arm: MeasuredArm, scores: Scores) -> Repeats:
    optimality = bounded_mean([*over_repeats(scores).values()])
    assert optimality is not None
    each = [[fmean(of.values()) for of in draws.values()] for draws in scores.values()]
    return _repeats(label_of(arm), arm.cells, optimality, [fmean(of) for of in each], each, difference=False)


def _apart(first: MeasuredArm, second: MeasuredArm, a: Scores, b: Scores, margin: float) -> Repeats | None:
    ours, theirs = over_repeats(a), over_repeats(b)
    tasks = sorted(ours.keys() & theirs.keys())
    paired = paired_difference([ours[task] for task in tasks], [theirs[task] for task in tasks], margin=margin)
    if paired is None:
        return None
    if a.keys() == b.keys():
        like = [(a[training], b[training]) for training in a]
    elif min(len(a), len(b)) == 1:
        like = [(one, other) for one in a.values() for other in b.values()]
    else:
        like = []
    averaged = [(_over_draws(one), _over_draws(other)) for one, other in like]
    each = [fmean(one[task] - other[task] for task in tasks) for one, other in averaged]
    draws = [
        [fmean(one[draw][task] - other[draw][task] for task in tasks) for draw in one]
        for one, other in like
        if one.keys() == other.keys()
    ]
    label = f"{label_of(first)} vs {label_of(second)}"
    return _repeats(label, (*first.cells, *second.cells), paired.difference, each, draws, difference=True)


def _repeats(
    label: str,
    cells: Sequence[CellResult],
    optimality: Estimate,
    each: Sequence[float],
    draws: Sequence[Sequence[float]],
    *,
    difference: bool,
) -> Repeats:
    within = [variance(of) for of in draws if len(of) > 1]
    return Repeats(
        label=label,
        cells=tuple(cell.name for cell in cells),
        trainings=len(each),
        by_seed=any(cell.trained_for is not None and cell.trained_for.training is not None for cell in cells),
        is_difference=difference,
        optimality=optimality,
        each_training=tuple(each),
        spread=stdev(each) if len(each) > 1 else None,
        spread_of_draws=math.sqrt(fmean(within)) if within else None,
    )


def label_of(arm: MeasuredArm) -> str:
    """`persistent → forget`; several adapters in the order of `Repeats.each_training`."""
    names = dict.fromkeys(cell.adapter for cell in sorted(arm.cells, key=lambda cell: _order(training_of(cell))))
    told = {cell.told_apart_by for cell in arm.cells}
    settings = [words for words in next(iter(told)).split(", ") if all(words in other.split(", ") for other in told)]
    return f"{_together(list(names))} → {arm.runtime}" + (f" ({', '.join(settings)})" if any(settings) else "")


def _together(names: Sequence[str]) -> str:
    """`persistent-seed0/1/2`; names that differ in more than a number stand whole."""
    stems = {name.rstrip("0123456789") for name in names}
    if len(stems) > 1 or len(names) == 1 or names[0] in stems:
        return " / ".join(names)
    (stem,) = stems
    return stem + "/".join(name.removeprefix(stem) for name in names)
