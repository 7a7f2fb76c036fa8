"""What a report says, before any output form: groups of cells on the same tasks, comparisons, headline, notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keepstate.bench.results import CellResult
from keepstate.reports.comparison import MARGIN, Comparison, compare_cells
from keepstate.reports.figures import CellFigures, cell_figures
from keepstate.reports.headline import headline
from keepstate.reports.notes import notes
from keepstate.vocabulary import Adapter


@dataclass(frozen=True, slots=True)
class Group:
    """Cells on the same tasks: they compare task by task."""

    title: str
    figures: tuple[CellFigures, ...]
    comparisons: tuple[Comparison, ...]
    headline: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report."""

    name: str
    groups: tuple[Group, ...]
    margin: float

    @property
    def episodes(self) -> int:
        """Graded episodes in all cells."""
        return sum(figures.n for group in self.groups for figures in group.figures)


def make_report(name: str, cells: Sequence[CellResult], *, margin: float = MARGIN) -> Report:
    """Compute everything that a report says of `cells`.

    Args:
        name: Of the run.
        cells: As `keepstate.bench.read_results` gives them.
        margin: Differences of optimality below it count as equivalent.
    """
    by_tasks: dict[str, list[CellResult]] = defaultdict(list)
    for cell in cells:
        by_tasks[cell.task_set].append(cell)
    return Report(name, tuple(_group(group, margin) for group in by_tasks.values()), margin)


def _group(cells: Sequence[CellResult], margin: float) -> Group:
    first = cells[0]
    rules = f", {first.rules} rules" if first.rules else ""
    figures = tuple(cell_figures(cell) for cell in cells)
    comparisons = tuple(_comparisons(cells, margin))
    return Group(
        title=f"{first.family} {first.difficulty}{rules}, {len(first.references)} tasks",
        figures=figures,
        comparisons=comparisons,
        headline=tuple(headline(figures, comparisons)),
        notes=tuple(notes(figures)),
    )


def _comparisons(cells: Sequence[CellResult], margin: float) -> Iterable[Comparison]:
    """Mismatch against match in one runtime, one adapter in two, matched arms against each other and the base."""
    found = {(cell.adapter, str(cell.runtime)): cell for cell in reversed(cells) if cell.episodes}
    persistent, forget, react, base = Adapter.PERSISTENT, Adapter.FORGET, Adapter.REACT, Adapter.BASE
    for (adapter, runtime), (other, place) in (
        ((persistent, "forget"), (forget, "forget")),
        ((forget, "persistent"), (persistent, "persistent")),
        ((persistent, "forget"), (persistent, "persistent")),
        ((forget, "persistent"), (forget, "forget")),
        ((persistent, "persistent"), (forget, "forget")),
        ((persistent, "persistent"), (base, "persistent")),
        ((forget, "forget"), (base, "forget")),
        ((react, "react"), (base, "react")),
    ):
        first, second = found.get((adapter, runtime)), found.get((other, place))
        if first and second and {e.task_hash for e in first.episodes} & {e.task_hash for e in second.episodes}:
            yield compare_cells(first, second, margin=margin)
