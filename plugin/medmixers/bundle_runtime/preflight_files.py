"""Check the image files of a case before a start."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmixers.datasets.image_files import check_mask_grid, read_image
from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs
from medmixers.images.pictures import PICTURES, picture_size

VOXELS_OF = 4  # cases whose voxels are read before a training or an evaluation; of the others, as each is loaded

if TYPE_CHECKING:
    from medmixers.bundle_runtime.image_reader import BundleImageReader
    from medmixers.bundle_runtime.preflight_raw import RawCases


def check_folders(folders: Sequence[str | None], inputs: Iterable[Path] = ()) -> None:
    """Raise InputError unless each folder can be written, or made, without replacing an input. Nothing is made.

    Args:
        folders: where files will be written; None stands for an option that is not used.
        inputs: files that are read; one per folder is enough.
    """
    inputs = list(inputs)
    for folder in folders:
        if folder is None:
            continue
        refuse_overwriting_inputs(folder, inputs)
        place = Path(folder).absolute()
        existing = next(path for path in (place, *place.parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise InputError(f"nothing can be written into {folder!r}: {str(existing)!r} is no folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"nothing can be written into {folder!r}: {str(existing)!r} is not writable")


def paths(image: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of an image: one, or one per channel."""
    return [Path(image)] if isinstance(image, (str, Path)) else [Path(file) for file in image]


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
    raw: RawCases | None = None,
    classes: int = 0,
    masks: int = 0,
    labels: int = 0,
) -> None:
    """Each case with its label, as :func:`check_listed_case`; or with one label file that holds ``label_values``."""
    for index, case in enumerate(cases):
        whole = index < VOXELS_OF
        if raw is None:
            check_listed_case(case, reader=reader, classes=classes, masks=masks, labels=labels, whole=whole)
        else:
            raw.check_case(paths(case["image"]), Path(case["label"]), label_values, reader, whole=whole)


def check_listed_case(
    case: Mapping[str, Any],
    *,
    reader: BundleImageReader,
    classes: int = 0,
    masks: int = 0,
    labels: int = 0,
    whole: bool = True,
) -> None:
    """An entry of datalist.json: its image, and its class id (of ``classes``), mask files (``masks``) or ``labels``.

    ``whole``: look at the image's voxels too, not only at its header.

    Raises:
        FileNotFoundError, ValueError: with the file or the value that does not fit.
    """
    reader.check_case([Path(case["image"])], whole=whole)
    label = case["label"]
    if labels:
        check_label_ids(case["image"], label, labels)
        return
    if classes:
        if not isinstance(label, int) or not 0 <= label < classes:
            raise InputError(f"{case['image']!r} has the class {label}; the network has 0 to {classes - 1}")
        return
    if isinstance(label, int) or len(label) != masks or not all(isinstance(file, str) for file in label):
        raise InputError(f"{case['image']!r} has the label {label}; the network has {masks} channels, a mask file each")
    files = [Path(file) for file in (case["image"], *label)]
    volumes = {file: None if file.name.lower().endswith(PICTURES) else read_image(file, whole=False) for file in files}
    sizes = {picture_size(file)[0] if volume is None else tuple(volume.shape) for file, volume in volumes.items()}
    if len(sizes) > 1:
        raise InputError(f"{case['image']!r} and its masks have different sizes: {sorted(sizes)}")
    image = volumes[files[0]]
    for file in files[1:]:
        mask = volumes[file]
        if image is not None and mask is not None:
            check_mask_grid(file, mask, files[0], image)


def check_label_ids(image: str, ids: object, labels: int) -> None:
    """Raise InputError unless the label of a case is a list of different ids in ascending order.

    The order tells such a list from one of 0 and 1 per label, which would otherwise be read as the labels 0 and 1.

    Args:
        image: of the case.
        ids: its label.
        labels: how many there are.
    """
    is_list = isinstance(ids, (list, tuple)) and all(type(each) is int and 0 <= each < labels for each in ids)
    if not is_list or list(ids) != sorted(set(ids)):  # type: ignore[call-overload]
        raise InputError(
            f"{image!r} has the label {ids}; this bundle takes the ids of the image's labels, 0 to {labels - 1} in "
            "ascending order, [] for none"
        )


def check_label_counts(cases: Sequence[Mapping[str, Any]], part: str) -> None:
    """Raise InputError where AUROC has no value: no label that some of the cases have and others lack."""
    counts = Counter(label for case in cases for label in case["label"])
    if not any(count < len(cases) for count in counts.values()):
        raise InputError(f"no label is present in some {part} cases and absent in others, so AUROC has no value")
