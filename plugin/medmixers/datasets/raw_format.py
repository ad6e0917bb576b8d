"""Read nnU-Net's raw format: dataset.json, splits_final.json, and the files of each case. No image is opened.

Format: nnU-Net's documentation/dataset_format.md. The auditor and the bundles read data sets through this module.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medmixers.datasets.readings import Files, listing, read_json
from medmixers.errors import InputError, MissingFileError

FOLDS_FILE = "splits_final.json"  # as nnU-Net names it in its preprocessed folder
NIFTI = (".nii.gz", ".nii")
REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")


class CaseFiles(NamedTuple):
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
    description = read_json(str(path))
    missing = [key for key in REQUIRED if key not in description] if isinstance(description, dict) else REQUIRED
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; it needs {', '.join(REQUIRED)}")
    _check_channel_names(path, description["channel_names"])
    if not isinstance(description["file_ending"], str):
        raise InputError(f'{path}: file_ending must look like ".nii.gz", got {description["file_ending"]}')
    return dict(description)


def _check_channel_names(path: Path, names: Any) -> None:
    """nnU-Net chooses a normalization by each name, in the order of the file, for the images _0000, _0001, ..."""
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if not numbers or list(names) != numbers or not all(isinstance(name, str) and name for name in names.values()):
        form = '{"0": "T1", "1": "T2", ...}: the number of each channel, from 0 in order, and its name'
        raise InputError(f"{path}: channel_names must look like {form}; got {names}")


def label_names(description: Mapping[str, Any]) -> dict[int, str]:
    """Label value -> name, ascending, from the ``labels`` of a dataset.json, after nnU-Net's rules.

    Of several regions, lists of values, with a value in common the smallest gives it its name. The ignore label is the
    highest.
    """
    labels = description["labels"]
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise InputError(f'dataset.json: labels must name "background" as 0, got {labels}')
    names: dict[int, str] = {}
    for name, value in sorted(labels.items(), key=lambda item: len(item[1]) if isinstance(item[1], list) else 0):
        values = value if isinstance(value, list) else [value]
        if not values or not all(type(entry) is int for entry in values):
            raise InputError(f"dataset.json: label {name!r} must be an integer or a list of them, got {value!r}")
        for entry in values:
            names.setdefault(entry, name)
    if "ignore" in labels and labels["ignore"] != max(names):
        raise InputError(f"dataset.json: the ignore label must be the highest value, got {labels['ignore']!r}")
    if sorted(names) != list(range(len(names))):
        raise InputError(f"dataset.json: label values must be consecutive from 0, got {sorted(names)}")
    regions = [name for name, value in labels.items() if name != "ignore" and value not in (0, [0])]
    order = description.get("regions_class_order")
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        if not isinstance(order, list) or len(order) != len(regions):
            raise InputError(f"dataset.json: regions_class_order must have {len(regions)} values, got {order}")
        _check_class_order(order, [labels[name] for name in regions], set(names) - {labels.get("ignore")})
    return dict(sorted(names.items()))


def _check_class_order(order: list[int], regions: Sequence[int | list[int]], values: set[int]) -> None:
    """Raise InputError unless painting the regions in their order gives each label value back.

    As nnU-Net's ``convert_probabilities_to_segmentation`` paints them.
    """
    members = [set(region) if isinstance(region, list) else {region} for region in regions]
    painted = dict.fromkeys(values, 0)
    for value in values:
        for written, region in zip(order, members, strict=True):
            painted[value] = written if value in region else painted[value]
    wrong = [f"{value} as {written}" for value, written in sorted(painted.items()) if value != written]
    if wrong:
        raise InputError(
            f"dataset.json: regions_class_order {order} does not give the labels back: a perfect network would write "
            f"{', '.join(wrong)}. List the regions from the outermost inwards, each with the value that it adds"
        )


def training_cases(folder: Path, description: dict[str, Any]) -> list[CaseFiles]:
    """Cases of imagesTr and labelsTr, or those that dataset.json lists under ``dataset``, sorted by name."""
    listed = description.get("dataset")
    if listed is not None:
        return _listed_cases(folder, listed)
    for name in ("imagesTr", "labelsTr"):
        if not (folder / name).is_dir():
            raise MissingFileError(f"{folder} has no folder {name}")
    ending = description["file_ending"]
    cases = _group_images(folder / "imagesTr", ending)
    return [CaseFiles(name, images, folder / "labelsTr" / f"{name}{ending}") for name, images in cases]


def held_out_cases(folder: Path, description: dict[str, Any]) -> list[CaseFiles]:
    """Cases of imagesTs, sorted by name, with their labels from labelsTs; none without the folder."""
    if not (folder / "imagesTs").is_dir():
        return []
    ending = description["file_ending"]
    files, cases = Files(), []
    for name, images in _group_images(folder / "imagesTs", ending):
        label = folder / "labelsTs" / f"{name}{ending}"
        cases.append(CaseFiles(name, images, label if label in files else None))
    return cases


def read_folds(folder: Path, cases: Collection[str]) -> list[dict[str, list[str]]] | None:
    """The folds of ``folder/splits_final.json``, [{"train": cases, "val": cases}, ...]; None without the file.

    A converter writes it, in nnU-Net's own form, where cases must stay together, as both frames of one heart.

    Args:
        folder: the data set.
        cases: names of its training cases.

    Raises:
        ValueError: the file is not JSON or of another form; it has no fold; or a fold names an unknown case, has no
            case to train or to validate with, or names one case twice.
    """
    path = folder / FOLDS_FILE
    if not path.is_file():
        return None
    try:
        content = read_json(str(path))
        folds = [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in content]
    except (InputError, KeyError, TypeError) as error:
        form = '[{"train": [CASE, ...], "val": [CASE, ...]}, ...]'
        raise InputError(f"{path} must look like {form}: {error}") from None
    if not folds:
        raise InputError(f"{path} has no fold; without the file, every n-th case validates")
    for number, fold in enumerate(folds):
        names = [*fold["train"], *fold["val"]]
        if missing := sorted(set(names) - set(cases)):
            raise InputError(f"{FOLDS_FILE} of {folder} names case {missing[0]!r}, which imagesTr does not hold")
        if empty := [part for part in fold if not fold[part]]:
            raise InputError(f"{path}: fold {number} has no case in {empty[0]!r}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            both = "'train' and 'val'" if twice[0] in fold["train"] and twice[0] in fold["val"] else "one part twice"
            raise InputError(f"{path}: fold {number} has case {twice[0]!r} in {both}")
    return folds


def is_hidden(name: str) -> bool:
    """Whether a file's name begins with a dot, as those that macOS adds (._NAME)."""
    return name.startswith(".")


def stem_and_ending(file: str | Path) -> tuple[str, str]:
    """Name of the case of an image file, and the file's ending in small letters."""
    path = Path(file)
    # Case names may hold dots. Folders of DICOM series are often named after identifiers such as 1.2.840.5.
    suffix = path.suffix if re.fullmatch(r"\.[A-Za-z]\w*", path.suffix) else ""
    ending = path.name[-7:] if path.name.lower().endswith(".nii.gz") else suffix
    stem = path.name.removesuffix(ending)
    # Only 0000, the first channel, is removed: IXI_0001 may be a case's own name.
    return stem.removesuffix("_0000") or stem, ending.lower()  # MONAI removes .nii.gz, but not .NII.GZ


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


def _listed_cases(folder: Path, listed: Any) -> list[CaseFiles]:
    try:
        rows = sorted((name, list(row["images"]), row["label"]) for name, row in listed.items())
        return [
            CaseFiles(name, [_path(folder, path) for path in images], _path(folder, label))
            for name, images, label in rows
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
    for file in sorted(listing(str(folder))):
        if not file.endswith(ending) or is_hidden(file):
            continue
        match = pattern.fullmatch(file)
        if match is None:
            raise InputError(
                f"{folder / file} must be named CASE_CCCC{ending}, CCCC being the channel, as in case_0000"
            )
        channels.setdefault(match[1], []).append(int(match[2]))
    return [
        (name, [folder / f"{name}_{index:04d}{ending}" for index in range(max(found) + 1)])
        for name, found in sorted(channels.items())
    ]
