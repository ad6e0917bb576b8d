"""Dice, normalised surface Dice and HD95 of label maps. The rule for empty structures is that of ``overlap``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.image_files import Volume, check_geometry, read_any
from medmixers.datasets.label_values import check_label_values, check_mask_values
from medmixers.errors import InputError, MissingFileError
from medmixers.progress import progress
from medmixers.study.rows import Value, check_complete

Mask = NDArray[np.bool_]
Classes = Mapping[str, int | Sequence[int]]
ENDINGS = (".nii.gz", ".nii", ".png", ".nrrd", ".mha", ".mhd", ".tif", ".tiff", ".bmp")


def score_segmentation(
    folder: Path, *, cases: Mapping[str, Any], classes: Classes, ignore_label: int | None = None, tolerance: float
) -> Iterator[Value]:
    """Values of every case and class.

    Args:
        folder: one file per case, CASE.nii.gz or .png; CASE_CLASS where labels overlap.
        cases: name -> {"truth": file}, or {"truth": {class: file}} where labels overlap.
        classes: name -> id in the files, or the ids that make up a region; without background.
        ignore_label: id in the truth that marks voxels that do not count.
        tolerance: of NSD, in mm; in voxels for a picture, which has no spacing.

    Yields:
        (case, class, metric, value) for "dice", "nsd" and "hd95".

    Raises:
        MissingFileError, InputError: a case without truth or prediction, one too many, on another grid, or with a
            value that is no label.
    """
    files = prediction_files(folder)
    per_class = any(isinstance(case["truth"], Mapping) for case in cases.values())
    wanted = [f"{case}_{name}" for case in cases for name in classes] if per_class else list(cases)
    check_complete(files, wanted, folder, "a prediction")
    for case, facts in progress(cases.items(), "score", total=len(cases)):
        if per_class:
            pairs = {name: (files[f"{case}_{name}"], Path(facts["truth"][name])) for name in classes}
        else:
            pairs = dict.fromkeys(classes, (files[case], Path(facts["truth"])))
        predicted, true, spacing = read_masks(pairs, classes, overlapping=per_class, ignore_label=ignore_label)
        for metric, values in _measure(predicted, true, spacing, tolerance).items():
            for name, value in zip(classes, values, strict=True):
                yield case, name, metric, value


def read_masks(
    pairs: Mapping[str, tuple[Path, Path]], classes: Classes, *, overlapping: bool, ignore_label: int | None = None
) -> tuple[Mask, Mask, list[float]]:
    """Masks of prediction and truth, (classes, *spatial) each, and the spacing along each axis.

    An axis of length 1 is left out: the surface of a single slice is its outline.

    Args:
        pairs: class -> files of prediction and truth, the same for all classes unless ``overlapping``.
        classes: name -> id or ids.
        overlapping: each file holds one class, as 0 and not 0.
        ignore_label: voxels with this id in the truth belong to no class, in both.
    """
    names = None if overlapping else label_names(classes, ignore_label)
    read: dict[Path, Volume] = {}
    predicted, true = [], []
    for name, (prediction, truth) in pairs.items():
        for path in (prediction, truth):
            if path not in read:
                read[path] = read_label(path, names)
        check_geometry(prediction, read[prediction], truth, read[truth])
        first, second = read[prediction].data, read[truth].data
        ids = np.atleast_1d(classes[name])
        masks = [(data != 0) if overlapping else np.isin(data, ids) for data in (first, second)]
        counted = np.ones_like(masks[1]) if ignore_label is None else second != ignore_label
        predicted.append(masks[0] & counted)
        true.append(masks[1] & counted)
    volume = next(iter(read.values()))
    spacing = np.linalg.norm(volume.affine[:-1, :-1], axis=0)
    kept = [axis for axis, extent in enumerate(volume.shape) if extent > 1]
    shape = [len(predicted), *(volume.shape[axis] for axis in kept)]
    return np.reshape(predicted, shape), np.reshape(true, shape), [float(spacing[axis]) for axis in kept]


def label_names(classes: Classes, ignore_label: int | None = None) -> dict[int, str]:
    """Value -> name of all that a label map may hold; the smallest of several regions gives a value its name."""
    names = {0: "background"}
    for name, ids in sorted(classes.items(), key=lambda item: np.size(item[1])):
        for value in np.atleast_1d(ids).tolist():
            names.setdefault(value, name)
    return dict(sorted((names if ignore_label is None else {**names, ignore_label: "ignore"}).items()))


def read_label(path: Path, names: Mapping[int, str] | None) -> Volume:
    """Read a label map, or a mask.

    Args:
        path: its file.
        names: of :func:`label_names`; None for a mask.

    Raises:
        MissingFileError, InputError: no such file, no label map, or a value that is none of ``names``.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no label map {str(path)!r}")
    volume = read_any(path)
    if volume.components != 1:
        raise InputError(f"{path} has {volume.components} values per pixel; a label map has one")
    if names is None:
        check_mask_values(path, volume.data)
    else:
        check_label_values(path, volume.data, names)
    return volume


def prediction_files(folder: Path) -> dict[str, Path]:
    """Case -> its file. Files that are no images, such as nnU-Net's JSON, are passed over."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        ending = next((each for each in ENDINGS if path.name.lower().endswith(each)), None)
        if ending is None:
            continue
        case = path.name[: -len(ending)]
        if case in found:
            raise InputError(f"{folder} holds two predictions of {case}: {found[case].name} and {path.name}")
        found[case] = path
    return found


def _measure(predicted: Mask, true: Mask, spacing: Sequence[float], tolerance: float) -> dict[str, list[float]]:
    import torch

    from medmixers.bundle_runtime.overlap import dice, hausdorff95, surface_dice

    first, second = (torch.from_numpy(np.ascontiguousarray(masks))[None] for masks in (predicted, true))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*may result in nan/inf distance.*")  # the rule covers it
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")  # of MONAI's own calls
        values = {
            "dice": dice(first, second),
            "nsd": surface_dice(first, second, spacing, tolerance),
            "hd95": hausdorff95(first, second, spacing),
        }
    return {metric: [float(value) for value in row[0]] for metric, row in values.items()}
