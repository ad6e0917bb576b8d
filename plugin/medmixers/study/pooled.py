"""Metrics of all cases together, such as AUROC, on bootstrap draws of the cases, by counts instead of copies.

A draw is a vector of counts, one per case, so each metric is computed for many draws at once. Every function takes the
probabilities (cases, classes), the class of each case (cases,) and counts (draws, cases), and returns (draws,). Macro
means are over the classes that a draw holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medmixers.progress import progress
from medmixers.study.auroc import CHUNK, class_aurocs, macro_auroc

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
BINS = 15  # of the calibration error, as in Guo et al. 2017


def average_precision(probabilities: Array, labels: Labels, counts: Array) -> Array:
    """Macro average precision: sum over thresholds of (recall step) x precision, tied scores as one threshold."""
    return _mean_of_known(_class_precisions(probabilities, labels, counts))


def _class_precisions(probabilities: Array, labels: Labels, counts: Array) -> Array:
    return np.stack(
        [_average_precision(probabilities[:, c], labels == c, counts) for c in range(probabilities.shape[1])]
    )


def _average_precision(scores: Array, positive: NDArray[np.bool_], counts: Array) -> Array:
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    drawn = counts[:, order]
    found = np.cumsum(drawn * positive[order], axis=1)[:, ends]
    called = np.cumsum(drawn, axis=1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, found / called, 0)
        return (np.diff(found, axis=1, prepend=0) * precision).sum(axis=1) / found[:, -1]


def balanced_accuracy(probabilities: Array, labels: Labels, counts: Array) -> Array:
    """Mean over the classes of the share of their cases that were recognised."""
    hit, true, _ = _hits(probabilities, labels, counts)
    with np.errstate(invalid="ignore"):
        return _mean_of_known((hit / true).T)


def macro_f1(probabilities: Array, labels: Labels, counts: Array) -> Array:
    """Mean over the classes of F1 = 2 TP / (predicted + true)."""
    return _mean_of_known(_class_f1(probabilities, labels, counts))


def _class_f1(probabilities: Array, labels: Labels, counts: Array) -> Array:
    hit, true, called = _hits(probabilities, labels, counts)
    with np.errstate(invalid="ignore"):
        return np.where(true > 0, 2 * hit / (called + true), np.nan).T


def _hits(probabilities: Array, labels: Labels, counts: Array) -> tuple[Array, Array, Array]:
    """Recognised, true and predicted cases of each class, (draws, classes) each."""
    classes = np.eye(probabilities.shape[1])
    true, called = classes[labels], classes[probabilities.argmax(axis=1)]
    return counts @ (true * called), counts @ true, counts @ called


def calibration_error(probabilities: Array, labels: Labels, counts: Array) -> Array:
    """Expected calibration error of the predicted class, 15 bins of equal width (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    in_bin = np.eye(BINS)[bins_of(confidence)]
    gaps = np.abs(counts @ (in_bin * (correct - confidence)[:, None]))
    return gaps.sum(axis=1) / counts.sum(axis=1)


def bins_of(confidence: Array) -> NDArray[np.int64]:
    """Number of each confidence's bin, 0 to 14; a bin holds its upper end."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def _mean_of_known(per_class: Array) -> Array:
    known = np.isfinite(per_class)
    with np.errstate(invalid="ignore"):
        return np.where(known, per_class, 0).sum(axis=0) / known.sum(axis=0)


POOLED: dict[str, Callable[[Array, Labels, Array], Array]] = {
    "auroc": macro_auroc,
    "average_precision": average_precision,
    "balanced_accuracy": balanced_accuracy,
    "f1": macro_f1,
    "ece": calibration_error,
}
PER_CLASS: dict[str, Callable[[Array, Labels, Array], Array]] = {  # (classes, draws)
    "auroc": class_aurocs,
    "average_precision": _class_precisions,
    "f1": _class_f1,
}


def draw_counts(groups: Labels, draws: int, rng: np.random.Generator) -> Iterator[Array]:
    """Counts of every case in bootstrap draws of whole groups, (up to 256 draws, cases) at a time.

    Args:
        groups: number of the group of each case, 0 to G - 1; cases of one group are drawn together.
        draws: how many draws in all.
        rng: source of randomness.
    """
    number = int(groups.max()) + 1
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        drawn = rng.multinomial(number, np.full(number, 1 / number), size=size)
        yield drawn[:, groups].astype(np.float64)


def bootstrap(metric: str, models: Sequence[Array], labels: Labels, *, groups: Labels, draws: int, seed: int) -> Array:
    """A pooled metric of several models on the same draws of cases.

    Args:
        metric: key of :data:`POOLED`.
        models: probabilities of each, (cases, classes).
        labels: (cases,).
        groups: of the cases, (cases,).
        draws: number of draws; Keuth et al. 2025 use 5000.
        seed: of the draws.

    Returns:
        (draws, models).
    """
    rng = np.random.default_rng(seed)
    parts = [
        np.stack([POOLED[metric](model, labels, counts) for model in models], axis=1)
        for counts in progress(draw_counts(groups, draws, rng), "bootstrap", total=-(-draws // CHUNK))
    ]
    return np.concatenate(parts)
