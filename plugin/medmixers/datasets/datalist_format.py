"""datalist.json: images with a class or with overlapping masks, and what must stay on one side of a split.

``{"training": [entry], "validation": [entry], "test": [entry]}``, paths relative to the folder; an entry is
``{"image": "images/a.png", "label": 3, "group": "patient 7"}``. ``label`` is a class id, a list of class ids, or a list
of mask files, one a channel; ``group`` may be left out. ``validation`` may be empty: the task's rule then divides
``training``. nnU-Net's raw format holds neither classes nor overlapping labels, so these tasks use this. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, MissingFileError

FILE = "datalist.json"
PARTS = ("training", "validation", "test")

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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in PARTS):
        raise InputError(f"{path} must hold the lists {', '.join(PARTS)}")
    items = {
        part: [_read_entry(f"{path}: {part}[{index}]", folder, entry) for index, entry in enumerate(content[part])]
        for part in PARTS
    }
    seen: dict[str, str] = {}
    for part in PARTS:
        for item in items[part]:
            if seen.setdefault(item["group"], part) != part:
                raise InputError(f"{path}: group {item['group']!r} lies in {seen[item['group']]} and in {part}")
    return items


def datalist_part(folder: str | Path, *, part: str, validation_every: int) -> list[Item]:
    """The entries of one part; raises as :func:`read_datalist` does.

    Where the file's validation part is empty, of the sorted groups of its training part the first and every n-th after
    it validate.

    Raises:
        ValueError: an unknown part, or a single group to divide.
    """
    if part not in PARTS:
        raise InputError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    items = read_datalist(folder)
    if items["validation"] or part == "test":
        return items[part]
    chosen = validation_groups([item["group"] for item in items["training"]], every=validation_every)
    return [item for item in items["training"] if (item["group"] in chosen) == (part == "validation")]


def validation_groups(groups: Sequence[str], *, every: int, fold: int = 0) -> set[str]:
    """Of the sorted groups number ``fold`` and every n-th after it. Raises ValueError for fewer than two groups."""
    names = sorted(set(groups))
    if len(names) < 2:
        raise InputError(f"at least 2 groups are needed, one trains and one validates; got {len(names)}")
    return set(names[fold::every])


def _read_entry(where: str, folder: Path, entry: Any) -> Item:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str) or "label" not in entry:
        raise InputError(f'{where} must look like {{"image": FILE, "label": ...}}, got {entry!r}')
    group = entry.get("group", entry["image"])
    if not isinstance(group, str):
        raise InputError(f"{where}: group must be text, got {group!r}")
    label = entry["label"]
    if isinstance(label, list) and label and all(isinstance(item, str) for item in label):
        label = [_file(where, folder, item) for item in label]
    elif type(label) is not int and not (isinstance(label, list) and all(type(item) is int for item in label)):
        raise InputError(f"{where}: label must be a class id, a list of them, or a list of mask files, got {label!r}")
    return {"image": _file(where, folder, entry["image"]), "label": label, "group": group}


def _file(where: str, folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise MissingFileError(f"{where}: there is no file {path}")
    return str(path)
