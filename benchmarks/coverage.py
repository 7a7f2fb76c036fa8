"""How often each interval covers the truth, on scores like those of a benchmark cell.

    python benchmarks/coverage.py [scores|differences|tests|ratios] [--quick] [--trials 2000] [--draws 4000]

Draws cells of n episodes from known distributions, makes each kind of interval, and prints how often the truth that it
is made for lies inside (95 % is asked for) and how wide the interval is; of each test, how often it is below 5 % where
nothing is to be found and where something is. docs/statistics.md keeps the outcome.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from keepstate.report.figures import MARGIN
from keepstate.report.significance import (
    ERROR,
    ROUNDING,
    holm,
    paired_difference,
    sign_flip,
    tasks_needed,
    tasks_to_see,
)
from keepstate.report.statistics import median_ratio

Array = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, int], Array]
Pairs = Callable[[np.random.Generator, int], tuple[Array, Array]]
Interval = tuple[float, float]
Ends = tuple[Array, Array]
"""Of one sample each. Samples have the shape (samples, n)."""

SCORES: dict[str, Sampler] = {
    "half solved, rest .6-1": lambda g, n: np.where(g.random(n) < 0.5, 1.0, g.uniform(0.6, 1, n)),
    "95 % solved, rest 0": lambda g, n: (g.random(n) < 0.95).astype(float),
    "80 % zero, rest .2-.9": lambda g, n: np.where(g.random(n) < 0.8, 0.0, g.uniform(0.2, 0.9, n)),
}
DIFFERENCES: dict[str, Sampler] = {
    "normal, sd .2": lambda g, n: np.clip(g.normal(-0.05, 0.2, n), -1, 1),
    "70 % equal, rest sd .2": lambda g, n: np.where(g.random(n) < 0.7, 0.0, np.clip(g.normal(-0.1, 0.2, n), -1, 1)),
    "5 % lose .8, rest equal": lambda g, n: np.where(g.random(n) < 0.05, -0.8, 0.0),
    "3 % lose 1, rest gain .03": lambda g, n: np.where(g.random(n) < 0.03, -1.0, 0.03),
    "92 % equal, rest ±.5": lambda g, n: np.where(g.random(n) < 0.92, 0.0, g.choice([-0.5, 0.5], n)),
    "20 % lose .8, rest gain .2": lambda g, n: np.where(g.random(n) < 0.2, -0.8, 0.2),
    "thirds from -1 to 1": lambda g, n: g.choice(np.arange(-3, 4) / 3, n, p=[0.05, 0.1, 0.2, 0.4, 0.15, 0.07, 0.03]),
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


@dataclass(frozen=True)
class Draws:
    """Random weights that all samples of a row share, as they would cost more than all the rest. Shape: (draws, n)."""

    completed: Array
    """Uniform on the simplex of n + 1: of Gaffke's bound."""
    bootstrap: Array
    """How often each observation is picked, over n."""
    subsets: Array
    """Of random subsets that are not empty, ones over their size."""

    @classmethod
    def of(cls, generator: np.random.Generator, draws: int, n: int) -> Draws:
        """Draw them."""
        completed = generator.standard_exponential((draws, n + 1))
        bootstrap = generator.multinomial(n, np.full(n, 1 / n), draws) / n
        subsets = (generator.random((draws, n)) < 0.5).astype(float)
        subsets = subsets[subsets.any(axis=1)]
        return cls(
            completed / completed.sum(axis=1, keepdims=True), bootstrap, subsets / subsets.sum(axis=1, keepdims=True)
        )


def student(x: Array, bounds: Interval, draws: Draws) -> Ends:
    """Student's t."""
    n = x.shape[1]
    half = t.ppf(0.975, n - 1) * x.std(axis=1, ddof=1) / np.sqrt(n)
    return x.mean(axis=1) - half, x.mean(axis=1) + half


def _central(means: Array) -> Ends:
    """The middle 95 % of draws. Shape: (draws, samples)."""
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return low, high


def percentile(x: Array, bounds: Interval, draws: Draws) -> Ends:
    """The percentile bootstrap."""
    return _central(draws.bootstrap @ x.T)


def bca(x: Array, bounds: Interval, draws: Draws) -> Ends:
    """The bias-corrected and accelerated bootstrap."""
    means = np.sort(draws.bootstrap @ x.T, axis=0)
    centred = x.mean(axis=1, keepdims=True) - x
    squares = np.maximum((centred**2).sum(axis=1), 1e-18)
    bend = -(centred**3).sum(axis=1) / (6 * squares**1.5)
    shift = norm.ppf(np.clip((means < x.mean(axis=1) - ROUNDING).mean(axis=0), 1e-6, 1 - 1e-6))
    ends = shift + norm.ppf((0.025, 0.975))[:, None]
    places = norm.cdf(shift + ends / (1 - bend * ends)) * (len(means) - 1)
    low, high = np.take_along_axis(means, np.rint(places).astype(int), axis=0)
    return low, high


def permutation(x: Array, bounds: Interval, draws: Draws) -> Ends:
    """The sign-flip test turned round: the means of random subsets (J. Hartigan, JASA 64, 1969, typical values)."""
    return _central(draws.subsets @ x.T)


TRUNCATED = 0.75
"""Share of the capital that is bet at most."""


def _bets(x: Array, bounds: Interval) -> tuple[Array, Array, Array]:
    """x in [0, 1]; before each the mean of those before it; and the bet on it.

    Source: I. Waudby-Smith, A. Ramdas, Estimating means of bounded random variables by betting, J. R. Statist. Soc. B
    86 (2024), the predictable plug-in for a fixed n.
    """
    y, k = (x - bounds[0]) / (bounds[1] - bounds[0]), np.arange(1, x.shape[1] + 1)
    means = (0.5 + np.cumsum(y, axis=1)) / (k + 1)
    variances = (0.25 + np.cumsum((y - means) ** 2, axis=1)) / (k + 1)
    before, spread = (np.insert(of[:, :-1], 0, first, axis=1) for of, first in ((means, 0.5), (variances, 0.25)))
    return y, before, np.sqrt(2 * np.log(2 / ERROR) / (x.shape[1] * spread))


def prpl_eb(x: Array, bounds: Interval, draws: Draws) -> Ends:
    """Predictable plug-in empirical Bernstein (Waudby-Smith and Ramdas, theorem 2), with its running intersection."""
    y, before, bets = _bets(x, bounds)
    bets = np.minimum(bets, TRUNCATED)
    spent, sums = (y - before) ** 2 * (-np.log1p(-bets) - bets), np.cumsum(bets, axis=1)
    middle, half = np.cumsum(bets * y, axis=1) / sums, (np.log(2 / ERROR) + np.cumsum(spent, axis=1)) / sums
    low, high = (middle - half).max(axis=1).clip(0), (middle + half).min(axis=1).clip(None, 1)
    return bounds[0] + (bounds[1] - bounds[0]) * low, bounds[0] + (bounds[1] - bounds[0]) * high


def betting(x: Array, bounds: Interval, draws: Draws) -> Ends:
    """The hedged capital interval (Waudby-Smith and Ramdas, theorem 3), half of the capital on either side."""
    y, _, bets = _bets(x, bounds)

    def lower(y: Array) -> Array:
        """The least mean at which the capital of who bets on more never reached 2 / .05; it falls as the mean grows."""
        low, high = np.zeros(len(y)), np.ones(len(y))
        for _ in range(12):
            mean = np.maximum((low + high) / 2, 1e-12)[:, None]
            capital = np.cumsum(np.log1p(np.minimum(bets, TRUNCATED / mean) * (y - mean)), axis=1).max(axis=1)
            ruled_out = capital >= np.log(2 / ERROR)
            low, high = np.where(ruled_out, mean[:, 0], low), np.where(ruled_out, high, mean[:, 0])
        return low

    width = bounds[1] - bounds[0]
    return bounds[0] + width * lower(y), bounds[1] - width * lower(1 - y)


def gaffke(x: Array, bounds: Interval, draws: Draws) -> Ends:
    """What keepstate uses for scores and their differences (`bounded_mean`)."""
    inner, last = draws.completed[:, :-1] @ x.T, draws.completed[:, -1:]
    return np.quantile(inner + last * bounds[0], 0.025, axis=0), np.quantile(inner + last * bounds[1], 0.975, axis=0)


Method = Callable[[Array, Interval, Draws], Ends]
METHODS: tuple[Method, ...] = (student, percentile, bca, gaffke)
PAIRED: tuple[Method, ...] = (student, percentile, bca, permutation, prpl_eb, betting, gaffke)
AT_ONCE = 250
"""Samples: at most 10 MB of means."""


def measure(
    name: str, sampler: Sampler, bounds: Interval, n: int, options: argparse.Namespace, methods: Sequence[Method]
) -> None:
    """Print one row."""
    generator = np.random.default_rng(1)
    truth = float(sampler(np.random.default_rng(2), 4_000_000).mean())
    draws = Draws.of(generator, options.draws, n)
    inside, width = np.zeros(len(methods)), np.zeros(len(methods))
    for start in range(0, options.trials, AT_ONCE):
        count = min(AT_ONCE, options.trials - start)
        samples = sampler(generator, count * n).reshape(count, n)
        for index, method in enumerate(methods):
            low, high = method(samples, bounds, draws)
            inside[index] += np.count_nonzero((low <= truth) & (truth <= high))
            width[index] += (high - low).sum()
    cells = (
        f"{100 * hit / options.trials:5.1f} ({100 * w / options.trials:4.1f})"
        for hit, w in zip(inside, width, strict=True)
    )
    print(f"| {name} | {n} | {' | '.join(cells)} |", flush=True)


SAME: dict[str, Sampler] = {
    "sd .2": lambda g, n: g.normal(0, 0.2, n).clip(-1, 1),
    "5 % fail in both": lambda g, n: (g.random(n) < 0.05).astype(float) - (g.random(n) < 0.05),
    "thirds in both": lambda g, n: (g.integers(0, 4, n) - g.integers(0, 4, n)) / 3,
}
"""Differences of cells that are the same."""
APART = {
    "other shapes, equal means: 5 % lose .95, rest gain .05": lambda g, n: np.where(g.random(n) < 0.05, -0.95, 0.05)
}
FAMILY = 8
"""Comparisons in a family."""


def _seen() -> Iterator[tuple[str, Sampler, int | None]]:
    """Differences that are there, and how many tasks are said to show them four times of five."""
    yield "mean 0.2, sd 0.2", lambda g, n: g.normal(0.2, 0.2, n).clip(-1, 1), 12
    for sd in (0.05, 0.1, 0.2):
        yield f"mean 0.05, sd {sd:g}", lambda g, n, sd=sd: g.normal(MARGIN, sd, n), tasks_to_see(sd, MARGIN)
    some: Sampler = lambda g, n: np.where(g.random(n) < 0.8, 0.0, g.choice([0.5, 0.0], n))  # noqa: E731
    yield "mean 0.05, 10 % gain .5", some, tasks_to_see(0.15, MARGIN)


def measure_tests(options: argparse.Namespace) -> None:
    """Print how often each test is below 5 %."""
    generator = np.random.default_rng(1)

    def share(test: Callable[[], bool]) -> str:
        return f"{100 * np.mean([test() for _ in range(options.trials)]):.1f}"

    def differs(sampler: Sampler, n: int) -> str:
        return share(lambda: sign_flip(sampler(generator, n)) < ERROR)

    print("| differences | n | sign-flip below .05, % |\n|---|---|---|")
    for name, sampler in (SAME | APART).items():
        for n in (12, 30, 100):
            print(f"| {name} | {n} | {differs(sampler, n)} |", flush=True)
    for name, sampler, n in _seen():
        print(f"| {name} | {n} | {differs(sampler, n or 0)} |", flush=True)

    def equivalent(sd: float, mean: float, n: int) -> bool:
        made = paired_difference((0.5 + generator.normal(mean, sd, n)).clip(0, 1).tolist(), [0.5] * n, margin=MARGIN)
        return made is not None and made.p_equivalent is not None and made.p_equivalent < ERROR

    print("\n| differences | n | equivalent within 5 points, % |\n|---|---|---|")
    for sd in (0.0, 0.05, 0.1):
        n = tasks_needed(sd, MARGIN) or 0
        for mean in (0.0, MARGIN):
            print(
                f"| mean {mean:g}, sd {sd:g} | {n} | {share(lambda m=mean, s=sd, k=n: equivalent(s, m, k))} |",
                flush=True,
            )

    def family() -> list[float]:
        return [sign_flip(SAME["sd .2"](generator, 30)) for _ in range(FAMILY)]

    families = [family() for _ in range(options.trials)]
    plain, adjusted = (100 * np.mean([min(of) < ERROR for of in kind]) for kind in (families, map(holm, families)))
    print(
        f"\n{FAMILY} comparisons of the same: one or more below .05 in {plain:.1f} % of families,"
        f" by Holm in {adjusted:.1f} %"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", choices=("scores", "differences", "tests", "ratios"), help="All where not given."
    )
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--quick", action="store_true", help="A tenth of the trials: known to about 1.5 %%.")
    options = parser.parse_args()
    options.trials = max(1, options.trials // (10 if options.quick else 1))
    started = time.perf_counter()
    if options.what in (None, "scores"):
        _intervals(SCORES, (0.0, 1.0), (12, 30, 100), METHODS, options)
    if options.what in (None, "differences"):
        _intervals(DIFFERENCES, (-1.0, 1.0), (12, 30, 48, 100, 300), PAIRED, options)
    if options.what in (None, "tests"):
        measure_tests(options)
    if options.what in (None, "ratios"):
        _head(RATIOS)
        for name, pairs in TOKENS.items():
            true = truths(pairs)
            for n in (2, 3, 5, 6, 10, 30, 100):
                measure_ratio(name, pairs, n, options, true)
        print("\ncoverage in % (upper end / lower end, geometric mean)")
    print(f"{options.trials} trials, {time.perf_counter() - started:.0f} s")


def _intervals(
    samplers: dict[str, Sampler],
    bounds: Interval,
    counts: Sequence[int],
    methods: Sequence[Method],
    options: argparse.Namespace,
) -> None:
    _head(methods)
    for name, sampler in samplers.items():
        for n in counts:
            measure(name, sampler, bounds, n, options, methods)
    print("\ncoverage in % (mean width in points)\n")


def _head(methods: Sequence[Callable[..., object]]) -> None:
    names = " | ".join(method.__name__ for method in methods)
    print(f"| distribution | n | {names} |\n|---|---|{'---|' * len(methods)}")


if __name__ == "__main__":
    main()
