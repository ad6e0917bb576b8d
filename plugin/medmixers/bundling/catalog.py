"""Which MONAI Bundles there are: one frozen row each, task x network x options. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from medmixers.recipes import RECIPES, TrainingRecipe
from medmixers.registry import Registry
from medmixers.tasks import TASKS, TaskSpec
from medmixers.variants import NETWORKS

# What the metadata of a bundle states: the versions that these bundles were generated and tested with.
MONAI_VERSION, PYTORCH_VERSION, NUMPY_VERSION = "1.6.1", "2.15.0", "2.4.6"
PACKAGE_VERSIONS = {"nibabel": "5.4.2", "pytorch-ignite": "0.5.5", "fire": "0.7.1", "tqdm": "4.70.1"}


@dataclass(frozen=True, kw_only=True)
class BundleRow:
    """One bundle.

    Args:
        task: name in ``TASKS``.
        network: name in ``NETWORKS``, of the task's kind.
        recipe: name in ``RECIPES``.
        network_options: options of ``create_network`` (those of the recipe are added to them).
        label: end of the bundle's name: what sets it apart from others of the same task.
        roi_size: patch size of training and of the sliding window, in voxels of the task's spacing.
        overlap: of neighbouring windows, a fraction of the window.
        version: of the bundle, semantic.
        changelog: version -> what changed.
    """

    task: str
    network: str
    recipe: str
    label: str
    roi_size: tuple[int, ...]
    version: str
    changelog: Mapping[str, str]
    overlap: float = 0.25
    network_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if NETWORKS[self.network].task != self.task_spec.task:
            raise ValueError(f"network {self.network!r} is not for {self.task_spec.task}, as task {self.task!r} is")
        if len(self.roi_size) != self.task_spec.spatial_dims:
            raise ValueError(f"roi_size must have {self.task_spec.spatial_dims} values, got {self.roi_size}")
        if self.version not in self.changelog:
            raise ValueError(f"version {self.version!r} is not in the changelog: {', '.join(self.changelog)}")
        options = {**self.network_options, **self.training.network_options}
        object.__setattr__(self, "network_options", MappingProxyType(options))
        object.__setattr__(self, "changelog", MappingProxyType(dict(self.changelog)))

    @property
    def name(self) -> str:
        """Name of the bundle and of its folder."""
        return f"{self.task}_{self.label}"

    @property
    def task_spec(self) -> TaskSpec:
        """The row of ``TASKS``."""
        return TASKS[self.task]

    @property
    def training(self) -> TrainingRecipe:
        """The row of ``RECIPES``."""
        return RECIPES[self.recipe]


BUNDLES: Registry[BundleRow] = Registry("bundle")
for _row in (
    BundleRow(
        task="brain_tissue_segmentation",
        network="metaformer_segformer_s12",
        recipe="keuth2025_segmentation_short",
        label="grouped_conv",
        # A first patch embedding of stride 2: logits at 1/4 of the resolution cannot draw 2 mm cortex.
        network_options={"mixer": "grouped_conv", "kernel_size": 3, "stem_stride": 2},
        roi_size=(48, 48, 48),
        version="0.1.0",
        changelog={"0.1.0": "First version, without weights."},
    ),
):
    BUNDLES.register(_row.name, _row)
