"""Cells in figures: one alone, as a row of a report shows it, and two task by task: do they differ, is that shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from keepstate.bench.results import CellResult, TaskMean
from keepstate.errors import UserError
from keepstate.report.behaviour import BehaviourDifference, behaviour_differences
from keepstate.report.significance import Conclusion, PairedDifference, holm, mcnemar, paired_difference
from keepstate.report.statistics import (
    Estimate,
    all_known,
    bounded_mean,
    chance_corrected,
    mean_of,
    median_of,
    median_ratio,
    ratio_of_means,
    share,
)
from keepstate.report.words import counted
from keepstate.traces.behaviour import BehaviourFigures, behaviour_figures
from keepstate.vocabulary import FinishReason

MARGIN = 0.05
"""Differences in optimality below five points count as equivalent: the width that 100 tasks can resolve."""


MOST_NAMED = 3
"""Tasks named one by one."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a cell reached; None where no episode is graded."""

    solved: Estimate | None
    """Share of episodes that reached the optimum."""
    optimality: Estimate | None
    """Mean score."""
    corrected: Estimate | None
    """(score - floor) / (oracle - floor)."""
    floor: float | None
    """Mean score of the blind policy on the graded tasks; None where the family has no such policy."""
    oracle: float | None
    """Mean of the best score that the budget of inspections can buy."""
    steps: Estimate | None
    """Answers in an episode, mean."""
    tokens: Estimate | None
    """Prompt and completion tokens of an episode, summed over its calls: the mean, which has no interval."""
    median_tokens: Estimate | None
    """Half of the tasks took more."""
    completion_tokens: Estimate | None
    """Written by the model in an episode: the mean, which has no interval."""
    cached_share: float | None
    """Of prompt tokens, from the server's prefix cache; None where it does not say."""
    missed: Estimate | None
    """Share of episodes in which a variable was missing."""
    rungs: tuple[str, ...]
    """How model-written code was isolated."""
    endings: dict[FinishReason, int]
    """How many episodes ended for which reason."""
    behaviour: BehaviourFigures
    """How the agent used its runtime."""


@dataclass(frozen=True, slots=True)
class CellFigures(Figures):
    """One cell in figures."""

    cell: CellResult

    @property
    def n(self) -> int:
        """Graded tasks: repeats of one count once."""
        return len({episode.task_hash for episode in self.cell.episodes})


def cell_figures(cell: CellResult) -> CellFigures:
    """Compute the figures of a cell; an observation is a task, the mean of its episodes."""
    episodes, played = cell.episodes, cell.by_task
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
        behaviour=behaviour_figures([[each.behaviour for each in of_task] for of_task in cell.played.values()]),
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


@dataclass(frozen=True, slots=True)
class ComparedFigures:
    """One cell against another on the tasks that are graded in both; repeats of a task are averaged first."""

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
    """The same of completion tokens alone."""
    steps: Estimate | None
    """The same of answers."""
    missed: tuple[Estimate | None, Estimate | None]
    """Share of episodes with a missing variable, in each."""
    solved_only: tuple[int, int]
    """Tasks that the first solved more often than the second, and the other way round."""
    p_solved: float | None
    """Of the hypothesis that both solve as many: McNemar's exact test, two-sided."""
    p_holm: float | None
    """`p_different` of `optimality`, adjusted by Holm for the comparisons of the table in which it stands."""
    behaviour: tuple[BehaviourDifference, ...]
    """In which figures of behaviour they are shown to differ."""


@dataclass(frozen=True, slots=True)
class Comparison(ComparedFigures):
    """`first` against `second`."""

    first: CellResult
    second: CellResult

    @property
    def verdict(self) -> Conclusion:
        """What may be said of their optimality."""
        return Conclusion.SAME if _same(self.first, self.second) else self.optimality.verdict


def shared_tasks(first: CellResult, second: CellResult) -> list[str]:
    """Content hashes of the tasks that are graded in both, sorted."""
    ours, theirs = ({episode.task_hash for episode in cell.episodes} for cell in (first, second))
    return sorted(ours & theirs)


def other_tasks(first: CellResult, second: CellResult) -> str:
    """What of the tasks of `first` the second cell lacks and what it has beyond, by name; empty: they are the same."""
    ours, theirs = ({content: name for name, content in cell.tasks.items()} for cell in (first, second))
    parts = []
    for words, names in (
        ("lacks", [name for content, name in ours.items() if content not in theirs]),
        ("has beyond", [name for content, name in theirs.items() if content not in ours]),
    ):
        if names:
            shown = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
            parts.append(f"{words} {counted(len(names), 'task')} ({shown})")
    return " and ".join(parts)


def compare_all(pairs: Iterable[tuple[CellResult, CellResult]], *, margin: float = MARGIN) -> tuple[Comparison, ...]:
    """Compare cells two and two, as one family of tests: each is adjusted for the number of all.

    Raises:
        UserError: As `compare_cells` has it.
    """
    found = [compare_cells(first, second, margin=margin) for first, second in pairs]
    adjusted = holm([comparison.optimality.p_different for comparison in found])
    return tuple(replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True))


def compare_cells(first: CellResult, second: CellResult, *, margin: float = MARGIN) -> Comparison:
    """Compare two cells on the tasks they share, alone.

    Raises:
        UserError: Their tasks are not the same, or none is graded in both.
    """
    if other := other_tasks(first, second):
        raise UserError(
            f"{second.name} was not played on the tasks of {first.name}: it {other}",
            f"play both on the same tasks; what each holds: keepstate report {first.folder.parent}",
        )
    ours, theirs = first.by_task, second.by_task
    shared = shared_tasks(first, second)
    if not shared:
        raise UserError(
            f"no task is graded in both {_graded(first)} and {_graded(second)}",
            f"compare cells that were run on the same tasks; what a cell holds: keepstate report {first.folder.parent}",
        )
    a, b = [ours[key] for key in shared], [theirs[key] for key in shared]
    only_first = sum(x.solved > y.solved for x, y in zip(a, b, strict=True))
    only_second = sum(y.solved > x.solved for x, y in zip(a, b, strict=True))
    same = _same(first, second)
    difference = paired_difference([t.score for t in a], [t.score for t in b], margin=margin)
    assert difference is not None
    if same:  # zero by construction, which no interval belongs to
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
        missed=(share_of(a, [t.missed_variable for t in a]), share_of(b, [t.missed_variable for t in b])),
        solved_only=(only_first, only_second),
        p_solved=None if same else mcnemar(only_first, only_second),
        p_holm=difference.p_different,
        behaviour=() if same else behaviour_differences(first.played, second.played, shared),
    )


def _graded(cell: CellResult) -> str:
    """A cell and how much of it there is, in words."""
    unreadable = f", {len(cell.unreadable)} unreadable" if cell.unreadable else ""
    return f"{cell.name} ({len(cell.by_task)} of {len(set(cell.tasks.values()))} tasks graded{unreadable})"


def _same(first: CellResult, second: CellResult) -> bool:
    """Whether both hold the very same episodes: one folder, or a copy of it."""
    return first.digest == second.digest and first.episodes == second.episodes
