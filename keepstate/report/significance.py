"""Whether two cells differ, task by task: the tests, what may be concluded, and how many tasks would show it.

`sign_flip` asks whether they are the same, two one-sided tests whether the mean differs by less than a margin; `holm`
corrects several for their number. docs/statistics.md gives sizes and powers. Knows nothing of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from keepstate.report.statistics import (
    DRAWS,
    SEED,
    Array,
    Estimate,
    between,
    checked,
    completed_means,
)

ERROR = 0.05
"""How often a test may be wrong."""
POWER = 0.8
"""How often so many tasks show what is so."""
MOST_TASKS = 10_000_000
FEWEST = 6
"""Tasks with which the sign-flip test can be below 5 %: two of the 64 ways to flip six signs are 3 %."""
EXACT = 16
"""Differences up to which all ways to flip their signs are tried."""
AT_ONCE = 2_000
"""Draws whose flips are held at once: 25 MB with 100,000 differences. Divides `DRAWS`, and by 4: the same numbers."""
ROUNDING = 1e-9
"""Sums of scores that are this close count as equal."""
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(float)
"""Of every byte. Shape: (256, 8)."""


class Conclusion(StrEnum):
    """What may be said of a difference, at 5 %."""

    DIFFERENT = "different"
    """Not the same by the sign-flip test, and the interval of the mean excludes zero."""
    UNSIZED = "different, size open"
    """Not the same by the sign-flip test; the interval of the mean includes zero."""
    EQUIVALENT = "equivalent"
    """The difference is shown to be smaller than the margin."""
    SMALL = "different, within the margin"
    """Not the same by the sign-flip test, and yet shown to be smaller than the margin."""
    UNDECIDED = "undecided"
    """None of these."""
    ONE_TASK = "one task shows nothing"
    """It has no interval."""
    SAME = "the same episodes"
    """On both sides: nothing was compared."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean of paired differences of scores, a test of no difference, and two one-sided tests of equivalence."""

    difference: Estimate
    """First minus second."""
    margin: float
    """Below it they count as equivalent."""
    p_equivalent: float | None
    """Of the hypothesis that the true difference is `margin` or more, either way; None of one pair."""
    p_different: float | None
    """Of the hypothesis that the two are the same: the exact sign-flip test, two-sided; None of one pair."""
    spread: float | None
    """Standard deviation of the differences from task to task; None of one pair."""

    @property
    def verdict(self) -> Conclusion:
        """What they show."""
        if self.p_equivalent is None or self.p_different is None:
            return Conclusion.ONE_TASK
        differs, close = self.p_different < ERROR, self.p_equivalent < ERROR
        if close:
            return Conclusion.SMALL if differs else Conclusion.EQUIVALENT
        if differs:
            return Conclusion.DIFFERENT if self.difference.excludes(0) else Conclusion.UNSIZED
        return Conclusion.UNDECIDED

    @property
    def tasks_needed(self) -> int | None:
        """About how many tasks show equivalence, if there is no difference and the spread stays; None: unheard of."""
        return tasks_needed(self.spread or 0.0, self.margin)

    @property
    def tasks_to_see(self) -> int | None:
        """About how many tasks show a difference as large as the margin, if the spread stays; None: unheard of."""
        return tasks_to_see(self.spread or 0.0, self.margin)


def paired_difference(first: Sequence[float], second: Sequence[float], *, margin: float) -> PairedDifference | None:
    """mean(first - second) of scores in [0, 1] on the same tasks; None of no pair.

    The tests of equivalence (TOST) invert the interval of `bounded_mean` on [-1, 1], so that they never contradict it.
    The test of no difference is `sign_flip`: it asks another question, and needs fewer tasks for its answer.
    """
    sample = checked(first, 0.0, 1.0) - checked(second, 0.0, 1.0)
    if not 0 < margin <= 1:
        raise ValueError(f"a margin of {margin}; it lies in (0, 1]")
    if sample.size == 0:
        return None
    if sample.size == 1:
        return PairedDifference(Estimate(float(sample[0]), None, None, 1), margin, None, None, None)
    below, above = completed_means(sample, -1.0, 1.0)
    estimate = between(sample, below, above, -1.0, 1.0)
    equivalent = max(above.at_least(margin), below.at_most(-margin), 1 / DRAWS)  # never 0
    return PairedDifference(estimate, margin, equivalent, sign_flip(sample), float(sample.std(ddof=1)))


def sign_flip(differences: Sequence[float] | Array) -> float:
    """P-value of the hypothesis that two cells are the same, by their paired differences: exact in size, two-sided.

    If both are the same, it is chance which of two scores of a task is the first, so every sign is as likely as its
    opposite (Fisher's randomisation test). The p-value is the share of the ways to flip signs whose sum is as far from
    zero as the one seen: of all ways up to `EXACT` differences other than zero, else of `DRAWS` seeded ones and the one
    seen, which keeps the size (Phipson and Smyth 2010).
    """
    sizes = np.abs(moved := np.asarray(differences, dtype=float))
    sizes = sizes[sizes > ROUNDING]
    seen = abs(float(moved.sum())) - ROUNDING
    if sizes.size <= EXACT:
        ways = np.arange(2**sizes.size)[:, None] >> np.arange(sizes.size) & 1
        return float(np.mean(np.abs((2 * ways - 1) @ sizes) >= seen))
    generator = np.random.default_rng(SEED)
    eights = np.pad(sizes, (0, -sizes.size % 8)).reshape(-1, 8)
    far = 0
    for _ in range(DRAWS // AT_ONCE):
        flipped = generator.integers(0, 256, (AT_ONCE, len(eights)), dtype=np.uint8)
        sums = np.zeros(AT_ONCE)
        for eight, bits in zip(eights, flipped.T, strict=True):  # what each byte of flips adds is looked up: 8 at once
            sums += (_BITS @ eight)[bits]
        far += int(np.count_nonzero(np.abs(2 * sums - sizes.sum()) >= seen))
    return (far + 1) / (DRAWS + 1)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact p-value of McNemar's test (the sign test) on tasks that one of two cells solved, or solved more often."""
    both = only_first + only_second
    as_few, coins = 0, 1
    for count in range(min(only_first, only_second) + 1):
        as_few += coins
        coins = coins * (both - count) // (count + 1)
    return min(1.0, 2 * as_few / (1 << both))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number, in their order: below 5 % one is wrong in 5 % of families at most.

    What is None was no test, and counts for none. Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted: list[float | None] = [None] * len(p_values)
    ranked = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, place) in enumerate(ranked):
        highest = max(highest, min(1.0, p * (len(ranked) - rank)))
        adjusted[place] = highest
    return adjusted


def tasks_to_see(spread: float, difference: float) -> int | None:
    """About how many pairs show with `POWER`, by `sign_flip`, that two cells differ by `difference` on the mean.

    The power of Student's t, which the test has on many pairs, with Guenther's correction for few. None beyond ten
    million.
    """
    normal = NormalDist()
    certain, often = normal.inv_cdf(1 - ERROR / 2), normal.inv_cdf(POWER)
    count = max(FEWEST, math.ceil(((certain + often) * spread / difference) ** 2 + certain**2 / 2))
    return count if count <= MOST_TASKS else None


def tasks_needed(spread: float, margin: float) -> int | None:
    """About how many pairs show with `POWER` that two equal cells differ by less than `margin`.

    Args:
        spread: Standard deviation of the paired differences.
        margin: In (0, 1].

    Returns:
        The fewest at which a difference of zero passes `paired_difference`'s test; with a spread of 0 that many are
        needed at the least. None beyond ten million.
    """
    low, high = 1, 2
    while not _shows(high, spread, margin):
        low, high = high, 2 * high
        if high > MOST_TASKS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _shows(middle, spread, margin) else (middle, high)
    return high


def _shows(n: int, spread: float, margin: float) -> bool:
    """Whether n pairs would do: the upper draw of `bounded_mean`, a normal mean plus the share of the worst value."""
    error = spread / math.sqrt(n)
    room = margin - NormalDist().inv_cdf((1 + POWER) / 2) * error  # the mean found lies so far off, either way
    grid = np.linspace(-8, 8, 1601)
    density = np.exp(-(grid**2) / 2)
    beyond = (1 - np.clip(room - error * grid, 0, 1)) ** n
    return bool((density * beyond).sum() / density.sum() < ERROR)
