"""Measures of uncertainty from class probabilities, as NumPy arrays.

Probabilities are (K, ...). Exclusive classes sum to 1; labels that may overlap have a probability each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Array = NDArray[Any]  # of float32

SMALLEST = 1e-12  # probabilities are cut here before a logarithm
LEVEL = 0.9  # of the interval of a volume


class Size(NamedTuple):
    """Voxels of a structure.

    Args:
        labelled: in the label map.
        low, high: ends of the interval at LEVEL.
    """

    labelled: float
    low: float
    high: float


def entropy(probabilities: Array, *, exclusive: bool) -> Array:
    """Entropy in nats, (...): of the class; of labels that may overlap the sum over the labels."""
    terms = entr(probabilities) if exclusive else entr(probabilities) + entr(1 - probabilities)
    return terms.sum(axis=0).astype(np.float32)


def tempered(probabilities: Array, temperature: float, *, exclusive: bool) -> Array:
    """The probabilities of logits that are divided by ``temperature`` (Guo et al. 2017). The decision stays the same.

    Logits are known from probabilities up to a constant, which the softmax ignores: so this scales means of several
    predictions too (Rahaman and Thiery 2021: pool first, then calibrate).
    """
    p = np.clip(probabilities, SMALLEST, 1).astype(np.float32)
    if exclusive:
        scaled = np.log(p) / temperature
        powers = np.exp(scaled - scaled.max(axis=0))
        return (powers / powers.sum(axis=0)).astype(np.float32)
    q = np.clip(1 - probabilities, SMALLEST, 1).astype(np.float32)
    return (1 / (1 + np.exp((np.log(q) - np.log(p)) / temperature))).astype(np.float32)


def normalised(probabilities: Array) -> Array:
    """Exclusive probabilities that sum to 1 in each voxel; where the preprocessing cut voxels off, the background."""
    total = probabilities.sum(axis=0)
    whole = probabilities / np.where(total > 0, total, 1)
    whole[0][total <= 0] = 1
    return whole.astype(np.float32)


def decisions(probabilities: Array, *, exclusive: bool) -> NDArray[np.bool_]:
    """(K, ...): the class of each voxel as a mask per class, or the labels with a probability of at least 0.5."""
    if not exclusive:
        return probabilities >= 0.5
    chosen = probabilities.argmax(axis=0)
    return np.stack([chosen == number for number in range(len(probabilities))])


def predicted_dice(probability: Array, mask: NDArray[np.bool_], weights: NDArray[Any] | None = None) -> float | None:
    """Soft Dice Confidence, 2 sum(p m) / sum(p + m): the expected Dice of a mask if voxels err independently.

    Borges, Pacheco and Silva 2024 (arXiv 2402.10665) prove it nearly equal to the expectation of Dice under the
    probabilities. It is only as right as these: calibrate them.

    Args:
        probability: of the structure, calibrated.
        mask: the prediction, of the same shape.
        weights: how many voxels each of these stands for; None for one each.

    Returns:
        None where nothing is predicted, as Dice is then 0 or not defined.
    """
    w = 1.0 if weights is None else weights
    if not mask.any():
        return None
    both = float((w * probability * mask).sum(dtype=np.float64))
    return 2 * both / float((w * (probability.astype(np.float64) + mask)).sum())


def size_interval(probability: Array, mask: NDArray[np.bool_], weights: NDArray[Any] | None = None) -> Size:
    """Voxels of a structure, and their interval if all voxels err together.

    With one uniform u for all voxels, the structure is {p >= u}: then 90 % of the volumes lie between those of
    {p >= 0.95} and {p >= 0.05}. Neighbours do err together: voxels that err independently would give an interval that
    is far too narrow. No dependence gives a larger variance than this one. The interval contains the label map.
    """
    w = np.ones(1) if weights is None else weights
    tail = (1 - LEVEL) / 2

    def count(chosen: NDArray[np.bool_]) -> float:
        return float((w * chosen).sum(dtype=np.float64))

    labelled = count(mask)
    return Size(labelled, min(labelled, count(probability >= 1 - tail)), max(labelled, count(probability >= tail)))
