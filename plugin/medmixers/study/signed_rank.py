"""Wilcoxon's signed-rank test, and the shift of Hodges and Lehmann with the interval that inverts the test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from medmixers.study.differences import decimal_places, paired_difference

Array = NDArray[np.float64]
MOST_EXACT, MOST_EXACT_TIED = 50, 13  # cases up to which the test is exact, as in SciPy


@dataclass(frozen=True)
class Shift:
    """Difference of two trained models on new cases (Q1).

    Args:
        pvalue: of the Wilcoxon signed-rank test.
        estimate: Hodges-Lehmann estimate of the shift.
        low, high: its confidence interval; None where so few cases have none of that level.
        cases: pairs compared.
        direction: 1 where the first is the better by the test, -1 where the second is, else 0.
    """

    pvalue: float
    estimate: float
    low: float | None
    high: float | None
    cases: int
    direction: int


def signed_rank_shift(first: Array, second: Array, *, alpha: float = 0.05) -> Shift:
    """Whether two trained models differ on new cases: Wilcoxon's test and the Hodges-Lehmann shift (Q1).

    The interval has the quantile of the signed-rank distribution without ties: exact for up to 50 cases, else normal.
    Five cases have no interval of 95 %, as their p value is never below 0.0625.

    Args:
        first, second: scores of the same cases, (cases,).
        alpha: two-sided level of the interval.

    Raises:
        InputError: fewer than 2 pairs of finite scores.
    """
    differences = paired_difference(first, second)
    n = len(differences)
    pvalue, direction = signed_rank_test(differences)
    sums = np.add.outer(differences, differences)[np.triu_indices(n)] / 2
    sums = np.sort(np.round(sums, decimal_places(first, second) + 1))  # halves need one more digit
    reach = _quantile(n, alpha)
    low, high = (None, None) if reach < 0 else (float(sums[reach]), float(sums[-1 - reach]))
    return Shift(pvalue, float(np.median(sums)), low, high, n, direction)


def signed_rank_test(differences: Array) -> tuple[float, int]:
    """P value of Wilcoxon's signed-rank test, and the sign of its rank sum.

    The ranks of zeros are split between both signs. The test is exact for up to 50 cases without ties and zeros, and
    for up to 13 with them; else it is the normal approximation, corrected for ties but not for continuity.

    Args:
        differences: of pairs, (cases,), rounded so that ties are equal.
    """
    ranks, n = rankdata(np.abs(differences)), len(differences)
    plus, minus = float(ranks[differences > 0].sum()), float(ranks[differences < 0].sum())
    direction = int(np.sign(plus - minus))
    tied = len(np.unique(np.abs(differences))) < n or not differences.all()
    if direction == 0:
        return 1.0, 0
    if n <= (MOST_EXACT_TIED if tied else MOST_EXACT):
        null = _sums_of_ranks(ranks[differences != 0])
        return min(1.0, 2 * float(null[: round(2 * min(plus, minus)) + 1].sum())), direction
    ties = np.unique(ranks, return_counts=True)[1].astype(float)
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((ties**3 - ties).sum()) / 48
    return float(2 * norm.sf(abs(plus - minus) / 2 / np.sqrt(variance))), direction


def _sums_of_ranks(ranks: Array) -> Array:
    """Probability that the ranks of one sign sum to 0, 1/2, 1, ... where every sign is a fair coin."""
    chances = np.ones(1)
    for twice in np.rint(2 * ranks).astype(int):
        chances = (np.pad(chances, (0, twice)) + np.pad(chances, (twice, 0))) / 2
    return chances


def _quantile(n: int, alpha: float) -> int:
    """Largest rank sum at which the two-sided test rejects at this level; -1 where none does."""
    if n <= MOST_EXACT:
        below = np.cumsum(_sums_of_ranks(np.arange(1, n + 1, dtype=np.float64))[::2])
        return int((2 * below <= alpha).sum()) - 1
    spread = np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    return max(-1, int(np.floor(n * (n + 1) / 4 - norm.isf(alpha / 2) * spread)))
