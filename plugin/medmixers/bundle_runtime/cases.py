"""List the cases of a data set folder as the dicts that MONAI's datasets take.

The folder is in nnU-Net's raw format (dataset.json) or has a datalist.json. The bundles' configs call these functions,
several times per start: each folder and each description is read once. Every error names the file and what is valid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.datasets.datalist_format import FILE as LIST_FILE
from medmixers.datasets.datalist_format import datalist_part
from medmixers.datasets.raw_format import (
    NIFTI,
    CaseFiles,
    held_out_cases,
    is_hidden,
    read_description,
    read_folds,
    stem_and_ending,
    training_cases,
)
from medmixers.datasets.readings import Files, listing
from medmixers.datasets.split_rule import check_part, every_nth
from medmixers.errors import InputError, MissingFileError
from medmixers.images.dicom import DICOM_ENDINGS, is_dicom, series_in
from medmixers.images.pictures import PICTURES

Item = dict[str, Any]
CHANNEL_FILE = re.compile(r"(.+)_(\d{4})\.nii(\.gz)?", re.IGNORECASE)
IMAGE_ENDINGS = (*NIFTI, *PICTURES, *DICOM_ENDINGS, ".nrrd")


def find_images(dataset_dir: str | Path, *, channels: int = 1, missing_ok: bool = False) -> list[Any]:
    """Images to predict, sorted: the held-out ones of a data set, or all of a folder of images.

    Args:
        dataset_dir: a data set (its imagesTs, or the test part of its datalist.json), a folder of image files
            and of folders that hold one DICOM series each, a DICOM series itself, or one image file.
        channels: of the network. Each NIfTI file in a folder of images is one case. Files that are all named
            CASE_0000, CASE_0001 ..., as nnUNetv2_predict takes them, are the channels of one where it has several.
        missing_ok: return an empty list where nothing can be found; the bundle's preflight then says why. A
            list that replaces this one (3D Slicer sets it) needs no folder.

    Returns:
        One entry per case: a path, or the list of its channels' paths where there is more than one file.

    Raises:
        FileNotFoundError: a missing or empty folder, or a missing channel.
        ValueError: a broken dataset.json or datalist.json, or a file with another name than the format's.
    """
    try:
        return _images(Path(dataset_dir), channels)
    except (OSError, ValueError, ImportError):
        if missing_ok:
            return []
        raise


def _images(folder: Path, channels: int) -> list[Any]:
    if folder.is_file():
        return _one_file(folder, channels)
    if not folder.is_dir():
        raise MissingFileError(f"there is no data set folder {folder}")
    if (folder / "dataset.json").is_file():
        files = Files()
        return [_channels(case, count, files) for case, count in _raw_cases(folder, held_out=True)]
    if (folder / LIST_FILE).is_file():
        return [item["image"] for item in split(folder, part="test", validation_every=2)]
    entries = {name: is_file for name, is_file in listing(str(folder)).items() if not is_hidden(name)}
    found = [
        folder / name
        for name, is_file in entries.items()
        if name.lower().endswith(IMAGE_ENDINGS) or (not is_file and _is_series(folder / name))
    ]
    slices = [folder / name for name, is_file in entries.items() if is_file and _may_be_slice(folder / name)]
    if len(slices) > 1 and len(series := series_in(slices)) < len(slices):
        broken = {path for path in found if path.suffix.lower() in DICOM_ENDINGS}  # named by the reader
        if len(series) > 1 or set(found) - set(slices) - broken:
            raise InputError(f"{folder} holds slices of a DICOM series and other images; give each series a folder")
        return [str(folder)]
    if not found:
        raise MissingFileError(
            f"{folder} has no dataset.json, no {LIST_FILE}, no image ({', '.join(IMAGE_ENDINGS)}) and no folder with a "
            "DICOM series"
        )
    return _by_case(sorted(found), channels)


def _one_file(path: Path, channels: int) -> list[Any]:
    """The case of one image file: CASE_0000 stands for all channels, where the network has several."""
    match = CHANNEL_FILE.fullmatch(path.name)
    if channels == 1 or match is None:
        return [str(path)]
    ending = path.name[len(match[1]) + len("_0000") :]
    return _by_case([path.with_name(f"{match[1]}_{channel:04d}{ending}") for channel in range(channels)], channels)


def _by_case(images: Sequence[Path], channels: int) -> list[Any]:
    """Paths, or lists of channels' paths where all NIfTI files are named CASE_0000, CASE_0001 ..."""
    plain = [str(path) for path in images]
    if channels == 1:
        return plain
    cases: dict[str, list[tuple[int, str]]] = {}
    others = []
    for path in images:
        if match := CHANNEL_FILE.fullmatch(path.name):
            cases.setdefault(match[1], []).append((int(match[2]), str(path)))
        elif path.name.lower().endswith(NIFTI):
            return plain
        else:
            others.append(str(path))
    if any([number for number, _ in files] != list(range(channels)) for files in cases.values()):
        return plain
    return [*([file for _, file in files] for files in cases.values()), *others]


def unread_files(dataset_dir: str | Path, images: Sequence[Any]) -> list[str]:
    """Names in a folder of images that are none of ``images``: other formats, and folders without a DICOM series.

    Empty for a data set with a description, whose images are listed, and for a folder that does not exist.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir() or any((folder / name).is_file() for name in ("dataset.json", LIST_FILE)):
        return []
    files = [Path(file) for entry in images for file in ([entry] if isinstance(entry, (str, Path)) else entry)]
    read = {file.name for file in files if file.parent == folder}
    if folder in files or not read:
        return []
    return sorted(name for name in listing(str(folder)) if name not in read and not is_hidden(name))


def _is_series(path: Path) -> bool:
    """Whether this is a folder of DICOM files."""
    if not path.is_dir():
        return False
    first = next((file for file in sorted(path.iterdir()) if file.is_file() and file.stat().st_size), None)
    return first is not None and is_dicom(first)


def _may_be_slice(file: Path) -> bool:
    return not file.name.lower().endswith(tuple(set(IMAGE_ENDINGS) - set(DICOM_ENDINGS))) and is_dicom(file)


def split(dataset_dir: str | Path, *, part: str, validation_every: int, fold: int = 0) -> list[Item]:
    """One part of the cases with labels: ``[{"image": path or paths, "label": ...}, ...]``.

    The test part is imagesTs with labelsTs, or that of datalist.json. The validation part is that of datalist.json, or
    the fold of splits_final.json. Without those, number ``fold`` of the sorted cases and every n-th after it validate.

    Args:
        dataset_dir: the data set.
        part: "training", "validation" or "test".
        validation_every: n.
        fold: of a data set in nnU-Net raw format.

    Raises:
        FileNotFoundError: a missing file, an image without a label, or no case to test.
        ValueError: an unknown part, a broken dataset.json or datalist.json, or too few cases.
    """
    folder = Path(dataset_dir)
    check_part(part)
    if not (folder / "dataset.json").is_file() and (folder / LIST_FILE).is_file():
        items = datalist_part(folder, part=part, validation_every=validation_every)
        if not items:
            raise MissingFileError(f"the {part} part of {folder / LIST_FILE} is empty")
        return items
    if part == "test":
        return [item for _, item in _labelled(folder, held_out=True)]
    cases = _labelled(folder, held_out=False)
    folds = read_folds(folder, [name for name, _ in cases])
    if not 0 <= fold < (len(folds) if folds else validation_every):
        raise InputError(f"fold must be from 0 to {(len(folds) if folds else validation_every) - 1}, got {fold}")
    if folds is not None:
        chosen = set(folds[fold]["train" if part == "training" else "val"])
        return [item for name, item in cases if name in chosen]
    return split_datalist([item for _, item in cases], part=part, validation_every=validation_every, fold=fold)


def split_datalist(
    cases: Sequence[Mapping[str, Any]], *, part: str, validation_every: int, fold: int = 0
) -> list[Item]:
    """Number ``fold`` of the sorted cases and every n-th after it validate; the others train.

    Raises:
        ValueError: fewer than two cases, or a part without one.
    """
    if len(cases) < 2:
        raise InputError(f"at least 2 training cases are needed, one trains and one validates; got {len(cases)}")
    validating = every_nth(range(len(cases)), every=validation_every, fold=fold)
    chosen = [dict(case) for index, case in enumerate(cases) if (index in validating) == (part == "validation")]
    if not chosen:
        raise InputError(f"fold {fold} of {len(cases)} training cases leaves none for {part}")
    return chosen


def case_name(meta: Mapping[str, Any], saver: object) -> dict[str, Any]:
    """Name of a prediction for MONAI's ``SaveImage``: the image's name without ``_0000``, as in nnU-Net."""
    stem, ending = stem_and_ending(str(meta.get("filename_or_obj", getattr(saver, "_data_index", 0))))
    return {"subject": f"{stem}{ending or '.nii.gz'}", "idx": meta.get("patch_index")}


def _labelled(folder: Path, *, held_out: bool) -> list[tuple[str, Item]]:
    """Name, image and label of each case in nnU-Net raw format, sorted by name."""
    items, files = [], Files()
    for case, channels in _raw_cases(folder, held_out=held_out):
        if case.label is None or case.label not in files:
            raise MissingFileError(f"{case.images[0]} has no label: {case.label or 'none in labelsTs'}")
        items.append((case.name, {"image": _channels(case, channels, files), "label": str(case.label)}))
    return items


def _raw_cases(folder: Path, *, held_out: bool) -> list[tuple[CaseFiles, int]]:
    """Each case, and the number of channels that dataset.json names."""
    description = read_description(folder)
    cases = held_out_cases(folder, description) if held_out else training_cases(folder, description)
    if not cases:
        where, first = folder / ("imagesTs" if held_out else "imagesTr"), f"CASE_0000{description['file_ending']}"
        raise MissingFileError(f"{where} holds no image; expected files named {first}")
    return [(case, len(description["channel_names"])) for case in cases]


def _channels(case: CaseFiles, channels: int, files: Files) -> str | list[str]:
    """The files of a case: one per channel, or a colour picture that holds all channels."""
    missing = [str(file) for file in case.images if file not in files]
    if missing:
        raise MissingFileError(f"case {case.name!r} lacks {', '.join(missing)}")
    is_colour = len(case.images) == 1 and not case.images[0].name.lower().endswith(NIFTI)
    if len(case.images) != channels and not is_colour:
        raise InputError(f"case {case.name!r} has {len(case.images)} files, dataset.json names {channels} channels")
    paths = [str(file) for file in case.images]
    return paths[0] if len(paths) == 1 else paths
