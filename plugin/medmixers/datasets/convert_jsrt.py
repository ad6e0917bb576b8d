"""JSRT: raw 12-bit X-rays, and landmark polygons of lungs, heart and clavicles.

On disk: ``All247images/JPCLN001.IMG`` (nodule) and ``JPCNN001.IMG`` (none), 2048 x 2048 big-endian 16-bit words, dark
bone; and of ngaggion/Chest-xray-landmark-dataset ``landmarks/{RL,LL,H,RCLA,LCLA}/JPCLN001.npy``, points (x, y) at
1024 x 1024. That repository has none for JPCLN016.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.reading import by_name, polygon_mask, some, with_ending
from medmixers.datasets.writers import DatalistWriter
from medmixers.errors import InputError, MissingFileError

EDGE = 1024  # of masks, and of the images written
FOLDERS = {"right_lung": "RL", "left_lung": "LL", "heart": "H", "right_clavicle": "RCLA", "left_clavicle": "LCLA"}
TEST_SHARE = 87 / 247  # of Keuth et al.


def convert(writer: DatalistWriter, source: Path, *, landmarks: str = "") -> None:
    """Write each X-ray with landmarks, at 1024 x 1024 and 16 bits, bright bone, with five masks.

    Training and test have the same share of nodule cases.

    Args:
        writer: of chest_xray_segmentation.
        source: folder that holds the .IMG files, at any depth.
        landmarks: folder that holds RL, LL, H, RCLA and LCLA, at any depth; the source where it is empty.
    """
    images = some(with_ending(source.rglob("*"), (".img",)), "JPC*.IMG", source)
    outlines = {label: _outlines(Path(landmarks or source), name) for label, name in FOLDERS.items()}
    known = [path for path in images if any(path.stem in files for files in outlines.values())]
    if len(known) < len(images):
        without = ", ".join(path.stem for path in images if path not in known)
        writer.notes.append(f"{len(images) - len(known)} images without landmarks were left out: {without}")
    test = {path for kind in ("JPCLN", "JPCNN") for path in _spread([p for p in known if kind in p.name.upper()])}
    for path in known:
        masks = []
        for label in writer.task.label_names.values():
            if path.stem not in outlines[label]:
                raise MissingFileError(f"{label} of {path.stem} is missing in the folders {FOLDERS[label]}")
            masks.append(_mask(outlines[label][path.stem]))
        writer.add_masks("test" if path in test else "training", path.stem, _image(path), np.stack(masks))
    writer.notes.append(f"images were halved to {EDGE} x {EDGE}, the grid of the landmarks, and turned to bright bone")


def _outlines(root: Path, name: str) -> dict[str, Path]:
    """Image -> its landmark file, from every folder of that name."""
    found = by_name(with_ending(root.rglob(f"{name}/*"), (".npy",)))
    if not found:
        raise MissingFileError(f"{root} has no {name}/*.npy; give --landmarks FOLDER")
    return found


def _spread(paths: list[Path]) -> list[Path]:
    """A share TEST_SHARE of the paths, evenly spread."""
    count = round(len(paths) * TEST_SHARE)
    return [path for index, path in enumerate(paths) if (index + 1) * count // len(paths) > index * count // len(paths)]


def _image(path: Path) -> NDArray[Any]:
    """12 bits, bright bone, (1024, 1024) uint16: the mean of each 2 x 2 pixels."""
    words = np.fromfile(path, dtype=">u2")
    if words.size != (2 * EDGE) ** 2:
        raise InputError(f"{path} must hold 2048 x 2048 words of 16 bits, got {words.size}")
    if words.max() > 4095:
        raise InputError(f"{path} must hold 12-bit values, got {words.max()}: is its byte order big-endian?")
    halved = words.reshape(EDGE, 2, EDGE, 2).mean(axis=(1, 3))
    return np.round(4095 - halved).astype(np.uint16)


def _mask(path: Path) -> NDArray[np.bool_]:
    try:
        points = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or points.min() < 0 or points.max() > EDGE:
        raise InputError(f"{path} must hold points (x, y) from 0 to {EDGE}, got shape {points.shape}")
    return polygon_mask(points, (EDGE, EDGE))
