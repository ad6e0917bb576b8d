"""Read datalist.json: images with a class or with overlapping masks, and groups that no split divides.

``{"training": [entry], "validation": [entry], "test": [entry]}``, paths relative to the folder; an entry is
``{"image": "images/a.png", "label": 3, "group": "patient 7"}``. ``label`` is a class id, a list of class ids, or a list
of mask files, one per channel; ``group`` may be left out. ``validation`` may be empty: the task's rule then divides
``training``. nnU-Net's raw format holds neither classes nor overlapping labels, so these tasks use datalist.json.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.datasets.readings import Files, kept, read_json
from medmixers.datasets.split_rule import PARTS, check_part, every_nth
from medmixers.errors import InputError, MissingFileError

FILE = "datalist.json"

Item = dict[str, Any]


def read_datalist(folder: str | Path) -> dict[str, list[Item]]:
    """The entries of ``folder/datalist.json`` by part, checked, with paths that can be opened.

    Returns:
        part -> ``[{"image": path, "label": id or ids or paths, "group": text}, ...]`` in the order of the file. An
        entry without a group is its own: its image's path within the folder.

    Raises:
        FileNotFoundError: the folder, its datalist.json, or a file that an entry names does not exist.
        ValueError: not JSON, an entry of another form, or a group that lies in two parts. The message names the entry.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"there is no data set folder {folder}")
    path = folder / FILE
    if not path.is_file():
        raise MissingFileError(f"{folder} has no {FILE}; medmixers dataset convert writes one")
    items = _parsed(str(path))
    files = Files()
    for part in PARTS:
        for index, item in enumerate(items[part]):
            for file in (item["image"], *_masks(item)):
                if file not in files:
                    raise MissingFileError(f"{path}: {part}[{index}]: there is no file {file}")
    return {part: [dict(item) for item in items[part]] for part in PARTS}


@kept
def _parsed(path: str) -> dict[str, list[Item]]:
    """The entries of a datalist.json by part, checked, whether or not their files exist."""
    content, folder = read_json(path), Path(path).parent
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in PARTS):
        raise InputError(f"{path} must hold the lists {', '.join(PARTS)}")
    items = {
        part: [_read_entry(f"{path}: {part}[{index}]", folder, entry) for index, entry in enumerate(content[part])]
        for part in PARTS
    }
    _check_images_once(path, folder, items)
    seen: dict[str, str] = {}
    for part in PARTS:
        for item in items[part]:
            if seen.setdefault(item["group"], part) != part:
                raise InputError(f"{path}: group {item['group']!r} lies in {seen[item['group']]} and in {part}")
    return items


def _check_images_once(path: str, folder: Path, items: Mapping[str, list[Item]]) -> None:
    """Raise InputError for an image that is listed twice, also under another spelling, as ./a.png."""
    places: dict[str, str] = {}
    for part in PARTS:
        for index, item in enumerate(items[part]):
            place = f"{part}[{index}]"
            other = places.setdefault(os.path.abspath(item["image"]), place)
            if other != place:
                raise InputError(f"{path}: {other} and {place} are one image, {item['image']}")


def _masks(item: Item) -> list[str]:
    label = item["label"]
    return label if isinstance(label, list) and label and isinstance(label[0], str) else []


def datalist_part(folder: str | Path, *, part: str, validation_every: int) -> list[Item]:
    """The entries of one part; raises as :func:`read_datalist` does.

    Where the file's validation part is empty, every n-th of the sorted groups of its training part validates.

    Raises:
        ValueError: an unknown part, or a single group to divide.
    """
    check_part(part)
    items = read_datalist(folder)
    if items["validation"] or part == "test":
        return items[part]
    chosen = validation_groups([item["group"] for item in items["training"]], every=validation_every)
    return [item for item in items["training"] if (item["group"] in chosen) == (part == "validation")]


def validation_groups(groups: Sequence[str], *, every: int, fold: int = 0) -> set[str]:
    """Of the sorted groups number ``fold`` and every n-th after it. Raises ValueError for fewer than two groups."""
    if len(set(groups)) < 2:
        raise InputError(f"at least 2 groups are needed, one trains and one validates; got {len(set(groups))}")
    return every_nth(groups, every=every, fold=fold)


def _read_entry(where: str, folder: Path, entry: Any) -> Item:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str) or "label" not in entry:
        raise InputError(f'{where} must look like {{"image": FILE, "label": ...}}, got {entry!r}')
    group = entry.get("group", entry["image"])
    if not isinstance(group, str):
        raise InputError(f"{where}: group must be text, got {group!r}")
    label = entry["label"]
    if isinstance(label, list) and label and all(isinstance(item, str) for item in label):
        label = [str(folder / item) for item in label]
    elif type(label) is not int and not (isinstance(label, list) and all(type(item) is int for item in label)):
        raise InputError(f"{where}: label must be a class id, a list of them, or a list of mask files, got {label!r}")
    return {"image": str(folder / entry["image"]), "label": label, "group": group}
