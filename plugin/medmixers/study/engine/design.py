"""Can the planned study answer its question? Detectable difference, and reasons to refuse. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmixers.errors import InputError
from medmixers.study.means import common_groups
from medmixers.study.statistics import LEAST_SEEDS, planned_detectable
from medmixers.study.table import read_scores

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a score.

    Args:
        seed: of an entry's mean over all cases, between trainings.
        residual: of one training on one case, around the means of entry and case.
        source: where they come from.
    """

    seed: float
    residual: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Design:
    """A planned comparison on one data set.

    Args:
        cases: groups of test cases; None where the data is missing.
        seeds: trainings per entry.
        comparisons: pairs, or entries against the control.
        margin, alpha: of the question.
        spread: None where it is unknown.
    """

    cases: int | None
    seeds: int
    comparisons: int
    margin: float
    alpha: float
    spread: Spread | None

    def detectable(self, seeds: int | None = None) -> float | None:
        """Smallest difference that a pair's corrected test finds with 80 % power; None without a spread."""
        if self.spread is None or self.cases is None or self.cases < 2:
            return None
        return planned_detectable(
            cases=self.cases, seeds=seeds or self.seeds, residual_sd=self.spread.residual, seed_sd=self.spread.seed,
            alpha=self.alpha / self.comparisons,
        )  # fmt: skip

    def seeds_needed(self) -> int | None:
        """Fewest seeds, at least 3, with which the margin is detectable; None where 1000 are too few."""
        low, high = LEAST_SEEDS, MOST_SEEDS
        if (self.detectable(high) or 0) > self.margin:
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if (self.detectable(middle) or 0) <= self.margin else (middle + 1, high)
        return low

    def refusals(self) -> list[str]:
        """Reasons why the study cannot answer its question; empty for a sound design."""
        reasons = []
        if self.seeds < LEAST_SEEDS:
            reasons.append(
                f"{self.seeds} seed(s) per entry cannot tell whether a mixer matters when it is trained again; "
                f"at least {LEAST_SEEDS} are needed"
            )
        needed = cases_needed(self.alpha, self.comparisons)
        if self.cases is not None and self.cases < needed:
            reasons.append(
                f"{self.cases} independent test cases are too few: with Holm's correction for {self.comparisons} "
                f"comparison(s) Wilcoxon's test needs at least {needed}"
            )
        detectable = self.detectable()
        if detectable is not None and detectable > self.margin and self.seeds >= LEAST_SEEDS:
            seeds = self.seeds_needed()
            more = f"{seeds} seeds would do" if seeds else f"not even {MOST_SEEDS} seeds would do"
            reasons.append(
                f"the smallest difference that {self.seeds} seeds find with 80 % power is {detectable:.4g}, above the "
                f"margin {self.margin:g}; {more}"
            )
        return reasons


def cases_needed(alpha: float, comparisons: int) -> int:
    """Fewest cases with which Wilcoxon's exact test can pass Holm's first step: 2 / 2^n <= alpha / comparisons."""
    n = 1
    while 2.0 ** (1 - n) > alpha / comparisons:
        n += 1
    return n


def comparisons(entries: int, *, control: bool) -> int:
    """Number of comparisons of so many entries."""
    return max(1, entries - 1 if control else entries * (entries - 1) // 2)


def pilot_spread(file: Path, *, dataset: str, metric: str) -> Spread:
    """Standard deviations from a table of scores of a pilot, pooled over its entries with two seeds or more.

    For an entry with S seeds on n cases: the residual is what remains after the means of seeds and cases are taken
    off; the seeds' variance is that of their means, less the residual's share, residual^2 / n.

    Raises:
        InputError: no such metric, or no entry with two seeds.
    """
    tables = [table for table in read_scores(file) if table.metric in ("", metric)]
    own = [table for table in tables if table.dataset in ("", dataset)] or tables
    if len(own) != 1:
        raise InputError(f"{file} has {len(own)} tables of {metric!r} for data set {dataset!r}; one is needed")
    residuals, means = [], []
    found, known = common_groups(own[0])
    for values in found:
        grouped = values[:, known]
        seeds, n = grouped.shape
        if seeds < 2 or n < 2:
            continue
        rest = grouped - grouped.mean(axis=0) - grouped.mean(axis=1, keepdims=True) + grouped.mean()
        residuals.append(float((rest**2).sum() / ((seeds - 1) * (n - 1))))
        means.append(max(0.0, float(grouped.mean(axis=1).var(ddof=1)) - residuals[-1] / n))
    if not residuals:
        raise InputError(f"{file} has no entry with 2 seeds on 2 cases: the spread of trainings is unknown")
    return Spread(float(np.sqrt(np.mean(means))), float(np.sqrt(np.mean(residuals))), str(file))
