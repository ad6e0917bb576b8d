"""What the configs of one kind of bundle have of their own: the contract of segmentation and classification."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.parts import Config


class BundleKind(ABC):
    """One kind of bundle, for one row of the catalog. Methods give parts of the configs, as dicts.

    Args:
        row: the bundle.
    """

    key_metric: ClassVar[str]  # name of the metric that chooses the best weights
    best_of: ClassVar[str]  # the same, for people
    validation_batch: ClassVar[int | str]
    validation_interval: ClassVar[int | str]

    def __init__(self, row: BundleRow) -> None:
        self.row, self.task = row, row.task_spec

    @abstractmethod
    def size_keys(self) -> Config:
        """Options: the size that the network sees."""

    @abstractmethod
    def sampling_options(self) -> Config:
        """Options: the random patches of a training image."""

    @abstractmethod
    def data_keys(self) -> Config:
        """Top-level keys computed from the training cases."""

    @abstractmethod
    def loss(self) -> Config:
        """The key ``loss``."""

    @abstractmethod
    def training_transforms(self) -> tuple[list[Config], list[Config]]:
        """Deterministic transforms, which are cached, and random ones."""

    @abstractmethod
    def validation_transforms(self) -> tuple[list[Config], list[Config]]:
        """Transforms of the image, and of the label."""

    @abstractmethod
    def inferer(self) -> Config:
        """The inferer of validation."""

    def inference_inferer(self) -> Config:
        """The inferer of inference."""
        return self.inferer()

    def batch_augmentation(self) -> Config:
        """Argument of the trainer: how a batch is made from images that are augmented together."""
        return {}

    @abstractmethod
    def training_postprocessing(self) -> list[Config]:
        """From the logits of a training batch to what its metric takes."""

    @abstractmethod
    def validation_postprocessing(self) -> list[Config]:
        """From the logits of a validation image to what its metrics take."""

    @abstractmethod
    def training_metrics(self) -> Config:
        """The metric of the training batches; {} for none."""

    @abstractmethod
    def validation_metrics(self) -> tuple[Config, Config]:
        """The metric that chooses the best weights, and further ones."""

    @abstractmethod
    def evaluation_keys(self) -> Config:
        """Keys that evaluate.json lays over train.json."""

    @abstractmethod
    def output_options(self) -> Config:
        """Options of inference: how predictions are written."""

    @abstractmethod
    def inference_postprocessing(self) -> list[Config]:
        """From logits to what is written."""

    @abstractmethod
    def inference_handlers(self) -> list[Config]:
        """Further handlers of inference."""
