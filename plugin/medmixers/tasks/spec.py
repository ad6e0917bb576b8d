"""TaskSpec: what a task is, as data. Labels and channels are written here and nowhere else. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

TASK_KINDS = ("segmentation", "classification")
INTENSITY_RULES = ("zscore", "zscore_nonzero")


@dataclass(frozen=True)
class Label:
    """One class: its name and the colour it is drawn in, red, green, blue from 0 to 255."""

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task on one kind of image.

    Args:
        name: the key in ``TASKS``, and the start of its bundles' names.
        title: for people.
        task: "segmentation" or "classification".
        modality: "MR", "CT", ... as the metadata of a MONAI Bundle names it.
        spatial_dims: 2 or 3.
        channels: names of the image channels, in the order of the files ``_0000``, ``_0001``, ...
        labels: id -> label; the ids are 0..K-1, and 0 is the background of a segmentation.
        spacing: voxel size in mm that images are resampled to, one per axis.
        intensity: "zscore" (each image to mean 0, standard deviation 1) or "zscore_nonzero" (the same over
            the voxels that are not 0, and the others stay 0).
        validation_every: the split rule: the first of the sorted training cases and every n-th after it
            validate.
        licence: of the data.
        citation: of the data.
        data_source: where the data comes from.
        intended_use: one sentence.
        limits: what it must not be taken for.
    """

    name: str
    title: str
    task: str
    modality: str
    spatial_dims: int
    channels: tuple[str, ...]
    labels: Mapping[int, Label]
    spacing: tuple[float, ...]
    intensity: str
    validation_every: int
    licence: str
    citation: str
    data_source: str
    intended_use: str
    limits: str

    def __post_init__(self) -> None:
        if self.task not in TASK_KINDS:
            raise ValueError(f"task must be one of {', '.join(TASK_KINDS)}, got {self.task!r}")
        if self.intensity not in INTENSITY_RULES:
            raise ValueError(f"intensity must be one of {', '.join(INTENSITY_RULES)}, got {self.intensity!r}")
        if len(self.spacing) != self.spatial_dims:
            raise ValueError(f"spacing must have spatial_dims values, got {self.spacing=}, {self.spatial_dims=}")
        if sorted(self.labels) != list(range(len(self.labels))):
            raise ValueError(f"labels must have the ids 0..K-1, got {sorted(self.labels)}")
        if self.validation_every < 2:
            raise ValueError(f"validation_every must be at least 2, got {self.validation_every}")
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))

    @property
    def label_names(self) -> dict[int, str]:
        """id -> name, in the order of the ids."""
        return {key: self.labels[key].name for key in sorted(self.labels)}
