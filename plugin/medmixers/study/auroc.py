"""Exact paired bootstrap of the macro one-vs-rest AUROC, by counts instead of copies of the cases.

A draw of the bootstrap is a vector of counts w, one per case. For one class and one entry, the number of pairs in which
a positive case scores above a negative one, ties counted half, is

    U(w) = sum over negatives j of w_j (weight of positives above j + half the weight of positives tied with j),

so the positives are sorted once and every draw is two look-ups in a reversed running sum. AUROC = U / (W+ W-).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError

Array = NDArray[np.float64]
CHUNK = 256  # draws at a time: their counts stay in the cache


def macro_auroc(probabilities: Array, labels: NDArray[np.int64], weights: Array | None = None) -> Array:
    """Macro one-vs-rest AUROC of every draw.

    Args:
        probabilities: of one entry, (cases, classes).
        labels: class of each case, (cases,).
        weights: counts of each case in each draw, (draws, cases); None is one draw with every case once.

    Returns:
        (draws,); a class without a positive or a negative case in a draw is left out of that draw's mean, and NaN
        where no class is left.

    Raises:
        InputError: shapes that do not fit, or a label without a column.
    """
    per_class = class_aurocs(probabilities, labels, weights)
    present = np.isfinite(per_class)
    total = np.where(present, per_class, 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return total / present.sum(axis=0)


def class_aurocs(probabilities: Array, labels: NDArray[np.int64], weights: Array | None = None) -> Array:
    """As :func:`macro_auroc`, each class by itself, (classes, draws); NaN without a positive or a negative case."""
    cases, classes = probabilities.shape
    if labels.shape != (cases,) or labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise InputError(
            f"{cases} cases with {classes} probabilities need as many labels from 0 to {classes - 1}, "
            f"got {labels.shape} from {labels.min(initial=0)} to {labels.max(initial=0)}"
        )
    counts = np.ones((1, cases)) if weights is None else np.asarray(weights, np.float64)
    return np.stack([_auroc(probabilities[:, c], labels == c, counts) for c in range(classes)])


def _auroc(scores: Array, positive: NDArray[np.bool_], counts: Array) -> Array:
    """AUROC of one class in every draw; NaN where a draw has no positive or no negative case."""
    if positive.all() or not positive.any():
        return np.full(len(counts), np.nan)
    order = np.argsort(scores[positive], kind="stable")
    sorted_scores = scores[positive][order]
    negatives = scores[~positive]
    left = np.searchsorted(sorted_scores, negatives, "left")
    right = np.searchsorted(sorted_scores, negatives, "right")
    result = np.empty(len(counts))
    for start in range(0, len(counts), CHUNK):
        part = counts[start : start + CHUNK]
        of_positives = part[:, positive][:, order]
        tail = np.zeros((len(part), len(order) + 1))
        tail[:, :-1] = np.cumsum(of_positives[:, ::-1], axis=1)[:, ::-1]
        of_negatives = part[:, ~positive]
        above = ((tail[:, left] + tail[:, right]) / 2 * of_negatives).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            result[start : start + CHUNK] = above / (tail[:, 0] * of_negatives.sum(axis=1))
    return result
