"""A report for other programs: what `report.json` holds (`keepstate.report.v2`), and what `compare --json` prints.

Every figure of the report, and of its words headline and notes. Computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from keepstate.report.contrasts import Contrast
from keepstate.report.figures import CellFigures, ComparedFigures, Comparison, Figures
from keepstate.report.model import CellGroup, Report
from keepstate.report.repeats import Repeats
from keepstate.report.significance import Conclusion
from keepstate.vocabulary import Origin, RuntimeName


@dataclass(frozen=True, slots=True)
class CellEntry(Figures):
    """One cell: who, and what it reached."""

    name: str
    """Of its folder."""
    label: str
    """Who acted where, as tables have it: `persistent → forget`."""
    adapter: str
    """Who was measured."""
    trained_for: tuple[RuntimeName, ...] | None
    """The runtimes that it was trained for: none of the base; null where that is not known."""
    training_seed: int | None
    """Of its training, where that is known."""
    runtime: RuntimeName
    """Where it acted."""
    digest: str
    """Of what decides its results, as in its `cell.json`."""
    n: int
    """Graded tasks: repeats of one count once."""
    episodes: int
    """Graded episodes."""
    not_graded: dict[Origin, int]
    """Episodes that a failure of ours ended, by where it arose; in no figure."""
    missing: int
    """Tasks without any record."""


@dataclass(frozen=True, slots=True)
class ComparisonEntry(ComparedFigures):
    """Two cells of a group, task by task."""

    first: str
    """Name of the one."""
    second: str
    """Name of the other."""
    verdict: Conclusion
    """What may be said of their optimality."""
    tasks_needed: int | None
    """About how many tasks would show equivalence, if there is no difference; null beyond ten million."""
    tasks_to_see: int | None
    """About how many would show a difference as large as the margin; null beyond ten million."""


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """Cells that share tasks: they compare task by task."""

    title: str
    """Family, difficulty, rules and tasks."""
    headline: tuple[str, ...]
    """The result in sentences."""
    shows: str
    """What so many tasks can show."""
    references: dict[str, float]
    """Mean scores of the reference policies on the graded tasks, by name."""
    notes: tuple[str, ...]
    """What a reader must know before believing the figures."""
    cells: tuple[CellEntry, ...]
    """In the order of the tables."""
    comparisons: tuple[ComparisonEntry, ...]
    """Mismatch against match first."""
    contrasts: tuple[Contrast, ...]
    """Of the successor study, where their cells are there."""
    repeats: tuple[Repeats, ...]
    """Several trainings or draws of one adapter taken together, and their differences."""
    tied: tuple[tuple[str, ...], ...]
    """Largest sets of cells, by label, of which no two differ below 5 % by the sign-flip test, adjusted by Holm for all
    pairs of the group; repeats are averaged. A set of one is told apart from all others. Empty: nothing was tested."""


@dataclass(frozen=True, slots=True)
class ReportFile:
    """The whole report."""

    name: str
    """Of the run."""
    margin: float
    """Differences of optimality below it count as equivalent."""
    groups: tuple[GroupEntry, ...]
    """Cells by the tasks that they share."""
    schema: Literal["keepstate.report.v2"] = "keepstate.report.v2"
    """Names this format."""


def report_file(report: Report) -> ReportFile:
    """What `report.json` holds."""
    return ReportFile(report.name, report.margin, tuple(map(_group, report.groups)))


def comparison_entry(comparison: Comparison) -> ComparisonEntry:
    """The figures of one comparison."""
    return ComparisonEntry(
        first=comparison.first.name,
        second=comparison.second.name,
        verdict=comparison.verdict,
        tasks_needed=comparison.optimality.tasks_needed,
        tasks_to_see=comparison.optimality.tasks_to_see,
        **_shared(ComparedFigures, comparison),
    )


def _group(group: CellGroup) -> GroupEntry:
    return GroupEntry(
        title=group.title,
        headline=group.headline,
        shows=group.shows,
        references=group.references,
        notes=group.notes,
        cells=tuple(map(_cell, group.figures)),
        comparisons=tuple(map(comparison_entry, group.comparisons)),
        contrasts=group.contrasts,
        repeats=group.repeats,
        tied=group.tied,
    )


def _cell(figures: CellFigures) -> CellEntry:
    cell = figures.cell
    return CellEntry(
        name=cell.name,
        label=cell.label,
        adapter=cell.adapter,
        trained_for=cell.trained_for.runtimes if cell.trained_for else None,
        training_seed=cell.trained_for.seed if cell.trained_for else None,
        runtime=cell.runtime,
        digest=cell.digest,
        n=figures.n,
        episodes=len(cell.episodes),
        not_graded=cell.not_graded,
        missing=cell.missing,
        **_shared(Figures, figures),
    )


def _shared(kind: type, value: object) -> dict[str, Any]:
    """The fields that `value` has of the dataclass `kind`."""
    return {field.name: getattr(value, field.name) for field in fields(kind)}
