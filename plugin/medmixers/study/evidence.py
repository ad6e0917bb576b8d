"""What the scores of one data set and metric say about entries and pairs of them, before any correction or verdict.

Two kinds: :class:`CaseEvidence` where every case has a score, such as Dice, and :class:`PooledEvidence` where only all
cases together have one, such as AUROC. In both, a higher value is better: the sign of other metrics is turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError
from medmixers.study.differences import difference, rounded
from medmixers.study.means import common_groups, counted, seed_means
from medmixers.study.pooled import bootstrap, draw_counts
from medmixers.study.probabilities import PooledScores
from medmixers.study.ranking import wilcoxon_points
from medmixers.study.signed_rank import Shift, signed_rank_shift
from medmixers.study.statistics import (
    Difference,
    Probabilities,
    bayesian_signed_rank,
    corrected_t_pvalue,
    difference_of_means,
    holm,
    max_t_bands,
    retrained_difference,
)
from medmixers.study.table import Scores

Array = NDArray[np.float64]
Pairs = Sequence[tuple[int, int]]
RANK_DRAWS = 2000
POOLED_DRAWS = 5000  # as Keuth et al. 2025


class Evidence(Protocol):
    """Of one data set and metric; entries go by their number.

    Args:
        cases: cases, or groups of cases, with a score of every seed of every entry.
        left_out: the others.
        seed_means: of each entry, the score of each training, (seeds,).
        correction: name of the correction of the trained models' p values.
    """

    cases: int
    left_out: int
    seed_means: list[Array]
    correction: str

    def shifts(self, pairs: Pairs, alpha: float) -> tuple[list[Shift], Array]:
        """Differences of the trained models on new cases (Q1), and their p values adjusted for all pairs."""

    def retrained(self, i: int, j: int) -> Difference:
        """Difference when both entries are trained again (Q2)."""

    def probabilities(self, i: int, j: int, margin: float) -> Probabilities:
        """How probable it is that one trained model is better, practically the same, or worse."""

    def fold_pvalue(self, i: int, j: int) -> float | None:
        """P value of the mean over folds (Nadeau and Bengio); None without folds."""

    def points(self) -> NDArray[np.int64]:
        """Significant wins of each entry's first seed, as Keuth et al. count them (Q0)."""

    def drawn_means(self) -> Array:
        """Scores when cases and seeds are drawn again, (draws, entries)."""


class CaseEvidence:
    """Of a metric with a score per case. Cases of one group are averaged first.

    Args:
        scores: of one data set and metric.
        seed: of the random draws.
        test_share: test cases over training cases of a fold; None without folds.

    Raises:
        InputError: fewer than 2 cases with a score of every seed of every entry.
    """

    correction = "Holm"

    def __init__(self, scores: Scores, seed: int, test_share: float | None = None) -> None:
        values, known = common_groups(scores)
        self.cases, self.left_out = counted(scores)
        if self.cases < 2:
            raise InputError(
                f"at least 2 cases with a score of every seed and entry are needed, got {self.cases} of {len(known)}"
                + _unequal(scores)
            )
        sign = -1.0 if scores.lower_is_better else 1.0
        self.values = [sign * each[:, known] for each in values]
        self.folds = None if scores.folds is None else scores.folds[known]
        self.test_share = test_share
        self.seed_means = [sign * each for each in seed_means(scores)]
        self.seed = seed

    def shifts(self, pairs: Pairs, alpha: float) -> tuple[list[Shift], Array]:
        means = [each.mean(axis=0) for each in self.values]
        shifts = [signed_rank_shift(means[i], means[j], alpha=alpha) for i, j in pairs]
        return shifts, holm(np.array([shift.pvalue for shift in shifts]))

    def retrained(self, i: int, j: int) -> Difference:
        return retrained_difference(self.values[i], self.values[j])

    def probabilities(self, i: int, j: int, margin: float) -> Probabilities:
        first, second = (self.values[k].mean(axis=0) for k in (i, j))
        return bayesian_signed_rank(first, second, margin=margin, seed=self.seed)

    def fold_pvalue(self, i: int, j: int) -> float | None:
        if self.test_share is None or self.folds is None or len(set(self.folds)) < 2:
            return None
        differences = difference(self.values[i].mean(axis=0), self.values[j].mean(axis=0))
        means = np.array([differences[self.folds == fold].mean() for fold in sorted(set(self.folds))])
        return corrected_t_pvalue(means, test_share=self.test_share)

    def points(self) -> NDArray[np.int64]:
        return wilcoxon_points(np.stack([each[0] for each in self.values]))

    def drawn_means(self) -> Array:
        rng = np.random.default_rng(self.seed)
        counts = np.concatenate(list(draw_counts(np.arange(self.cases), RANK_DRAWS, rng)))
        return np.stack([_with_drawn_seeds(counts @ each.T / self.cases, rng) for each in self.values], axis=1)


def _unequal(scores: Scores) -> str:
    """A case that some trainings lack rows of, where there is one."""
    lacking = [case for case, whole in zip(scores.cases, scores.whole, strict=True) if not whole]
    return f"; every training needs the same rows, of {lacking[0]} some have fewer" if lacking else ""


class PooledEvidence:
    """Of a metric of all cases together, by the paired bootstrap of the cases, whole groups at a time.

    Args:
        scores: probabilities of all trainings on one data set.
        seed: of the random draws.

    Raises:
        InputError: fewer than 2 groups of cases or classes.
    """

    correction = "max-T"

    def __init__(self, scores: PooledScores, seed: int) -> None:
        self.cases, self.left_out = counted(scores)
        if self.cases < 2 or len(set(scores.labels.tolist())) < 2:
            raise InputError(
                f"{scores.metric} needs at least 2 cases of 2 classes, got {self.cases} of "
                f"{', '.join(sorted({scores.classes[label] for label in scores.labels}))}"
            )
        sign = -1.0 if scores.lower_is_better else 1.0
        models = [model for entry in scores.probabilities for model in entry]
        ends = np.cumsum([len(entry) for entry in scores.probabilities])[:-1]
        drawn = bootstrap(scores.metric, models, scores.labels, groups=scores.groups, draws=POOLED_DRAWS, seed=seed)
        drawn = sign * drawn[np.isfinite(drawn).all(axis=1)]
        self.seed_means = [sign * each for each in seed_means(scores)]
        self.drawn = np.split(drawn, ends, axis=1)  # of each entry, (draws, seeds)
        self.means = np.stack([each.mean(axis=1) for each in self.drawn], axis=1)
        self.seed = seed

    def shifts(self, pairs: Pairs, alpha: float) -> tuple[list[Shift], Array]:
        of_entries = np.array([each.mean() for each in self.seed_means])
        estimates = difference(*(of_entries[list(side)] for side in zip(*pairs, strict=True)))
        draws = np.stack([difference(self.means[:, i], self.means[:, j]) for i, j in pairs], axis=1)
        low, high, adjusted = max_t_bands(estimates, draws, alpha=alpha)
        single = [max_t_bands(estimates[[k]], draws[:, [k]], alpha=alpha)[2][0] for k in range(len(pairs))]
        rows = zip(single, estimates, low, high, strict=True)
        return [
            Shift(float(p), float(d), float(a), float(b), self.cases, int(np.sign(d))) for p, d, a, b in rows
        ], adjusted

    def retrained(self, i: int, j: int) -> Difference:
        of_cases = float(difference(self.means[:, i], self.means[:, j]).var(ddof=1))
        first, second = self.seed_means[i], self.seed_means[j]
        return difference_of_means(first, second, case_variance=of_cases, cases=self.cases)

    def probabilities(self, i: int, j: int, margin: float) -> Probabilities:
        """Shares of the bootstrap draws."""
        differences = difference(self.means[:, i], self.means[:, j])
        better, worse = float((differences > margin).mean()), float((differences < -margin).mean())
        return Probabilities(better, 1 - better - worse, worse)

    def fold_pvalue(self, i: int, j: int) -> float | None:
        return None

    def points(self) -> NDArray[np.int64]:
        """One point for each entry over which the 95 % percentile interval of the difference excludes 0."""
        first = rounded(np.stack([each[:, 0] for each in self.drawn], axis=1))
        lows = [[np.percentile(a - b, 2.5) for b in first.T] for a in first.T]
        return (np.array(lows) > 0).sum(axis=1)

    def drawn_means(self) -> Array:
        rng = np.random.default_rng(self.seed)
        return np.stack([_with_drawn_seeds(each[:RANK_DRAWS], rng) for each in self.drawn], axis=1)


def _with_drawn_seeds(values: Array, rng: np.random.Generator) -> Array:
    """Mean over seeds drawn again in each draw, (draws, seeds) -> (draws,)."""
    chosen = rng.integers(values.shape[1], size=values.shape)
    return np.take_along_axis(values, chosen, axis=1).mean(axis=1)
