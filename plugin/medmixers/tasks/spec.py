"""TaskSpec: what a task is, as data. Labels and channels are written here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from medmixers.codes import SegmentCodes
from medmixers.errors import InputError

TASK_KINDS = ("segmentation", "classification")
SPACINGS = (1e-5, 1e3)  # mm: from electron microscopy to whole-body planar scans
MOST_INTENSITY = 1e30  # products of it are finite in single precision with a margin
MOST_ID = 255  # of label files: converters and predictions write uint8
INTENSITY_RULES = ("zscore", "zscore_nonzero", "unit", "window")


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
        labels: id -> label; the ids are 0..K-1. Id 0 is the background of an exclusive segmentation, so that the
            files serve nnU-Net too, whether a voxel is ever given it or not.
        multi_label: structures overlap, or an image has any number of the labels: label k is sigmoid channel k, and
            there is no background.
        ignore_label: value in the label files that neither the loss nor the score counts: K, one above the
            labels, as nnU-Net has it. No channel of the network belongs to it.
        regions: name of each label -> the ids in the files that make it up, where files hold exclusive ids
            (0 background) and the labels are overlapping unions of them; from the outermost region inwards.
        codes: name of a label -> what it is in the codes of DICOM SEG; labels without a code cannot be written there.
        spacing: voxel size in mm that images are resampled to, one per axis.
        image_size: pixels that images are resized to, one per axis in the order x, y, z, so of a 2D image width,
            then height, as MONAI loads it; instead of ``spacing``. Images keep their own pixels where neither
            is given.
        mpp: microns per pixel of histology pictures, at which `medmixers clinic slide` reads slides; 2D only, of
            images that keep their own pixels.
        intensity: "zscore" (each image to mean 0, standard deviation 1), "zscore_nonzero" (the same over the
            voxels that are not 0, and the others stay 0), "unit" (black to white, whatever the depth, to 0..1) or
            "window".
        window: with intensity "window", the two values that clip the image and become 0 and 1.
        voi_window: apply the VOI LUT or window of a DICOM picture; 2D only.
        validation_every: where the data set names no validation part, every n-th of the sorted groups validates,
            starting with the first.
        group_by: what must never lie on two sides of a split ("patient"), in one word; None where each image is
            its own group or where the data set does not tell, which ``limits`` then says.
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
    multi_label: bool = False
    ignore_label: int | None = None
    regions: Mapping[str, tuple[int, ...]] | None = None
    codes: Mapping[str, SegmentCodes] | None = None
    spacing: tuple[float, ...] | None = None
    image_size: tuple[int, ...] | None = None
    mpp: float | None = None
    intensity: str
    window: tuple[float, float] | None = None
    voi_window: bool = False
    validation_every: int = 5
    group_by: str | None = None
    licence: str
    citation: str
    data_source: str
    intended_use: str
    limits: str

    def __post_init__(self) -> None:
        for name, valid in (("task", TASK_KINDS), ("intensity", INTENSITY_RULES)):
            if getattr(self, name) not in valid:
                raise InputError(f"{name} must be one of {', '.join(valid)}, got {getattr(self, name)!r}")
        if self.spatial_dims not in (2, 3):
            raise InputError(f"spatial_dims must be 2 or 3, got {self.spatial_dims}")
        if not self.channels:
            raise InputError("channels must name at least one image channel, got none")
        if self.voi_window and self.spatial_dims != 2:
            raise InputError("voi_window is for 2D tasks: volumes keep the modality's units")
        if self.validation_every < 2:
            raise InputError(f"validation_every must be at least 2, got {self.validation_every}")
        self._check_grid_and_window()
        self._check_labels()
        self._check_codes()
        object.__setattr__(self, "labels", MappingProxyType(dict(sorted(self.labels.items()))))
        for name in ("regions", "codes"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def _check_grid_and_window(self) -> None:
        if self.spacing is not None and self.image_size is not None:
            raise InputError(f"give spacing or image_size, not both, got {self.spacing} and {self.image_size}")
        for name in ("spacing", "image_size"):
            values = getattr(self, name)
            if values is not None and (len(values) != self.spatial_dims or min(values) <= 0):
                raise InputError(
                    f"{name} must have spatial_dims values above 0, got {name}={values}, "
                    f"spatial_dims={self.spatial_dims}"
                )
        if self.spacing is not None and not all(SPACINGS[0] <= value <= SPACINGS[1] for value in self.spacing):
            raise InputError(f"spacing must be from {SPACINGS[0]:g} to {SPACINGS[1]:g} mm per axis, got {self.spacing}")
        if self.mpp is not None and (self.spatial_dims != 2 or self.spacing or self.image_size or not self.mpp > 0):
            raise InputError(
                f"mpp is a number above 0 of 2D images without spacing and image_size, got mpp={self.mpp}, "
                f"spatial_dims={self.spatial_dims}, spacing={self.spacing}, image_size={self.image_size}"
            )
        if (self.intensity == "window") != (self.window is not None):
            raise InputError(
                f'window belongs to intensity "window", got intensity={self.intensity!r}, window={self.window}'
            )
        if self.window is not None and not (
            len(self.window) == 2 and -MOST_INTENSITY <= self.window[0] < self.window[1] <= MOST_INTENSITY
        ):
            raise InputError(
                f"window must be (low, high) with low < high, within {MOST_INTENSITY:g} of 0, got {self.window}"
            )

    def _check_labels(self) -> None:
        if (len(self.labels) < 2 and not self.multi_label) or sorted(self.labels) != list(range(len(self.labels))):
            raise InputError(f"labels must have the ids 0..K-1, at least two, got {sorted(self.labels)}")
        names = [label.name for label in self.labels.values()]
        if len(set(names)) != len(names):
            raise InputError(f"labels must have different names, got {', '.join(names)}")
        segments = self.task == "segmentation"
        self._check_names(names, "\\/" if segments and self.multi_label else "\\")
        if segments and not self.multi_label and self.labels[0].name != "background":
            raise InputError(f'label 0 of an exclusive segmentation must be "background", got {self.labels[0].name!r}')
        if self.ignore_label is not None and (
            not segments or self.multi_label or self.ignore_label != len(self.labels)
        ):
            raise InputError(
                f"ignore_label belongs to an exclusive segmentation and must be one above the labels, "
                f"{len(self.labels)}, got {self.ignore_label}"
            )
        if self.regions is not None and (
            not segments or not self.multi_label or list(self.regions) != list(self.label_names.values())
        ):
            raise InputError(
                f"regions belong to a segmentation with multi_label and must name its labels in order, "
                f"{', '.join(names)}, got {', '.join(self.regions)}"
            )
        if self.regions is not None:
            self._check_region_ids(self.regions)
        if len(self.labels) > MOST_ID:
            raise InputError(
                f"a task has at most {MOST_ID} labels, since label files hold 8 bits; got {len(self.labels)}"
            )

    @staticmethod
    def _check_names(names: Sequence[str], refused: str) -> None:
        """Raise InputError for a label that cannot name a value of DICOM, or the file of a mask."""
        for name in names:
            if set(refused) & set(name):
                raise InputError(
                    f"a label must not hold {' or '.join(refused)}: it names values of DICOM and files of masks; "
                    f"got {name!r}"
                )

    def _check_region_ids(self, regions: Mapping[str, tuple[int, ...]]) -> None:
        """Raise InputError for ids that label files cannot hold."""
        ids = sorted({0}.union(*regions.values()))
        if ids != list(range(len(ids))) or len(ids) > MOST_ID or any(0 in region for region in regions.values()):
            raise InputError(
                f"ids of regions must be whole numbers from 1, without a gap and at most {MOST_ID}, got {ids[1:]}"
            )

    def _check_codes(self) -> None:
        if self.codes is None:
            return
        if self.task != "segmentation":
            raise InputError(f"codes belong to a segmentation, got task {self.task!r}")
        unknown = [name for name in self.codes if name not in self.segment_values]
        if unknown:
            raise InputError(f"codes name no label {unknown[0]!r}; valid: {', '.join(self.segment_values)}")

    @property
    def segment_values(self) -> dict[str, list[int] | None]:
        """Name of each structure -> the values of a label file that make it up; None where each has its own file."""
        if self.regions is not None:
            return {name: list(values) for name, values in self.regions.items()}
        names = {key: name for key, name in self.label_names.items() if self.multi_label or key != 0}
        return {name: None if self.multi_label else [key] for key, name in names.items()}

    @property
    def label_names(self) -> dict[int, str]:
        """id -> name, in the order of the ids."""
        return {key: self.labels[key].name for key in sorted(self.labels)}

    @property
    def has_raw_format(self) -> bool:
        """Whether its data is in nnU-Net raw format, one file of exclusive ids a case; else a datalist.json says it."""
        return self.task == "segmentation" and (not self.multi_label or self.regions is not None)

    @property
    def file_values(self) -> list[int]:
        """The values that label files in nnU-Net raw format may hold, sorted."""
        if self.regions is not None:
            return sorted({0}.union(*self.regions.values()))
        return [*self.labels, *([] if self.ignore_label is None else [self.ignore_label])]

    @property
    def out_channels(self) -> int:
        """Number of logits: one a label."""
        return len(self.labels)
