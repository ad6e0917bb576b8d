"""Check every voxel of a folder with datalist.json before hours of training. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmixers.datasets.audit import extremes, voxels_line
from medmixers.datasets.datalist_format import Item, read_datalist
from medmixers.datasets.image_files import Volume, read_any, read_image
from medmixers.datasets.label_values import check_mask_values
from medmixers.datasets.split_rule import PARTS
from medmixers.errors import InputError
from medmixers.images.pictures import PICTURES, read_picture
from medmixers.progress import progress


@dataclass(frozen=True)
class DatalistReport:
    """Content of a folder without faults.

    Args:
        folder: the data set.
        cases: part -> number of cases.
        groups: number of groups, whose cases stay on one side of a split.
        classes: part -> class id -> cases; empty where the labels are masks.
        masks: mask files of each case; 0 where the labels are classes.
        channels: of every image.
        shapes: smallest and largest extent per axis over all images.
        notes: facts that are legal but unlikely to be meant, one line each.
    """

    folder: Path
    cases: Mapping[str, int]
    groups: int
    classes: Mapping[str, Mapping[int, int]]
    masks: int
    channels: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        labels = [f"masks: {self.masks} per case"] if self.masks else []
        for part, counts in self.classes.items():
            labels.append(f"classes of {part}: " + ", ".join(f"{key}: {counts[key]}" for key in sorted(counts)))
        return "\n".join(
            [
                f"{self.folder}: no error found",
                f"cases: {', '.join(f'{count} {part}' for part, count in self.cases.items())}, in {self.groups} groups",
                f"channels: {self.channels}",
                voxels_line(self.shapes),
                *labels,
                *(f"note: {note}" for note in self.notes),
            ]
        )


def audit_datalist(folder: str | Path) -> DatalistReport:
    """Read every image and mask of a folder with datalist.json and check that they suit one network.

    Raises:
        FileNotFoundError: the folder, its datalist.json or a file that an entry names.
        ValueError: anything else; the first fault found, in one line with the file and the values.
    """
    items = read_datalist(folder)
    listed = [item for part in PARTS for item in items[part]]
    if not items["training"]:
        raise InputError(f"{Path(folder) / 'datalist.json'} lists no training case")
    first, shapes = listed[0], []
    kind = _kind(first)
    channels = axes = 0
    colours: Counter[int] = Counter()
    for item in progress(listed, "check"):
        if _kind(item) != kind:
            raise InputError(f"{item['image']} has the label {item['label']}, {first['image']} has {first['label']}")
        image = _read_listed(Path(item["image"]))
        channels, axes = channels or image.components, axes or len(image.shape)
        colours[image.components] += 1
        is_converted = axes == 2 and {image.components, channels} <= {1, 3}  # between grey and RGB, by the reader
        if len(image.shape) != axes or (image.components != channels and not is_converted):
            raise InputError(
                f"{item['image']} has {image.components} channels in {len(image.shape)}D, "
                f"{first['image']} has {channels} in {axes}D"
            )
        shapes.append(image.shape)
        for mask in item["label"] if kind else []:
            _check_mask(Path(mask), item, image)
    counts = {} if kind else {part: Counter(item["label"] for item in items[part]) for part in PARTS if items[part]}
    return DatalistReport(
        Path(folder),
        {part: len(items[part]) for part in PARTS},
        len({item["group"] for item in listed}),
        counts,
        kind,
        max(colours),
        extremes(shapes),
        (*_notes(items, counts), *_colour_notes(colours)),
    )


def _read_listed(path: Path) -> Volume:
    """An image as bundles read it: a picture by its own depth and colour model."""
    if not path.name.lower().endswith(PICTURES):
        return read_image(path)
    pixels = read_picture(path).pixels
    return Volume(pixels.shape[1::-1], np.eye(3), 1 if pixels.ndim == 2 else 3, pixels)


def _kind(item: Item) -> int:
    """Number of masks of a case, 0 for one class. ValueError: several classes, which no bundle takes."""
    label = item["label"]
    if isinstance(label, int):
        return 0
    if not label or not all(isinstance(entry, str) for entry in label):
        raise InputError(
            f"{item['image']} has the label {label}; a bundle takes one class id, or one mask file per label"
        )
    return len(label)


def _check_mask(path: Path, item: Item, image: Volume) -> None:
    mask = read_any(path)
    if mask.components != 1 or mask.shape != image.shape:
        raise InputError(
            f"{path} has {mask.components} channels of {mask.shape}, {item['image']} has the shape {image.shape}"
        )
    check_mask_values(path, mask.data)


def _colour_notes(colours: Mapping[int, int]) -> Iterator[str]:
    if len(colours) > 1:
        yield f"{colours[1]} grey pictures and {colours[3]} in colour: a bundle converts them to what its network takes"


def _notes(items: Mapping[str, list[Item]], counts: Mapping[str, Mapping[int, int]]) -> Iterator[str]:
    known = counts.get("training", {})
    if counts and sorted(known) != list(range(len(known))):
        yield f"class ids of the training part are {sorted(known)}, not 0 to {max(known)}"
    for part in PARTS[1:]:
        unknown = sorted(counts.get(part, {}).keys() - known.keys())
        if unknown:
            yield f"classes {unknown} of the {part} part have no training case"
    if not items["test"]:
        yield "there is no test part: nothing is held out"
