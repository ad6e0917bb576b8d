"""Compare all entries of a study on one data set: every pair, a ranking, and what the data set can tell."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medmixers.errors import InputError
from medmixers.progress import progress
from medmixers.registry import valid_names
from medmixers.study.evidence import CaseEvidence, Evidence, PooledEvidence
from medmixers.study.probabilities import PooledScores
from medmixers.study.ranking import RankStability, rank_scores, rank_stability
from medmixers.study.signed_rank import Shift
from medmixers.study.statistics import (
    LEAST_SEEDS,
    Difference,
    Probabilities,
    discriminability,
    holm,
    verdict,
)
from medmixers.study.table import Scores


@dataclass(frozen=True)
class Pair:
    """Two entries. Differences are first minus second; where lower is better their sign is turned.

    Args:
        first, second: names.
        shift: difference of the trained models on new cases (Q1), of seed-averaged scores.
        shift_pvalue: its p value, adjusted for all pairs.
        retrained: difference when both are trained again (Q2); None where one has fewer than 3 seeds.
        retrained_pvalue, equivalence_pvalue: p values of no difference and of one beyond the margin, after Holm's
            correction over all pairs; None likewise.
        detectable: smallest difference found with 80 % power at alpha / pairs; None likewise.
        probabilities: of better, practically the same and worse, for the trained models.
        fold_pvalue: of the mean over folds (Nadeau and Bengio), not corrected; None without folds.
        verdict: better, worse, equivalent, undecided or underpowered.
    """

    first: str
    second: str
    shift: Shift
    shift_pvalue: float
    retrained: Difference | None
    retrained_pvalue: float | None
    equivalence_pvalue: float | None
    detectable: float | None
    probabilities: Probabilities
    fold_pvalue: float | None
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
        control: entry that all others are compared with; None where every pair is.
        cases: cases, or groups of cases, with a score of every seed of every entry.
        left_out: the others.
        correction: of the trained models' p values: "Holm" or "max-T".
        ranking: best first.
        pairs: every pair, or each other entry with the control.
        stability: of the ranking by the mean; its rows are in the order of ``scores.entries``.
        discriminability: sd between entries over sd between seeds; NaN with one seed.
        test_share: test cases over training cases of a fold, of the p values over folds; None without folds.
    """

    scores: Scores | PooledScores
    margin: float
    alpha: float
    control: str | None
    cases: int
    left_out: int
    correction: str
    ranking: tuple[Ranked, ...]
    pairs: tuple[Pair, ...]
    stability: RankStability
    discriminability: float
    test_share: float | None

    @property
    def unit(self) -> str:
        """What ``cases`` counts."""
        return "cases" if len(set(self.scores.groups.tolist())) == len(self.scores.cases) else "groups"


def compare(
    scores: Scores | PooledScores,
    *,
    margin: float,
    alpha: float = 0.05,
    control: str | None = None,
    seed: int = 0,
    test_share: float | None = None,
) -> Comparison:
    """Compare the entries of one data set and metric.

    Cases without a score of every seed of every entry are left out and counted; grouped cases are averaged first, or
    drawn together where the metric is one of all cases.

    Args:
        scores: of :mod:`medmixers.study.table`.
        margin: largest difference that does not matter, in the metric's units.
        alpha: family-wise level of the verdicts.
        control: compare every entry with this one only; None compares all pairs.
        seed: of the bootstrap and of the Bayesian draws.
        test_share: test cases over training cases of a fold; None takes the folds of ``scores`` for all that there are.

    Raises:
        InputError: a margin or level out of range, an unknown control, fewer than 2 entries or common cases.
    """
    _check_question(scores.entries, margin, alpha, control)
    evidence: Evidence
    if isinstance(scores, PooledScores):
        evidence, test_share = PooledEvidence(scores, seed), None
    else:
        test_share = None if scores.folds is None else test_share or share_of_folds(scores, len(set(scores.folds)))
        evidence = CaseEvidence(scores, seed, test_share)
    stability = rank_stability(np.array([each.mean() for each in evidence.seed_means]), evidence.drawn_means())
    several = min(len(each) for each in evidence.seed_means) > 1
    return Comparison(
        scores=scores,
        margin=margin,
        alpha=alpha,
        control=control,
        cases=evidence.cases,
        left_out=evidence.left_out,
        correction=evidence.correction,
        ranking=_ranking(scores, evidence, stability),
        pairs=_pairs(scores.entries, evidence, margin=margin, alpha=alpha, control=control),
        stability=stability,
        discriminability=discriminability(evidence.seed_means) if several else float("nan"),
        test_share=test_share,
    )


def share_of_folds(scores: Scores | PooledScores, folds: int) -> float:
    """Test cases over training cases where a data set was split into this many folds of one size.

    Raises:
        InputError: fewer folds than the table has, or a table without folds.
    """
    if isinstance(scores, PooledScores) or scores.folds is None:
        name = scores.dataset or "the table"
        raise InputError(f"folds must be left out: {name} has no score per case with each case in one of several folds")
    found = len(set(scores.folds))
    if folds < found:
        raise InputError(f"folds must be at least {found}, the folds in the table, got {folds}")
    return 1 / (folds - 1)


def _check_question(entries: tuple[str, ...], margin: float, alpha: float, control: str | None) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    if not 0 < margin < float("inf"):
        raise InputError(f"margin must be above 0, got {margin}: state the largest difference that does not matter")
    if len(entries) < 2:
        raise InputError(f"a comparison needs at least 2 entries, got {', '.join(entries)}")
    if control is not None and control not in entries:
        raise InputError(f"unknown control {control!r}; valid: {valid_names(control, entries)}")


def chosen_pairs(entries: tuple[str, ...], control: str | None) -> list[tuple[int, int]]:
    """Numbers of the entries of each pair. A control stands second, so that "better" is better than the control."""
    if control is None:
        return list(combinations(range(len(entries)), 2))
    at = entries.index(control)
    return [(i, at) for i in range(len(entries)) if i != at]


def _pairs(
    entries: tuple[str, ...], evidence: Evidence, *, margin: float, alpha: float, control: str | None
) -> tuple[Pair, ...]:
    chosen = chosen_pairs(entries, control)
    shifts, shift_pvalues = evidence.shifts(chosen, alpha)
    enough = [min(len(evidence.seed_means[k]) for k in pair) >= LEAST_SEEDS for pair in chosen]
    differences = [evidence.retrained(*pair) if known else None for pair, known in zip(chosen, enough, strict=True)]
    tested = [each for each in differences if each is not None]
    of_differences = iter(holm(np.array([each.pvalue() for each in tested])))
    of_margins = iter(holm(np.array([each.equivalence_pvalue(margin) for each in tested])))
    result = []
    for k, (i, j) in progress(enumerate(chosen), "pairs", total=len(chosen)):
        difference, tests = differences[k], _NO_TESTS
        if difference is not None:
            detectable = difference.detectable(alpha / len(tested))
            tests = float(next(of_differences)), float(next(of_margins)), detectable
        result.append(
            Pair(
                entries[i],
                entries[j],
                shifts[k],
                float(shift_pvalues[k]),
                difference,
                tests[0],
                tests[1],
                tests[2],
                evidence.probabilities(i, j, margin),
                evidence.fold_pvalue(i, j),
                _verdict(difference, tests, margin, alpha),
            )
        )
    return tuple(result)


_Tests = tuple[float, float, float] | tuple[None, None, None]
_NO_TESTS: _Tests = (None, None, None)


def _verdict(difference: Difference | None, tests: _Tests, margin: float, alpha: float) -> str:
    pvalue, equivalence_pvalue, detectable = tests
    if difference is None or pvalue is None or equivalence_pvalue is None or detectable is None:
        return "underpowered"
    return verdict(
        difference,
        margin=margin,
        pvalue=pvalue,
        equivalence_pvalue=equivalence_pvalue,
        alpha=alpha,
        detectable=detectable,
    )


def _ranking(scores: Scores | PooledScores, evidence: Evidence, stability: RankStability) -> tuple[Ranked, ...]:
    points = evidence.points()
    of_points = rank_scores(points)
    sign = -1.0 if scores.lower_is_better else 1.0
    rows = [
        Ranked(
            entry=scores.entries[i],
            mean=sign * float(means.mean()),
            seed_sd=float(means.std(ddof=1)) if len(means) > 1 else float("nan"),
            points=int(points[i]),
            rank_score=float(of_points[i]),
            rank=float(stability.ranks[i]),
            rank_low=float(stability.low[i]),
            rank_high=float(stability.high[i]),
        )
        for i, means in enumerate(evidence.seed_means)
    ]
    return tuple(sorted(rows, key=lambda row: (row.rank, row.entry)))
