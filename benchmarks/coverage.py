"""How often each interval covers the truth, on scores like those of a benchmark cell.

    python benchmarks/coverage.py [scores|ratios] [--trials 2000] [--draws 4000]

Draws cells of n episodes from known distributions, makes each kind of interval, and prints how often the truth that it
is made for lies inside (95 % is asked for) and how wide the interval is. docs/statistics.md keeps the outcome.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from keepstate.report.statistics import median_ratio

Array = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, int], Array]
Pairs = Callable[[np.random.Generator, int], tuple[Array, Array]]
Interval = tuple[float, float]

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
RUNAWAY, TIMES = 0.05, 12


def _runs_away(g: np.random.Generator, tokens: Array) -> Array:
    return tokens * np.where(g.random(tokens.size) < RUNAWAY, TIMES, 1)


def _same_tasks(g: np.random.Generator, n: int, spread: float) -> tuple[Array, Array]:
    """Tasks differ in length, and each play of one differs by `spread`; the first takes 1.3 times as much."""
    tasks = g.lognormal(7, 0.6, n)
    return 1.3 * tasks * g.lognormal(0, spread, n), tasks * g.lognormal(0, spread, n)


TOKENS: dict[str, Pairs] = {
    "lognormal .4, unpaired": lambda g, n: (g.lognormal(7, 0.4, n), g.lognormal(7, 0.4, n)),
    "same tasks, noise .2": lambda g, n: _same_tasks(g, n, 0.2),
    "5 % runaways in both": lambda g, n: (
        _runs_away(g, g.lognormal(7, 0.2, n)),
        _runs_away(g, g.lognormal(7, 0.2, n)),
    ),
    "5 % runaways in one": lambda g, n: (_runs_away(g, g.lognormal(7, 0.2, n)), g.lognormal(7, 0.2, n)),
    "skewed (exponential)": lambda g, n: (g.exponential(2000, n) + 200, g.exponential(1000, n) + 200),
    "few values, many ties": lambda g, n: (g.integers(3, 6, n) * 500.0, g.integers(3, 5, n) * 500.0),
}
"""Tokens of the same tasks in two cells; runaways take twelve times the rest."""


def ratio_bca(a: Array, b: Array, picks: NDArray[np.intp]) -> Interval | None:
    """The BCa bootstrap over pairs, of the ratio of means."""
    value, n = a.mean() / b.mean(), len(a)
    draws = a[picks].mean(axis=1) / b[picks].mean(axis=1)
    left = (a.sum() - a) / (b.sum() - b)
    centred = left.mean() - left
    if not (centred**2).sum() or n < 2:
        return None
    bend = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    share = (np.mean(draws < value) + np.mean(draws <= value)) / 2  # ties count half, as in scipy's
    shift = norm.ppf(np.clip(share, 1e-6, 1 - 1e-6))
    ends = shift + norm.ppf((0.025, 0.975))
    low, high = np.quantile(draws, norm.cdf(shift + ends / (1 - bend * ends)))
    return float(low), float(high)


def log_student(a: Array, b: Array, picks: NDArray[np.intp]) -> Interval | None:
    """Student's t on the logarithms of the ratios: of the geometric mean."""
    logs = np.log(a / b)
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))


def order_statistics(a: Array, b: Array, picks: NDArray[np.intp]) -> Interval | None:
    """What keepstate uses for tokens and steps (`median_ratio`)."""
    made = median_ratio(a.tolist(), b.tolist())
    return None if made is None or made.low is None or made.high is None else (made.low, made.high)


RATIOS = (ratio_bca, log_student, order_statistics)


def truths(pairs: Pairs) -> tuple[float, float, float]:
    """What each of `RATIOS` is made for: the ratio of means, the geometric mean, the median of ratios."""
    a, b = pairs(np.random.default_rng(2), 4_000_000)
    return float(a.mean() / b.mean()), float(np.exp(np.log(a / b).mean())), float(np.median(a / b))


def measure_ratio(name: str, pairs: Pairs, n: int, options: argparse.Namespace, true: tuple[float, ...]) -> None:
    """Print one row: coverage, and by which factor the upper end exceeds the lower one."""
    generator = np.random.default_rng(1)
    picks = generator.integers(0, n, (options.draws, n))
    inside, made, width = np.zeros(len(RATIOS)), np.zeros(len(RATIOS)), np.zeros(len(RATIOS))
    for _ in range(options.trials):
        a, b = pairs(generator, n)
        for index, method in enumerate(RATIOS):
            interval = method(a, b, picks)
            if interval is not None:
                made[index] += 1
                inside[index] += interval[0] <= true[index] <= interval[1]
                width[index] += np.log(interval[1] / interval[0])
    cells = (
        f"{100 * hits / count:.1f} (x{np.exp(wide / count):.2f})" if count else "none"
        for hits, wide, count in zip(inside, width, made, strict=True)
    )
    print(f"| {name} | {n} | {' | '.join(cells)} |", flush=True)


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
    parser.add_argument("what", nargs="?", choices=("scores", "ratios"), help="Both where not given.")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=4000)
    options = parser.parse_args()
    started = time.perf_counter()
    if options.what != "ratios":
        _head(METHODS)
        for samplers, bounds in ((SCORES, (0.0, 1.0)), (DIFFERENCES, (-1.0, 1.0))):
            for name, sampler in samplers.items():
                for n in (12, 30, 100):
                    measure(name, sampler, bounds, n, options)
        print("\ncoverage in % (mean width in points)\n")
    if options.what != "scores":
        _head(RATIOS)
        for name, pairs in TOKENS.items():
            true = truths(pairs)
            for n in (2, 3, 5, 6, 10, 30, 100):
                measure_ratio(name, pairs, n, options, true)
        print("\ncoverage in % (upper end / lower end, geometric mean)")
    print(f"{options.trials} trials, {time.perf_counter() - started:.0f} s")


def _head(methods: Sequence[Callable[..., object]]) -> None:
    names = " | ".join(method.__name__ for method in methods)
    print(f"| distribution | n | {names} |\n|---|---|{'---|' * len(methods)}")


if __name__ == "__main__":
    main()
