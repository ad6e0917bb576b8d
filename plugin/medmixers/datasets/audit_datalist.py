"""Check every voxel of a folder with datalist.json before hours of training. Needs no torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.audit import extremes, thumbnail_step, voxels_line
from medmixers.datasets.case_facts import CaseFacts, facts_of, grey_of
from medmixers.datasets.datalist_format import Item, read_datalist
from medmixers.datasets.findings import Finding, find
from medmixers.datasets.image_files import Volume, check_mask_grid, read_any, read_image
from medmixers.datasets.label_values import check_mask_values
from medmixers.datasets.nifti_forms import form_notes
from medmixers.datasets.split_rule import PARTS
from medmixers.errors import InputError
from medmixers.images.pictures import PICTURES, read_picture
from medmixers.progress import progress

SEVERAL = -1  # instead of a number of masks: a case has a list of classes


@dataclass(frozen=True)
class DatalistReport:
    """Content of a folder without faults.

    Args:
        folder: the data set.
        cases: part -> number of cases.
        groups: number of groups, whose cases stay on one side of a split.
        classes: part -> class id -> cases; empty where the labels are masks.
        masks: mask files of each case; 0 where the labels are classes, SEVERAL where a case has any number of them.
        channels: of every image.
        shapes: smallest and largest extent per axis over all images.
        notes: facts that are legal but unlikely to be meant, one line each.
        facts: of each case.
        findings: copies, patients in two parts, and outliers.
    """

    folder: Path
    cases: Mapping[str, int]
    groups: int
    classes: Mapping[str, Mapping[int, int]]
    masks: int
    channels: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    notes: tuple[str, ...]
    facts: tuple[CaseFacts, ...]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        labels = [f"masks: {self.masks} per case"] if self.masks > 0 else []
        labels += ["classes: any number per case"] if self.masks == SEVERAL else []
        for part, counts in self.classes.items():
            labels.append(f"classes of {part}: " + ", ".join(f"{key}: {counts[key]}" for key in sorted(counts)))
        return "\n".join(
            [
                f"{self.folder}: no error found",
                f"cases: {', '.join(f'{count} {part}' for part, count in self.cases.items())}, in {self.groups} groups",
                f"channels: {self.channels}",
                voxels_line(self.shapes),
                *labels,
                *(f"note: {note}" for note in (*self.notes, *(finding.text for finding in self.findings))),
            ]
        )


def audit_datalist(folder: str | Path, *, with_thumbnails: bool = False) -> DatalistReport:
    """Read every image and mask of a folder with datalist.json and check that they suit one network.

    Args:
        folder: the data set.
        with_thumbnails: draw cases, at most :data:`~medmixers.datasets.audit.MOST_THUMBNAILS`, evenly spaced.

    Raises:
        FileNotFoundError: the folder, its datalist.json or a file that an entry names.
        ValueError: anything else; the first fault found, in one line with the file and the values.
    """
    items = read_datalist(folder)
    listed = [(part, item) for part in PARTS for item in items[part]]
    if not items["training"]:
        raise InputError(f"{Path(folder) / 'datalist.json'} lists no training case")
    first = listed[0][1]
    look = _Look(Path(folder), _kind(first), every=thumbnail_step(len(listed)) if with_thumbnails else 0)
    for part, item in progress(listed, "check"):
        look(part, item, item["group"] if part == "training" and not items["validation"] else "")
    kind, files = look.masks, [file for _, item in listed for file in _files(item)]
    counts = {} if kind > 0 else {part: Counter(_ids(items[part])) for part in PARTS if items[part]}
    return DatalistReport(
        Path(folder),
        {part: len(items[part]) for part in PARTS},
        len({item["group"] for _, item in listed}),
        counts,
        kind,
        max(look.colours),
        extremes([each.size for each in look.facts]),
        (*_notes(items, counts), *form_notes(files), *_colour_notes(look.colours)),
        tuple(look.facts),
        find(look.facts, keeping="that a split may divide, as their groups differ"),
    )


class _Look:
    """Read each case, check that it suits the first one, and collect its facts.

    Args:
        folder: the data set.
        masks: of each case.
        every: of how many cases one is drawn; 0 draws none.
    """

    def __init__(self, folder: Path, masks: int, *, every: int) -> None:
        self.masks = masks
        self.facts: list[CaseFacts] = []
        self.colours: Counter[int] = Counter()
        self._folder, self._every = folder, every
        self._first: tuple[Item, Volume] | None = None

    def __call__(self, part: str, item: Item, unit: str) -> None:
        """Read one case; ``unit`` is as of CaseFacts."""
        path = Path(item["image"])
        image = self._read(item)
        masks = [_read_mask(Path(mask), item, image) for mask in (item["label"] if self.masks > 0 else [])]
        self.colours[image.components] += 1
        self.facts.append(
            facts_of(
                Path(os.path.relpath(path, self._folder)).as_posix(),
                part,
                unit,
                path,
                image,
                {"brightness": grey_of(image)},
                masks,
                {f"mask {number}": int(np.count_nonzero(mask)) for number, mask in enumerate(masks, start=1)},
                with_thumbnail=bool(self._every) and len(self.facts) % self._every == 0,
                white=255 if path.name.lower().endswith(PICTURES) else None,
            )
        )

    def _read(self, item: Item) -> Volume:
        """The image of a case that has the axes, the channels and the kind of label of the first case."""
        first = self._first[0] if self._first else item
        if _kind(item) != self.masks:
            raise InputError(f"{item['image']} has the label {item['label']}, {first['image']} has {first['label']}")
        image = _read_listed(Path(item["image"]))
        if self._first is None:
            self._first = item, image._replace(data=image.data[:0])
        grid = self._first[1]
        axes = len(grid.shape)
        is_converted = axes == 2 and {image.components, grid.components} <= {1, 3}  # between grey and RGB
        if len(image.shape) != axes or (image.components != grid.components and not is_converted):
            raise InputError(
                f"{item['image']} has {image.components} channels in {len(image.shape)}D, "
                f"{first['image']} has {grid.components} in {axes}D"
            )
        return image


def _read_listed(path: Path) -> Volume:
    """An image as bundles read it: a picture by its own depth and colour model."""
    if not path.name.lower().endswith(PICTURES):
        return read_image(path)
    pixels = read_picture(path).pixels
    return Volume(pixels.shape[1::-1], np.eye(3), 1 if pixels.ndim == 2 else 3, pixels.swapaxes(0, 1))


def _files(item: Item) -> list[Path]:
    """The image and the masks of a case."""
    return [Path(item["image"]), *(Path(entry) for entry in np.atleast_1d(item["label"]) if isinstance(entry, str))]


def _kind(item: Item) -> int:
    """Number of masks of a case, 0 for one class, SEVERAL for a list of classes.

    Raises:
        InputError: a list of classes that is not in ascending order, such as one of 0 and 1 per class.
    """
    label = item["label"]
    if isinstance(label, int):
        return 0
    if label and all(isinstance(entry, str) for entry in label):
        return len(label)
    if list(label) != sorted(set(label)) or any(each < 0 for each in label):
        raise InputError(
            f"{item['image']} has the label {label}; a bundle takes one class id, the ids of several classes in "
            "ascending order, or one mask file per label"
        )
    return SEVERAL


def _ids(items: Iterable[Item]) -> Iterator[int]:
    """Class ids of all cases, one after another."""
    for item in items:
        yield from [item["label"]] if isinstance(item["label"], int) else item["label"]


def _read_mask(path: Path, item: Item, image: Volume) -> NDArray[Any]:
    mask = read_any(path)
    if mask.components != 1 or mask.shape != image.shape:
        raise InputError(
            f"{path} has {mask.components} channels of {mask.shape}, {item['image']} has the shape {image.shape}"
        )
    check_mask_grid(path, mask, Path(item["image"]), image)
    check_mask_values(path, mask.data)
    return mask.data


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
