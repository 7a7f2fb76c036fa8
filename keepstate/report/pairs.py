"""Which cells of a group are compared, and which belong together as repeats of one another.

An arm is one adapter in one runtime: all its cells, of several draws, or of trainings that differ in their seed alone.
Arms are compared by what their adapters were trained for, whatever these are called. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from keepstate.bench.results import CellResult, Fit
from keepstate.files import content_hash
from keepstate.vocabulary import RuntimeName

Pair = tuple[CellResult, CellResult]


@dataclass(frozen=True, slots=True)
class MeasuredArm:
    """One adapter in one runtime."""

    cells: tuple[CellResult, ...]

    @property
    def runtime(self) -> RuntimeName:
        """Where it acts."""
        return self.cells[0].runtime

    @property
    def adapter(self) -> str:
        """What tells it from others in the same runtime: its training, seed apart, or else its name."""
        return adapter_of(self.cells[0])

    @property
    def fit(self) -> Fit:
        """What training and runtime are to each other."""
        return self.cells[0].fit

    @property
    def is_specialist(self) -> bool:
        """Whether it was trained for its runtime and no other."""
        return self.cells[0].is_specialist


def adapter_of(cell: CellResult) -> str:
    """See `MeasuredArm.adapter`."""
    training = cell.trained_for.training if cell.trained_for else None
    return training or cell.adapter


def training_of(cell: CellResult) -> object:
    """Which training of several a cell is of: its seed, or else the name of its model."""
    known = cell.trained_for and cell.trained_for.training
    return cell.trained_for.seed if known and cell.trained_for else cell.config.get("model")


ALIKE = ("limits", "sampling", "context", "nothink", "prompt")
"""What cells must share to repeat one another, beside their tasks."""


def alike(arm: MeasuredArm) -> list[MeasuredArm]:
    """The parts of an arm whose cells repeat one another: the same tasks under the same settings."""
    parts: dict[str, list[CellResult]] = {}
    for cell in arm.cells:
        key = content_hash([sorted(set(cell.tasks.values())), [cell.config.get(key) for key in ALIKE]])
        parts.setdefault(key, []).append(cell)
    return [MeasuredArm(tuple(cells)) for cells in parts.values()]


def swept(parts: Sequence[MeasuredArm]) -> Iterator[tuple[MeasuredArm, MeasuredArm]]:
    """Every two parts of one arm that differ in one of the settings of a sweep, and in no other."""
    for first, second in combinations(parts, 2):
        if (first.adapter, first.runtime) == (second.adapter, second.runtime):
            ours, theirs = settings_of(first.cells[0]), settings_of(second.cells[0])
            if sum(ours[name] != theirs[name] for name in ours) == 1:
                yield first, second


def settings_of(cell: CellResult) -> dict[str, object]:
    """What a sweep plays several values of, draws apart, by its name in words."""
    limits, sampling = cell.config["limits"], cell.config.get("sampling") or {}
    return {"tool calls": limits.get("tool_calls"), "temperature": sampling.get("temperature")}


def arms_of(cells: Iterable[CellResult]) -> list[MeasuredArm]:
    """The arms of a group of cells, by what they were trained for, then by runtime."""
    found: dict[tuple[str, RuntimeName], list[CellResult]] = {}
    for cell in cells:
        found.setdefault((adapter_of(cell), cell.runtime), []).append(cell)
    return sorted(
        (MeasuredArm(tuple(of)) for of in found.values()),
        key=lambda arm: (arm.cells[0].training_order, arm.runtime.place, arm.cells[0].adapter),
    )


def compared_arms(arms: Sequence[MeasuredArm]) -> Iterator[tuple[MeasuredArm, MeasuredArm]]:
    """Every two arms that say something about each other, mismatch against match first."""
    matched = [arm for arm in arms if arm.fit is Fit.MATCHED]
    special = [arm for arm in matched if arm.is_specialist]
    several = [arm for arm in matched if not arm.is_specialist]
    mismatched, bases, unknown = ([arm for arm in arms if arm.fit is kind] for kind in list(Fit)[1:])
    for arm in mismatched:  # in the runtime where it ran, the one trained for that
        yield from ((arm, other) for other in _beside(arm, special) or _beside(arm, several))
    for arm in mismatched:  # the same one where it was trained for
        yield from ((arm, other) for other in matched if other.adapter == arm.adapter)
    for arm in several:  # one adapter for all of its runtimes, against the one for this
        yield from ((arm, other) for other in _beside(arm, special))
    for place, arm in enumerate(matched):  # each where it belongs
        yield from ((arm, other) for other in matched[place + 1 :] if _belong(arm, other))
    for arm in (*matched, *unknown):
        yield from ((arm, other) for other in _beside(arm, bases))
    for arm in unknown:
        yield from ((arm, other) for other in _beside(arm, special))


def _beside(arm: MeasuredArm, others: Sequence[MeasuredArm]) -> list[MeasuredArm]:
    return [other for other in others if other.runtime is arm.runtime]


def _belong(first: MeasuredArm, second: MeasuredArm) -> bool:
    """Whether two matched arms compare: specialists as one kind of agent, or one adapter in two of its runtimes."""
    if first.is_specialist and second.is_specialist:
        return first.runtime.agent == second.runtime.agent
    return first.adapter == second.adapter


def cell_pairs(first: MeasuredArm, second: MeasuredArm) -> Iterator[Pair]:
    """The cells of two arms, two and two.

    Seed by seed where both have the same seeds, of draws and of trainings, and setting by setting likewise; one adapter
    in two runtimes model by model where both have the same models; else each with each.
    """
    keys: list[Callable[[CellResult], object]] = [
        lambda cell: cell.config.get("seed"),
        _training_seed,
        *(lambda cell, name=name: settings_of(cell)[name] for name in settings_of(first.cells[0])),
    ]
    if first.adapter == second.adapter:
        keys.append(lambda cell: cell.config.get("model"))
    same = [key for key in keys if {*map(key, first.cells)} == {*map(key, second.cells)}]
    yield from ((a, b) for a in first.cells for b in second.cells if all(key(a) == key(b) for key in same))


def _training_seed(cell: CellResult) -> int | None:
    return cell.trained_for.seed if cell.trained_for else None
