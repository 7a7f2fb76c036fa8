"""Figures as text: percentages, points, counts and their intervals, the same in every output."""

from __future__ import annotations

from keepstate.report.statistics import Estimate

NONE = "–"  # noqa: RUF001 - an en dash in a table cell


def percent(estimate: Estimate | None, *, interval: bool = True) -> str:
    """`75.4 (70.1 to 80.2)`, in percent."""
    return _with_interval(estimate, 100.0, 1, interval)


def points(estimate: Estimate | None) -> str:
    """`-7.2 (-11.0 to -3.1)`, in percentage points with a sign."""
    return _with_interval(estimate, 100.0, 1, True, sign="+")


def number(estimate: Estimate | None, digits: int = 0, *, interval: bool = True) -> str:
    """`18,612 (17,020 to 20,400)`."""
    return _with_interval(estimate, 1.0, digits, interval)


def brief(estimate: Estimate | None) -> str:
    """`75.4 [70.1, 80.2]`, in percent, for a terminal."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return percent(estimate)
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def plain(value: float | None, scale: float = 100.0, digits: int = 1) -> str:
    """A figure without an interval."""
    return NONE if value is None else f"{value * scale:,.{digits}f}"


def p_value(value: float | None) -> str:
    """`0.031`, or `< 0.001`."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(count: int, thing: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def interval_of_share(estimate: Estimate | None) -> str:
    """` (70.1 to 80.2)`, in percent; nothing where there is none."""
    return _bracket(estimate, 100.0, 1) if estimate else ""


def _with_interval(estimate: Estimate | None, scale: float, digits: int, interval: bool, sign: str = "") -> str:
    if estimate is None:
        return NONE
    bracket = _bracket(estimate, scale, digits, sign) if interval else ""
    return f"{estimate.value * scale:{sign},.{digits}f}{bracket}"


def _bracket(estimate: Estimate, scale: float, digits: int, sign: str = "") -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = (f"{end * scale:{sign},.{digits}f}" for end in (estimate.low, estimate.high))
    return f" ({low} to {high})"
