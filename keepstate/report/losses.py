"""The losses of the adapters of a report, and the scores of their checkpoints, from the folders in which their
trainings left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keepstate.bench.results import CellResult, read_results
from keepstate.errors import UserError
from keepstate.report.figures import cell_figures
from keepstate.train.progress import PROGRESS, Follower
from keepstate.train.result import told_by_folder
from keepstate.train.scores import FOLDER, STEP, ScorePoint, kept_steps
from keepstate.vocabulary import RuntimeName


@dataclass(frozen=True, slots=True)
class Losses:
    """The curve of one training."""

    adapter: str
    points: tuple[tuple[int, float], ...]
    """Step and loss."""
    scores: tuple[tuple[RuntimeName, tuple[ScorePoint, ...]], ...] = ()
    """Of its checkpoints on held-out tasks, by runtime; none where they were not played."""


@dataclass(frozen=True, slots=True)
class Trainings:
    """What is known of the trainings of a report."""

    curves: tuple[Losses, ...]
    missing: tuple[str, ...]
    """Adapters without a curve, and where it was looked for."""


def losses_of(cells: Sequence[CellResult]) -> Trainings:
    """The curves of the adapters that played.

    A folder counts as long as its card tells of the training that the cell was played with.
    """
    found: dict[str, Losses] = {}
    missing: dict[str, str] = {}
    for cell in cells:
        if cell.adapter in found or not cell.trained_for or not cell.trained_for.runtimes:
            continue
        if cell.adapter_folder is None or told_by_folder(cell.adapter_folder) != cell.trained_for:
            missing[cell.adapter] = f"{cell.adapter}: {cell.adapter_folder or 'its folder is not known'}"
            continue
        follower = Follower(cell.adapter_folder / PROGRESS)
        try:
            follower.look()
        except (OSError, ValueError, KeyError, TypeError) as error:
            missing[cell.adapter] = f"{cell.adapter}: {follower.path} cannot be read ({error!r})"
            continue
        if follower.losses:
            scores = scores_of(cell.adapter_folder)
            found[cell.adapter] = Losses(cell.adapter, tuple(follower.losses), scores)
    return Trainings(tuple(found.values()), tuple(words for name, words in missing.items() if name not in found))


def scores_of(adapter: Path) -> tuple[tuple[RuntimeName, tuple[ScorePoint, ...]], ...]:
    """What the checkpoints in an adapter's folder scored; one that has not played all its tasks is unknown."""
    try:
        cells = read_results(adapter / FOLDER)
    except UserError:  # none were played
        return ()
    points: dict[RuntimeName, dict[int, ScorePoint]] = {}
    for cell in cells:
        number = cell.adapter.removeprefix(STEP)
        if number.isdecimal():
            points.setdefault(cell.runtime, {})[int(number)] = _point(int(number), cell)
    steps = kept_steps(adapter)
    return tuple(
        (runtime, tuple(played.get(step, ScorePoint(step, None)) for step in sorted({*steps, *played})))
        for runtime, played in sorted(points.items(), key=lambda each: each[0].place)
    )


def _point(step: int, cell: CellResult) -> ScorePoint:
    estimate = None if cell.missing else cell_figures(cell).optimality
    if estimate is None:
        return ScorePoint(step, None)
    low, high = (None if end is None else 100 * end for end in (estimate.low, estimate.high))
    return ScorePoint(step, 100 * estimate.value, low, high)
