"""Estimates with honest intervals: bounded means, shares, medians of counts and of ratios.

Every random draw is seeded, so the same episodes give the same figures. Where no interval holds there is none: one
observation, a median of fewer than six. docs/statistics.md says which method is used where, and how often each covers
the truth on data like ours. Values that are no numbers are refused, never computed with. Knows nothing of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist, fmean
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SEED = 20_260_301
DRAWS = 20_000
MOST_DRAWN = 10_000
"""Values up to which a mean's interval is drawn; of more it is computed: 100,000 in 3 s of CPU instead of 16."""
HALVINGS = 35
"""Of an interval that holds a quantile: to 3e-11 of the range of the values."""
NEAR_THE_MEAN = 1e-3
"""Standard deviations within which a tail is told by its limit there: its formula divides zero by zero."""
LEVEL = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its interval and how many episodes or tasks it comes from."""

    value: float
    """The figure."""
    low: float | None
    """Lower end of its interval; None where there is none."""
    high: float | None
    """Upper end."""
    n: int
    """Of so many."""
    level: float = LEVEL
    """Of confidence."""

    def excludes(self, value: float) -> bool:
        """Whether there is an interval and the whole of it lies on one side of `value`."""
        return self.low is not None and self.high is not None and (self.low > value or self.high < value)

    @property
    def half_width(self) -> float | None:
        """From the figure to the farther end of its interval."""
        return None if self.low is None or self.high is None else max(self.value - self.low, self.high - self.value)


def bounded_mean(values: Sequence[float], lower: float = 0.0, upper: float = 1.0) -> Estimate | None:
    """The mean of values known to lie in [lower, upper], with Gaffke's interval; None of nothing.

    A Bayesian bootstrap (weights uniform on the simplex) in which the sample is completed by the worst value that could
    still come: `lower` for the lower end, `upper` for the upper. On zeros and ones this is the interval of Clopper and
    Pearson. Where all values are equal it is not of width zero, as that of any other bootstrap would be.

    Source: N. Gaffke, Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
    variable, Math. Methods of Statistics 14 (2005); E. Learned-Miller, P. Thomas, arXiv 1905.06208.
    """
    sample = checked(values, lower, upper)
    if sample.size == 0:
        return None
    if sample.size == 1:
        return Estimate(float(sample[0]), None, None, 1)
    return between(sample, *completed_means(sample, lower, upper), lower, upper)


def share(count: int, n: int) -> Estimate | None:
    """A share of episodes with Wilson's interval; None of nothing."""
    if n == 0:
        return None
    if n == 1:
        return Estimate(float(count), None, None, 1)
    found, z = count / n, NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, reach = found + z * z / (2 * n), z * math.sqrt(found * (1 - found) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + way * reach) / (1 + z * z / n) for way in (-1, 1))
    return Estimate(found, max(0.0, min(low, found)), min(1.0, max(high, found)), n)


def mean_of(values: Sequence[float]) -> Estimate | None:
    """The mean of counts without a bound (tokens), as a figure without an interval; None of nothing.

    No interval of a mean holds where one episode in twenty may run away with ten times the tokens: those that did not
    show say nothing. See `median_of`.
    """
    sample = checked(values, 0.0, math.inf)
    return Estimate(float(sample.mean()), None, None, int(sample.size)) if sample.size else None


def median_of(values: Sequence[float], lower: float = 0.0) -> Estimate | None:
    """The median with the interval between two order statistics; None of nothing.

    It holds at every n and for every distribution, runaways and ties included: each end is exceeded as often as a coin
    falls. Below six observations there is no such interval at 95 %.
    """
    sample = np.sort(checked(values, lower, math.inf))
    if not sample.size:
        return None
    n, inner = int(sample.size), (int(sample.size) - 1) // 2
    left_out = _beyond(n)
    middle = (float(sample[inner]) + float(sample[n - 1 - inner])) / 2
    if left_out is None:
        return Estimate(middle, None, None, n)
    return Estimate(middle, float(sample[left_out]), float(sample[n - 1 - left_out]), n)


def median_ratio(above: Sequence[float | None], below: Sequence[float | None]) -> Estimate | None:
    """The median of above / below, pair by pair, with the interval of `median_of`; None where one is not known or 0.

    Half of the pairs lie above it. It is not the ratio of the totals, which a few pairs can decide: `ratio_of_means`.
    Between the two middle ratios of an even number lies their geometric mean, so that swapping the two inverts it.
    """
    first, second = (checked(all_known(values), 0.0, math.inf) for values in (above, below))
    if first.size != len(above) or second.size != len(below) or not first.size or not second.all():
        return None
    made = median_of([*(first / second)])
    assert made is not None
    ratios = np.sort(first / second)
    inner = (made.n - 1) // 2
    return Estimate(math.sqrt(ratios[inner] * ratios[made.n - 1 - inner]), made.low, made.high, made.n)


def ratio_of_means(above: Sequence[float | None], below: Sequence[float | None]) -> float | None:
    """mean(above) / mean(below), what all of it cost: no interval; None where one is not known or below is 0."""
    first, second = all_known(above), all_known(below)
    if len(first) < len(above) or len(second) < len(below) or not first or not any(second):
        return None
    return fmean(checked(first, 0.0, math.inf)) / fmean(checked(second, 0.0, math.inf))


def all_known(values: Sequence[float | None]) -> list[float]:
    """`values`; none at all where one of them is unknown, so that no mean is made of a part."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


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
    return Estimate(value, low, high, optimality.n)


def checked(values: Sequence[float] | Array, lower: float, upper: float) -> Array:
    """The values as an array; one that is no number or out of bounds is an error of whoever asks."""
    sample = np.asarray(values, dtype=float)
    wrong = ~(np.isfinite(sample) & (sample >= lower) & (sample <= upper))
    if wrong.any():
        raise ValueError(f"{sample[wrong][0]} is no value in [{lower}, {upper}]")
    return sample


def _beyond(n: int) -> int | None:
    """How many of n sorted values lie outside the median's interval at either end; None where even all do not hold it.

    The median lies below the k-th value as often as fewer than k of n coins fall on heads.
    """
    allowed = Fraction(str(1 - LEVEL)).limit_denominator(10**6) * 2**n / 2
    tail, coins = Fraction(0), 1
    for count in range(n + 1):
        tail += coins
        if tail > allowed:
            return count - 1 if count else None
        coins = coins * (n - count) // (count + 1)
    return None


class Distribution(Protocol):
    """Of a mean, as far as the other values of its kind may lie."""

    def quantile(self, share: float) -> float:
        """What `share` of it lies below."""

    def at_most(self, mean: float) -> float:
        """How much of it lies at `mean` or below."""

    def at_least(self, mean: float) -> float:
        """How much of it lies at `mean` or above."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """By draws from it. Shape: (DRAWS,)."""

    draws: Array

    def quantile(self, share: float) -> float:
        """See `Distribution`."""
        return float(np.quantile(self.draws, share))

    def at_most(self, mean: float) -> float:
        """See `Distribution`."""
        return float(np.mean(self.draws <= mean))

    def at_least(self, mean: float) -> float:
        """See `Distribution`."""
        return float(np.mean(self.draws >= mean))


class Computed:
    """Of the mean of many values with weights uniform on the simplex, without a draw.

    It is at most m as often as the sum of (value - m) times an exponential variable each is at most 0; that is told by
    the saddlepoint approximation, whose error is of the order of 1 / n: less than what 20,000 draws miss.

    Source: R. Lugannani and S. Rice, Saddle point approximation for the distribution of the sum of independent random
    variables, Advances in Applied Probability 12 (1980).

    Args:
        values: At least two different ones.
    """

    def __init__(self, values: Array) -> None:
        self._values, self._counts = np.unique(values, return_counts=True)

    def quantile(self, share: float) -> float:
        """See `Distribution`."""
        low, high = float(self._values[0]), float(self._values[-1])
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at_most(middle) < share else (low, middle)
        return high

    def at_most(self, mean: float) -> float:
        """See `Distribution`."""
        return self._tail(mean, 1)

    def at_least(self, mean: float) -> float:
        """See `Distribution`."""
        return self._tail(mean, -1)

    def _tail(self, mean: float, side: int) -> float:
        """How much lies at `mean` or below (side 1), or above (-1)."""
        moved, counts = self._values - mean, self._counts
        if moved[0] >= 0 or moved[-1] <= 0:
            return float((moved[0] >= 0) == (side < 0))
        saddle = self._saddle(moved)
        left = 1 - saddle * moved
        curved = float(counts @ (moved / left) ** 2)
        away = math.copysign(math.sqrt(max(0.0, 2 * float(counts @ np.log(left)))), saddle)
        density = math.exp(-away * away / 2) / math.sqrt(2 * math.pi)
        if abs(away) < NEAR_THE_MEAN:
            correction = float(counts @ moved**3) / 3 / curved**1.5
        else:
            correction = 1 / away - 1 / (saddle * math.sqrt(curved))
        tail = math.erfc(-side * away / math.sqrt(2)) / 2 + side * density * correction
        return min(1.0, max(0.0, float(tail)))

    def _saddle(self, moved: Array) -> float:
        """Where the cumulant function of that sum has its minimum: Newton's steps, within an interval that holds it."""
        low, high, place = 1 / float(moved[0]), 1 / float(moved[-1]), 0.0
        for _ in range(200):
            terms = moved / (1 - place * moved)
            slope = float(self._counts @ terms)
            low, high = (low, place) if slope > 0 else (place, high)
            step = place - slope / float(self._counts @ terms**2)
            place, before = (step if low < step < high else (low + high) / 2), place
            if abs(place - before) <= 1e-12 * abs(place):
                break
        return place


def _computed(values: Array) -> Distribution:
    return Computed(values) if np.ptp(values) else Drawn(values[:1])


def between(sample: Array, below: Distribution, above: Distribution, lower: float, upper: float) -> Estimate:
    """The mean with the quantiles of its completed distributions."""
    tail, value = (1 - LEVEL) / 2, float(sample.mean())
    low, high = below.quantile(tail), above.quantile(1 - tail)
    return Estimate(value, max(lower, min(low, value)), min(upper, max(high, value)), int(sample.size))


def completed_means(sample: Array, lower: float, upper: float) -> tuple[Distribution, Distribution]:
    """The weighted mean with `lower`, and with `upper`, added to the sample."""
    if sample.size > MOST_DRAWN:
        return _computed(np.append(sample, lower)), _computed(np.append(sample, upper))
    generator = np.random.default_rng(SEED)
    below, above = np.empty(DRAWS), np.empty(DRAWS)
    rows = max(1, min(DRAWS, 2_000_000 // (sample.size + 1)))  # at most 16 MB of weights at once
    for start in range(0, DRAWS, rows):
        stop = min(start + rows, DRAWS)
        weights = generator.standard_exponential((stop - start, sample.size + 1))
        weights /= weights.sum(axis=1, keepdims=True)
        inner = weights[:, :-1] @ sample
        below[start:stop] = inner + weights[:, -1] * lower
        above[start:stop] = inner + weights[:, -1] * upper
    return Drawn(below), Drawn(above)
