"""Cases of a folder in nnU-Net raw format, as the lists of dicts that MONAI's datasets take. No torch here.

The bundles' configs call these functions. Every error names the folder or file and what was expected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Case = dict[str, Any]
PARTS = ("training", "validation")


def read_dataset_json(dataset_dir: str | Path) -> dict[str, Any]:
    """The content of ``dataset_dir/dataset.json``.

    Raises:
        FileNotFoundError: the folder or the file does not exist.
        ValueError: the file is not JSON or lacks a key that is needed here.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"dataset_dir {str(folder)!r} is not a folder; give one in nnU-Net raw format (DatasetNNN_Name, "
            "holding dataset.json, imagesTr and labelsTr)"
        )
    path = folder / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(f"dataset_dir {str(folder)!r} holds no dataset.json; give a DatasetNNN_Name folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    missing = [key for key in ("channel_names", "labels", "file_ending") if key not in content]
    if missing:
        raise ValueError(f"{str(path)!r} lacks {', '.join(missing)}")
    return content


def nnunet_images(dataset_dir: str | Path, *, images: str = "imagesTs", missing_ok: bool = False) -> list[Any]:
    """Image files of a folder, sorted by case.

    Args:
        dataset_dir: the DatasetNNN_Name folder.
        images: its subfolder.
        missing_ok: give an empty list where the folder is missing, empty or not one; the preflight of the
            bundle then says so. A list in its own right (3D Slicer sets one) needs no folder.

    Returns:
        One entry a case: the path, or the list of its channels' paths where there is more than one channel.

    Raises:
        FileNotFoundError: a missing or empty folder, or a missing channel.
    """
    try:
        return [case["image"] for case in _cases(Path(dataset_dir), images)]
    except FileNotFoundError:
        if missing_ok:
            return []
        raise


def nnunet_datalist(dataset_dir: str | Path, *, images: str = "imagesTr", labels: str = "labelsTr") -> list[Case]:
    """Cases with image and label, sorted by name: ``[{"image": path or paths, "label": path}, ...]``.

    Raises:
        FileNotFoundError: a missing or empty folder, a missing channel, or an image without a label.
    """
    folder = Path(dataset_dir)
    ending = read_dataset_json(folder)["file_ending"]
    cases = []
    for case in _cases(folder, images):
        label = folder / labels / f"{case['name']}{ending}"
        if not label.is_file():
            raise FileNotFoundError(f"case {case['name']!r} of {str(folder / images)!r} has no label {str(label)!r}")
        cases.append({"image": case["image"], "label": str(label)})
    return cases


def split_datalist(cases: Sequence[Mapping[str, Any]], *, part: str, validation_every: int) -> list[Case]:
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


def nnunet_split(dataset_dir: str | Path, *, part: str, validation_every: int) -> list[Case]:
    """:func:`split_datalist` of the training cases of a folder (imagesTr, labelsTr); raises as both do."""
    return split_datalist(nnunet_datalist(dataset_dir), part=part, validation_every=validation_every)


def case_name(meta: Mapping[str, Any], saver: object) -> dict[str, Any]:
    """Name of a prediction for MONAI's ``SaveImage``: the image's without ``_0000``, as nnU-Net writes it."""
    path = Path(str(meta.get("filename_or_obj", getattr(saver, "_data_index", 0))))
    stem, dot, ending = path.name.partition(".")
    head, _, channel = stem.rpartition("_")
    if head and len(channel) == 4 and channel.isdigit():
        stem = head
    return {"subject": f"{stem}{dot}{ending}", "idx": meta.get("patch_index")}


def _cases(folder: Path, images: str) -> list[Case]:
    """``[{"name": case, "image": path or paths}, ...]``, sorted by name."""
    content = read_dataset_json(folder)
    ending, channels = content["file_ending"], len(content["channel_names"])
    where = folder / images
    if not where.is_dir():
        raise FileNotFoundError(f"dataset_dir {str(folder)!r} holds no folder {images!r}")
    first = f"_0000{ending}"
    names = sorted(path.name[: -len(first)] for path in where.iterdir() if path.name.endswith(first))
    if not names:
        raise FileNotFoundError(f"{str(where)!r} holds no image; expected files named CASE{first}")
    cases = []
    for name in names:
        files = [where / f"{name}_{channel:04d}{ending}" for channel in range(channels)]
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"case {name!r} lacks {', '.join(missing)}; dataset.json names {channels} channels")
        paths = [str(file) for file in files]
        cases.append({"name": name, "image": paths[0] if channels == 1 else paths})
    return cases
