"""Cells that repeat one another, taken together: several trainings of one adapter, or several draws.

A task that was played several times is one observation: its scores are averaged before the interval over tasks. How far
trainings differ from one another stands beside it, as a spread of its own: tasks say nothing of other trainings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from keepstate.bench.results import CellResult
from keepstate.report.pairs import MeasuredArm, arms_of, compared_arms, training_of
from keepstate.report.significance import paired_difference
from keepstate.report.statistics import Estimate, bounded_mean

ALIKE = ("limits", "sampling", "context", "nothink", "prompt")
"""What cells must share to repeat one another."""


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


def repeats_of(cells: Sequence[CellResult], margin: float) -> Iterator[Repeats]:
    """Every arm with several cells, then every two arms that compare and of which one has.

    Args:
        cells: Of one group.
        margin: As `compare_cells` has it.
    """
    arms = arms_of(cells)
    usable = {id(arm): _scores(arm) for arm in arms if _alike(arm)}
    for arm in arms:
        if len(arm.cells) > 1 and (scores := usable.get(id(arm))):
            yield _alone(arm, scores)
    for first, second in compared_arms(arms):
        a, b = usable.get(id(first)), usable.get(id(second))
        if max(len(first.cells), len(second.cells)) > 1 and a and b and (found := _apart(first, second, a, b, margin)):
            yield found


Scores = Mapping[object, Mapping[str, float]]
"""By training, then by content hash of the task: the mean over draws. All trainings have the same tasks."""


def _alike(arm: MeasuredArm) -> bool:
    first = arm.cells[0]
    return all(cell.config.get(key) == first.config.get(key) for cell in arm.cells for key in ALIKE)


def _scores(arm: MeasuredArm) -> Scores | None:
    """Scores on the tasks that are graded in every cell of an arm; None where there is none."""
    by_cell = [(training_of(cell), cell.by_task()) for cell in arm.cells]
    shared = sorted(set.intersection(*(set(tasks) for _, tasks in by_cell)))
    trainings = sorted({training for training, _ in by_cell}, key=lambda found: (str(type(found)), found))
    if not shared:
        return None
    return {
        training: {task: fmean(tasks[task].score for of, tasks in by_cell if of == training) for task in shared}
        for training in trainings
    }


def _over_trainings(scores: Scores, tasks: Sequence[str]) -> list[float]:
    """What each task has on average."""
    return [fmean(of[task] for of in scores.values()) for task in tasks]


def _alone(arm: MeasuredArm, scores: Scores) -> Repeats:
    tasks = list(next(iter(scores.values())))
    optimality = bounded_mean(_over_trainings(scores, tasks))
    assert optimality is not None
    each = [fmean(of.values()) for of in scores.values()]
    return _repeats(_label(arm), arm.cells, optimality, each, difference=False)


def _apart(first: MeasuredArm, second: MeasuredArm, a: Scores, b: Scores, margin: float) -> Repeats | None:
    tasks = sorted(next(iter(a.values())).keys() & next(iter(b.values())).keys())
    paired = paired_difference(_over_trainings(a, tasks), _over_trainings(b, tasks), margin=margin)
    if paired is None:
        return None
    if a.keys() == b.keys():
        like = [(a[training], b[training]) for training in a]
    elif min(len(a), len(b)) == 1:
        like = [(one, other) for one in a.values() for other in b.values()]
    else:
        like = []
    each = [fmean(one[task] - other[task] for task in tasks) for one, other in like]
    label = f"{_label(first)} vs {_label(second)}"
    return _repeats(label, (*first.cells, *second.cells), paired.difference, each, difference=True)


def _repeats(
    label: str, cells: Sequence[CellResult], optimality: Estimate, each: Sequence[float], *, difference: bool
) -> Repeats:
    return Repeats(
        label=label,
        cells=tuple(cell.name for cell in cells),
        trainings=len(each),
        by_seed=any(cell.trained_for is not None and cell.trained_for.training is not None for cell in cells),
        is_difference=difference,
        optimality=optimality,
        each_training=tuple(each),
        spread=stdev(each) if len(each) > 1 else None,
    )


def _label(arm: MeasuredArm) -> str:
    """`persistent → forget`; of several adapters what their names share."""
    names = list(dict.fromkeys(cell.adapter for cell in arm.cells))
    return f"{' / '.join(names)} → {arm.runtime}"
