"""What a report says, before any output form: groups of cells on the same tasks, comparisons, headline, notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from keepstate.bench.results import CellResult
from keepstate.report.contrasts import Contrast, contrasts
from keepstate.report.figures import (
    MARGIN,
    CellFigures,
    Comparison,
    cell_figures,
    compare_all,
    other_tasks,
    references,
    shared_tasks,
)
from keepstate.report.pairs import alike, arms_of, cell_pairs, compared_arms, settings_of, swept
from keepstate.report.repeats import Repeats, repeats_of
from keepstate.report.sentences import Claim, different_tasks, headline, notes, what_can_be_shown
from keepstate.report.ties import in_words, tied_sets

Passing = Callable[[Sequence[CellResult]], Iterator[CellResult]]


@dataclass(frozen=True, slots=True)
class CellGroup:
    """Cells that share tasks: they compare task by task."""

    title: str
    figures: tuple[CellFigures, ...]
    references: dict[str, float]
    """What the reference policies score, mean over the tasks that are graded in one of the cells at least."""
    solved_by: dict[str, int]
    """How many of these tasks each of them solves."""
    graded_tasks: int
    measure: str
    """What scores are called here: `optimality`, or `score` where no optimum is known."""
    comparisons: tuple[Comparison, ...]
    contrasts: tuple[Contrast, ...]
    """Of the successor study, where their cells are there."""
    repeats: tuple[Repeats, ...]
    """Arms of several trainings or draws, and their differences."""
    tied: tuple[tuple[str, ...], ...]
    """Sets of cells that cannot be told apart, by label: see `keepstate.report.ties`."""
    claims: tuple[Claim, ...]
    """The result in sentences, the most important first."""
    shows: str
    """What so many tasks can show, and how many would show more."""
    notes: tuple[str, ...]

    @property
    def headline(self) -> tuple[str, ...]:
        """The words of the claims."""
        return tuple(claim.words for claim in self.claims)


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report."""

    name: str
    groups: tuple[CellGroup, ...]
    margin: float

    @property
    def episodes(self) -> int:
        """Graded episodes in all cells."""
        return sum(len(figures.cell.episodes) for group in self.groups for figures in group.figures)


def make_report(name: str, cells: Sequence[CellResult], *, margin: float = MARGIN, each: Passing = iter) -> Report:
    """Compute everything that a report says of `cells`.

    Args:
        name: Of the run.
        cells: As `keepstate.bench.read_results` gives them.
        margin: Differences of optimality below it count as equivalent.
        each: Passes on the cells of a group one by one, and may show how far that is.
    """
    return Report(name, tuple(_group(told_apart(group), margin, each) for group in _sharing_tasks(cells)), margin)


def told_apart(cells: Sequence[CellResult]) -> list[CellResult]:
    """The cells; those of one adapter in one runtime with what tells them apart.

    That is their model, or what differs of model, tool calls, temperature and seed, or else their folders.
    """
    told = []
    for cell in cells:
        alike = [other for other in cells if (other.adapter, other.runtime) == (cell.adapter, cell.runtime)]
        models = {cell.config.get("model") for cell in alike}
        facts = list(zip(*map(_facts, alike), strict=True))
        differing = facts[:1] if len(models) == len(alike) else [each for each in facts if len(set(each)) > 1]
        whole = [", ".join(each) for each in zip(*differing, strict=True)]
        unique = len(set(whole)) == len(alike) > 1
        words = whole[alike.index(cell)] if unique else cell.name if len(alike) > 1 else ""
        told.append(replace(cell, told_apart_by=words))
    return told


def _facts(cell: CellResult) -> tuple[str, ...]:
    """What may tell two cells of one adapter in one runtime apart, in words."""
    model, seed = cell.config.get("model"), cell.config.get("seed")
    return str(model), *(f"{name} {value}" for name, value in settings_of(cell).items()), f"seed {seed}"


def _sharing_tasks(cells: Sequence[CellResult]) -> list[list[CellResult]]:
    """Groups of cells that have tasks in common, directly or through another cell, in their order."""
    groups: list[list[CellResult]] = []
    for cell in cells:
        hashes = set(cell.tasks.values())
        near = [group for group in groups if any(not hashes.isdisjoint(other.tasks.values()) for other in group)]
        joined = [other for group in near for other in group] + [cell]
        groups = [group for group in groups if group not in near] + [joined]
    order = {id(cell): place for place, cell in enumerate(cells)}
    sorted_groups = [sorted(group, key=lambda cell: order[id(cell)]) for group in groups]
    return sorted(sorted_groups, key=lambda group: order[id(group[0])])


def _group(cells: Sequence[CellResult], margin: float, each: Passing) -> CellGroup:
    figures = tuple(cell_figures(cell) for cell in each(cells))
    pairs = [pair for first, second in compared_arms(arms_of(cells)) for pair in cell_pairs(first, second)]
    parts = [part for arm in arms_of(cells) for part in alike(arm)]
    pairs += [pair for first, second in swept(parts) for pair in cell_pairs(first, second)]
    repeats = tuple(repeats_of(cells, margin))
    tied = tied_sets(cells)
    same = [not other_tasks(*pair) and bool(shared_tasks(*pair)) for pair in pairs]
    comparisons = compare_all([pair for pair, held in zip(pairs, same, strict=True) if held], margin=margin)
    apart = [pair for pair, held in zip(pairs, same, strict=True) if not held]
    graded = {episode.task_hash for cell in cells for episode in cell.episodes}
    scores = {task: scores for cell in cells for task, scores in cell.references.items() if task in graded}
    reached = references(cells, graded)
    return CellGroup(
        title=_title(cells),
        figures=figures,
        references=reached,
        solved_by={name: sum(by_policy[name] == 1.0 for by_policy in scores.values()) for name in reached},
        graded_tasks=len(graded),
        measure="optimality" if all(cell.optimum for cell in cells) else "score",
        comparisons=comparisons,
        contrasts=contrasts(cells),
        repeats=repeats,
        tied=tied,
        claims=(*headline(figures, comparisons, apart, repeats), *map(Claim, filter(None, [in_words(tied)]))),
        shows=what_can_be_shown(figures, comparisons, margin),
        notes=(*different_tasks(figures), *notes(figures)),
    )


def _title(cells: Sequence[CellResult]) -> str:
    """`knapsack mini, strict rules, 12 tasks`; `12 to 24 tasks` where the cells have more and less of them."""
    kinds = list(dict.fromkeys(f"{cell.family} {cell.difficulty}" for cell in cells))
    rules = list(dict.fromkeys(cell.rules for cell in cells if cell.rules))
    counts = sorted({len(set(cell.tasks.values())) for cell in cells})
    tasks = f"{counts[0]} to {counts[-1]} tasks" if len(counts) > 1 else f"{counts[0]} task{'s' * (counts[0] != 1)}"
    return ", ".join([" and ".join(kinds), *(f"{name} rules" for name in rules), tasks])
