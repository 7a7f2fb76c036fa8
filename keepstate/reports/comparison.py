"""Two cells, task by task: how much one differs from the other, and whether that is shown."""

from __future__ import annotations

from dataclasses import dataclass

from keepstate.bench.results import CellResult, Episode
from keepstate.errors import UserError
from keepstate.reports.statistics import (
    Estimate,
    PairedDifference,
    paired_difference,
    ratio_of_means,
    share,
)

MARGIN = 0.05
"""Differences in optimality below five points count as equivalent: the width that 100 tasks can resolve."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`first` against `second` on the tasks that are graded in both."""

    first: CellResult
    second: CellResult
    n: int
    left_out: int
    """Tasks graded in one of the two only."""
    optimality: PairedDifference
    """first - second."""
    tokens: Estimate | None
    """Tokens of first / tokens of second, per episode."""
    completion_tokens: Estimate | None
    steps: Estimate | None
    missed: tuple[Estimate | None, Estimate | None]
    """Share of episodes with a missing variable, in each."""
    solved_only: tuple[int, int]
    """Tasks that only the first solved, and only the second."""


def compare_cells(first: CellResult, second: CellResult, *, margin: float = MARGIN) -> Comparison:
    """Compare two cells on the tasks they share.

    Raises:
        UserError: They share no graded task.
    """
    ours, theirs = _by_task(first), _by_task(second)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise UserError(
            f"{first.name} and {second.name} have no graded task in common",
            "compare cells that were run on the same tasks",
        )
    a, b = [ours[key] for key in shared], [theirs[key] for key in shared]
    difference = paired_difference([e.score for e in a], [e.score for e in b], margin=margin)
    assert difference is not None
    return Comparison(
        first=first,
        second=second,
        n=len(shared),
        left_out=len(ours.keys() ^ theirs.keys()),
        optimality=difference,
        tokens=ratio_of_means([e.tokens for e in a], [e.tokens for e in b]),
        completion_tokens=ratio_of_means([e.completion_tokens for e in a], [e.completion_tokens for e in b]),
        steps=ratio_of_means([e.steps for e in a], [e.steps for e in b]),
        missed=(_missed(a), _missed(b)),
        solved_only=(
            sum(x.solved and not y.solved for x, y in zip(a, b, strict=True)),
            sum(y.solved and not x.solved for x, y in zip(a, b, strict=True)),
        ),
    )


def _by_task(cell: CellResult) -> dict[str, Episode]:
    return {episode.task_hash: episode for episode in cell.episodes}


def _missed(episodes: list[Episode]) -> Estimate | None:
    return share(sum(episode.missed_variable for episode in episodes), len(episodes))
