"""One ranking over several data sets: the geometric mean of rank scores; from 6 data sets on, Friedman and Nemenyi."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medmixers.study.comparison import Comparison
from medmixers.study.ranking import FriedmanResult, friedman_nemenyi, global_scores

Array = NDArray[np.float64]
FRIEDMAN_ENTRIES, FRIEDMAN_DATASETS = 3, 6


@dataclass(frozen=True)
class OverallRow:
    """One entry over the data sets in which it took part.

    Args:
        entry: name.
        datasets: how many.
        score: geometric mean of the rank scores of its points, as Keuth et al. rank.
        by_mean, low, high: the same of the ranks by the mean score, with the 95 % interval when cases and seeds of
            every data set are drawn again.
    """

    entry: str
    datasets: int
    score: float
    by_mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Overall:
    """Over the data sets of one metric.

    Args:
        metric: name.
        datasets: names.
        rows: best first.
        friedman: None with fewer than 6 data sets that have all entries.
        entries: of ``friedman``, in its order.
    """

    metric: str
    datasets: tuple[str, ...]
    rows: tuple[OverallRow, ...]
    friedman: FriedmanResult | None
    entries: tuple[str, ...]


def over_datasets(comparisons: Sequence[Comparison]) -> list[Overall]:
    """One result for each metric that was compared on more than one data set."""
    metrics = sorted({each.scores.metric for each in comparisons})
    found = [[each for each in comparisons if each.scores.metric == metric] for metric in metrics]
    return [_overall(each) for each in found if len(each) > 1]


def _overall(comparisons: Sequence[Comparison]) -> Overall:
    entries = sorted({entry for each in comparisons for entry in each.scores.entries})
    points = np.full((len(entries), len(comparisons)), np.nan)
    by_mean = np.full_like(points, np.nan)
    draws = min(len(each.stability.drawn) for each in comparisons)
    drawn = np.full((draws, *points.shape), np.nan)
    for column, each in enumerate(comparisons):
        own = [entries.index(entry) for entry in each.scores.entries]
        of_points = {row.entry: row.rank_score for row in each.ranking}
        points[own, column] = [of_points[entry] for entry in each.scores.entries]
        by_mean[own, column] = _scores_of_ranks(each.stability.ranks)
        drawn[:, own, column] = _scores_of_ranks(each.stability.drawn[:draws])
    with np.errstate(invalid="ignore"):
        means = np.exp(np.nanmean(np.log(drawn), axis=2))
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    took_part = np.isfinite(points).sum(axis=1)
    columns = zip(entries, took_part, global_scores(points), global_scores(by_mean), low, high, strict=True)
    rows = [OverallRow(name, int(n), *map(float, numbers)) for name, n, *numbers in columns]
    friedman = None
    if (took_part == len(comparisons)).all() and len(entries) >= FRIEDMAN_ENTRIES:
        friedman = _friedman(comparisons, entries)
    names = tuple(each.scores.dataset for each in comparisons)
    ordered = tuple(sorted(rows, key=lambda row: (-row.score, row.entry)))
    return Overall(comparisons[0].scores.metric, names, ordered, friedman, tuple(entries))


def _friedman(comparisons: Sequence[Comparison], entries: Sequence[str]) -> FriedmanResult | None:
    if len(comparisons) < FRIEDMAN_DATASETS:
        return None
    sign = -1.0 if comparisons[0].scores.lower_is_better else 1.0
    means = [{row.entry: sign * row.mean for row in each.ranking} for each in comparisons]
    return friedman_nemenyi(np.array([[own[entry] for own in means] for entry in entries]), alpha=comparisons[0].alpha)


def _scores_of_ranks(ranks: Array) -> Array:
    """Rank scores, 0.1 to 1, of ranks of which 1 is best, (..., entries)."""
    return 0.1 + 0.9 * (ranks.shape[-1] - ranks) / (ranks.shape[-1] - 1)
