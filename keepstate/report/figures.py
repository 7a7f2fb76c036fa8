"""The figures of one cell: everything that a row of a report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from keepstate.bench.results import CellResult, TaskMean
from keepstate.report.statistics import (
    Estimate,
    all_known,
    bounded_mean,
    chance_corrected,
    mean_of,
    median_of,
    share,
)
from keepstate.vocabulary import Adapter, FinishReason


@dataclass(frozen=True, slots=True)
class CellFigures:
    """One cell in figures; None where no episode is graded."""

    cell: CellResult
    solved: Estimate | None
    optimality: Estimate | None
    corrected: Estimate | None
    """(score - floor) / (oracle - floor)."""
    floor: float | None
    """Mean score of the blind policy on the graded tasks; None where the family has no such policy."""
    oracle: float | None
    """Mean of the best score that the budget of inspections can buy."""
    steps: Estimate | None
    tokens: Estimate | None
    """Prompt and completion tokens of an episode, summed over its calls: the mean, which has no interval."""
    median_tokens: Estimate | None
    completion_tokens: Estimate | None
    cached_share: float | None
    """Of prompt tokens, from the server's prefix cache; None where it does not say."""
    missed: Estimate | None
    """Share of episodes in which a variable was missing."""
    rungs: tuple[str, ...]
    endings: dict[FinishReason, int]

    @property
    def n(self) -> int:
        """Graded tasks: repeats of one count once."""
        return len({episode.task_hash for episode in self.cell.episodes})

    @property
    def kind(self) -> str:
        """`base`, `matched` (trained where it runs) or `mismatched`."""
        if self.cell.adapter is Adapter.BASE:
            return "base"
        return "matched" if str(self.cell.adapter) == str(self.cell.runtime) else "mismatched"


def cell_figures(cell: CellResult) -> CellFigures:
    """Compute the figures of a cell; an observation is a task, the mean of its episodes."""
    episodes, played = cell.episodes, cell.by_task()
    tasks = list(played.values())
    optimality = bounded_mean([task.score for task in tasks])
    reached = references([cell], played)
    floor, oracle = reached.get("blind"), reached.get("oracle")
    told = [(e.cached_tokens, e.prompt_tokens) for e in episodes if e.cached_tokens is not None and e.prompt_tokens]
    prompts = sum(prompt for _, prompt in told)
    tokens = all_known([task.tokens for task in tasks])
    steps = [task.steps for task in tasks]
    most = cell.config["limits"].get("turns", 0)
    return CellFigures(
        cell=cell,
        solved=share_of(tasks, [task.solved for task in tasks]),
        optimality=optimality,
        corrected=chance_corrected(optimality, floor, oracle)
        if optimality and floor is not None and oracle is not None
        else None,
        floor=floor,
        oracle=oracle,
        steps=bounded_mean(steps, 0.0, max([most, *steps])),
        tokens=mean_of(tokens),
        median_tokens=median_of(tokens),
        completion_tokens=mean_of(all_known([task.completion_tokens for task in tasks])),
        cached_share=sum(cached for cached, _ in told) / prompts if prompts else None,
        missed=share_of(tasks, [task.missed_variable for task in tasks]),
        rungs=tuple(sorted({episode.rung for episode in episodes})),
        endings=dict(sorted(Counter(episode.finish_reason for episode in episodes).items())),
    )


def references(cells: Sequence[CellResult], task_hashes: Collection[str]) -> dict[str, float]:
    """Mean scores of the reference policies over these tasks, of the policies that all of them have."""
    known = {task: scores for cell in cells for task, scores in cell.references.items() if task in task_hashes}
    names = [name for name in next(iter(known.values()), {}) if all(name in scores for scores in known.values())]
    return {name: fmean(scores[name] for scores in known.values()) for name in names}


def share_of(tasks: Sequence[TaskMean], shares: Sequence[float]) -> Estimate | None:
    """A share of tasks; where some were repeated each task has a share of its own, and the mean of these is bounded."""
    if any(task.episodes > 1 for task in tasks):
        return bounded_mean(shares)
    return share(round(sum(shares)), len(shares))
