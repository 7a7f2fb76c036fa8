"""Estimates: against known formulas, on the edge, seeded, and covering the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from keepstate.report import statistics
from keepstate.report.significance import Conclusion, paired_difference, tasks_needed
from keepstate.report.statistics import (
    Estimate,
    bounded_mean,
    chance_corrected,
    mean_of,
    median_of,
    median_ratio,
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
        median_of([12.0]),
        median_ratio([3.0], [2.0]),
    ],
)
def test_one_observation_has_no_interval(one: Estimate | None) -> None:
    assert one is not None
    assert (one.low, one.high, one.n) == (None, None, 1)
    assert not one.excludes(0)


def test_of_nothing_comes_nothing() -> None:
    assert bounded_mean([]) is None
    assert share(0, 0) is None
    assert mean_of([]) is None
    assert median_of([]) is None
    assert median_ratio([], []) is None
    assert ratio_of_means([], []) is None
    assert ratio_of_means([1.0], [0.0]) is None
    assert paired_difference([], [], margin=0.05) is None


def test_the_same_data_give_the_same_figures_and_another_seed_nearly(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).uniform(0, 1, 40).tolist()
    assert bounded_mean(scores) == bounded_mean(scores)
    assert mean_of(scores) == mean_of(scores)
    first = bounded_mean(scores)
    monkeypatch.setattr(statistics, "SEED", 1)
    second = bounded_mean(scores)
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
        (0.2, 0.1, 12, "different, size open"),
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
    made = median_ratio(above.tolist(), below.tolist())
    assert made is not None
    assert made.low is not None
    assert made.high is not None
    assert made.low < 3 < made.high
    assert made.high - made.low < 0.4


@pytest.mark.parametrize("n", [6, 7, 10, 25, 100])
def test_the_interval_of_a_median_is_that_of_the_sign_test(n: int) -> None:
    made = median_of([float(value) for value in range(1, n + 1)])
    assert made is not None
    assert made.low is not None
    assert made.high is not None
    outside = int(made.low) - 1
    assert made.high == n - outside
    assert binom.cdf(outside, n, 0.5) <= 0.025 < binom.cdf(outside + 1, n, 0.5)


def test_no_interval_of_a_median_below_six() -> None:
    for n in range(1, 6):
        made = median_ratio([2.0] * n, [1.0] * n)
        assert made == Estimate(2.0, None, None, n)
    made = median_ratio([2.0] * 6, [1.0] * 6)
    assert made is not None
    assert made.excludes(1)


def test_a_ratio_swapped_is_inverted() -> None:
    generator = np.random.default_rng(8)
    for n in (7, 12):
        a, b = generator.lognormal(7, 1, n).tolist(), generator.lognormal(7, 1, n).tolist()
        one, other = median_ratio(a, b), median_ratio(b, a)
        assert one is not None
        assert other is not None
        assert one.value == pytest.approx(1 / other.value)
        assert one.low == pytest.approx(1 / (other.high or 0))


@pytest.mark.parametrize("n", [6, 10, 30, 100])
def test_ratios_are_covered_where_one_episode_in_twenty_runs_away(n: int) -> None:
    """The bootstrap of the ratio of means covers 76 to 90 % here."""
    generator = np.random.default_rng(9)
    inside = 0
    for _ in range(400):
        a, b = (generator.lognormal(7, 0.2, n) * np.where(generator.random(n) < 0.05, 12, 1) for _ in range(2))
        made = median_ratio(a.tolist(), b.tolist())
        assert made is not None
        inside += (made.low or 9) <= 1 <= (made.high or 0)
    assert inside >= 375, "95 % of 400, less two standard errors"


def test_counts_that_are_not_known_have_no_ratio() -> None:
    assert median_ratio([1.0, None], [1.0, 1.0]) is None
    assert median_ratio([1.0, 1.0], [1.0, 0.0]) is None
    assert ratio_of_means([1.0, None], [1.0, 1.0]) is None
    assert ratio_of_means([3.0, 5.0], [1.0, 3.0]) == 2.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1.0000001, -0.1])
def test_what_is_no_score_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="is no value in"):
        bounded_mean([0.5, bad])
    with pytest.raises(ValueError, match="is no value in"):
        paired_difference([0.5, bad], [0.5, 0.5], margin=0.05)
    with pytest.raises(ValueError, match="is no value in"):
        paired_difference([bad], [0.5], margin=0.05)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_what_is_no_count_is_refused(bad: float) -> None:
    for made in (lambda: mean_of([1, bad]), lambda: median_of([bad]), lambda: median_ratio([1.0, bad], [1.0, 1.0])):
        with pytest.raises(ValueError, match="is no value in"):
            made()


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan"), 1.5])
def test_a_margin_lies_between_zero_and_one(margin: float) -> None:
    with pytest.raises(ValueError, match="a margin of"):
        paired_difference([0.5, 0.5], [0.5, 0.5], margin=margin)


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_so_many_tasks_show_equivalence_about_as_often_as_said(spread: float) -> None:
    n = tasks_needed(spread, 0.05)
    assert n is not None
    generator = np.random.default_rng(11)
    shown = {}
    for count in (n, n // 2):
        samples = (np.clip(0.5 + generator.normal(0, spread, count), 0, 1) for _ in range(30))
        made = [paired_difference(sample.tolist(), [0.5] * count, margin=0.05) for sample in samples]
        shown[count] = sum(found is not None and found.verdict is Conclusion.EQUIVALENT for found in made)
    assert shown[n] >= 18
    assert shown[n // 2] <= shown[n] - 10


def test_tasks_needed_at_the_edges() -> None:
    assert tasks_needed(0.0, 0.05) == 59, "0.95 to the 59th is the first power below 5 %"
    assert tasks_needed(0.0, 1.0) == 2
    assert (tasks_needed(1.0, 0.05) or 0) > 3000
    assert tasks_needed(1.0, 0.0001) is None
    one = paired_difference([0.5], [0.5], margin=0.05)
    assert one is not None
    assert one.verdict is Conclusion.ONE_TASK
    assert one.tasks_needed == 59


@settings(max_examples=30)
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
        made = bounded_mean((generator.random(12) < 0.95).astype(float).tolist())
        assert made is not None
        inside += (made.low or 0) <= 0.95 <= (made.high or 0)
    assert inside >= 190


SHAPES = {
    "all right": (20_000, 20_000),
    "all right but three": (19_997, 20_000),
    "nine of ten": (18_000, 20_000),
    "three right": (3, 20_000),
}


@pytest.mark.parametrize(("solved", "n"), SHAPES.values(), ids=SHAPES)
def test_of_many_values_the_interval_is_computed_and_on_zeros_and_ones_exact(solved: int, n: int) -> None:
    made = bounded_mean([1.0] * solved + [0.0] * (n - solved))
    exact = binomtest(solved, n).proportion_ci(0.95, method="exact")
    assert made is not None
    assert made.low == pytest.approx(exact.low, abs=5e-7)
    assert made.high == pytest.approx(exact.high, abs=5e-7)


def test_what_is_computed_is_what_many_draws_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(3)
    first = np.minimum(1.0, 1.3 * dice.random(3_000))
    second = np.clip(first + dice.normal(0.003, 0.1, 3_000), 0, 1)
    drawn = paired_difference([*first], [*second], margin=0.005)
    monkeypatch.setattr(statistics, "MOST_DRAWN", 100)
    computed = paired_difference([*first], [*second], margin=0.005)
    assert drawn is not None
    assert computed is not None
    assert computed.difference.low == pytest.approx(drawn.difference.low, abs=0.0003)
    assert computed.difference.high == pytest.approx(drawn.difference.high, abs=0.0003)
    assert computed.p_equivalent == pytest.approx(drawn.p_equivalent, abs=0.01)
    assert (computed.p_different, computed.spread) == (drawn.p_different, drawn.spread)


def test_what_is_computed_has_no_gap_at_the_mean_and_both_tails_are_all() -> None:
    values = np.append(np.random.default_rng(3).random(500), 0.0)
    made, mean = statistics.Computed(values), float(values.mean())
    places = [mean + step for step in (-1e-3, -1e-5, -1e-7, 0.0, 1e-7, 1e-5, 1e-3)]
    tails = [made.at_most(place) for place in places]
    assert tails == sorted(tails)
    assert tails[4] - tails[2] < 1e-4
    assert [made.at_least(place) for place in places] == pytest.approx([1 - tail for tail in tails])
    assert [made.at_most(-1.0), made.at_least(-1.0), made.at_most(2.0), made.at_least(2.0)] == [0.0, 1.0, 1.0, 0.0]
    assert made.at_most(made.quantile(0.025)) == pytest.approx(0.025, abs=1e-6)
