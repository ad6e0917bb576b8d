"""Check the image files of a case before a start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmixers.datasets.image_files import read_image
from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs
from medmixers.images.pictures import PICTURES, picture_size

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
    reader.check_case([Path(case["image"])], whole=whole)
    label = case["label"]
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
