"""Estimates with honest intervals: bounded means, shares, means of counts, ratios, and paired differences.

Every random draw is seeded, so the same episodes give the same figures. One observation has no interval.
docs/statistics.md says which method is used where, and how often each covers the truth on data like ours. Knows nothing
of cells.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 20_260_301
DRAWS = 20_000
RESAMPLES = 4_999
LEVEL = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its interval and how many episodes or tasks it comes from."""

    value: float
    low: float | None
    high: float | None
    n: int
    level: float = LEVEL

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def bounded_mean(
    values: Sequence[float], lower: float = 0.0, upper: float = 1.0, *, level: float = LEVEL, seed: int = SEED
) -> Estimate | None:
    """The mean of values known to lie in [lower, upper], with Gaffke's interval; None of nothing.

    A Bayesian bootstrap (weights uniform on the simplex) in which the sample is completed by the worst value that could
    still come: `lower` for the lower end, `upper` for the upper. On zeros and ones this is the interval of Clopper and
    Pearson. Where all values are equal it is not of width zero, as that of any other bootstrap would be.

    Source: N. Gaffke, Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
    variable, Math. Methods of Statistics 14 (2005); E. Learned-Miller, P. Thomas, arXiv 1905.06208.
    """
    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        return None
    if sample.size == 1:
        return Estimate(float(sample[0]), None, None, 1, level)
    return _between(sample, *_completed_means(sample, lower, upper, seed), lower, upper, level)


def share(count: int, n: int, *, level: float = LEVEL) -> Estimate | None:
    """A share of episodes with Wilson's interval; None of nothing."""
    if n == 0:
        return None
    if n == 1:
        return Estimate(float(count), None, None, 1, level)
    from scipy.stats import binomtest  # noqa: PLC0415 - 0.5 s, and only where statistics are asked for

    interval = binomtest(count, n).proportion_ci(level, method="wilson")
    return Estimate(count / n, float(interval.low), float(interval.high), n, level)


def mean_of(values: Sequence[float], *, level: float = LEVEL, seed: int = SEED) -> Estimate | None:
    """The mean of unbounded values (steps, tokens, seconds) with a BCa bootstrap interval; None of nothing."""
    if not len(values):
        return None
    return _bootstrap(lambda x, axis=-1: np.mean(x, axis=axis), (values,), level, seed)


def all_known(values: Sequence[float | None]) -> list[float]:
    """`values`; none at all where one of them is unknown, so that no mean is made of a part."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def ratio_of_means(
    above: Sequence[float | None], below: Sequence[float | None], *, level: float = LEVEL, seed: int = SEED
) -> Estimate | None:
    """mean(above) / mean(below) of paired values with a BCa bootstrap interval over pairs; None where undefined."""
    above, below = all_known(above), all_known(below)
    if not above or not below or not np.mean(below):
        return None

    def ratio(x: Array, y: Array, axis: int = -1) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.mean(x, axis=axis) / np.mean(y, axis=axis)

    return _bootstrap(ratio, (above, below), level, seed)


def chance_corrected(optimality: Estimate, floor: float, oracle: float) -> Estimate | None:
    """(score - floor) / (oracle - floor), its interval moved with it; None where the two references are equal.

    0 is what the blind policy reaches, 1 the best that the budget can buy; below the floor it is negative. Floor and
    oracle are known exactly for the tasks played, so the interval is that of the mean score.
    """
    width = oracle - floor
    if not width:
        return None
    value, low, high = (
        None if end is None else (end - floor) / width for end in (optimality.value, optimality.low, optimality.high)
    )
    assert value is not None
    return Estimate(value, low, high, optimality.n, optimality.level)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean of paired differences of scores, and two one-sided tests of equivalence."""

    difference: Estimate
    margin: float
    p_equivalent: float | None
    """Of the hypothesis that the true difference is `margin` or more, either way; None of one pair."""
    p_different: float | None
    """Of the hypothesis that it is zero, two-sided; None of one pair."""

    @property
    def verdict(self) -> str:
        """`different`, `equivalent`, both (`different, within the margin`), or `undecided`, at 5 %."""
        differs = self.difference.excludes_zero
        same = self.p_equivalent is not None and self.p_equivalent < 0.05
        if differs and same:
            return "different, within the margin"
        return "different" if differs else "equivalent" if same else "undecided"


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, margin: float, level: float = LEVEL, seed: int = SEED
) -> PairedDifference | None:
    """mean(first - second) of scores in [0, 1] on the same tasks; None of no pair.

    Both tests (TOST and the two-sided one) invert the interval of `bounded_mean` on [-1, 1], so that they never
    contradict it.
    """
    sample = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if sample.size == 0:
        return None
    if sample.size == 1:
        return PairedDifference(Estimate(float(sample[0]), None, None, 1, level), margin, None, None)
    below, above = _completed_means(sample, -1.0, 1.0, seed)
    estimate = _between(sample, below, above, -1.0, 1.0, level)
    equivalent = max(float(np.mean(above >= margin)), float(np.mean(below <= -margin)))
    different = min(1.0, 2 * min(float(np.mean(below <= 0)), float(np.mean(above >= 0))))
    floor = 1 / DRAWS  # a simulated p-value is never 0
    return PairedDifference(estimate, margin, max(equivalent, floor), max(different, floor))


def _between(sample: Array, below: Array, above: Array, lower: float, upper: float, level: float) -> Estimate:
    """The mean with the quantiles of its completed draws."""
    tail, value = (1 - level) / 2, float(sample.mean())
    low, high = float(np.quantile(below, tail)), float(np.quantile(above, 1 - tail))
    return Estimate(value, max(lower, min(low, value)), min(upper, max(high, value)), int(sample.size), level)


def _completed_means(sample: Array, lower: float, upper: float, seed: int) -> tuple[Array, Array]:
    """Draws of the weighted mean with `lower`, and with `upper`, added to the sample. Shapes: (DRAWS,)."""
    generator = np.random.default_rng(seed)
    below, above = np.empty(DRAWS), np.empty(DRAWS)
    rows = max(1, min(DRAWS, 2_000_000 // (sample.size + 1)))  # at most 16 MB of weights at once
    for start in range(0, DRAWS, rows):
        stop = min(start + rows, DRAWS)
        weights = generator.standard_exponential((stop - start, sample.size + 1))
        weights /= weights.sum(axis=1, keepdims=True)
        inner = weights[:, :-1] @ sample
        below[start:stop] = inner + weights[:, -1] * lower
        above[start:stop] = inner + weights[:, -1] * upper
    return below, above


def _bootstrap(
    statistic: Callable[..., Any], samples: tuple[Sequence[float], ...], level: float, seed: int
) -> Estimate:
    """A statistic of one or more paired samples with its BCa interval; without one where it cannot be had."""
    data = tuple(np.asarray(sample, dtype=float) for sample in samples)
    value, n = float(statistic(*data)), int(data[0].size)
    if n == 1 or all(np.ptp(sample) == 0 for sample in data):
        return Estimate(value, None, None, n, level)
    from scipy.stats import bootstrap  # noqa: PLC0415 - 0.5 s, and only where statistics are asked for

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate resamples; the outcome is checked below
        options: dict[str, Any] = {"n_resamples": RESAMPLES, "confidence_level": level, "paired": len(data) > 1}
        for method in ("BCa", "percentile"):
            generator = np.random.default_rng(seed)
            interval = bootstrap(data, statistic, method=method, rng=generator, **options).confidence_interval
            low, high = float(interval.low), float(interval.high)
            if math.isfinite(low) and math.isfinite(high):
                return Estimate(value, low, high, n, level)
    return Estimate(value, None, None, n, level)
