"""Temperature scaling (Guo et al. 2017) of predictions with known labels, and how well calibrated they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.uncertainty.measures import SMALLEST, Array, decisions, tempered
from medmixers.errors import InputError

BINS = 15  # of confidence, equally wide, as in Guo et al.
SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 0.05, 20.0
# A trained network explains most of the classes' entropy; a random one can explain a few percent by chance.
LEAST_EXPLAINED = {"voxels": 0.1, "images": 0.0}
STRUCTURE = 0.01  # voxels with a structure of at least this probability count for the calibration error


class Sample(NamedTuple):
    """Voxels, or cases of a classification, with their truth.

    Args:
        probabilities: (K, n).
        truth: (K, n), which labels are there; exclusive ones once per column.
        weights: (n,), how many voxels each one stands for.
    """

    probabilities: Array
    truth: NDArray[np.bool_]
    weights: NDArray[np.float64]


class Bin(NamedTuple):
    """Predictions of similar confidence: their mean confidence, the share that was right, and their share of all."""

    confidence: float
    accuracy: float
    share: float


def joined(samples: Sequence[Sample]) -> Sample:
    """All of them as one."""
    p, truth, weights = zip(*samples, strict=True)
    return Sample(np.concatenate(p, axis=1), np.concatenate(truth, axis=1), np.concatenate(weights))


def draw(
    probabilities: Array, truth: NDArray[np.bool_], valid: NDArray[np.bool_], *, exclusive: bool, most: int, seed: int
) -> Sample:
    """Voxels of a case: at most ``most`` where a structure is likely or true, and as many of the others.

    The weights make up for the drawing. Args: (K, *spatial) twice, and (*spatial) where the truth is known.
    """
    structures = slice(1, None) if exclusive else slice(None)
    near = (probabilities[structures] >= STRUCTURE).any(axis=0) | truth[structures].any(axis=0)
    rng, places, weights = np.random.default_rng(seed), [], []
    for stratum in (near & valid, ~near & valid):
        found = np.flatnonzero(stratum)
        chosen = found if len(found) <= most else np.sort(rng.choice(found, most, replace=False))
        places.append(chosen)
        weights.append(np.full(len(chosen), len(found) / max(len(chosen), 1)))
    index = np.concatenate(places)
    p, known = (values.reshape(len(values), -1)[:, index] for values in (probabilities, truth))
    return Sample(p.astype(np.float32), known.astype(bool), np.concatenate(weights))


def negative_log_likelihood(sample: Sample, *, exclusive: bool) -> float:
    """Weighted mean in nats; of labels that may overlap the sum over the labels."""
    p = np.clip(sample.probabilities.astype(np.float64), SMALLEST, 1)
    if exclusive:
        each = np.log((p * sample.truth).sum(axis=0))
    else:
        q = np.clip(1 - sample.probabilities.astype(np.float64), SMALLEST, 1)
        each = np.log(np.where(sample.truth, p, q)).sum(axis=0)
    return -float(np.average(each, weights=sample.weights))


def fit_temperature(sample: Sample, *, exclusive: bool, of: str) -> float:
    """The temperature with the smallest negative log-likelihood.

    Args:
        sample: the predictions.
        exclusive: whether the classes exclude each other.
        of: what the predictions are of, a key of LEAST_EXPLAINED.

    Raises:
        InputError: even with it, the probabilities explain hardly more than the frequencies of the classes do.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(
            scaled(sample, np.exp(log_temperature), exclusive=exclusive), exclusive=exclusive
        )

    ends = (np.log(SMALLEST_TEMPERATURE), np.log(LARGEST_TEMPERATURE))
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4})
    frequencies = np.average(sample.truth, axis=1, weights=sample.weights)[:, None]
    constant = sample._replace(probabilities=np.broadcast_to(frequencies, sample.truth.shape).astype(np.float32))
    explained = 1 - found.fun / max(negative_log_likelihood(constant, exclusive=exclusive), SMALLEST)
    if explained <= LEAST_EXPLAINED[of]:
        raise InputError(
            f"the probabilities explain {max(explained, 0):.0%} of the entropy of the classes: the network is not "
            "trained, or trained on other data, and its uncertainty means nothing"
        )
    return float(np.exp(found.x))


def scaled(sample: Sample, temperature: float, *, exclusive: bool) -> Sample:
    """The sample with the probabilities of another temperature."""
    return sample._replace(probabilities=tempered(sample.probabilities, temperature, exclusive=exclusive))


def reliability(sample: Sample, *, exclusive: bool, background: bool) -> list[Bin]:
    """Bins of the reliability diagram that are not empty.

    Confidence is the probability of the decision; of labels that may overlap, each label has a decision. Voxels where
    no structure has a probability of STRUCTURE or more are left out: nearly all of an image is surely background.

    Args:
        sample: the predictions.
        exclusive: whether the classes exclude each other.
        background: whether exclusive class 0 is the background of voxels.
    """
    confidence, right, weights = _decided(sample, exclusive=exclusive, background=background)
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    total = weights.sum()
    bins = []
    for index in range(BINS):
        inside = number == index
        if (mass := weights[inside].sum()) > 0:
            sure, good = (float(np.average(each[inside], weights=weights[inside])) for each in (confidence, right))
            bins.append(Bin(sure, good, float(mass / total)))
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3)."""
    return sum(each.share * abs(each.accuracy - each.confidence) for each in bins)


def _decided(sample: Sample, *, exclusive: bool, background: bool) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Confidence, whether the decision is right, and weight, (m,) each."""
    p, weights = sample.probabilities, sample.weights
    chosen = decisions(p, exclusive=exclusive)
    if not exclusive:
        likely = p >= STRUCTURE
        confidence = np.maximum(p, 1 - p)
        return confidence[likely], (chosen == sample.truth)[likely], np.broadcast_to(weights, p.shape)[likely]
    near: Any = (p[1:] >= STRUCTURE).any(axis=0) if background else np.ones(p.shape[1], bool)
    right: Any = (chosen & sample.truth).any(axis=0)
    return p.max(axis=0)[near], right[near], weights[near]
