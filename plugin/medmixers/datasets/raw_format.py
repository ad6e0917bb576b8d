"""nnU-Net's raw format: dataset.json, and the files of each case by their names. No image is opened here.

Format: nnU-Net's documentation/dataset_format.md. The auditor and the bundles read data sets through this.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medmixers.errors import InputError, MissingFileError

FOLDS_FILE = "splits_final.json"  # as nnU-Net names it in its preprocessed folder
NIFTI = (".nii.gz", ".nii")
REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")


class Case(NamedTuple):
    """The files of one case. They need not exist; ``label`` is None where a held-out case has none."""

    name: str
    images: list[Path]
    label: Path | None


def read_description(folder: Path) -> dict[str, Any]:
    """The content of ``folder/dataset.json``.

    Raises:
        FileNotFoundError: the folder or the file does not exist.
        ValueError: the file is not JSON, lacks a key, or a value is of another kind.
    """
    if not folder.is_dir():
        raise MissingFileError(f"there is no data set folder {folder}")
    path = folder / "dataset.json"
    if not path.is_file():
        raise MissingFileError(f"{folder} has no dataset.json; a data set in nnU-Net raw format needs one")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    missing = [key for key in REQUIRED if key not in description] if isinstance(description, dict) else REQUIRED
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; it needs {', '.join(REQUIRED)}")
    if not isinstance(description["channel_names"], dict) or not description["channel_names"]:
        raise InputError(f'{path}: channel_names must look like {{"0": "T1"}}, got {description["channel_names"]}')
    if not isinstance(description["file_ending"], str):
        raise InputError(f'{path}: file_ending must look like ".nii.gz", got {description["file_ending"]}')
    return description


def training_cases(folder: Path, description: dict[str, Any]) -> list[Case]:
    """Cases of imagesTr and labelsTr, or those that dataset.json lists under ``dataset``, sorted by name."""
    listed = description.get("dataset")
    if listed is not None:
        return _listed_cases(folder, listed)
    for name in ("imagesTr", "labelsTr"):
        if not (folder / name).is_dir():
            raise MissingFileError(f"{folder} has no folder {name}")
    ending = description["file_ending"]
    cases = _group_images(folder / "imagesTr", ending)
    return [Case(name, images, folder / "labelsTr" / f"{name}{ending}") for name, images in cases]


def held_out_cases(folder: Path, description: dict[str, Any]) -> list[Case]:
    """Cases of imagesTs, sorted by name, with their labels from labelsTs; none without the folder."""
    if not (folder / "imagesTs").is_dir():
        return []
    ending = description["file_ending"]
    cases = []
    for name, images in _group_images(folder / "imagesTs", ending):
        label = folder / "labelsTs" / f"{name}{ending}"
        cases.append(Case(name, images, label if label.is_file() else None))
    return cases


def read_folds(folder: Path) -> list[dict[str, list[str]]] | None:
    """The folds of ``folder/splits_final.json``, [{"train": cases, "val": cases}, ...]; None without the file.

    A converter writes it, in nnU-Net's own form, where cases must stay together, as both frames of one heart.

    Raises:
        ValueError: the file is not JSON or of another form.
    """
    path = folder / FOLDS_FILE
    if not path.is_file():
        return None
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))
        return [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in folds]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{path} must look like [{{"train": [CASE, ...], "val": [CASE, ...]}}, ...]: {error}'
        ) from None


def stem_and_ending(file: str | Path) -> tuple[str, str]:
    """Name of the case that an image belongs to, and the ending of its file in small letters."""
    path = Path(file)
    # The ending is not all that follows the first dot: case names may hold dots, and the folders of DICOM series,
    # which are often named after identifiers such as 1.2.840.5, have none.
    suffix = path.suffix if re.fullmatch(r"\.[A-Za-z]\w*", path.suffix) else ""
    ending = path.name[-7:] if path.name.lower().endswith(".nii.gz") else suffix
    stem = path.name.removesuffix(ending)
    # Only 0000, the first channel, which a case of several files is named after: IXI_0001 may be a case's own name.
    return stem.removesuffix("_0000") or stem, ending.lower()  # MONAI takes off .nii.gz, and not .NII.GZ


def region_class_order(regions: Sequence[Sequence[int]]) -> list[int]:
    """nnU-Net's ``regions_class_order``: the label value that each region paints, later regions over earlier ones.

    Raises InputError where a region adds no value, or several, to the regions after it.
    """
    painted = []
    for index, values in enumerate(regions):
        own = set(values).difference(*regions[index + 1 :])
        if len(own) != 1:
            raise InputError(
                f"region {tuple(values)} must add one label value to the regions after it, it adds {sorted(own)}"
            )
        painted.append(own.pop())
    return painted


def _listed_cases(folder: Path, listed: Any) -> list[Case]:
    try:
        rows = sorted((name, list(row["images"]), row["label"]) for name, row in listed.items())
        return [
            Case(name, [_path(folder, path) for path in images], _path(folder, label)) for name, images, label in rows
        ]
    except (AttributeError, KeyError, TypeError):
        form = '{"CASE": {"images": [FILE, ...], "label": FILE}, ...}'
        raise InputError(f"{folder / 'dataset.json'}: dataset must look like {form}") from None


def _path(folder: Path, path: str) -> Path:
    return folder / os.path.expandvars(path)


def _group_images(folder: Path, ending: str) -> list[tuple[str, list[Path]]]:
    """Case name and its files of channels 0, 1, 2 ..., from names such as ``case_0000.nii.gz``."""
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    channels: dict[str, list[int]] = {}
    for path in folder.iterdir():
        if not path.name.endswith(ending):
            continue
        match = pattern.fullmatch(path.name)
        if match is None:
            raise InputError(f"{path} must be named CASE_CCCC{ending}, CCCC being the channel, as in case_0000")
        channels.setdefault(match[1], []).append(int(match[2]))
    return [
        (name, [folder / f"{name}_{index:04d}{ending}" for index in range(max(found) + 1)])
        for name, found in sorted(channels.items())
    ]
