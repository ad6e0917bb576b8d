"""The mean of an entry: the one rule, for the ranking, the other metrics, and every figure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError
from medmixers.study.probabilities import PooledScores
from medmixers.study.statistics import average_groups
from medmixers.study.table import Scores

Array = NDArray[np.float64]


def common_groups(scores: Scores) -> tuple[list[Array], NDArray[np.bool_]]:
    """Scores of each entry, (seeds, groups), and which groups count: those that every training has in whole, (groups,).

    A group is left out where a training lacks a row of one of its cases, or has no score of it at all. A group of cases
    has the mean of those with a score.
    """
    values = [average_groups(each, scores.groups) for each in scores.values]
    known = np.all([np.isfinite(each).all(axis=0) for each in values], axis=0)
    known[scores.groups[~scores.whole]] = False
    return values, known


def seed_means(scores: Scores | PooledScores) -> list[Array]:
    """The score of each training of each entry, (seeds,): an entry's mean is the mean of these.

    A metric with a score per case is averaged over the groups that every training has. A metric of all cases together
    is computed once over the cases of all folds.

    Raises:
        InputError: no group has a score of every training.
    """
    if isinstance(scores, PooledScores):
        once = np.ones((1, len(scores.labels)))
        return [np.array([scores.measure(model, once)[0] for model in entry]) for entry in scores.probabilities]
    values, known = common_groups(scores)
    if not known.any():
        raise InputError(f"no case has a {scores.metric or 'score'} of every training")
    return [each[:, known].mean(axis=1) for each in values]


def entry_means(scores: Scores | PooledScores) -> dict[str, float]:
    """Entry -> its mean; empty where no group has a score of every training."""
    try:
        return {name: float(each.mean()) for name, each in zip(scores.entries, seed_means(scores), strict=True)}
    except InputError:
        return {}


def training_means(scores: Scores | PooledScores) -> tuple[list[Array], bool]:
    """As :func:`seed_means`, but one number per seed and fold where each group lies in one fold; and whether it does.

    A metric of all cases together has one number per seed: that of a fold is another quantity.
    """
    if isinstance(scores, PooledScores) or scores.folds is None:
        return seed_means(scores), False
    values, known = common_groups(scores)
    parts = [known & (scores.folds == fold) for fold in sorted(set(scores.folds[known]))]
    return [np.concatenate([each[:, part].mean(axis=1) for part in parts]) for each in values], True


def compared_cases(scores: Scores | PooledScores) -> list[str]:
    """Names of the cases of the groups that every training has."""
    if isinstance(scores, PooledScores):
        return list(scores.cases)
    known = common_groups(scores)[1][scores.groups]
    return [case for case, counts in zip(scores.cases, known, strict=True) if counts]


def counted(scores: Scores | PooledScores) -> tuple[int, int]:
    """Groups that every training has, and the others, which are left out."""
    if isinstance(scores, PooledScores):
        return len(set(scores.groups.tolist())), scores.left_out
    _, known = common_groups(scores)
    return int(known.sum()), int((~known).sum())
