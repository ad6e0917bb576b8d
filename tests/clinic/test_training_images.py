"""Images unlike those of the training: each kind of difference is named, and like images pass."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import mahalanobis

from medmixers.clinic.uncertainty.training_images import (
    FALSE_ALARMS,
    STATISTICS,
    ImageFacts,
    TrainingImages,
    feature_distance,
    intensity_statistics,
    summarise,
)


def facts(rng: np.random.Generator, count: int) -> list[ImageFacts]:
    mixing = np.random.default_rng(9).normal(size=(40, 40))  # features that depend on each other
    return [
        ImageFacts(
            spacing=np.array([1.0, 1.0, rng.uniform(2, 3)]),
            intensity=rng.normal(np.arange(2 * len(STATISTICS)).reshape(2, -1), 1.0),
            features=mixing @ rng.normal(size=40),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def reference() -> TrainingImages:
    found = summarise(facts(np.random.default_rng(0), 30), "encoder")
    assert found is not None
    return found


def test_like_images_pass_as_often_as_is_stated(reference: TrainingImages) -> None:
    images = facts(np.random.default_rng(1), 400)
    flagged = sum(bool(reference.differences(each)) for each in images)
    assert flagged <= 400 * 2 * FALSE_ALARMS * 3  # two checks, and a wide margin for one reference of 30 images


def test_each_difference_is_named(reference: TrainingImages) -> None:
    (like,) = facts(np.random.default_rng(2), 1)
    assert reference.differences(like) == []
    thick = ImageFacts(np.array([1, 1, 5.0]), like.intensity, like.features)
    low, high = reference.spacing[:, 2]
    expected = f"spacing 1 x 1 x 5 mm, in training 1 x 1 x {low:.2f} to 1 x 1 x {high:.2f}"
    assert reference.differences(thick) == [expected]
    bright = like.intensity.copy()
    bright[1, 3] += 30
    (said,) = reference.differences(ImageFacts(like.spacing, bright, like.features))
    assert said.startswith(f"intensities (50% quantile of channel 1 {bright[1, 3]:.3g}, expected ")
    assert like.features is not None
    (said,) = reference.differences(ImageFacts(like.spacing, like.intensity, like.features * 6))
    assert said.startswith("features of the network (distance ")
    (said,) = reference.differences(ImageFacts(like.spacing, like.intensity, None))
    assert said == "features of the network, which are not those of the calibration"


def test_a_file_keeps_it(reference: TrainingImages) -> None:
    again = TrainingImages.from_json(json.loads(json.dumps(reference.to_json())))
    for image in facts(np.random.default_rng(3), 20):
        assert again.differences(image) == reference.differences(image)
    with pytest.raises(ValueError, match="another shape"):
        TrainingImages.from_json({**reference.to_json(), "intensity": [[[1.0]], [[1.0]]]})


def test_too_few_images_are_no_reference() -> None:
    assert summarise(facts(np.random.default_rng(4), 4), "encoder") is None
    without = [ImageFacts(each.spacing, each.intensity, None) for each in facts(np.random.default_rng(5), 5)]
    found = summarise(without, "encoder")
    assert found is not None
    assert found.layer is None
    assert found.differences(without[0]) == []


def test_constant_statistics_do_not_flag_rounding() -> None:
    """A window of CT clips: its lowest quantile is the same in every image."""
    image = np.zeros((1, len(STATISTICS)))
    image[0, -2:] = 1.0, 0.2
    found = summarise([ImageFacts(np.ones(3), image, None)] * 6, None)
    assert found is not None
    assert found.differences(ImageFacts(np.ones(3), image + 1e-3, None)) == []
    assert found.differences(ImageFacts(np.ones(3), image + 0.5, None)) != []


def test_more_noise_than_in_training_is_seen() -> None:
    """Statistics of the demo's subjects: the spread of the noise is far below the range of the intensities."""
    mean = np.array([-2.83, -1.312, -0.565, 0.076, 0.743, 1.204, 1.771, 0.335])
    deviation = np.array([0.182, 0.03, 0.056, 0.05, 0.032, 0.074, 0.123, 0.024])
    rng = np.random.default_rng(8)
    images = [ImageFacts(np.ones(3), rng.normal(mean, deviation)[None], None) for _ in range(9)]
    found = summarise(images, None)
    assert found is not None
    for noise in (0.122, 0.741):
        (said,) = found.differences(ImageFacts(np.ones(3), np.append(mean[:-1], noise)[None], None))
        assert said.startswith(f"intensities (noise {noise}, expected ")
    assert found.differences(ImageFacts(np.ones(3), mean[None], None)) == []


def test_distance_is_mahalanobis_of_independent_features() -> None:
    rng = np.random.default_rng(6)
    mean, deviation, x = rng.normal(size=20), rng.uniform(1, 2, size=20), rng.normal(size=20)
    expected = mahalanobis(x, mean, np.diag(deviation**-2)) / np.sqrt(20)
    assert feature_distance(x, np.stack([mean, deviation])) == pytest.approx(expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_noise_is_found_beneath_anatomy(dims: int) -> None:
    """Immerkaer's estimate of white noise, of which it knows the standard deviation."""
    rng = np.random.default_rng(7)
    smooth: NDArray[np.float64] = 20 * ndimage.gaussian_filter(rng.normal(size=(48,) * dims), 6) + 5
    noisy = smooth + rng.normal(scale=0.3, size=smooth.shape)
    (row,) = intensity_statistics(noisy[None])
    assert row[-1] == pytest.approx(0.3, rel=0.1)
    np.testing.assert_allclose(row[:-1], np.quantile(noisy, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]))
    padded = np.pad(noisy, 8)[None]  # zeros around are no tissue
    np.testing.assert_allclose(intensity_statistics(padded)[0, :-1], row[:-1])
