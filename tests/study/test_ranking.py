"""The ranking of Keuth et al. 2025: every printed score follows from the printed points."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scikit_posthocs
from scipy.stats import kendalltau, wilcoxon

from medmixers.errors import InputError
from medmixers.results.published import PUBLISHED
from medmixers.study.ranking import (
    friedman_nemenyi,
    global_scores,
    kendall_taus,
    rank_scores,
    rank_stability,
    wilcoxon_points,
)

TABLES = [
    table
    for table in json.loads(PUBLISHED.read_text())["tables"]
    if table["paper"] == "keuth2025" and table["columns"][0]["quantity"] == "points"
]


def printed(cell):
    """The printed number, the re-derived one where print has a slip, NaN where there is none."""
    if isinstance(cell, dict):
        cell = cell.get("rederived", cell["value"])
    return np.nan if cell is None else float(cell)


def ranked(table):
    """Printed points, printed scores, printed means, and our scores of each data set, NaN without a part."""
    cells = np.array([[printed(cell) for cell in row[2:]] for row in table["rows"]])
    points, scores, means = cells[:, 0:-1:2], cells[:, 1:-1:2], cells[:, -1]
    ours = np.full_like(points, np.nan)
    for column in range(points.shape[1]):
        part = np.isfinite(points[:, column])
        ours[part, column] = rank_scores(points[part, column])
    return scores, means, ours


def test_the_printed_scores_follow_from_the_printed_points():
    counted = 0
    for table in TABLES:
        scores, _, ours = ranked(table)
        known = np.isfinite(scores)
        np.testing.assert_allclose(ours[known], scores[known], atol=0.0051, err_msg=table["where"])
        counted += known.sum()
    assert counted == 4 * 15 + 4 * 19 + 15 + 15 + 18


def test_the_49_printed_means_follow_to_three_decimals():
    counted = 0
    for table in TABLES:
        _, means, ours = ranked(table)
        known = np.isfinite(means)
        np.testing.assert_allclose(global_scores(ours)[known], means[known], atol=0.00051, err_msg=table["where"])
        counted += known.sum()
    assert counted == 49


def test_points_are_significant_wins():
    rng = np.random.default_rng(0)
    scores = rng.normal(0.8, 0.05, (4, 30)) + np.array([[0.0], [0.05], [0.05], [-0.1]])
    expected = np.zeros(4, int)
    for i in range(4):
        for j in range(4):
            if i != j:
                expected[i] += wilcoxon(scores[i], scores[j], alternative="two-sided").pvalue < 0.05 and bool(
                    np.median(scores[i] - scores[j]) > 0
                )
    np.testing.assert_array_equal(wilcoxon_points(scores), expected)
    assert wilcoxon_points(scores[:1].repeat(3, 0)).tolist() == [0, 0, 0]


def test_fewer_than_two_entries_are_no_ranking():
    with pytest.raises(InputError, match="at least 2 entries, got 1"):
        rank_scores([3])


def test_nemenyi_agrees_with_scikit_posthocs():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(4, 8)) + np.array([[0.0], [0.4], [1.5], [5.0]])
    result = friedman_nemenyi(scores)
    pvalues = scikit_posthocs.posthoc_nemenyi_friedman(scores.T).to_numpy()
    differs = np.abs(result.mean_ranks[:, None] - result.mean_ranks) > result.critical_difference
    np.testing.assert_array_equal(differs, (pvalues < 0.05) & ~np.eye(4, dtype=bool))
    assert differs.any()
    assert result.mean_ranks.argmin() == 3
    with pytest.raises(InputError, match="at least 3 entries and 6 data sets, got 4 and 5"):
        friedman_nemenyi(scores[:, :5])


def test_critical_differences_of_demsar_2006():
    """Table 5a: q of 2.343 for 3, 2.569 for 4 and 2.728 for 5 classifiers at 0.05."""
    for entries, quantile in ((3, 2.343), (4, 2.569), (5, 2.728)):
        scores = np.random.default_rng(2).normal(size=(entries, 10))
        expected = quantile * np.sqrt(entries * (entries + 1) / 60)
        assert friedman_nemenyi(scores).critical_difference == pytest.approx(expected, abs=1e-3)


def test_rank_stability_of_a_sure_and_an_unsure_order():
    rng = np.random.default_rng(3)
    means = np.array([0.9, 0.5, 0.1])
    sure = rank_stability(means, means + rng.normal(0, 1e-3, (200, 3)))
    assert sure.kendall_tau == 1
    np.testing.assert_array_equal(sure.low, sure.high)
    np.testing.assert_array_equal(sure.ranks, [1, 2, 3])
    np.testing.assert_array_equal(sure.share, np.eye(3))
    unsure = rank_stability(means, rng.normal(size=(2000, 3)))
    assert abs(unsure.kendall_tau) < 0.1
    np.testing.assert_array_equal([unsure.low, unsure.high], [[1, 1, 1], [3, 3, 3]])


def test_kendall_taus_are_scipys():
    rng = np.random.default_rng(0)
    ranks, drawn = rng.integers(4, size=6).astype(float), rng.integers(4, size=(20, 6)).astype(float)
    drawn[0] = 1  # all tie
    expected = [kendalltau(ranks, row).statistic for row in drawn]
    assert np.allclose(kendall_taus(ranks, drawn), expected, equal_nan=True)
