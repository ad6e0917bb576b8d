"""Ranking of entries: points from pairwise tests, rank scores, and the ranking of Keuth et al. 2025 (section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, gmean, rankdata, studentized_range

from medmixers.errors import InputError
from medmixers.study.differences import decimal_places, difference, rounded
from medmixers.study.signed_rank import signed_rank_test

Array = NDArray[np.float64]


def wilcoxon_points(scores: Array, *, alpha: float = 0.05) -> NDArray[np.int64]:
    """Significant wins of each entry over the others by the Wilcoxon signed-rank test, uncorrected.

    Args:
        scores: (entries, cases), the same cases for all entries, higher is better, finite.
        alpha: two-sided level of each test.

    Returns:
        Points, (entries,).
    """
    entries = len(scores)
    points = np.zeros(entries, np.int64)
    for i in range(entries):
        for j in range(i):
            pvalue, direction = signed_rank_test(difference(scores[i], scores[j]))
            if pvalue < alpha:
                points[i if direction > 0 else j] += 1
    return points


def rank_scores(points: Sequence[float] | NDArray[np.int64]) -> Array:
    """Rank scores from 0.1 (fewest points) to 1 (most points); ties share their average rank.

    score = 0.1 + 0.9 (rank - 1) / (N - 1), for N entries.
    """
    if len(points) < 2:
        raise InputError(f"a ranking needs at least 2 entries, got {len(points)}")
    return 0.1 + 0.9 * (rankdata(points) - 1) / (len(points) - 1)


def global_scores(scores: Array) -> Array:
    """Geometric mean over the data sets in which each entry took part.

    Args:
        scores: rank scores, (entries, data sets); NaN where an entry took no part.
    """
    return np.array([gmean(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in scores])


@dataclass(frozen=True)
class FriedmanResult:
    """Friedman's test over data sets, with the critical difference of Nemenyi.

    Args:
        pvalue: of the hypothesis that all entries are equal.
        mean_ranks: of each entry, 1 is best, (entries,).
        critical_difference: two mean ranks that differ by more are different at level alpha.
    """

    pvalue: float
    mean_ranks: Array
    critical_difference: float


def friedman_nemenyi(scores: Array, *, alpha: float = 0.05) -> FriedmanResult:
    """Compare entries over data sets (Demsar 2006).

    Args:
        scores: mean score of each entry on each data set, (entries, data sets), higher is better.
        alpha: level of the critical difference.

    Raises:
        InputError: fewer than 3 entries or fewer than 6 data sets.
    """
    entries, data_sets = scores.shape
    if entries < 3 or data_sets < 6:
        raise InputError(
            f"Friedman's test needs at least 3 entries and 6 data sets, got {entries} and {data_sets}; "
            "use the geometric mean of the rank scores"
        )
    scores = np.stack([rounded(column) for column in scores.T], axis=1)
    ranks = rankdata(-scores, axis=0)
    quantile = studentized_range.ppf(1 - alpha, entries, np.inf) / np.sqrt(2)
    return FriedmanResult(
        pvalue=float(friedmanchisquare(*scores).pvalue),
        mean_ranks=ranks.mean(axis=1),
        critical_difference=float(quantile * np.sqrt(entries * (entries + 1) / (6 * data_sets))),
    )


@dataclass(frozen=True)
class RankStability:
    """How a ranking changes when cases and seeds are drawn again.

    Args:
        ranks: rank of each entry on all cases and seeds, 1 is best.
        low, high: ends of the 95 % interval of each entry's rank.
        kendall_tau: mean correlation of the ranking drawn again with the ranking on all data; 1 is the same order.
        share: share of the draws in which each entry has each rank, (entries, ranks); tied entries share their ranks.
        drawn: ranks in each draw, (draws, entries).
    """

    ranks: Array
    low: Array
    high: Array
    kendall_tau: float
    share: Array
    drawn: Array


def rank_stability(means: Array, drawn: Array) -> RankStability:
    """Compare the ranking on all data with rankings of drawn data.

    Args:
        means: score of each entry, (entries,), higher is better.
        drawn: the same on bootstrap draws, (draws, entries).
    """
    places = decimal_places(means)
    drawn = np.round(drawn, places)
    ranks, ranks_drawn = rankdata(-np.round(means, places)), rankdata(-drawn, axis=1)
    taus = kendall_taus(ranks, ranks_drawn)
    low, high = np.percentile(ranks_drawn, [2.5, 97.5], axis=0, method="nearest")
    first, last = (rankdata(-drawn, axis=1, method=method)[:, :, None] for method in ("min", "max"))
    every = np.arange(1, len(means) + 1)
    share = (((first <= every) & (every <= last)) / (last - first + 1)).mean(axis=0)
    return RankStability(ranks, low, high, _mean_tau(taus), share, ranks_drawn)


def kendall_taus(ranks: Array, drawn: Array) -> Array:
    """Kendall's tau-b of one ranking with each of many; SciPy's own takes one pair of rankings per call.

    Args:
        ranks: (entries,).
        drawn: (draws, entries).

    Returns:
        (draws,); NaN where all entries tie in one of the two.
    """
    first, second = np.triu_indices(len(ranks), k=1)
    order = np.sign(ranks[first] - ranks[second])
    orders = np.sign(drawn[:, first] - drawn[:, second])
    with np.errstate(invalid="ignore", divide="ignore"):
        return (orders @ order) / np.sqrt((orders**2).sum(axis=1) * (order**2).sum())


def _mean_tau(taus: Array) -> float:
    """NaN where all entries tie."""
    known = taus[np.isfinite(taus)]
    return float(known.mean()) if len(known) else float("nan")
