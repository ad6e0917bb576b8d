"""Cases of a folder in nnU-Net raw format, as the lists of dicts that MONAI's datasets take. No torch here.

The bundles' configs call these functions. Every error names the folder or file and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.datasets.raw_format import Case, held_out_cases, read_description, training_cases

Item = dict[str, Any]
PARTS = ("training", "validation")


def nnunet_images(dataset_dir: str | Path, *, missing_ok: bool = False) -> list[Any]:
    """Image files of imagesTs, sorted by case.

    Args:
        dataset_dir: the DatasetNNN_Name folder.
        missing_ok: give an empty list where the folder cannot be read as a data set; the preflight of the
            bundle then says why. A list in its own right (3D Slicer sets one) needs no folder.

    Returns:
        One entry a case: the path, or the list of its channels' paths where there is more than one channel.

    Raises:
        FileNotFoundError: a missing or empty folder, or a missing channel.
        ValueError: a broken dataset.json, or a file that is not named after the format.
    """
    try:
        return [_images(case, channels) for case, channels in _cases(Path(dataset_dir), held_out=True)]
    except (OSError, ValueError):
        if missing_ok:
            return []
        raise


def nnunet_datalist(dataset_dir: str | Path, *, held_out: bool = False) -> list[Item]:
    """Cases with image and label, sorted by name: ``[{"image": path or paths, "label": path}, ...]``.

    Args:
        dataset_dir: the DatasetNNN_Name folder.
        held_out: the cases of imagesTs and labelsTs instead of the training cases.

    Raises:
        FileNotFoundError: a missing or empty folder, a missing channel, or an image without a label.
        ValueError: a broken dataset.json, or a file that is not named after the format.
    """
    items = []
    for case, channels in _cases(Path(dataset_dir), held_out=held_out):
        if case.label is None or not case.label.is_file():
            raise FileNotFoundError(f"{case.images[0]} has no label: {case.label or 'none in labelsTs'}")
        items.append({"image": _images(case, channels), "label": str(case.label)})
    return items


def split_datalist(cases: Sequence[Mapping[str, Any]], *, part: str, validation_every: int) -> list[Item]:
    """One part of the training cases: the first and every n-th after it validate, the others train.

    Args:
        cases: sorted, at least two.
        part: "training" or "validation".
        validation_every: n.

    Raises:
        ValueError: an unknown part, or fewer than two cases.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    if len(cases) < 2:
        raise ValueError(f"at least 2 training cases are needed, one trains and one validates; got {len(cases)}")
    return [dict(case) for index, case in enumerate(cases) if (index % validation_every == 0) == (part == "validation")]


def nnunet_split(dataset_dir: str | Path, *, part: str, validation_every: int) -> list[Item]:
    """:func:`split_datalist` of the training cases of a folder (imagesTr, labelsTr); raises as both do."""
    return split_datalist(nnunet_datalist(dataset_dir), part=part, validation_every=validation_every)


def case_name(meta: Mapping[str, Any], saver: object) -> dict[str, Any]:
    """Name of a prediction for MONAI's ``SaveImage``: the image's without ``_0000``, as nnU-Net writes it."""
    path = Path(str(meta.get("filename_or_obj", getattr(saver, "_data_index", 0))))
    # The ending is not all that follows the first dot: case names may hold dots, as those of DICOM identifiers do.
    ending = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    stem = re.sub(r"(?<=.)_\d{4}$", "", path.name.removesuffix(ending))
    return {"subject": f"{stem}{ending}", "idx": meta.get("patch_index")}


def _cases(folder: Path, *, held_out: bool) -> list[tuple[Case, int]]:
    """Each case, and how many channels it has to have."""
    description = read_description(folder)
    cases = held_out_cases(folder, description) if held_out else training_cases(folder, description)
    if not cases:
        where, first = folder / ("imagesTs" if held_out else "imagesTr"), f"CASE_0000{description['file_ending']}"
        raise FileNotFoundError(f"{where} holds no image; expected files named {first}")
    return [(case, len(description["channel_names"])) for case in cases]


def _images(case: Case, channels: int) -> str | list[str]:
    missing = [str(file) for file in case.images if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"case {case.name!r} lacks {', '.join(missing)}")
    if len(case.images) != channels:
        raise ValueError(f"case {case.name!r} has {len(case.images)} files, dataset.json names {channels} channels")
    paths = [str(file) for file in case.images]
    return paths[0] if channels == 1 else paths
