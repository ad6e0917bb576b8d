"""Wilcoxon's test and the interval of its shift against SciPy; ties are ties in whole numbers and in decimals alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medmixers.study.differences import decimal_places, difference, rounded
from medmixers.study.ranking import friedman_nemenyi, rank_stability, wilcoxon_points
from medmixers.study.signed_rank import signed_rank_shift, signed_rank_test

RNG = np.random.default_rng(0)


def scipys(differences, method):
    return stats.wilcoxon(differences, zero_method="zsplit", method=method).pvalue


@pytest.mark.parametrize("cases", [2, 5, 12, 24, 50])
def test_without_ties_the_test_is_exact(cases):
    differences = RNG.normal(0.3, 1, cases)
    pvalue, direction = signed_rank_test(differences)
    assert pvalue == pytest.approx(scipys(differences, "exact"))
    assert direction in (1, -1)
    assert signed_rank_test(-differences) == (pvalue, -direction)


@pytest.mark.parametrize("cases", [14, 30, 51])
def test_many_cases_with_ties_and_zeros_have_the_normal_approximation(cases):
    differences = RNG.integers(-3, 6, cases).astype(float)
    assert signed_rank_test(differences)[0] == pytest.approx(scipys(differences, "approx"))
    assert signed_rank_test(np.zeros(cases)) == (1, 0)


@pytest.mark.parametrize("cases", [5, 9, 13])
def test_few_cases_with_ties_and_zeros_are_permuted(cases):
    differences = RNG.integers(-2, 5, cases).astype(float)
    differences[0] = 0
    ranks = stats.rankdata(np.abs(differences))
    signs = 1 - 2 * (np.arange(2**cases)[:, None] >> np.arange(cases) & 1)
    sums = signs @ (ranks * (differences != 0))
    expected = np.mean(np.abs(sums) >= np.abs((np.sign(differences) * ranks).sum()) - 1e-9)
    assert signed_rank_test(differences)[0] == pytest.approx(expected)


def test_decimals_tie_as_whole_numbers_do():
    rng = np.random.default_rng(1)
    for _ in range(50):
        first, second = rng.integers(70, 100, (2, 20))
        in_hundredths, in_decimals = (
            signed_rank_shift(1.0 * first, 1.0 * second),
            signed_rank_shift(first / 100, second / 100),
        )
        assert in_decimals.pvalue == pytest.approx(in_hundredths.pvalue, rel=1e-12)
        assert in_decimals.pvalue == pytest.approx(scipys((first - second).astype(float), "approx"))
        assert in_decimals.estimate == pytest.approx(in_hundredths.estimate / 100, rel=1e-9, abs=0)
        assert in_decimals.direction == in_hundredths.direction
        points = wilcoxon_points(np.stack([first, second]) / 100)
        assert points.tolist() == wilcoxon_points(np.stack([first, second])).tolist()


def test_means_over_seeds_tie_as_their_sums_do():
    """1 - 2/3 and 2/3 - 1/3 differ in the last digit."""
    first, second = (np.random.default_rng(3).random((2, 3, 30)) < [[[0.75]], [[0.6]]]).astype(float)
    expected = scipys(first.sum(axis=0) - second.sum(axis=0), "approx")
    assert signed_rank_shift(first.mean(axis=0), second.mean(axis=0)).pvalue == pytest.approx(expected)


def test_scores_of_any_size_are_rounded_by_their_own():
    assert difference(np.array([1 - 2 / 3]), np.array([1 / 3])) == 0
    assert difference(np.array([3e-9]), np.array([1e-9])) == 2e-9
    assert difference(np.array([0.85]), np.array([0.84])) == 0.01
    assert difference(np.array([1e9 + 0.1]), np.array([1e9])) == 0.1
    assert decimal_places(np.array([np.nan, 0.0])) == decimal_places(np.array([])) == 12


def test_rankings_tie_where_means_are_equal_but_for_noise():
    means = np.array([0.1 + 0.2, 0.3, 0.1])
    assert rank_stability(means, means[None]).ranks.tolist() == [1.5, 1.5, 3]
    assert rank_stability(means, means[None]).drawn.tolist() == [[1.5, 1.5, 3]]
    np.testing.assert_array_equal(rank_stability(means, means[None]).share, [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    assert rounded(means)[0] == rounded(means)[1]
    scores = np.tile(means[:, None], 6)
    np.testing.assert_array_equal(friedman_nemenyi(scores).mean_ranks, [1.5, 1.5, 3])
    assert friedman_nemenyi(scores).pvalue == stats.friedmanchisquare([2.0] * 6, [2.0] * 6, [1.0] * 6).pvalue


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.1])
@pytest.mark.parametrize("cases", [4, 5, 6, 7, 8, 9, 12, 20, 40])
def test_the_interval_has_exactly_the_shifts_that_the_test_does_not_reject(cases, alpha):
    first = RNG.normal(0.1, 1, cases)
    shift = signed_rank_shift(first, np.zeros(cases), alpha=alpha)
    if 2 / 2**cases > alpha:  # the smallest p value
        assert (shift.low, shift.high) == (None, None)
        return
    for end, outward in ((shift.low, -1), (shift.high, 1)):
        assert scipys(first - end - outward * 1e-9, "exact") <= alpha
        assert scipys(first - end + outward * 1e-9, "exact") > alpha
    assert shift.low <= shift.estimate <= shift.high


def test_the_interval_of_many_cases_is_that_of_the_normal_approximation():
    first = RNG.normal(0.1, 1, 80)
    shift = signed_rank_shift(first, np.zeros(80))
    for end, outward in ((shift.low, -1), (shift.high, 1)):
        assert scipys(first - end - outward * 1e-9, "approx") <= 0.05
        assert scipys(first - end + outward * 1e-9, "approx") > 0.05


def test_the_direction_is_that_of_the_ranks_where_the_median_is_zero():
    shift = signed_rank_shift(np.append(np.zeros(60), np.arange(1.0, 11)), np.zeros(70))
    assert shift.pvalue < 0.05
    assert (shift.estimate, shift.direction) == (0, 1)
