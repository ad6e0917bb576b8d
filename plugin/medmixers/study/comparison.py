"""Compare all entries of a study on one data set: every pair, a ranking, and what the data set can tell."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError
from medmixers.registry import valid_names
from medmixers.study.ranking import RankStability, rank_scores, rank_stability, wilcoxon_points
from medmixers.study.statistics import (
    LEAST_SEEDS,
    Difference,
    Probabilities,
    Shift,
    average_groups,
    bayesian_signed_rank,
    discriminability,
    holm,
    retrained_difference,
    signed_rank_shift,
    verdict,
)
from medmixers.study.table import Scores

RANK_DRAWS = 2000


@dataclass(frozen=True)
class Pair:
    """Two entries. Differences are first minus second; with ``lower_is_better`` their sign is turned.

    Args:
        first, second: names.
        shift: difference of the trained models on new cases (Q1), of seed-averaged scores.
        shift_pvalue: its p value after Holm's correction over all pairs.
        retrained: difference when both are trained again (Q2); None with fewer than 3 seeds.
        retrained_pvalue: its p value after Holm's correction; None likewise.
        probabilities: of better, practically the same and worse (Bayesian signed rank).
        verdict: better, worse, equivalent, undecided or underpowered.
    """

    first: str
    second: str
    shift: Shift
    shift_pvalue: float
    retrained: Difference | None
    retrained_pvalue: float | None
    probabilities: Probabilities
    verdict: str


@dataclass(frozen=True)
class Ranked:
    """One entry of the ranking.

    Args:
        entry: name.
        mean: over seeds and cases.
        seed_sd: standard deviation of the seeds' means; NaN with one seed.
        points: significant wins of its first seed, as Keuth et al. count them (Q0).
        rank_score: of the points, 0.1 to 1.
        rank, rank_low, rank_high: by the mean, 1 is best, with the 95 % interval of draws of cases and seeds.
    """

    entry: str
    mean: float
    seed_sd: float
    points: int
    rank_score: float
    rank: float
    rank_low: float
    rank_high: float


@dataclass(frozen=True)
class Comparison:
    """All results of one data set and metric.

    Args:
        scores: what was compared.
        margin, alpha: of the verdicts.
        cases: cases, or groups of cases, with a score of every seed of every entry.
        left_out: the others.
        ranking: best first.
        pairs: every pair, or the control with each other entry.
        stability: of the ranking by the mean.
        discriminability: sd between entries over sd between seeds; NaN with one seed.
    """

    scores: Scores
    margin: float
    alpha: float
    cases: int
    left_out: int
    ranking: tuple[Ranked, ...]
    pairs: tuple[Pair, ...]
    stability: RankStability
    discriminability: float


def compare(
    scores: Scores, *, margin: float, alpha: float = 0.05, control: str | None = None, seed: int = 0
) -> Comparison:
    """Compare the entries of one data set and metric.

    Cases without a score of every seed of every entry are left out and counted; grouped cases are averaged first.

    Args:
        scores: of :func:`medmixers.study.table.read_scores`.
        margin: largest difference that does not matter, in the metric's units.
        alpha: family-wise level of the verdicts.
        control: compare every entry with this one only; None compares all pairs.
        seed: of the bootstrap and of the Bayesian draws.

    Raises:
        InputError: a margin or level out of range, an unknown control, fewer than 2 entries or common cases.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    if margin <= 0:
        raise InputError(f"margin must be above 0, got {margin}: state the largest difference that does not matter")
    if len(scores.entries) < 2:
        raise InputError(f"a comparison needs at least 2 entries, got {', '.join(scores.entries)}")
    if control is not None and control not in scores.entries:
        raise InputError(f"unknown control {control!r}; valid: {valid_names(control, scores.entries)}")
    sign = -1.0 if scores.lower_is_better else 1.0
    values = [sign * average_groups(each, scores.groups) for each in scores.values]
    known = np.all([np.isfinite(each).all(axis=0) for each in values], axis=0)
    cases = int(known.sum())
    if cases < 2:
        raise InputError(f"at least 2 cases with a score of every seed and entry are needed, got {cases}")
    values = [each[:, known] for each in values]
    stability = _stability(values, seed)
    return Comparison(
        scores=scores,
        margin=margin,
        alpha=alpha,
        cases=cases,
        left_out=int((~known).sum()),
        ranking=_ranking(scores.entries, values, stability, sign),
        pairs=_pairs(scores.entries, values, margin=margin, alpha=alpha, control=control, seed=seed),
        stability=stability,
        discriminability=_discriminability(values),
    )


def _pairs(
    entries: tuple[str, ...],
    values: list[NDArray[np.float64]],
    *,
    margin: float,
    alpha: float,
    control: str | None,
    seed: int,
) -> tuple[Pair, ...]:
    chosen = [
        (i, j)
        for i, j in combinations(range(len(entries)), 2)
        if control is None or control in (entries[i], entries[j])
    ]
    if control is not None:  # the control stands second, so that "better" is better than the control
        at = entries.index(control)
        chosen = [(i + j - at, at) for i, j in chosen]
    means = [each.mean(axis=0) for each in values]
    shifts = [signed_rank_shift(means[i], means[j], alpha=alpha) for i, j in chosen]
    enough = all(len(each) >= LEAST_SEEDS for each in values)
    differences = [retrained_difference(values[i], values[j]) if enough else None for i, j in chosen]
    of_shifts = holm(np.array([shift.pvalue for shift in shifts]))
    of_differences = holm(np.array([each.pvalue() if each else 1.0 for each in differences]))
    return tuple(
        Pair(
            first=entries[i],
            second=entries[j],
            shift=shifts[k],
            shift_pvalue=float(of_shifts[k]),
            retrained=difference,
            retrained_pvalue=float(of_differences[k]) if difference else None,
            probabilities=bayesian_signed_rank(means[i], means[j], margin=margin, seed=seed),
            verdict="underpowered"
            if difference is None
            else verdict(difference, margin=margin, pvalue=float(of_differences[k]), alpha=alpha),
        )
        for k, ((i, j), difference) in enumerate(zip(chosen, differences, strict=True))
    )


def _ranking(
    entries: tuple[str, ...], values: list[NDArray[np.float64]], stability: RankStability, sign: float
) -> tuple[Ranked, ...]:
    points = wilcoxon_points(np.stack([each[0] for each in values]))
    scores = rank_scores(points)
    rows = [
        Ranked(
            entry=entries[i],
            mean=sign * float(values[i].mean()),
            seed_sd=float(values[i].mean(axis=1).std(ddof=1)) if len(values[i]) > 1 else float("nan"),
            points=int(points[i]),
            rank_score=float(scores[i]),
            rank=float(stability.ranks[i]),
            rank_low=float(stability.low[i]),
            rank_high=float(stability.high[i]),
        )
        for i in range(len(entries))
    ]
    return tuple(sorted(rows, key=lambda row: (row.rank, row.entry)))


def _stability(values: list[NDArray[np.float64]], seed: int) -> RankStability:
    rng = np.random.default_rng(seed)
    n = values[0].shape[1]
    drawn = np.empty((RANK_DRAWS, len(values)))
    for draw in range(RANK_DRAWS):
        counts = rng.multinomial(n, np.full(n, 1 / n))
        for i, each in enumerate(values):
            seeds = rng.integers(len(each), size=len(each))
            drawn[draw, i] = (each[seeds].mean(axis=0) * counts).sum() / n
    return rank_stability(np.array([each.mean() for each in values]), drawn)


def _discriminability(values: list[NDArray[np.float64]]) -> float:
    if min(len(each) for each in values) < 2:
        return float("nan")
    return discriminability([each.mean(axis=1) for each in values])
