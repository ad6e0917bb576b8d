"""One effect over several sites: random effects (DerSimonian and Laird 1986) with the interval of Hartung and Knapp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from medmixers.errors import InputError
from medmixers.study.statistics import Difference

LEAST_SITES = 2


@dataclass(frozen=True)
class RandomEffects:
    """The mean effect over sites, and how far the sites differ.

    Args:
        difference: mean effect, its standard error (Hartung-Knapp) and sites - 1 degrees of freedom.
        sites: number of sites.
        tau: standard deviation of the true effects between sites (DerSimonian-Laird), in the score's units.
        i2: share of the variance of the sites' effects that is not chance, 0 to 1 (Higgins and Thompson 2002).
        q_pvalue: of equal true effects (Cochran's Q).
    """

    difference: Difference
    sites: int
    tau: float
    i2: float
    q_pvalue: float


def random_effects(differences: Sequence[Difference]) -> RandomEffects:
    """Join the differences of the same two entries on several sites.

    Weights are 1 / (variance + tau^2), with tau^2 by DerSimonian and Laird. The standard error is that of Hartung and
    Knapp, with t of sites - 1 degrees of freedom. It is not let below the one without their factor: the factor may be
    small by chance where sites are few (Roever et al. 2015).

    Args:
        differences: one per site.

    Raises:
        InputError: fewer than 2 sites.
    """
    sites = len(differences)
    if sites < LEAST_SITES:
        raise InputError(f"random effects need at least {LEAST_SITES} sites, got {sites}")
    effects = np.array([each.mean for each in differences])
    variances = np.array([each.error**2 for each in differences])
    floor = max(float(variances.max()) * 1e-9, 1e-18)  # a site without any spread would have infinite weight
    variances = np.maximum(variances, floor)
    fixed = 1 / variances
    q = float((fixed * (effects - _mean(effects, fixed)) ** 2).sum())
    scale = float(fixed.sum() - (fixed**2).sum() / fixed.sum())
    tau2 = max(0.0, (q - (sites - 1)) / scale)
    weights = 1 / (variances + tau2)
    mean = _mean(effects, weights)
    factor = float((weights * (effects - mean) ** 2).sum()) / (sites - 1)
    error = float(np.sqrt(max(1.0, factor) / weights.sum()))
    seeds = tuple(sum(each.seeds[k] for each in differences) for k in range(2))
    pooled = Difference(mean, error, sites - 1, sum(each.cases for each in differences), (seeds[0], seeds[1]))
    i2 = max(0.0, (q - (sites - 1)) / q) if q else 0.0
    return RandomEffects(pooled, sites, float(np.sqrt(tau2)), i2, float(chi2.sf(q, sites - 1)))


def _mean(effects: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float((weights * effects).sum() / weights.sum())
