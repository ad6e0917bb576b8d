"""Check the files of a data set in nnU-Net raw format, case by case, against its dataset.json.

A label with another affine than its image is an error here, where nnU-Net 2.8 only warns. So is a label value that
dataset.json does not know, which nnU-Net finds after planning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medmixers.datasets.image_files import Volume, check_geometry, has_shear, read_any, read_image
from medmixers.datasets.label_values import check_label_values
from medmixers.datasets.raw_format import (
    NIFTI,
    CaseFiles,
    held_out_cases,
    is_hidden,
    label_names,
    read_description,
    read_folds,
    training_cases,
)
from medmixers.datasets.readings import Files, listing
from medmixers.errors import InputError, MissingFileError
from medmixers.images.dicom import DICOM_ENDINGS
from medmixers.images.pictures import PICTURES

AUDITED = ("training", "test")  # parts of the raw format: folds take the validation cases from the training part
FOLDERS = {"training": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}
IMAGE_ENDINGS = (*NIFTI, *PICTURES, ".mha", ".nrrd", *DICOM_ENDINGS)


class CheckedCase(NamedTuple):
    """A case that was read.

    Args:
        files: of the case.
        is_training: whether it is of the training part.
        shape: of its voxel grid.
        voxels: label value -> voxels; None where there is no label, or where only headers were read.
    """

    files: CaseFiles
    is_training: bool
    shape: tuple[int, ...]
    voxels: Mapping[int, int] | None


class CaseVoxels(NamedTuple):
    """What was read of a case, while it is in memory: its channels' files in order, and its label."""

    case: CheckedCase
    images: tuple[Volume, ...]
    label: Volume | None


def listed_cases(folder: Path, parts: Collection[str] = AUDITED) -> list[tuple[CaseFiles, bool]]:
    """Cases of these parts, and whether each is of the training part; their number and folds are right.

    Raises:
        FileNotFoundError: the folder, dataset.json, or every image is missing.
        ValueError: dataset.json is broken, has another number of cases, or splits_final.json does not fit.
    """
    if not parts or not set(parts) <= set(AUDITED):
        raise InputError(f"parts must be of {', '.join(AUDITED)}, got {tuple(parts)}")
    description = read_description(folder)
    label_names(description)
    for name in (name for part in parts for name in FOLDERS[part] if "dataset" not in description):
        _check_folder(folder / name, description["file_ending"])
    training = _counted_training_cases(folder, description) if "training" in parts else []
    if training:
        read_folds(folder, [case.name for case in training])
    test = held_out_cases(folder, description) if "test" in parts else []
    if not training + test:
        raise MissingFileError(f"{folder / 'imagesTs'} holds no image")
    return [*((case, True) for case in training), *((case, False) for case in test)]


def check_cases(
    folder: Path,
    cases: Iterable[tuple[CaseFiles, bool]],
    *,
    voxels_of: int | None = None,
    look: Callable[[CaseVoxels], None] | None = None,
) -> Iterator[CheckedCase]:
    """Read cases one by one.

    Args:
        folder: the data set.
        cases: of :func:`listed_cases`.
        voxels_of: number of cases, from the first, to read the voxels of; only headers of the others. None: of all.
        look: called with the voxels of each case that is right and whose voxels were read.

    Raises:
        FileNotFoundError: a channel or a training label is missing.
        ValueError: anything else, in one line with the file and the values.
    """
    description = read_description(folder)
    labels = label_names(description)
    channels = tuple(str(name) for name in description["channel_names"].values())
    files = Files()
    first: Volume | None = None
    for index, (case, is_training) in enumerate(cases):
        whole = voxels_of is None or index < voxels_of
        images = _check_images(case, channels, description["file_ending"], files, whole=whole)
        image = images[0]
        first = first or image._replace(data=image.data[:0])
        if len(first.shape) != len(image.shape):
            raise InputError(f"{case.images[0]} has {len(image.shape)} axes, the first case has {len(first.shape)}")
        if has_shear(image) and not has_shear(first):
            raise InputError(
                f"{case.images[0]} has axes that are not at right angles: SimpleITK, which nnU-Net chooses by the "
                "first case, reads no such file; resample it to a grid with right angles"
            )
        label = None
        if case.label is not None:
            label = _read_label(case.label, image, case.images[0], files, whole=whole)
        counts = None if case.label is None or label is None else check_label_values(case.label, label.data, labels)
        checked = CheckedCase(case, is_training, image.shape, counts if whole else None)
        if look is not None and whole:
            look(CaseVoxels(checked, tuple(images), label))
        del images, image, label  # else two cases are in memory while the next one is read
        yield checked


def check_raw_dataset(
    folder: str | Path,
    *,
    parts: Collection[str] = AUDITED,
    voxels_of: int | None = None,
    progress: Callable[[list[tuple[CaseFiles, bool]]], Iterable[tuple[CaseFiles, bool]]] = iter,
) -> int:
    """Check all cases as :func:`listed_cases` and :func:`check_cases` do.

    Args:
        folder: the data set.
        parts: of the data set.
        voxels_of: number of cases to read the voxels of.
        progress: gives the cases back one by one, and may show a bar.

    Returns:
        Number of axes of the images.
    """
    folder = Path(folder)
    cases = progress(listed_cases(folder, parts))
    checked = list(check_cases(folder, cases, voxels_of=voxels_of))
    return len(checked[0].shape)


def _check_folder(folder: Path, ending: str) -> None:
    """Raise InputError for files that nnU-Net would take for cases, and for images that it would leave out."""
    if not folder.is_dir():
        return
    names = sorted(name for name, is_file in listing(str(folder)).items() if is_file)
    hidden = [name for name in names if is_hidden(name) and name.endswith(ending)]
    if hidden:
        raise InputError(
            f"{folder} holds {len(hidden)} hidden files such as {hidden[0]}, which nnU-Net takes for cases; delete them"
        )
    others = [name for name in names if name.lower().endswith(IMAGE_ENDINGS) and not name.endswith(ending)]
    others = [name for name in others if not is_hidden(name)]
    if others:
        raise InputError(
            f"{folder} holds {len(others)} images of another file_ending than {ending!r}, {others[0]} for example, "
            "which nnU-Net and the bundles leave out; convert them, or move them away"
        )


def _counted_training_cases(folder: Path, description: dict[str, Any]) -> list[CaseFiles]:
    cases, expected = training_cases(folder, description), description["numTraining"]
    if not cases:
        raise InputError(f"{folder} has no training case; dataset.json says numTraining {expected}")
    if len(cases) != expected:
        raise InputError(f"{folder}: dataset.json says numTraining {expected}, found {len(cases)} cases")
    return cases


def _check_images(
    case: CaseFiles, channels: tuple[str, ...], ending: str, files: Files, *, whole: bool
) -> list[Volume]:
    """The channels of a case, which must be whole, finite and in one geometry."""
    read: list[Volume] = []
    count = 0
    for path in case.images:
        if path not in files:
            name = channels[count] if count < len(channels) else f"channel {count}"
            raise MissingFileError(f"case {case.name!r} lacks channel {count} ({name}): {path}")
        volume = read_image(path, whole=whole)
        read.append(volume)
        check_geometry(path, volume, case.images[0], read[0])
        count += volume.components
    if count < len(channels):
        missing = case.images[0].parent / f"{case.name}_{len(case.images):04d}{ending}"
        raise MissingFileError(f"case {case.name!r} lacks channel {count} ({channels[count]}): {missing}")
    if not read or count > len(channels):
        raise InputError(f"case {case.name!r} has {count} channels, dataset.json names {len(channels)}")
    return read


def _read_label(path: Path, image: Volume, image_path: Path, files: Files, *, whole: bool) -> Volume:
    """A label on the grid of its image; its header only, unless ``whole``."""
    if path not in files:
        raise MissingFileError(f"{image_path.name} has no label: {path}")
    label = read_any(path, whole=whole)
    if label.components != 1:
        raise InputError(f"{path} has {label.components} components per voxel; a label has one")
    check_geometry(path, label, image_path, image)
    return label
