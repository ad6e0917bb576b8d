"""One slice of a case: its image, and the masks of truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.image_files import read_any
from medmixers.datasets.raw_format import NIFTI
from medmixers.datasets.thumbnails import BRIGHTEST, DARKEST
from medmixers.errors import InputError
from medmixers.images.pictures import PICTURES, read_picture
from medmixers.study.report.folder import Run, StudyFolder
from medmixers.study.segmentation import prediction_files, read_masks

Array = NDArray[Any]


def read_image(path: Path) -> tuple[Array, Array | None]:
    """Image with axes x, y(, z) and its affine; a picture has none, and its colours come last."""
    if path.suffix.lower() in PICTURES and not path.name.lower().endswith(NIFTI):
        return np.swapaxes(read_picture(path).pixels, 0, 1), None
    volume = read_any(path)
    sign = 1 if path.name.lower().endswith(NIFTI) else -1  # ITK counts to the left and to posterior
    flip = np.diag([sign, sign, *[1] * (len(volume.affine) - 2)])
    return volume.data, flip @ volume.affine


def run_with(study: StudyFolder, dataset: Mapping[str, Any], entry: str, case: str) -> Run:
    """The first scored training of an entry that predicted a case: with folds, one per seed did."""
    first = next(iter(_names(dataset, case).values()))
    return next(
        run
        for run in study.runs_of(dataset["name"], entry)
        if first in prediction_files(study.path / "runs" / run.id / "predictions")
    )


def _names(dataset: Mapping[str, Any], case: str) -> dict[str, str]:
    """Class -> name of the prediction that holds it, without ending."""
    per_class = isinstance(dataset["cases"][case]["truth"], Mapping)
    return {name: f"{case}_{name}" if per_class else case for name in dataset["classes"]}


def read_case(folder: Path, dataset: Mapping[str, Any], case: str, image: Array) -> tuple[Array, Array]:
    """Masks of prediction and truth, on the image's axes: (classes, *spatial) each.

    Args:
        folder: of the training.
        dataset: its row of the plan.
        case: its name.
        image: of the case.

    Raises:
        InputError: they have another shape than the image.
    """
    files, truth = prediction_files(folder / "predictions"), dataset["cases"][case]["truth"]
    per_class = isinstance(truth, Mapping)
    pairs = {
        name: (files[file], Path(truth[name] if per_class else truth)) for name, file in _names(dataset, case).items()
    }
    predicted, true = read_masks(
        pairs, dataset["classes"], overlapping=per_class, ignore_label=dataset.get("ignore_label")
    )[:2]
    if predicted.shape[1:] != image.shape[: predicted.ndim - 1]:
        path = dataset["cases"][case]["image"][0]
        raise InputError(f"image {path} has shape {image.shape}, its labels {predicted.shape[1:]}")
    return predicted, true


def fullest_plane(
    image: Array, affine: Array | None, masks: Array, deciding: int | None = None
) -> tuple[Array, Array, str]:
    """The axial slice with most voxels of the masks, seen from the feet as on paper, but right on the right.

    Args:
        image: with axes x, y(, z); affine: None of a picture.
        masks: (n, *spatial).
        deciding: number of masks, from the first on, that choose the slice; None takes all.

    Returns:
        The image's slice (rows, columns), the masks' (n, rows, columns), and words that say which slice it is.
    """
    if image.ndim == 2 or affine is None or len(affine) == 3:
        return np.swapaxes(image, 0, 1), masks.swapaxes(1, 2), ""
    turn = nib.orientations.io_orientation(affine)
    image, *turned = (nib.orientations.apply_orientation(each, turn) for each in (image, *masks))
    area = np.any(turned[:deciding], axis=0).sum(axis=(0, 1))
    at = int(area.argmax()) if area.any() else image.shape[2] // 2
    planes = np.stack([each[:, ::-1, at].T for each in turned])
    return image[:, ::-1, at].T, planes, f", axial slice {at + 1} of {image.shape[2]}, right is on the right"


def middle(image: Array, affine: Array | None) -> Array:
    """The middle slice of a volume; a picture itself."""
    if affine is not None and image.ndim == 3:
        return image[:, ::-1, image.shape[2] // 2].T
    return np.swapaxes(image, 0, 1)


def grey_range(plane: Array) -> tuple[float, float]:
    """Darkest and brightest value to show."""
    low, high = np.percentile(plane, (DARKEST, BRIGHTEST)) if plane.ndim == 2 else (0, 255)
    return float(low), max(float(high), float(low) + 1e-6)
