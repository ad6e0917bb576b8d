"""A case that ``medmixers clinic uncertainty`` predicted, read again with its image."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.report.planes import Drawing, Structure
from medmixers.clinic.uncertainty.command import FOLDER, image_digest
from medmixers.datasets.image_files import read_any
from medmixers.datasets.raw_format import NIFTI, stem_and_ending
from medmixers.errors import InputError, MissingFileError
from medmixers.images.dicom import is_dicom, read_dicom_picture, read_header, read_volume
from medmixers.images.pictures import PICTURES, read_picture

SAME_MM = 1e-2  # affines in NIfTI files have single precision


class Image(NamedTuple):
    """(X, Y, Z) and its affine to RAS millimetres; a picture is (X, Y[, 3]) without one."""

    data: NDArray[Any]
    affine: NDArray[np.float64] | None


def read_cases(predictions: Path) -> list[dict[str, Any]]:
    """The facts of each case in a folder of predictions, sorted by name.

    Raises:
        MissingFileError: there is none.
        InputError: a file of another format.
    """
    files = sorted((predictions / FOLDER).glob("*.json"))
    if not files:
        raise MissingFileError(f"{predictions} holds no predictions of: medmixers clinic uncertainty")
    cases = []
    for file in files:
        try:
            facts = json.loads(file.read_text("utf-8"))
            if facts["case"] != file.name.removesuffix(".json") or not ({"structures", "probabilities"} & set(facts)):
                raise ValueError("facts of another case")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} was not written by medmixers clinic uncertainty: {error}") from None
        cases.append(facts)
    return cases


def find_image(facts: Mapping[str, Any], images: Path) -> Path:
    """The first image of a case: the file, or folder with a DICOM series, that has the digest in its facts.

    Raises:
        MissingFileError: there is no such file in ``images``.
    """
    wanted = facts["images_sha256"][0]
    for path in _candidates(facts["case"], images):
        if image_digest(path) == wanted:
            return path
    raise MissingFileError(
        f"{images} does not hold the image that {facts['case']} was predicted from; its SHA-256 is {wanted}"
    )


def _candidates(case: str, images: Path) -> Iterator[Path]:
    if not images.exists():
        raise MissingFileError(f"there is no image {str(images)!r}")
    if images.is_file() or stem_and_ending(images.name)[0] == case:  # a series is a folder
        yield images
    if images.is_dir():
        inner = images / "imagesTs" if (images / "imagesTs").is_dir() else images
        yield from (path for path in sorted(inner.rglob("*")) if stem_and_ending(path.name)[0] == case)


def read_image(path: Path) -> Image:
    """An image for people: one channel of a volume, or a picture."""
    is_file_of_dicom = path.is_file() and is_dicom(path)
    is_multi_frame = is_file_of_dicom and int(read_header(path, ("NumberOfFrames",)).get("NumberOfFrames") or 1) > 1
    if path.is_dir() or is_multi_frame:
        series = read_volume(path)
        return Image(series.voxels, series.affine)
    if is_file_of_dicom:
        return Image(np.swapaxes(read_dicom_picture(path, voi_window=True).pixels, 0, 1), None)
    if path.name.lower().endswith(PICTURES) and not path.name.lower().endswith(NIFTI):
        return Image(np.swapaxes(read_picture(path).pixels, 0, 1), None)
    volume = read_any(path)
    sign = 1 if path.name.lower().endswith(NIFTI) else -1  # ITK counts to the left and to posterior
    return Image(volume.data, np.diag([sign, sign, 1, 1]) @ volume.affine)


def drawing(facts: Mapping[str, Any], predictions: Path, image: Image) -> Drawing:
    """The case, ready to be drawn.

    Raises:
        MissingFileError: a label file or a map is missing.
        InputError: they lie on another grid than the image.
    """
    entropy = _map(predictions / FOLDER / f"{facts['case']}_entropy.nii.gz", image)
    structures = [Structure(_mask(row, facts, predictions, image), tuple(row["colour"])) for row in facts["structures"]]
    return Drawing(image.data, structures, entropy, image.affine)


def _mask(row: Mapping[str, Any], facts: Mapping[str, Any], predictions: Path, image: Image) -> NDArray[Any]:
    """Of a structure, from its values in the label file or from a file of its own."""
    values = row["values"]  # None: the structure has a file of its own
    name = facts["case"] if values is not None else f"{facts['case']}_{row['name']}"
    files = [path for path in predictions.glob(f"{glob.escape(name)}.*") if stem_and_ending(path.name)[0] == name]
    if not files:
        raise MissingFileError(f"{predictions} has no label file {name}")
    labels = _on_grid(files[0], image)
    return np.isin(labels, values) if values is not None else labels > 0


def _map(path: Path, image: Image) -> NDArray[Any]:
    if not path.is_file():
        raise MissingFileError(f"there is no file {str(path)!r}")
    values = np.asarray(nib.load(path).dataobj)
    return _checked(path, values if image.affine is not None else values[..., 0], image)


def _on_grid(path: Path, image: Image) -> NDArray[Any]:
    found = read_image(path)
    if image.affine is not None and (
        found.affine is None or np.abs((found.affine - image.affine) @ [*image.data.shape, 1]).max() > SAME_MM
    ):
        raise InputError(f"{path} does not lie on the image: it is a prediction of another one")
    return _checked(path, found.data, image)


def _checked(path: Path, values: NDArray[Any], image: Image) -> NDArray[Any]:
    shape = image.data.shape if image.affine is not None else image.data.shape[:2]
    if values.shape != shape:
        raise InputError(f"{path} has the shape {values.shape}, and its image {shape}")
    return values
