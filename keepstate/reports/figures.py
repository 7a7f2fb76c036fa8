"""The figures of one cell: everything that a row of a report shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean

from keepstate.bench.results import CellResult
from keepstate.reports.statistics import Estimate, all_known, bounded_mean, chance_corrected, mean_of, share
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
    """Mean score of the blind policy on the graded tasks."""
    oracle: float | None
    """Mean of the best score that the budget of inspections can buy."""
    greedy: float | None
    steps: Estimate | None
    tokens: Estimate | None
    """Prompt and completion tokens of an episode, summed over its calls."""
    completion_tokens: Estimate | None
    cached_share: float | None
    """Of prompt tokens, from the server's prefix cache; None where it does not say."""
    missed: Estimate | None
    """Share of episodes in which a variable was missing."""
    rungs: tuple[str, ...]
    endings: dict[FinishReason, int]

    @property
    def n(self) -> int:
        """Graded episodes."""
        return len(self.cell.episodes)

    @property
    def kind(self) -> str:
        """`base`, `matched` (trained where it runs) or `mismatched`."""
        if self.cell.adapter is Adapter.BASE:
            return "base"
        return "matched" if str(self.cell.adapter) == str(self.cell.runtime) else "mismatched"


def cell_figures(cell: CellResult) -> CellFigures:
    """Compute the figures of a cell."""
    episodes = cell.episodes
    scores = [episode.score for episode in episodes]
    references = [cell.references[episode.task] for episode in episodes]
    floor, oracle, greedy = (
        fmean(reference[key] for reference in references) if references else None
        for key in ("blind", "oracle", "greedy")
    )
    optimality = bounded_mean(scores)
    told = [(e.cached_tokens, e.prompt_tokens) for e in episodes if e.cached_tokens is not None and e.prompt_tokens]
    prompts = sum(prompt for _, prompt in told)
    return CellFigures(
        cell=cell,
        solved=share(sum(episode.solved for episode in episodes), len(episodes)),
        optimality=optimality,
        corrected=chance_corrected(optimality, floor, oracle) if optimality and floor is not None and oracle else None,
        floor=floor,
        oracle=oracle,
        greedy=greedy,
        steps=mean_of([episode.steps for episode in episodes]),
        tokens=mean_of(all_known([episode.tokens for episode in episodes])),
        completion_tokens=mean_of(all_known([episode.completion_tokens for episode in episodes])),
        cached_share=sum(cached for cached, _ in told) / prompts if prompts else None,
        missed=share(sum(episode.missed_variable for episode in episodes), len(episodes)),
        rungs=tuple(sorted({episode.rung for episode in episodes})),
        endings=dict(sorted(Counter(episode.finish_reason for episode in episodes).items())),
    )
