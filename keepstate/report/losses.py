"""The losses of the adapters of a report, from the folders in which their trainings left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keepstate.bench.results import CellResult
from keepstate.train.progress import PROGRESS, Follower
from keepstate.train.result import told_by_folder


@dataclass(frozen=True, slots=True)
class Losses:
    """The curve of one training."""

    adapter: str
    points: tuple[tuple[int, float], ...]
    """Step and loss."""


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
            found[cell.adapter] = Losses(cell.adapter, tuple(follower.losses))
    return Trainings(tuple(found.values()), tuple(words for name, words in missing.items() if name not in found))
