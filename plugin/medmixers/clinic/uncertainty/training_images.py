"""Whether an image is like those that a model was trained on: spacing, intensities, and features of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
STATISTICS = (*(f"{quantile:.0%} quantile" for quantile in QUANTILES), "noise")
FEWEST = 5  # images; with fewer there is no spread to compare with
LEAST_SPREAD = 0.005  # of an intensity, as a part of the range of intensities; of noise, as a part of the noise
SPACING_TOLERANCE = 0.1  # a spacing may lie this far, as a part of it, outside those of the training
FALSE_ALARMS = 0.01  # of the intensities, and again of the features, if these are normal


@dataclass(frozen=True)
class ImageFacts:
    """What is compared of an image.

    Args:
        spacing: millimetres along the patient's axes; of a picture along its own.
        intensity: (channels, statistics) of the preprocessed image, see STATISTICS.
        features: (C,), means over the image of the deepest feature map; None where the network has none.
    """

    spacing: Vector
    intensity: Vector
    features: Vector | None


@dataclass(frozen=True)
class TrainingImages:
    """The facts of a model's training images, as means and standard deviations.

    Args:
        count: of images.
        spacing: (2, axes), the smallest and the largest.
        intensity: (2, channels, statistics), mean and standard deviation.
        features: (2, C), mean and standard deviation; None without features.
        distance: mean and standard deviation of the logarithm of an image's distance from the others.
        layer: name of the module whose output the features are.
    """

    count: int
    spacing: Vector
    intensity: Vector
    features: Vector | None
    distance: tuple[float, float] | None
    layer: str | None

    def differences(self, image: ImageFacts) -> list[str]:
        """In words, what of an image the training images have not; empty for one that is like them."""
        return [*self._spacing(image), *self._intensity(image), *self._features(image)]

    def _spacing(self, image: ImageFacts) -> list[str]:
        low, high = self.spacing[0] * (1 - SPACING_TOLERANCE), self.spacing[1] * (1 + SPACING_TOLERANCE)
        if ((image.spacing >= low) & (image.spacing <= high)).all():
            return []
        smallest, largest = (_by(each) for each in self.spacing)
        known = smallest if smallest == largest else f"{smallest} to {largest}"
        return [f"spacing {_by(image.spacing)} mm, in training {known}"]

    def _intensity(self, image: ImageFacts) -> list[str]:
        mean, deviation = self.intensity
        # a statistic that is the same in all images, such as the end of a window, has no spread of its own
        least = np.repeat(np.abs(mean[:, -2:-1] - mean[:, :1]) * LEAST_SPREAD, len(STATISTICS), axis=1)
        least[:, -1] = mean[:, -1] * LEAST_SPREAD
        deviation = np.maximum(deviation, least + 1e-9)
        reach = _factor(self.count, FALSE_ALARMS / mean.size / 2) * deviation
        beyond = np.abs(image.intensity - mean) / reach
        channel, number = np.unravel_index(int(beyond.argmax()), beyond.shape)
        if beyond[channel, number] <= 1:
            return []
        ends = (mean[channel, number] + sign * reach[channel, number] for sign in (-1, 1))
        of = f" of channel {channel}" if len(mean) > 1 else ""
        value = image.intensity[channel, number]
        return [f"intensities ({STATISTICS[number]}{of} {value:.3g}, expected {' to '.join(f'{e:.3g}' for e in ends)})"]

    def _features(self, image: ImageFacts) -> list[str]:
        if self.features is None or self.distance is None:
            return []
        if image.features is None:
            return ["features of the network, which are not those of the calibration"]
        found = feature_distance(image.features, self.features)
        mean, deviation = self.distance
        limit = float(np.exp(mean + _factor(self.count, FALSE_ALARMS) * max(deviation, 0.05)))
        return [] if found <= limit else [f"features of the network (distance {found:.2g}, limit {limit:.2g})"]

    def to_json(self) -> dict[str, Any]:
        """As JSON data, rounded."""
        return {
            "count": self.count,
            "spacing": _rounded(self.spacing),
            "intensity": _rounded(self.intensity),
            "features": None if self.features is None else _rounded(self.features),
            "distance": self.distance,
            "layer": self.layer,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainingImages:
        """The opposite of :meth:`to_json`. Raises KeyError, TypeError or ValueError for other data."""
        features, distance = data["features"], data["distance"]
        read = cls(
            count=int(data["count"]),
            spacing=np.array(data["spacing"], np.float64),
            intensity=np.array(data["intensity"], np.float64),
            features=None if features is None else np.array(features, np.float64),
            distance=None if distance is None else (float(distance[0]), float(distance[1])),
            layer=data["layer"],
        )
        if read.spacing.ndim != 2 or read.intensity.ndim != 3 or read.intensity.shape[2] != len(STATISTICS):
            raise ValueError("statistics of another shape")
        return read


def summarise(images: Sequence[ImageFacts], layer: str | None) -> TrainingImages | None:
    """The training images' facts; None where there are fewer than FEWEST.

    The distance of each one is from the others without it, so that it is that of an image which was not seen.
    """
    if len(images) < FEWEST:
        return None
    spacing = np.stack([each.spacing for each in images])
    rows = [each.features for each in images if each.features is not None]
    features = distance = None
    if len(rows) == len(images):
        table = np.stack(rows)
        logs = [
            np.log(feature_distance(row, _moments(np.delete(table, number, axis=0))))
            for number, row in enumerate(table)
        ]
        features, distance = _moments(table), (float(np.mean(logs)), float(np.std(logs, ddof=1)))
    return TrainingImages(
        count=len(images),
        spacing=np.stack([spacing.min(axis=0), spacing.max(axis=0)]),
        intensity=_moments(np.stack([each.intensity for each in images])),
        features=features,
        distance=distance,
        layer=None if features is None else layer,
    )


def feature_distance(features: Vector, moments: Vector) -> float:
    """Mahalanobis distance with a diagonal covariance, over the root of the number of features.

    Lee et al. 2018 take the Mahalanobis distance of features for images that are unlike the training data, Gonzalez et
    al. 2022 for nnU-Net. A full covariance needs more images than features.

    Args:
        features: (C,).
        moments: (2, C), mean and standard deviation of the training images.
    """
    mean, deviation = moments
    typical = float(np.median(deviation)) or 1.0
    return float(np.sqrt(np.mean(((features - mean) / np.maximum(deviation, 0.1 * typical)) ** 2)) + 1e-9)


def intensity_statistics(image: NDArray[Any]) -> Vector:
    """(channels, statistics) of a preprocessed image (channels, *spatial): QUANTILES of the voxels that are not 0,
    and the noise (Immerkaer 1996: from the Laplacian, which cancels smooth structures).
    """
    from scipy.ndimage import laplace

    dims = image.ndim - 1
    gain = np.sqrt((2 * dims) ** 2 + 2 * dims)
    rows = []
    for channel in image.astype(np.float64):
        inside = channel != 0 if channel.any() else np.ones(channel.shape, bool)
        noise = np.sqrt(np.pi / 2) * np.abs(laplace(channel))[inside].mean() / gain
        rows.append([*np.quantile(channel[inside], QUANTILES), noise])
    return np.array(rows)


def _moments(table: Vector) -> Vector:
    return np.stack([table.mean(axis=0), table.std(axis=0, ddof=1)])


def _factor(count: int, tail: float) -> float:
    """Standard deviations that a new normal value lies within, but for ``tail`` on one side (Student's t)."""
    from scipy.stats import t

    return float(t.ppf(1 - tail, count - 1) * np.sqrt(1 + 1 / count))


def _rounded(values: Vector) -> Any:
    return [float(f"{each:.6g}") for each in values] if values.ndim == 1 else [_rounded(each) for each in values]


def _by(spacing: Vector) -> str:
    return " x ".join(f"{each:.2f}".rstrip("0").rstrip(".") for each in spacing)
