"""How often each interval covers the truth, on scores like those of a benchmark cell.

    python benchmarks/coverage.py [--trials 2000] [--draws 4000]

Draws cells of n episodes from known distributions, makes each kind of interval, and prints how often the true mean lies
inside (95 % is asked for) and how wide the interval is. docs/statistics.md keeps the outcome.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

Array = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, int], Array]

SCORES: dict[str, Sampler] = {
    "half solved, rest .6-1": lambda g, n: np.where(g.random(n) < 0.5, 1.0, g.uniform(0.6, 1, n)),
    "95 % solved, rest 0": lambda g, n: (g.random(n) < 0.95).astype(float),
    "80 % zero, rest .2-.9": lambda g, n: np.where(g.random(n) < 0.8, 0.0, g.uniform(0.2, 0.9, n)),
}
DIFFERENCES: dict[str, Sampler] = {
    "normal, sd .2": lambda g, n: np.clip(g.normal(-0.05, 0.2, n), -1, 1),
    "70 % equal, rest sd .2": lambda g, n: np.where(g.random(n) < 0.7, 0.0, np.clip(g.normal(-0.1, 0.2, n), -1, 1)),
    "5 % lose .8, rest equal": lambda g, n: np.where(g.random(n) < 0.05, -0.8, 0.0),
}


def student(x: Array, bounds: tuple[float, float], weights: Array, picks: NDArray[np.intp]) -> tuple[float, float]:
    """Student's t."""
    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return x.mean() - half, x.mean() + half


def percentile(x: Array, bounds: tuple[float, float], weights: Array, picks: NDArray[np.intp]) -> tuple[float, float]:
    """The percentile bootstrap."""
    low, high = np.quantile(x[picks].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def bca(x: Array, bounds: tuple[float, float], weights: Array, picks: NDArray[np.intp]) -> tuple[float, float]:
    """The bias-corrected and accelerated bootstrap."""
    means = x[picks].mean(axis=1)
    if np.ptp(x) == 0:
        return x[0], x[0]
    share = np.clip(np.mean(means < x.mean()), 1e-6, 1 - 1e-6)
    shift, centred = norm.ppf(share), x.mean() - x
    bend = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5) * -1
    ends = shift + norm.ppf((0.025, 0.975))
    low, high = np.quantile(means, norm.cdf(shift + ends / (1 - bend * ends)))
    return float(low), float(high)


def gaffke(x: Array, bounds: tuple[float, float], weights: Array, picks: NDArray[np.intp]) -> tuple[float, float]:
    """What keepstate uses for scores (`bounded_mean`)."""
    inner = weights[:, :-1] @ x
    low = np.quantile(inner + weights[:, -1] * bounds[0], 0.025)
    return float(low), float(np.quantile(inner + weights[:, -1] * bounds[1], 0.975))


METHODS = (student, percentile, bca, gaffke)


def measure(name: str, sampler: Sampler, bounds: tuple[float, float], n: int, options: argparse.Namespace) -> None:
    """Print one row."""
    generator = np.random.default_rng(1)
    truth = float(sampler(np.random.default_rng(2), 4_000_000).mean())
    weights = generator.standard_exponential((options.draws, n + 1))
    weights /= weights.sum(axis=1, keepdims=True)
    picks = generator.integers(0, n, (options.draws, n))
    inside, width = np.zeros(len(METHODS)), np.zeros(len(METHODS))
    for _ in range(options.trials):
        sample = sampler(generator, n)
        for index, method in enumerate(METHODS):
            low, high = method(sample, bounds, weights, picks)
            inside[index] += low <= truth <= high
            width[index] += high - low
    cells = (
        f"{100 * hit / options.trials:5.1f} ({100 * w / options.trials:4.1f})"
        for hit, w in zip(inside, width, strict=True)
    )
    print(f"| {name} | {n} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=4000)
    options = parser.parse_args()
    started = time.perf_counter()
    print(
        f"| distribution | n | {' | '.join(method.__name__ for method in METHODS)} |\n|---|---|{'---|' * len(METHODS)}"
    )
    for samplers, bounds in ((SCORES, (0.0, 1.0)), (DIFFERENCES, (-1.0, 1.0))):
        for name, sampler in samplers.items():
            for n in (12, 30, 100):
                measure(name, sampler, bounds, n, options)
    print(f"\ncoverage in % (mean width in points); {options.trials} trials, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
