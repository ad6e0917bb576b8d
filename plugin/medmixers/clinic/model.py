"""A model, as a bundle with weights: a bundle's folder, its zip, or, to segment, a model that nnU-Net trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

from medmixers.bundles.share.archive import open_archive
from medmixers.codes import SegmentCodes
from medmixers.errors import InputError, MissingFileError
from medmixers.files import file_digest
from medmixers.images.dicom_seg import Maker, Segment, need_codes, read_segments
from medmixers.progress import Announce
from medmixers.tasks.palette import PALETTE

# What tasks and nnU-Net's channel names call the modalities, in small letters -> DICOM's names
XRAY = ("CR", "DX")  # computed and digital radiography
MODALITIES: Mapping[str, str] = {
    "ct": "CT",
    **dict.fromkeys(("pet", "pt", "suv"), "PT"),
    **dict.fromkeys(("us", "ultrasound"), "US"),
    **dict.fromkeys(
        ("mr", "mri", "cine mri", "t1", "t1w", "t1ce", "t1c", "t1gd", "t2", "t2w", "flair", "adc", "dwi"), "MR"
    ),
}


@dataclass(frozen=True)
class SegmentationModel:
    """A bundle that segments volumes.

    Args:
        bundle: its folder.
        name: of the model, for people.
        version: of the bundle.
        weights: file of the weights.
        channels: names of the image channels.
        modality: as the bundle states it; of a model of nnU-Net the channels' names tell it.
        segments: in the order of their numbers.
        is_of_nnunet: whether nnU-Net's functions predict. They read no DICOM.
        config: content of its configs/inference.json.
    """

    bundle: Path
    name: str
    version: str
    weights: Path
    channels: tuple[str, ...]
    modality: str
    segments: tuple[Segment, ...]
    is_of_nnunet: bool
    config: Mapping[str, Any]

    @property
    def software(self) -> str:
        """What predicts, with its version."""
        return f"medmixers {version('medmixers')}"

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the file of the weights."""
        return file_digest(self.weights)

    @property
    def maker(self) -> Maker:
        """What a DICOM SEG says of it."""
        return Maker(self.name, self.version, self.software, self.weights_sha256, self.segments)

    @property
    def modalities(self) -> tuple[str | None, ...]:
        """DICOM's name of the modality of each channel; None where the model does not tell it."""
        names = self.channels if self.is_of_nnunet else [self.modality] * len(self.channels)
        return tuple(MODALITIES.get(name.casefold()) for name in names)


@dataclass(frozen=True)
class ClassificationModel:
    """A bundle that classifies images.

    Args:
        bundle, name, version, weights, modality: as :class:`SegmentationModel` has them.
        spatial_dims: of the network: 2 takes one DICOM image, 3 a series.
        classes: their names, in the order of the ids.
        multi_label: whether an image has several.
    """

    bundle: Path
    name: str
    version: str
    weights: Path
    modality: str
    spatial_dims: int
    classes: tuple[str, ...]
    multi_label: bool

    @property
    def modalities(self) -> tuple[str, ...]:
        """DICOM's names of the modality; empty where the bundle does not tell it."""
        if self.modality.casefold() == "x-ray":
            return XRAY
        name = MODALITIES.get(self.modality.casefold())
        return () if name is None else (name,)

    def decided(self, probabilities: Mapping[str, float]) -> set[str]:
        """The most probable class; of several labels those from 0.5 on."""
        if self.multi_label:
            return {name for name, probability in probabilities.items() if probability >= 0.5}
        return {max(probabilities, key=lambda name: probabilities[name])}


def open_classifier(source: Path, folder: Path, *, checkpoint: str | None, announce: Announce) -> ClassificationModel:
    """Read a bundle that classifies. Args: as :func:`open_model`.

    Raises:
        MissingFileError: there is no such bundle, or it has no weights.
        InputError: a zip that is refused; a bundle that segments, or that takes several files per image.
    """
    check_exists(source)
    bundle = source
    if source.is_file():
        announce("open the zip")
        bundle = open_archive(source, folder)
    config, metadata = (json.loads(_text(bundle, name)) for name in ("inference", "metadata"))
    image, pred = (metadata["network_data_format"][kind] for kind in ("inputs", "outputs"))
    if pred["pred"]["format"] == "segmentation":
        raise InputError(f"{source} segments images; use medmixers clinic segment")
    channels = pred["pred"]["channel_def"]
    dims = config["image_reader"]["spatial_dims"]
    if dims == 3 and image["image"]["num_channels"] > 1:
        raise InputError(f"{source} takes {image['image']['num_channels']} series per case; this command takes one")
    activations = [each for each in config["postprocessing"]["transforms"] if each["_target_"] == "Activationsd"]
    return ClassificationModel(
        bundle=bundle,
        name=bundle.resolve().name,
        version=metadata["version"],
        weights=_weights(bundle, str(source), checkpoint),
        modality=image["image"]["modality"],
        spatial_dims=dims,
        classes=tuple(channels[key] for key in sorted(channels, key=int)),
        multi_label=any(each.get("sigmoid") for each in activations),
    )


def _weights(bundle: Path, source: str, checkpoint: str | None) -> Path:
    weights = Path(checkpoint) if checkpoint is not None else bundle / "models" / "model.pt"
    if not weights.is_file():
        raise MissingFileError(f"{source} has no weights, {weights.name}; train it, or give a file by --checkpoint")
    return weights


def open_model(source: Path, folder: Path, *, checkpoint: str | None, announce: Announce) -> SegmentationModel:
    """Read a model. A bundle holds code that will run: open those of people you trust.

    Args:
        source: the folder of a bundle, the zip of one, or a folder TRAINER__PLANS__CONFIGURATION of nnU-Net.
        folder: an empty folder for the bundle of a zip, or of a model of nnU-Net.
        checkpoint: file name of the weights in each fold of nnU-Net's, or a bundle's file of weights.
        announce: called with the name of each step.

    Raises:
        MissingFileError: there is no such model, or it has no weights.
        InputError: a zip that is refused; a bundle that does not segment volumes.
    """
    check_exists(source)
    if source.is_file():
        announce("open the zip")
        return _read_bundle(open_archive(source, folder), source.name, checkpoint)
    if (source / "configs" / "inference.json").is_file():
        return _read_bundle(source, source.resolve().name, checkpoint)
    if is_nnunet_model(source):
        announce("load torch and nnU-Net")
        from medmixers.nnunet.bundle import write_nnunet_bundle

        options = {} if checkpoint is None else {"checkpoint": checkpoint}
        write_nnunet_bundle(source, out=folder / "nnunet_model", announce=announce, **options)
        model = _read_bundle(folder / "nnunet_model", str(source), None)
        return replace(model, name=json.loads(_text(model.bundle, "metadata"))["name"])
    raise MissingFileError(
        f"{source} is neither a bundle, with configs/inference.json, nor the zip of one, nor a trained nnU-Net model, "
        "with plans.json and dataset.json"
    )


def _text(bundle: Path, config: str) -> str:
    path = bundle / "configs" / f"{config}.json"
    if not path.is_file():
        raise MissingFileError(f"{bundle} is no bundle that predicts: it has no configs/{config}.json")
    return path.read_text("utf-8")


def check_exists(source: Path) -> None:
    """Raise MissingFileError where there is no file or folder of a model."""
    if not source.exists():
        raise MissingFileError(f"there is no model {str(source)!r}: give the folder or the zip of a bundle")


def is_nnunet_model(source: Path) -> bool:
    """Whether it is a folder TRAINER__PLANS__CONFIGURATION of nnU-Net."""
    return all((source / name).is_file() for name in ("plans.json", "dataset.json"))


def _read_bundle(bundle: Path, source: str, checkpoint: str | None) -> SegmentationModel:
    config, metadata = (json.loads(_text(bundle, name)) for name in ("inference", "metadata"))
    image = metadata["network_data_format"]["inputs"]["image"]
    is_of_nnunet = (bundle / "configs" / "nnunet" / "dataset.json").is_file()
    if metadata["network_data_format"]["outputs"]["pred"]["format"] != "segmentation":
        raise InputError(
            f"{source} classifies images: use medmixers clinic classify, which writes a DICOM SR; its "
            "configs/inference.json writes a CSV file"
        )
    if not is_of_nnunet and config.get("image_reader", {}).get("spatial_dims") != 3:
        raise InputError(f"{source} takes single pictures; this command segments volumes")
    weights = _weights(bundle, source, checkpoint)
    return SegmentationModel(
        bundle=bundle,
        name=bundle.resolve().name,
        version=metadata["version"],
        weights=weights,
        channels=tuple(image["channel_def"][key] for key in sorted(image["channel_def"], key=int)),
        modality=image["modality"],
        segments=_nnunet_segments(bundle) if is_of_nnunet else read_segments(source, metadata),
        is_of_nnunet=is_of_nnunet,
        config=config,
    )


def _nnunet_segments(bundle: Path) -> tuple[Segment, ...]:
    labels = json.loads((bundle / "configs" / "nnunet" / "dataset.json").read_text("utf-8"))["labels"]
    values = {name: tuple(value) if isinstance(value, list) else (int(value),) for name, value in labels.items()}
    structures = {name: ids for name, ids in values.items() if ids != (0,) and name != "ignore"}
    return tuple(Segment(name, ids, colour) for (name, ids), colour in zip(structures.items(), cycle(PALETTE)))


def with_codes(model: SegmentationModel, codes: Mapping[str, SegmentCodes]) -> SegmentationModel:
    """The model with these codes in place of its own.

    Raises:
        InputError: codes of a label that the model does not have, or a label without a code.
    """
    names = [segment.name for segment in model.segments]
    unknown = [name for name in codes if name not in names]
    if unknown:
        raise InputError(f"the model has no label {unknown[0]!r}; valid: {', '.join(names)}")
    segments = tuple(replace(each, codes=codes.get(each.name, each.codes)) for each in model.segments)
    need_codes(segments)
    return replace(model, segments=segments)
