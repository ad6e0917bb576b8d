"""The file of a calibration: temperature, how well it fits, and the statistics of the training images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmixers.clinic.uncertainty.temperature import LARGEST_TEMPERATURE, SMALLEST_TEMPERATURE, Bin
from medmixers.clinic.uncertainty.training_images import TrainingImages
from medmixers.errors import InputError, MissingFileError
from medmixers.files import written_whole

FORMAT = 1


@dataclass(frozen=True)
class Structure:
    """How the uncertainty of a structure held on the validation cases.

    Args:
        name: of the structure.
        cases: in which it is labelled or predicted.
        dice: its mean over these cases.
        predicted_dice: the mean of the predicted Dice over these cases; None where it is never predicted.
        inside: cases whose true volume lies in the predicted interval.
    """

    name: str
    cases: int
    dice: float | None
    predicted_dice: float | None
    inside: int


@dataclass(frozen=True)
class Calibration:
    """What was fitted for the predictions of certain models.

    Args:
        models: digests of the weights, one per model.
        use_mirroring: whether mirrored copies are averaged.
        temperature: that divides the logits.
        cases: number of validation cases.
        folds: of a model of nnU-Net, which predictions average; the temperature is that of one fold. 1 for bundles.
        likelihood: negative log-likelihood in nats, before and after.
        error: expected calibration error, before and after.
        bins: of the reliability diagram, before and after.
        structures: of a segmentation.
        training_images: of the first model; None where there were too few.
    """

    models: tuple[str, ...]
    use_mirroring: bool
    temperature: float
    cases: int
    folds: int
    likelihood: tuple[float, float]
    error: tuple[float, float]
    bins: tuple[Sequence[Bin], Sequence[Bin]]
    structures: Sequence[Structure]
    training_images: TrainingImages | None

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        data = {
            "format": FORMAT,
            "models": list(self.models),
            "use_mirroring": self.use_mirroring,
            **self.summary(),
            "bins": [[list(each) for each in bins] for bins in self.bins],
            "training_images": None if self.training_images is None else self.training_images.to_json(),
        }
        with written_whole(path) as partial:
            partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    def summary(self) -> dict[str, Any]:
        """What a reader of a prediction must know of it, as JSON data."""
        return {
            "temperature": self.temperature,
            "validation_cases": self.cases,
            "folds": self.folds,
            "negative_log_likelihood": list(self.likelihood),
            "expected_calibration_error": list(self.error),
            "structures": [vars(each) for each in self.structures],
        }

    def unfit_for(self, models: Sequence[str], use_mirroring: bool) -> str | None:
        """Why it is not for the predictions of these models, in words; None where it is."""
        if sorted(models) != sorted(self.models):
            return "it is of other weights"
        if use_mirroring != self.use_mirroring:
            return f"it was made with{'' if self.use_mirroring else 'out'} mirroring"
        return None


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is no calibration.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no calibration {str(path)!r}; make one by: medmixers clinic calibrate")
    try:
        return _from_json(json.loads(path.read_text("utf-8")))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{path} is no calibration that this version reads: {error}") from None


def _from_json(data: Mapping[str, Any]) -> Calibration:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r}")
    temperature = float(data["temperature"])
    if not SMALLEST_TEMPERATURE * 0.99 <= temperature <= LARGEST_TEMPERATURE * 1.01:
        raise ValueError(f"temperature {temperature}")
    images = data["training_images"]
    before, after = ([Bin(*map(float, each)) for each in bins] for bins in data["bins"])
    return Calibration(
        models=tuple(map(str, data["models"])),
        use_mirroring=bool(data["use_mirroring"]),
        temperature=temperature,
        cases=int(data["validation_cases"]),
        folds=int(data.get("folds", 1)),  # files of earlier versions are of bundles
        likelihood=_pair(data["negative_log_likelihood"]),
        error=_pair(data["expected_calibration_error"]),
        bins=(before, after),
        structures=[Structure(**each) for each in data["structures"]],
        training_images=None if images is None else TrainingImages.from_json(images),
    )


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = map(float, values)
    return first, second
