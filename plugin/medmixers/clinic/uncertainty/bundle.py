"""A bundle whose probabilities are wanted: its folder or its zip, and what its configs say of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.pack import CALIBRATION
from medmixers.clinic.model import check_exists, is_nnunet_model
from medmixers.errors import InputError, MissingFileError
from medmixers.images.dicom_seg import read_segments
from medmixers.progress import Announce


@dataclass(frozen=True)
class Bundle:
    """A bundle of this package with weights.

    Args:
        folder: of the bundle, opened where it was a zip.
        source: as a person gave it.
        weights: file of the weights.
        names: of the network's outputs.
        exclusive: whether the outputs exclude each other.
        is_segmentation: whether it labels voxels.
        is_of_nnunet: whether it was made of a model of nnU-Net, whose folds are members.
        mirror_axes: spatial axes along which images may be mirrored.
        config: content of its configs/inference.json.
        metadata: content of its configs/metadata.json.
    """

    folder: Path
    source: Path
    weights: Path
    names: tuple[str, ...]
    exclusive: bool
    is_segmentation: bool
    is_of_nnunet: bool
    mirror_axes: tuple[int, ...]
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @property
    def has_background(self) -> bool:
        """Whether output 0 is the background of voxels."""
        return self.is_segmentation and self.exclusive

    @property
    def calibration(self) -> Path:
        """Where the file of its calibration is, if there is one."""
        return calibration_file(self.source if self.source.is_dir() else self.folder)

    @property
    def structures(self) -> range:
        """Numbers of the outputs that are structures or classes."""
        return range(int(self.has_background), len(self.names))

    @property
    def ignored_value(self) -> int | None:
        """Value of label files whose voxels have no known label."""
        return self._label_values.get("ignore", [None])[0]

    def values_of(self, number: int) -> list[int] | None:
        """Values of the label file that make up a structure; None where each structure has a file of its own."""
        return self._label_values.get(self.names[number])

    @property
    def colours(self) -> Mapping[str, tuple[int, int, int]]:
        """Structure -> red, green, blue from 0 to 255; empty where the metadata have none, as of a model of nnU-Net."""
        segments = read_segments(str(self.source), self.metadata) if "segments" in self.metadata else ()
        return {segment.name: segment.colour for segment in segments}

    @property
    def _label_values(self) -> dict[str, list[int]]:
        """Name -> values in the label file, as nnU-Net or the transform has them that saves probabilities."""
        transforms = self.config["postprocessing"]["transforms"]
        labels: Mapping[str, Any] = next((each["labels"] for each in transforms if each.get("labels")), {})
        if self.is_of_nnunet:
            labels = _nnunet_labels(self.folder)
        return {name: list(each) if isinstance(each, list) else [each] for name, each in labels.items()}


def open_bundle(source: Path, folder: Path, *, weights: Path | None, announce: Announce) -> Bundle:
    """Read a bundle, or a model of nnU-Net as one. It holds code that will run: open those of people you trust.

    Args:
        source: its folder or its zip, or a folder TRAINER__PLANS__CONFIGURATION of nnU-Net.
        folder: a new folder for the content of a zip, or for the bundle of a model of nnU-Net.
        weights: file of weights; None takes models/model.pt of the bundle.
        announce: called with the name of each step.

    Raises:
        MissingFileError: there is no such bundle, or it has no weights.
        InputError: a zip that is refused; a model of nnU-Net that no bundle can be made of.
    """
    root = _root(source, folder, announce)
    config, metadata = (
        json.loads((root / "configs" / f"{name}.json").read_text("utf-8")) for name in ("inference", "metadata")
    )
    file = weights or root / "models" / "model.pt"
    if not file.is_file():
        raise MissingFileError(f"{source} has no weights, {file.name}: an untrained network is not sure of anything")
    try:
        output = metadata["network_data_format"]["outputs"]["pred"]
        is_of_nnunet = (root / "configs" / "nnunet").is_dir()
        exclusive = _is_exclusive(config["postprocessing"]["transforms"]) if not is_of_nnunet else _has_no_region(root)
        axes = config["inferer"]["mirror_axes"] if is_of_nnunet else config.get("mirror_axes")
    except (KeyError, TypeError, StopIteration):
        raise InputError(f"{source} is no bundle of medmixers: its configs do not say what the network gives") from None
    return Bundle(
        folder=root.resolve(),
        source=source,
        weights=file,
        names=tuple(output["channel_def"][key] for key in sorted(output["channel_def"], key=int)),
        exclusive=exclusive,
        is_segmentation=output["format"] == "segmentation",
        is_of_nnunet=is_of_nnunet,
        mirror_axes=tuple(axes or ()),
        config=config,
        metadata=metadata,
    )


def calibration_file(model: Path) -> Path:
    """Where the folder of a bundle, or of a model of nnU-Net, keeps its calibration."""
    return model / (Path(CALIBRATION).name if is_nnunet_model(model) else CALIBRATION)


def _root(source: Path, folder: Path, announce: Announce) -> Path:
    """The folder of the bundle."""
    check_exists(source)
    if source.is_file():
        announce("open the zip")
        return open_archive(source, folder)
    if is_nnunet_model(source):
        announce("load torch and nnU-Net")
        from medmixers.nnunet.bundle import write_nnunet_bundle

        write_nnunet_bundle(source, out=folder, announce=announce)
        return folder
    if not all((source / "configs" / f"{name}.json").is_file() for name in ("inference", "metadata")):
        raise MissingFileError(
            f"{source} is neither a bundle, with configs/inference.json and configs/metadata.json, nor the zip of one, "
            "nor a trained nnU-Net model, with plans.json and dataset.json"
        )
    return source


def _nnunet_labels(bundle: Path) -> dict[str, Any]:
    """Name -> value, or values of a region."""
    labels: dict[str, Any] = json.loads((bundle / "configs" / "nnunet" / "dataset.json").read_text("utf-8"))["labels"]
    return labels


def _has_no_region(bundle: Path) -> bool:
    return not any(isinstance(value, list) and len(value) > 1 for value in _nnunet_labels(bundle).values())


def _is_exclusive(transforms: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the transform that makes probabilities takes a softmax. StopIteration: there is none."""
    found = next(each for each in transforms if each["_target_"].split(".")[-1] in ("Activationsd", "InvertedLabelsd"))
    return not found.get("sigmoid", False)


@contextmanager
def own_input_errors() -> Iterator[None]:
    """Raise an input error of the bundle's own code as one of ours.

    An opened zip has its own copy of the package, and so its own class of input errors; MONAI wraps them in others.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if any(kind.__name__ == "InputError" for kind in type(cause).__mro__):
                raise InputError(str(cause)) from error
            cause = cause.__cause__
        raise
