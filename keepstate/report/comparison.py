"""Two cells, task by task: how much one differs from the other, and whether that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keepstate.bench.results import CellResult, TaskMean
from keepstate.errors import UserError
from keepstate.report.figures import share_of
from keepstate.report.statistics import (
    Estimate,
    Finding,
    PairedDifference,
    median_ratio,
    paired_difference,
    ratio_of_means,
)

MARGIN = 0.05
"""Differences in optimality below five points count as equivalent: the width that 100 tasks can resolve."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`first` against `second` on the tasks that are graded in both; repeats of a task are averaged first."""

    first: CellResult
    second: CellResult
    n: int
    """Tasks graded in both."""
    left_out: int
    """Tasks graded in one of the two only."""
    optimality: PairedDifference
    """first - second."""
    tokens: Estimate | None
    """Tokens of first / tokens of second: the median of the tasks' ratios."""
    tokens_in_all: float | None
    """The ratio of all tokens of the one to all of the other, which has no interval."""
    completion_tokens: Estimate | None
    steps: Estimate | None
    missed: tuple[Estimate | None, Estimate | None]
    """Share of episodes with a missing variable, in each."""
    solved_only: tuple[int, int]
    """Tasks that the first solved more often than the second, and the other way round."""

    @property
    def verdict(self) -> Finding:
        """What may be said of their optimality."""
        return Finding.SAME if _same(self.first, self.second) else self.optimality.verdict


def shared_tasks(first: CellResult, second: CellResult) -> list[str]:
    """Content hashes of the tasks that are graded in both, sorted."""
    ours, theirs = ({episode.task_hash for episode in cell.episodes} for cell in (first, second))
    return sorted(ours & theirs)


def compare_cells(first: CellResult, second: CellResult, *, margin: float = MARGIN) -> Comparison:
    """Compare two cells on the tasks they share.

    Raises:
        UserError: They share no graded task.
    """
    ours, theirs = first.by_task(), second.by_task()
    shared = shared_tasks(first, second)
    if not shared:
        raise UserError(
            f"no task is graded in both {_graded(first)} and {_graded(second)}",
            f"compare cells that were run on the same tasks; what a cell holds: keepstate report {first.folder.parent}",
        )
    a, b = [ours[key] for key in shared], [theirs[key] for key in shared]
    difference = paired_difference([t.score for t in a], [t.score for t in b], margin=margin)
    assert difference is not None
    if _same(first, second):  # zero by construction, which no interval belongs to
        nothing = Estimate(0.0, None, None, len(shared))
        difference = PairedDifference(nothing, margin, p_equivalent=None, p_different=None, spread=None)
    return Comparison(
        first=first,
        second=second,
        n=len(shared),
        left_out=len(ours.keys() ^ theirs.keys()),
        optimality=difference,
        tokens=median_ratio([t.tokens for t in a], [t.tokens for t in b]),
        tokens_in_all=ratio_of_means([t.tokens for t in a], [t.tokens for t in b]),
        completion_tokens=median_ratio([t.completion_tokens for t in a], [t.completion_tokens for t in b]),
        steps=median_ratio([t.steps for t in a], [t.steps for t in b]),
        missed=(_missed(a), _missed(b)),
        solved_only=(
            sum(x.solved > y.solved for x, y in zip(a, b, strict=True)),
            sum(y.solved > x.solved for x, y in zip(a, b, strict=True)),
        ),
    )


def _graded(cell: CellResult) -> str:
    """A cell and how much of it there is, in words."""
    unreadable = f", {len(cell.unreadable)} unreadable" if cell.unreadable else ""
    return f"{cell.name} ({len(cell.by_task())} of {len(set(cell.tasks.values()))} tasks graded{unreadable})"


def _same(first: CellResult, second: CellResult) -> bool:
    """Whether both hold the very same episodes: one folder, or a copy of it."""
    return first.digest == second.digest and first.episodes == second.episodes


def _missed(tasks: Sequence[TaskMean]) -> Estimate | None:
    return share_of(tasks, [task.missed_variable for task in tasks])
