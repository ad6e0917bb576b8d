"""Measures of uncertainty and calibration against their definitions: scipy, scikit-learn, torch, and sampling."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import log_loss

from medmixers.clinic.uncertainty import temperature as fitting
from medmixers.clinic.uncertainty.measures import (
    decisions,
    entropy,
    normalised,
    predicted_dice,
    size_interval,
    tempered,
)
from medmixers.clinic.uncertainty.temperature import Sample
from medmixers.errors import InputError

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=2, size=(3, 4, 5)).astype(np.float32)
SOFTMAX = torch.from_numpy(LOGITS).softmax(0).numpy()
SIGMOID = torch.from_numpy(LOGITS).sigmoid().numpy()


def sample_of(logits: NDArray[np.float32], chosen: NDArray[np.int64]) -> Sample:
    p = torch.from_numpy(logits).softmax(0).numpy()
    truth = np.stack([chosen == number for number in range(len(p))])
    return Sample(p, truth, np.ones(p.shape[1]))


def overconfident(count: int = 4000, factor: float = 2.5) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (3, n) that are ``factor`` times too large, and classes drawn from the right ones."""
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=(3, count)).astype(np.float32)
    p = torch.from_numpy(logits).softmax(0).numpy().T
    chosen = (p.cumsum(axis=1) > rng.uniform(size=(count, 1))).argmax(axis=1)
    return factor * logits, chosen


def test_entropy_is_that_of_scipy() -> None:
    np.testing.assert_allclose(entropy(SOFTMAX, exclusive=True), stats.entropy(SOFTMAX), rtol=1e-5)
    of_labels = stats.bernoulli(SIGMOID).entropy().sum(axis=0)
    np.testing.assert_allclose(entropy(SIGMOID, exclusive=False), of_labels, rtol=1e-5)
    assert entropy(np.array([[1.0], [0.0]], np.float32), exclusive=True) == 0


@pytest.mark.parametrize("value", [0.4, 1.0, 3.0])
def test_temperature_divides_the_logits(value: float) -> None:
    scaled = torch.from_numpy(LOGITS / value)
    np.testing.assert_allclose(tempered(SOFTMAX, value, exclusive=True), scaled.softmax(0), atol=1e-5)
    np.testing.assert_allclose(tempered(SIGMOID, value, exclusive=False), scaled.sigmoid(), atol=1e-5)
    for p, exclusive in ((SOFTMAX, True), (SIGMOID, False)):
        again = decisions(tempered(p, value, exclusive=exclusive), exclusive=exclusive)
        np.testing.assert_array_equal(again, decisions(p, exclusive=exclusive))


def test_voxels_that_were_cut_off_are_background() -> None:
    cut = np.array([[0.2, 0.0], [0.3, 0.0]], np.float32)
    np.testing.assert_allclose(normalised(cut), [[0.4, 1], [0.6, 0]], rtol=1e-6)


def test_predicted_dice_is_the_expected_dice() -> None:
    """Sampled: each voxel is of the structure with its probability, independently."""
    rng = np.random.default_rng(2)
    p = rng.beta(0.5, 0.8, size=600).astype(np.float32)
    mask = p >= 0.5
    drawn = rng.uniform(size=(4000, 600)) < p
    dice = 2 * (drawn & mask).sum(axis=1) / (drawn.sum(axis=1) + mask.sum())
    found = predicted_dice(p, mask)
    assert found == pytest.approx(dice.mean(), abs=2e-3)
    np.testing.assert_allclose(predicted_dice(p, mask, np.full(600, 7.0)), found)
    assert predicted_dice(p, mask & False) is None


def test_size_interval_is_that_of_voxels_that_err_together() -> None:
    """Sampled: one uniform number decides for all voxels."""
    rng = np.random.default_rng(3)
    p = rng.beta(0.5, 0.8, size=500).astype(np.float32)
    volumes = [(p >= u).sum() for u in rng.uniform(size=20000)]
    size = size_interval(p, p >= 0.5)
    assert size.labelled == (p >= 0.5).sum()
    np.testing.assert_allclose(np.quantile(volumes, [0.05, 0.95]), [size.low, size.high], atol=4)
    certain = size_interval(np.round(p), p >= 0.5)
    assert certain.low == certain.labelled == certain.high
    argmax = np.full(10, 0.04, np.float32)  # the likeliest of many classes
    assert size_interval(argmax, np.ones(10, bool)).high == 10


def test_the_fitted_temperature_is_that_of_torch() -> None:
    logits, chosen = overconfident()
    found = fitting.fit_temperature(sample_of(logits, chosen), exclusive=True, of="voxels")
    value = torch.ones((), requires_grad=True)
    optimizer = torch.optim.LBFGS([value], max_iter=100, line_search_fn="strong_wolfe")
    columns, target = torch.from_numpy(logits.T.copy()), torch.from_numpy(chosen)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(columns / value, target)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert found == pytest.approx(value.item(), rel=2e-3)
    assert 2.2 < found < 2.8


def test_likelihood_is_that_of_scikit_learn_and_weights_are_counts() -> None:
    sample = sample_of(*overconfident(200))
    plain = log_loss(sample.truth.argmax(axis=0), sample.probabilities.T, labels=[0, 1, 2])
    assert fitting.negative_log_likelihood(sample, exclusive=True) == pytest.approx(plain, rel=1e-5)
    counts = np.arange(200) % 3 + 1
    twice = Sample(*(np.repeat(each, counts, axis=1) for each in sample[:2]), np.ones(counts.sum()))
    weighted = sample._replace(weights=counts.astype(float))
    for measure in (
        lambda s: fitting.negative_log_likelihood(s, exclusive=True),
        lambda s: fitting.calibration_error(fitting.reliability(s, exclusive=True, background=False)),
    ):
        assert measure(weighted) == pytest.approx(measure(twice))


def test_calibration_error_by_hand() -> None:
    """Guo et al. 2017: the bins are (0, 1/15], (1/15, 2/15] ...; the mean gap, weighted by the share of each bin."""
    confidence = np.array([0.62, 0.65, 0.99, 0.98, 0.97], np.float32)
    p = np.stack([1 - confidence, confidence])
    truth = np.array([[1, 0, 0, 0, 1], [0, 1, 1, 1, 0]], bool)
    bins = fitting.reliability(Sample(p, truth, np.ones(5)), exclusive=True, background=False)
    assert [(round(each.confidence, 3), each.accuracy, each.share) for each in bins] == [
        (0.635, 0.5, 0.4),
        (0.98, pytest.approx(2 / 3), 0.6),
    ]
    assert fitting.calibration_error(bins) == pytest.approx(0.4 * 0.135 + 0.6 * (0.98 - 2 / 3), abs=1e-6)


def test_sure_background_is_left_out_of_the_error() -> None:
    p = np.array([[0.999, 0.4, 0.3], [0.001, 0.6, 0.7]], np.float32)
    truth = np.array([[1, 0, 1], [0, 1, 0]], bool)
    (near, far) = fitting.reliability(Sample(p, truth, np.ones(3)), exclusive=True, background=True)
    assert near.share + far.share == 1
    assert {near.confidence, far.confidence} == {np.float32(0.6), np.float32(0.7)}
    masks = fitting.reliability(Sample(p, truth, np.ones(3)), exclusive=False, background=False)
    assert sum(each.share for each in masks) == pytest.approx(1)
    assert max(each.confidence for each in masks) < 0.9995  # 0.001 of a mask is left out, its 0.999 is not


def test_calibration_lowers_the_error_of_overconfident_predictions() -> None:
    sample = sample_of(*overconfident())
    value = fitting.fit_temperature(sample, exclusive=True, of="voxels")
    errors = [
        fitting.calibration_error(fitting.reliability(each, exclusive=True, background=False))
        for each in (sample, fitting.scaled(sample, value, exclusive=True))
    ]
    assert errors[1] < 0.03 < 0.1 < errors[0]


def test_labels_that_overlap_are_fitted_too() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(scale=2, size=(2, 5000))
    truth = rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
    p = (1 / (1 + np.exp(-3 * logits))).astype(np.float32)
    found = fitting.fit_temperature(Sample(p, truth, np.ones(5000)), exclusive=False, of="voxels")
    assert found == pytest.approx(3, rel=0.1)


def test_what_explains_nothing_is_refused() -> None:
    _, chosen = overconfident()
    guess = sample_of(np.random.default_rng(5).normal(size=(3, len(chosen))).astype(np.float32), chosen)
    for of in fitting.LEAST_EXPLAINED:
        with pytest.raises(InputError, match=re.escape("the network is not trained")):
            fitting.fit_temperature(guess, exclusive=True, of=of)


def test_drawn_voxels_stand_for_all() -> None:
    """Few voxels are near a structure: all of them are kept, and the weights make up for the others."""
    p = np.zeros((2, 40, 40), np.float32)
    p[1, :3], truth = 0.3, np.zeros((2, 40, 40), bool)
    truth[1, 5, :10] = True
    truth[0] = ~truth[1]
    valid = np.ones((40, 40), bool)
    valid[39] = False
    p[0] = 1 - p[1]
    drawn = fitting.draw(p, truth, valid, exclusive=True, most=200, seed=0)
    assert len(drawn.weights) == 120 + 10 + 200
    assert drawn.weights.sum() == pytest.approx(39 * 40)
    assert (drawn.weights * drawn.truth[1]).sum() == 10
    assert (drawn.weights * (drawn.probabilities[1] > 0)).sum() == 120
