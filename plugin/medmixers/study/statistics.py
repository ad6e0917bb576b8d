"""Paired comparison of two entries over the same cases and several seeds each. Needs NumPy and SciPy alone.

``scores`` are (seeds, cases) for each entry: score[s, c] of the training with seed s on case c, higher is better. Seeds
are nested in entries: seed 0 of one entry has nothing in common with seed 0 of another. Cases that belong together
(one patient, one slide) are averaged first by :func:`average_groups`, so n counts groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

from medmixers.errors import InputError
from medmixers.study.differences import decimal_places, difference, paired_difference, rounded

Array = NDArray[np.float64]
VERDICTS = ("better", "worse", "equivalent", "undecided", "underpowered")
POWER = 0.8
LEAST_SEEDS = 3
POWER_NODES = 200
BAYES_CHUNK = 1000  # draws at a time


def average_groups(scores: Array, groups: NDArray[np.int64]) -> Array:
    """Mean over the cases of each group, (..., cases) -> (..., groups). NaN cases are left out.

    Args:
        scores: (..., cases).
        groups: number of the group of each case, 0 to G - 1.
    """
    member = np.eye(int(groups.max()) + 1)[groups]  # (cases, groups)
    known = np.isfinite(scores)
    with np.errstate(invalid="ignore"):
        return (np.where(known, scores, 0) @ member) / (known @ member)


def holm(pvalues: Array) -> Array:
    """P values adjusted by Holm's step-down method, in the given order."""
    order = np.argsort(pvalues)
    steps = np.maximum.accumulate(pvalues[order] * (len(pvalues) - np.arange(len(pvalues))))
    adjusted = np.empty(len(pvalues))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


@dataclass(frozen=True)
class Difference:
    """Mean difference of two entries when both are trained again (Q2), as a t distribution.

    Args:
        mean: first minus second.
        error: standard error, of cases and of both entries' seeds.
        df: degrees of freedom (Satterthwaite).
        cases: cases, or groups of them.
        seeds: of each entry.
    """

    mean: float
    error: float
    df: float
    cases: int
    seeds: tuple[int, int]

    def pvalue(self) -> float:
        """Two-sided p value of no difference."""
        return float(2 * t.sf(abs(self._statistic(0)), self.df))

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Two-sided confidence interval."""
        reach = float(t.ppf(1 - alpha / 2, self.df)) * self.error
        return self.mean - reach, self.mean + reach

    def equivalence_pvalue(self, margin: float) -> float:
        """Larger p value of the two one-sided tests (TOST) that the difference exceeds ``margin`` either way."""
        return float(max(t.sf(self._statistic(-margin), self.df), t.cdf(self._statistic(margin), self.df)))

    def detectable(self, alpha: float = 0.05, power: float = POWER) -> float:
        """Smallest true difference that the two-sided test finds with this power."""
        return detectable_difference(self.error, self.df, alpha=alpha, power=power)

    def _statistic(self, null: float) -> float:
        if self.error == 0:
            return float(np.sign(self.mean - null)) * np.inf if self.mean != null else 0.0
        return (self.mean - null) / self.error


def retrained_difference(first: Array, second: Array) -> Difference:
    """Mean difference of two entries over cases and seeds (Q2): does the mixer matter when trained again?

    The variance of the mean difference is var_case / n + s_i^2 / S_i + s_j^2 / S_j: the variance over cases of the
    seed-averaged difference, and the variance over seeds of each entry's mean over cases.

    Args:
        first, second: scores, (seeds, cases) each, the same cases in the same order; seeds may differ in number.

    Raises:
        InputError: other shapes, fewer than 2 common cases, or fewer than 3 seeds of an entry: one training per mixer
            tells two models apart, not two mixers.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise InputError(f"scores must be (seeds, cases) of the same cases, got {first.shape} and {second.shape}")
    seeds = len(first), len(second)
    if min(seeds) < LEAST_SEEDS:
        raise InputError(
            f"{min(seeds)} seed(s) per entry cannot tell whether a mixer matters when it is trained again; "
            f"at least {LEAST_SEEDS} are needed"
        )
    common = np.isfinite(first).all(axis=0) & np.isfinite(second).all(axis=0)
    n = int(common.sum())
    if n < 2:
        raise InputError(f"at least 2 cases with a score of every seed of both entries are needed, got {n}")
    first, second = first[:, common], second[:, common]
    of_cases = float(difference(first.mean(axis=0), second.mean(axis=0)).var(ddof=1) / n)
    return difference_of_means(first.mean(axis=1), second.mean(axis=1), case_variance=of_cases, cases=n)


def difference_of_means(first: Array, second: Array, *, case_variance: float, cases: int) -> Difference:
    """As :func:`retrained_difference`, for a score of all cases together, such as AUROC.

    Args:
        first, second: score of each seed, (seeds,).
        case_variance: variance of the difference of the seed-averaged scores when cases are drawn again, for example
            over bootstrap draws.
        cases: number of cases, or of groups.
    """
    parts = np.array([case_variance, first.var(ddof=1) / len(first), second.var(ddof=1) / len(second)])
    total = float(parts.sum())
    freedom = np.array([cases - 1, len(first) - 1, len(second) - 1])
    df = total**2 / float((parts**2 / freedom).sum()) if total else float(freedom.sum())
    seeds = len(first), len(second)
    mean = float(difference(first.mean(keepdims=True), second.mean(keepdims=True))[0])
    return Difference(mean, float(np.sqrt(total)), df, cases, seeds)


def detectable_difference(error: float, df: float, *, alpha: float = 0.05, power: float = POWER) -> float:
    """Smallest difference that a two-sided t test with this standard error finds with this power.

    The power is the mean of the normal one over the distribution of the estimated error, by Gauss-Legendre quadrature
    of its quantiles: SciPy's noncentral t gives NaN for few degrees of freedom and small alpha.
    """
    if error == 0:
        return 0.0
    nodes, weights = np.polynomial.legendre.leggauss(POWER_NODES)
    critical = float(t.ppf(1 - alpha / 2, df)) * np.sqrt(chi2.ppf((nodes + 1) / 2, df) / df)

    def lack(ratio: float) -> float:
        found = norm.cdf(ratio - critical) + norm.cdf(-ratio - critical)
        return float(found @ weights) / 2 - power

    highest = float(critical.max()) + 10
    return error * float(brentq(lack, 0, highest))


def planned_detectable(
    *, cases: int, seeds: int, residual_sd: float, seed_sd: float, alpha: float = 0.05, power: float = POWER
) -> float:
    """Smallest difference that a planned study finds, from standard deviations of a pilot or of other data.

    Args:
        cases: test cases, or groups of them.
        seeds: trainings per entry.
        residual_sd: of one training on one case, around the entry's and the case's mean.
        seed_sd: of an entry's mean over all cases, between trainings.
        alpha: two-sided level, already divided for several comparisons.
        power: wanted.
    """
    by_case, by_seed = 2 * residual_sd**2 / (cases * seeds), seed_sd**2 / seeds
    total = by_case + 2 * by_seed
    if seeds < 2:
        return float(norm.ppf(1 - alpha / 2) + norm.ppf(power)) * np.sqrt(total)
    df = total**2 / (by_case**2 / (cases - 1) + 2 * by_seed**2 / (seeds - 1)) if total else 1.0
    return detectable_difference(float(np.sqrt(total)), df, alpha=alpha, power=power)


def verdict(
    difference: Difference, *, margin: float, pvalue: float, equivalence_pvalue: float, alpha: float, detectable: float
) -> str:
    """One of :data:`VERDICTS` for the first entry against the second.

    "equivalent" comes first: a difference that is surely within the margin does not matter, even where it is
    significant. A difference that is not significant is "undecided" where the test could have found one of the margin's
    size, else "underpowered".

    Args:
        difference: of :func:`retrained_difference` or :func:`difference_of_means`.
        margin: largest difference that does not matter, in the score's units.
        pvalue: of no difference, adjusted for all comparisons.
        equivalence_pvalue: of a difference beyond the margin, adjusted likewise.
        alpha: level.
        detectable: smallest difference that the test would have found.
    """
    if equivalence_pvalue < alpha:
        return "equivalent"
    if pvalue < alpha:
        return "better" if difference.mean > 0 else "worse"
    return "undecided" if detectable <= margin else "underpowered"


@dataclass(frozen=True)
class Probabilities:
    """How probable it is that the first entry is better, practically the same, or worse."""

    better: float
    same: float
    worse: float


def bayesian_signed_rank(
    first: Array, second: Array, *, margin: float, draws: int = 20_000, prior: float = 0.5, seed: int = 0
) -> Probabilities:
    """Bayesian signed-rank test with a region of practical equivalence (Benavoli et al. 2017, section 4.2).

    The share of pairs of cases whose mean difference lies above, within or below the margin has a posterior by a
    Dirichlet process; a pseudo-case of difference 0 is the prior. Returned is how often each share is the largest.

    Args:
        first, second: scores of the same cases, (cases,).
        margin: half width of the region, in the score's units.
        draws: of the posterior.
        prior: weight of the pseudo-case.
        seed: of the draws.
    """
    differences = np.append(0.0, paired_difference(first, second))
    order = np.argsort(differences)
    ordered, places = differences[order], decimal_places(first, second)
    # of each case, from which place on, and up to which, its mean with another lies beyond the margin
    above = np.searchsorted(ordered, np.round(2 * margin - ordered, places), "right")
    below = np.searchsorted(ordered, np.round(-2 * margin - ordered, places), "left")
    shape = np.append(prior, np.ones(len(differences) - 1))
    rng = np.random.default_rng(seed)
    wins = np.zeros(3)
    for start in range(0, draws, BAYES_CHUNK):
        weights = rng.dirichlet(shape, size=min(BAYES_CHUNK, draws - start))[:, order]
        running = np.pad(np.cumsum(weights, axis=1), ((0, 0), (1, 0)))
        better = ((running[:, -1:] - running[:, above]) * weights).sum(axis=1)
        worse = (running[:, below] * weights).sum(axis=1)
        winner = np.argmax(np.stack([better, 1 - better - worse, worse]), axis=0)
        wins += np.bincount(winner, minlength=3)
    return Probabilities(*(float(share) for share in wins / draws))


def corrected_t_pvalue(differences: Array, *, test_share: float) -> float:
    """Two-sided p value of a mean over folds, with the variance of Nadeau and Bengio (2003).

    Args:
        differences: one per fold, (folds,).
        test_share: test cases over training cases of a fold, 0.25 in five folds.
    """
    folds = len(differences)
    variance = float(differences.var(ddof=1)) * (1 / folds + test_share)
    if variance == 0:
        return 1.0 if differences.mean() == 0 else 0.0
    return float(2 * t.sf(abs(differences.mean()) / np.sqrt(variance), folds - 1))


def discriminability(scores: Sequence[Array]) -> float:
    """How far a data set can tell entries apart: sd between entries over sd within them (Isensee et al. 2024).

    Args:
        scores: of each entry, the mean over cases of each seed, (seeds,).

    Returns:
        The ratio; below 1 the seeds scatter more than the entries differ. Infinity where the seeds do not scatter, NaN
        where the entries do not either.
    """
    between = float(np.sqrt(_variance(np.array([each.mean() for each in scores]))))
    within = float(np.sqrt(np.mean([_variance(each) for each in scores])))
    if within:
        return between / within
    return float("inf") if between else float("nan")


def _variance(values: Array) -> float:
    """Exactly 0 where all values are equal but for noise."""
    return float((rounded(values) - rounded(values)[0]).var(ddof=1))


def max_t_bands(estimates: Array, draws: Array, *, alpha: float = 0.05) -> tuple[Array, Array, Array]:
    """Simultaneous bands of several differences, and their p values adjusted by the largest |t| of each draw.

    Args:
        estimates: differences, (pairs,).
        draws: the same on bootstrap draws, (draws, pairs).
        alpha: that any true difference lies outside its band.

    Returns:
        Lower ends, upper ends and adjusted p values, (pairs,) each.
    """
    spread = draws.std(axis=0, ddof=1)
    safe = np.where(spread > 0, spread, 1)
    largest = (np.abs(draws - estimates) / safe).max(axis=1)
    reach = np.quantile(largest, 1 - alpha) * spread
    statistic = np.abs(estimates) / safe
    exceeded = (largest[:, None] >= statistic).sum(axis=0)
    pvalues = (1 + exceeded) / (1 + len(draws))
    return estimates - reach, estimates + reach, np.where((spread == 0) & (estimates == 0), 1, pvalues)
