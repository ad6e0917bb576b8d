"""Check the image files of a case before a start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medmixers.datasets.image_files import PILLOW_ENDINGS, check_geometry, read_image
from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs
from medmixers.images.pictures import PICTURES, picture_size

VOXELS_OF = 4  # cases whose voxels are read before a training or an evaluation; of the others, the headers

if TYPE_CHECKING:
    from medmixers.bundle_runtime.image_reader import BundleImageReader


def check_folders(folders: Sequence[str], inputs: Iterable[Path] = ()) -> None:
    """Raise InputError unless each folder can be written, or made, without replacing an input. Nothing is made.

    Args:
        folders: where files will be written.
        inputs: files that are read; one per folder is enough.
    """
    inputs = list(inputs)
    for folder in folders:
        refuse_overwriting_inputs(folder, inputs)
        place = Path(folder).absolute()
        existing = next(path for path in (place, *place.parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise InputError(f"nothing can be written into {folder!r}: {str(existing)!r} is no folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"nothing can be written into {folder!r}: {str(existing)!r} is not writable")


def check_grid(files: Sequence[Path]) -> None:
    """Raise ValueError where the files of one case, NIfTI or pictures, do not lie on one voxel grid."""
    known = [file for file in files if file.name.lower().endswith((*NIFTI, *PILLOW_ENDINGS))]
    grids = [read_image(file, whole=False) for file in known] if len(known) > 1 else []
    for file, grid in zip(known, grids, strict=False):
        check_geometry(file, grid, known[0], grids[0])


def check_given(given: Mapping[str, Any]) -> None:
    """Raise InputError unless each part of the cases that a client sets is a list of dicts with an image and a label.

    Args:
        given: part -> its cases, or None where the client sets none; "predicted" cases need no label.
    """
    for part, cases in given.items():
        keys = ("image",) if part == "predicted" else ("image", "label")
        if cases is not None and not cases:
            raise InputError(f"the list of {part} cases is empty")
        for case in cases or ():
            if not isinstance(case, Mapping) or not set(keys) <= set(case):
                raise InputError(f"each {part} case is a dict with {' and '.join(keys)}, got {case!r}")


def check_cases(
    cases: Iterable[Mapping[str, Any]],
    reader: BundleImageReader,
    *,
    label_values: Sequence[int] = (),
    classes: int = 0,
    masks: int = 0,
) -> None:
    """Each case with its label, as :func:`check_listed_case`; or with one label file that holds ``label_values``."""
    for index, case in enumerate(cases):
        whole = index < VOXELS_OF
        if not label_values:
            check_listed_case(case, reader=reader, classes=classes, masks=masks, whole=whole)
            continue
        image = case["image"]
        files = [Path(file) for file in ([image] if isinstance(image, (str, Path)) else image)]
        channels = sum(reader.check(file, whole=whole) for file in files)
        if channels != reader.channels:
            raise InputError(f"{str(files[0])!r} has {channels} channels; the network takes {reader.channels}")
        label = Path(case["label"])
        check_grid([*files, label])
        held = set(np.unique(read_image(label).data).tolist()) if whole else set()
        if not held <= set(label_values):
            wrong = min(held - set(label_values))
            raise InputError(f"{str(label)!r} holds the label {wrong}; the network has {list(label_values)}")


def check_listed_case(
    case: Mapping[str, Any],
    *,
    reader: BundleImageReader,
    classes: int = 0,
    masks: int = 0,
    whole: bool = True,
) -> None:
    """An entry of datalist.json: its image, and its class id (of ``classes``) or its mask files (``masks``).

    ``whole``: look at the image's voxels too, not only at its header.

    Raises:
        FileNotFoundError, ValueError: with the file or the value that does not fit.
    """
    channels, label = reader.check(Path(case["image"]), whole=whole), case["label"]
    if channels != reader.channels:
        raise InputError(f"{case['image']!r} has {channels} channels; the network takes {reader.channels}")
    if classes:
        if not isinstance(label, int) or not 0 <= label < classes:
            raise InputError(f"{case['image']!r} has the class {label}; the network has 0 to {classes - 1}")
        return
    if isinstance(label, int) or len(label) != masks or not all(isinstance(file, str) for file in label):
        raise InputError(f"{case['image']!r} has the label {label}; the network has {masks} channels, a mask file each")
    sizes = {_size(Path(file)) for file in (case["image"], *label)}
    if len(sizes) > 1:
        raise InputError(f"{case['image']!r} and its masks have different sizes: {sorted(sizes)}")


def _size(path: Path) -> tuple[int, ...]:
    if path.name.lower().endswith(PICTURES):
        return picture_size(path)[0]
    return tuple(read_image(path, whole=False).shape)
