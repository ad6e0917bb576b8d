"""One prediction of several models, and what they disagree about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from medmixers.clinic.uncertainty.bundle import Bundle, open_bundle
from medmixers.clinic.uncertainty.measures import Array, entropy
from medmixers.clinic.uncertainty.predictor import Case, Entry, Predictor
from medmixers.errors import InputError
from medmixers.progress import Announce


@dataclass
class Prediction:
    """Of all models.

    Args:
        probabilities: (K, *spatial) or (K,), the mean of the models, not calibrated.
        disagreement: (*spatial) or (), the mutual information of the label and the member that predicts it, in nats;
            None where there is only one member.
        case: of the first model; its data hold the mean.
    """

    probabilities: Array
    disagreement: Array | None
    case: Case


class Ensemble:
    """Models that give the same classes, as one model.

    Args:
        predictors: at least one.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        self.predictors = list(predictors)
        self.first = self.predictors[0]
        self.bundle: Bundle = self.first.bundle
        for other in (each.bundle for each in self.predictors[1:]):
            if (other.names, other.exclusive) != (self.bundle.names, self.bundle.exclusive):
                raise InputError(
                    f"{other.source} gives {', '.join(other.names)}, and {self.bundle.source} "
                    f"{', '.join(self.bundle.names)}: the models of an ensemble give the same"
                )
        if len(set(self.digests)) < len(self.digests):
            raise InputError("two of the models have the same weights: the same model twice tells nothing")

    def put_in_order(self, digests: Sequence[str]) -> None:
        """Order the models as their calibration has them: it knows the training images by the first one's features."""
        self.predictors.sort(key=lambda each: digests.index(each.weights_digest))
        self.first = self.predictors[0]
        self.bundle = self.first.bundle

    @property
    def digests(self) -> list[str]:
        """Of the weights of each model."""
        return [each.weights_digest for each in self.predictors]

    @property
    def members(self) -> int:
        """Number of predictions per image: models times mirrored copies, and of nnU-Net times folds."""
        return sum(each.members for each in self.predictors)

    @contextmanager
    def held_out(self, fold: str | None) -> Iterator[None]:
        """Predict with this fold of each model of nnU-Net alone; None leaves all models as they are."""
        with ExitStack() as stack:
            if fold is not None:
                for each in self.predictors:
                    stack.enter_context(each.held_out(fold))
            yield

    def predict(self, entry: Entry) -> Prediction:
        """Predict a case.

        Mutual information (Gal et al. 2017; of ensembles Smith and Gal 2018) is that of the mirrored copies of each
        model, in the mean, plus that of the models. The sum is the mutual information of all members.
        """
        cases = [each.predict(entry) for each in self.predictors]
        first, *others = cases
        for other, predictor in zip(others, self.predictors[1:], strict=True):
            if other.probabilities.shape != first.probabilities.shape:
                raise InputError(f"{predictor.bundle.source} and {self.bundle.source} give labels on different grids")
        mean: Any = np.mean([each.probabilities for each in cases], axis=0, dtype=np.float32)
        within = [each.disagreement for each in cases if each.disagreement is not None]
        disagreement: Any = np.mean(within, axis=0) if within else None
        if others:
            copies: Any = np.mean([each.copies for each in cases], axis=0, dtype=np.float32)
            inner: Any = np.mean([entropy(each.copies, exclusive=self.bundle.exclusive) for each in cases], axis=0)
            between = np.maximum(entropy(copies, exclusive=self.bundle.exclusive) - inner, 0)
            disagreement = between if disagreement is None else disagreement + between
            self._average(cases)
        return Prediction(mean, disagreement, first)

    def _average(self, cases: Sequence[Case]) -> None:
        """Put the mean of the models' own tensors into the data of the first, from which the labels are made."""
        if not self.bundle.is_segmentation:
            return
        tensors = [each.item["pred"] for each in cases]
        for other in tensors[1:]:
            tensors[0][...] = tensors[0] + other.as_tensor()
        tensors[0][...] = tensors[0] / len(tensors)


@contextmanager
def opened_ensemble(
    models: Sequence[Path], weights: Sequence[Path], *, mirror: bool, device: str | None, announce: Announce
) -> Iterator[Ensemble]:
    """The models, opened and loaded.

    Args:
        models: folders or zips of bundles, or models of nnU-Net.
        weights: files of weights for the one model, in place of its own; empty for its own.
        mirror: predict mirrored copies too.
        device: as torch names it; None takes the bundle's choice.
        announce: called with the name of each step.

    Raises:
        InputError: what :func:`medmixers.clinic.uncertainty.bundle.open_bundle` and :class:`Ensemble` refuse.
    """
    if weights and len(models) > 1:
        raise InputError("--ensemble FILE,FILE gives weights for one model; several models have their own")
    with quiet(), TemporaryDirectory(prefix="medmixers-") as folder:
        own: list[Path | None] = [None]
        pairs = [(model, file) for model in models for file in weights or own]
        bundles = [
            open_bundle(model, Path(folder) / str(number), weights=file, announce=announce)
            for number, (model, file) in enumerate(pairs)
        ]
        announce("load torch and the networks")
        yield Ensemble([_predictor(each, mirror=mirror, device=device) for each in bundles])


def _predictor(bundle: Bundle, *, mirror: bool, device: str | None) -> Predictor:
    if not bundle.is_of_nnunet:
        return Predictor(bundle, mirror=mirror, device=device)
    from medmixers.clinic.uncertainty.nnunet import FoldsPredictor

    return FoldsPredictor(bundle, mirror=mirror, device=device)


@contextmanager
def quiet() -> Iterator[None]:
    """MONAI's log names each file that is written, and codecs that are not installed."""
    loggers = [logging.getLogger(f"monai.data.{name}") for name in ("image_writer", "nvimgcodec_pydicom_plugin")]
    levels = [each.level for each in loggers]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="monai")

            for each in loggers:
                each.setLevel(logging.ERROR)
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
