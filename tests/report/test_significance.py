"""Tests of a difference: against published values and scipy's, their size and power, and families of them."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from keepstate.report.significance import holm, mcnemar, paired_difference, sign_flip, tasks_to_see

DARWIN = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)
"""Heights of crossed less self-fertilised plants, in eighths of an inch, by which Fisher explained the test."""


def test_fishers_own_example() -> None:
    """The Design of Experiments, section 21: 863 of the 32,768 ways reach 314 or more."""
    assert sum(DARWIN) == 314
    assert sign_flip(DARWIN) == pytest.approx(2 * 863 / 2**15, abs=1e-12)


@pytest.mark.parametrize("n", [5, 9])
def test_scipy_finds_the_same(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.1, 0.2, n).round(1)
    theirs = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip(differences) == pytest.approx(theirs.pvalue)


def test_many_differences_are_drawn_and_agree_with_the_normal_approximation() -> None:
    differences = np.r_[np.full(40, 0.1), np.full(60, -0.1)]
    exact = mcnemar(40, 60)  # equal sizes: the same test
    assert sign_flip(differences) == pytest.approx(exact, abs=0.005)
    assert sign_flip(np.full(200, 0.5)) == pytest.approx(1 / 20_001), "never 0"
    assert sign_flip(-differences) == sign_flip(differences)
    assert sign_flip(np.r_[differences, np.zeros(500)]) == sign_flip(differences), "what is equal tells nothing"


def test_no_difference_at_all_is_none() -> None:
    assert sign_flip([0.0] * 30) == 1.0
    assert sign_flip([0.1 + 0.2 - 0.3] * 6) == 1.0, "rounding is no difference"


def test_it_sees_with_twelve_tasks_what_the_interval_cannot() -> None:
    """A true difference of .2 with a spread of .2: the interval excludes zero never, the test sees 87 % of them."""
    generator = np.random.default_rng(1)
    samples = [np.clip(generator.normal(0.2, 0.2, 12), -1, 1) for _ in range(200)]
    assert sum(sign_flip(sample) < 0.05 for sample in samples) >= 160
    paired = paired_difference((0.5 + samples[0] / 2).tolist(), [0.5] * 12, margin=0.05)
    assert paired is not None
    assert not paired.difference.excludes(0)


@pytest.mark.parametrize("shape", ["one in twenty", "thirds"])
def test_its_size_is_five_percent_where_both_are_the_same(shape: str) -> None:
    generator, wrong = np.random.default_rng(2), 0
    for _ in range(400):
        if shape == "thirds":
            first, second = generator.integers(0, 4, (2, 12)) / 3
        else:
            first, second = (generator.random((2, 100)) < 0.95).astype(float)
        wrong += sign_flip(first - second) < 0.05
    assert wrong <= 30, "5 % of 400, and two standard errors"


def test_holm_as_published() -> None:
    """R: p.adjust(c(.01, .02, .03, .04, .05), "holm")."""
    assert holm([0.05, 0.02, 0.03, 0.04, 0.01]) == pytest.approx([0.09, 0.08, 0.09, 0.09, 0.05])
    assert holm([0.01, None, 0.9]) == [0.02, None, 0.9], "what was no test counts for none"
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_mcnemar_as_published() -> None:
    """Agresti's approval of a prime minister, 150 against 86; and by hand 2 * 7 / 64."""
    assert mcnemar(150, 86) == pytest.approx(3.7e-5, rel=0.05)
    assert mcnemar(1, 5) == pytest.approx(14 / 64)
    assert mcnemar(0, 0) == 1.0


def test_so_many_tasks_see_a_difference_about_as_often_as_said() -> None:
    generator = np.random.default_rng(3)
    assert tasks_to_see(0.0, 0.05) == 6, "two of 64 ways are the first below 5 %"
    assert tasks_to_see(1.0, 0.0001) is None
    n = tasks_to_see(0.1, 0.05)
    assert n is not None
    seen = [sum(sign_flip(generator.normal(0.05, 0.1, count)) < 0.05 for _ in range(100)) for count in (n, n // 2)]
    assert 70 <= seen[0] <= 90
    assert seen[1] < 65
