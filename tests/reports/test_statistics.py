"""Estimates: against known formulas, on the edge, seeded, and covering the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from keepstate.reports.statistics import (
    Estimate,
    bounded_mean,
    chance_corrected,
    mean_of,
    paired_difference,
    ratio_of_means,
    share,
)


@pytest.mark.parametrize(("solved", "n"), [(0, 20), (3, 20), (12, 24), (24, 24), (71, 96), (100, 100)])
def test_on_zeros_and_ones_the_bounded_mean_is_clopper_pearson(solved: int, n: int) -> None:
    made = bounded_mean([1.0] * solved + [0.0] * (n - solved))
    exact = binomtest(solved, n).proportion_ci(0.95, method="exact")
    assert made is not None
    assert (made.value, made.n) == (solved / n, n)
    assert made.low == pytest.approx(exact.low, abs=0.006)
    assert made.high == pytest.approx(exact.high, abs=0.006)


def test_equal_scores_do_not_make_a_certainty() -> None:
    made = bounded_mean([1.0] * 30)
    assert made is not None
    assert made.low is not None
    assert made.high == 1.0
    assert 0.85 < made.low < 0.92


@pytest.mark.parametrize(
    "one",
    [
        bounded_mean([0.7]),
        share(1, 1),
        mean_of([12.0]),
        ratio_of_means([3.0], [2.0]),
    ],
)
def test_one_observation_has_no_interval(one: Estimate | None) -> None:
    assert one is not None
    assert (one.low, one.high, one.n) == (None, None, 1)
    assert not one.excludes_zero


def test_of_nothing_comes_nothing() -> None:
    assert bounded_mean([]) is None
    assert share(0, 0) is None
    assert mean_of([]) is None
    assert ratio_of_means([], []) is None
    assert ratio_of_means([1.0], [0.0]) is None
    assert paired_difference([], [], margin=0.05) is None


def test_the_same_data_give_the_same_figures_and_another_seed_nearly() -> None:
    scores = np.random.default_rng(0).uniform(0, 1, 40).tolist()
    assert bounded_mean(scores) == bounded_mean(scores)
    assert mean_of(scores) == mean_of(scores)
    first, second = bounded_mean(scores, seed=1), bounded_mean(scores, seed=2)
    assert first is not None
    assert second is not None
    assert first != second
    assert first.low == pytest.approx(second.low, abs=0.005)


def test_wilson_against_a_published_value() -> None:
    made = share(81, 263)  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    assert made is not None
    assert made.low == pytest.approx(0.2553, abs=5e-4)
    assert made.high == pytest.approx(0.3662, abs=5e-4)


def test_chance_correction_maps_floor_to_zero_and_oracle_to_one() -> None:
    made = chance_corrected(Estimate(0.8, 0.7, 0.9, 30), floor=0.6, oracle=1.0)
    assert made is not None
    assert (made.value, made.low, made.high) == pytest.approx((0.5, 0.25, 0.75))
    below = chance_corrected(Estimate(0.1, None, None, 1), floor=0.6, oracle=1.0)
    assert below is not None
    assert below.value < 0
    assert below.low is None
    assert chance_corrected(Estimate(0.5, None, None, 1), floor=1.0, oracle=1.0) is None


def test_pairing_finds_what_spread_between_tasks_would_hide() -> None:
    generator = np.random.default_rng(3)
    tasks = generator.uniform(0.2, 0.9, 100)
    better = np.clip(tasks + 0.06 + generator.normal(0, 0.03, 100), 0, 1)
    paired = paired_difference(better.tolist(), tasks.tolist(), margin=0.05)
    assert paired is not None
    assert paired.verdict == "different"
    separate = bounded_mean(better.tolist()), bounded_mean(tasks.tolist())
    assert separate[0] is not None
    assert separate[1] is not None
    assert (separate[0].low or 0) < (separate[1].high or 0), "the two intervals overlap"


@pytest.mark.parametrize(
    ("shift", "spread", "n", "verdict"),
    [
        (0.0, 0.0, 100, "equivalent"),
        (0.0, 0.05, 100, "equivalent"),
        (0.0, 0.0, 20, "undecided"),
        (0.0, 0.3, 100, "undecided"),
        (-0.3, 0.1, 50, "different"),
        (-0.02, 0.001, 1000, "different, within the margin"),
    ],
)
def test_what_may_be_said_of_a_difference(shift: float, spread: float, n: int, verdict: str) -> None:
    generator = np.random.default_rng(4)
    first = 0.5 + shift + spread * generator.standard_normal(n)
    paired = paired_difference(np.clip(first, 0, 1).tolist(), [0.5] * n, margin=0.05)
    assert paired is not None
    assert paired.verdict == verdict
    assert paired.p_equivalent is not None
    assert paired.p_different is not None
    assert (paired.p_equivalent < 0.05) == ("equivalent" in verdict or "within" in verdict)
    assert (paired.p_different < 0.05) == ("different" in verdict)


def test_swapping_the_two_turns_the_sign() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.uniform(0, 1, 30).tolist(), generator.uniform(0, 1, 30).tolist()
    one, other = paired_difference(a, b, margin=0.05), paired_difference(b, a, margin=0.05)
    assert one is not None
    assert other is not None
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert one.difference.low == pytest.approx(-(other.difference.high or 0), abs=0.01)


def test_a_known_ratio_lies_in_its_interval() -> None:
    generator = np.random.default_rng(6)
    below = generator.lognormal(8, 0.5, 200)
    above = 3 * below * generator.lognormal(0, 0.2, 200)
    made = ratio_of_means(above.tolist(), below.tolist())
    truth = 3 * np.exp(0.2**2 / 2)
    assert made is not None
    assert made.low is not None
    assert made.high is not None
    assert made.low < truth < made.high
    assert made.high - made.low < 0.4


def test_equal_counts_have_a_mean_and_no_interval() -> None:
    assert mean_of([5, 5, 5]) == Estimate(5.0, None, None, 3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_intervals_hold_the_mean_and_stay_in_bounds(scores: list[float]) -> None:
    made = bounded_mean(scores)
    assert made is not None
    assert made.low is not None
    assert made.high is not None
    assert 0 <= made.low <= made.value + 1e-12
    assert made.value - 1e-12 <= made.high <= 1


def test_the_truth_is_covered_where_few_episodes_fail() -> None:
    """Student and the bootstrap cover the mean of this distribution in under half of all draws at n = 12."""
    generator = np.random.default_rng(7)
    inside = 0
    for _ in range(200):
        made = bounded_mean((generator.random(12) < 0.95).astype(float).tolist(), seed=1)
        assert made is not None
        inside += (made.low or 0) <= 0.95 <= (made.high or 0)
    assert inside >= 190
