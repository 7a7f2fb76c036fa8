"""The train-by-runtime matrix: who was trained for what down the side, the runtime across, one figure in each cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keepstate.bench.results import Fit
from keepstate.report.figures import CellFigures
from keepstate.report.model import CellGroup
from keepstate.report.statistics import Estimate
from keepstate.report.words import number, percent
from keepstate.vocabulary import FinishReason, RuntimeName

STEPS = 6
"""Shades of a heat map."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure that the matrix can show."""

    key: str
    title: str
    estimate: Callable[[CellFigures], Estimate | None]
    text: Callable[[Estimate | None], str]
    more_is_better: bool = True
    most: float | None = 1.0
    """The value of the strongest shade; None: the largest of the group."""


def _limited(figures: CellFigures) -> Estimate | None:
    count = len(figures.cell.episodes)
    return Estimate(figures.endings.get(FinishReason.TURN_LIMIT, 0) / count, None, None, count) if count else None


def _capped(figures: CellFigures) -> Estimate | None:
    share = figures.behaviour.cap_hits
    return None if share is None else Estimate(share, None, None, figures.n)


METRICS = (
    Metric("optimality", "optimality %", lambda f: f.optimality, percent),
    Metric("corrected", "corrected for chance", lambda f: f.corrected, lambda e: number(e, 2)),
    Metric("solved", "solved, % of episodes", lambda f: f.solved, percent),
    Metric("tokens", "tokens per episode", lambda f: f.tokens, number, more_is_better=False, most=None),
    Metric("limit", "ended by the limit of turns, %", _limited, percent, more_is_better=False),
    Metric("caps", "actions at the cap on tool calls, %", _capped, percent, more_is_better=False),
    Metric("missing", "episodes with a missing variable, %", lambda f: f.missed, percent, more_is_better=False),
)


@dataclass(frozen=True, slots=True)
class Shaded:
    """One cell as the heat map shows it."""

    text: str
    shade: int | None
    """0 to STEPS - 1; None where there is no figure."""
    matched: bool
    """Trained for the runtime it ran in."""


def runtimes_of(group: CellGroup) -> list[RuntimeName]:
    """The columns."""
    return sorted({figures.cell.runtime for figures in group.figures}, key=lambda runtime: runtime.place)


def heat_map(group: CellGroup, metric: Metric) -> list[tuple[str, list[Shaded | None]]]:
    """The rows, the base first: who, and its cells by runtime; None where nothing was played."""
    rows: dict[tuple[str, str], dict[RuntimeName, CellFigures]] = {}
    for figures in sorted(group.figures, key=lambda f: (f.cell.training_order, f.cell.adapter, f.cell.told_apart_by)):
        rows.setdefault((figures.cell.adapter, figures.cell.told_apart_by), {})[figures.cell.runtime] = figures
    found = [estimate.value for figures in group.figures if (estimate := metric.estimate(figures))]
    most = metric.most or max(found, default=0.0) or 1.0
    return [
        (
            f"{adapter} ({told})" if told else adapter,
            [_shaded(metric, played[r], most) if r in played else None for r in runtimes_of(group)],
        )
        for (adapter, told), played in rows.items()
    ]


def _shaded(metric: Metric, figures: CellFigures, most: float) -> Shaded:
    estimate = metric.estimate(figures)
    shade = None
    if estimate:
        shade = round(min(max(estimate.value / most, 0.0), 1.0) * (STEPS - 1))
    return Shaded(metric.text(estimate), shade, figures.cell.fit is Fit.MATCHED)
