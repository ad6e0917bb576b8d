"""JSRT: raw 12-bit X-rays, landmark polygons of lungs and heart, masks of the clavicles.

On disk: ``All247images/JPCLN001.IMG`` (nodule) and ``JPCNN001.IMG`` (none), 2048 x 2048 big-endian 16-bit words, dark
bone; of ngaggion/Chest-xray-landmark-dataset ``landmarks/{RL,LL,H}/JPCLN001.npy``, (x, y) at 1024 x 1024; of the SCR
database ``.../masks/{left,right} clavicle/JPCLN001.gif`` at 1024 x 1024.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.reading import polygon_mask, read_picture, some
from medmixers.datasets.writers import DatalistWriter

EDGE = 1024  # of masks, and of the images written
FOLDERS = {
    "right_lung": "RL",
    "left_lung": "LL",
    "heart": "H",
    "right_clavicle": "right clavicle",
    "left_clavicle": "left clavicle",
}
TEST_SHARE = 87 / 247  # of the study


def convert(writer: DatalistWriter, source: Path, *, landmarks: str = "", clavicles: str = "") -> None:
    """Each X-ray at 1024 x 1024 and 16 bits, bright bone, with five masks.

    Nodule cases and the others are shared out alike between training and test.

    Args:
        writer: of chest_xray_segmentation.
        source: folder that holds the .IMG files, at any depth.
        landmarks: folder that holds RL, LL and H, at any depth; the source where it is empty.
        clavicles: folder that holds "left clavicle" and "right clavicle", at any depth; the source where it is empty.
    """
    images = some([path for path in source.rglob("*") if path.suffix.upper() == ".IMG"], "JPC*.IMG", source)
    files = {
        label: _files(Path((clavicles if "clavicle" in label else landmarks) or source), name, label)
        for label, name in FOLDERS.items()
    }
    test = {path for kind in ("JPCLN", "JPCNN") for path in _spread([p for p in images if kind in p.name.upper()])}
    for path in images:
        masks = [_mask(files[label.name], path.stem, label.name) for label in writer.task.labels.values()]
        writer.add_masks("test" if path in test else "training", path.stem, _image(path), np.stack(masks))
    writer.notes.append(f"images were halved to {EDGE} x {EDGE}, the grid of the masks, and turned to bright bone")


def _files(root: Path, name: str, label: str) -> dict[str, Path]:
    """Image -> the file of one structure, from all folders of that name: the SCR database has two, fold1 and fold2."""
    found = {path.stem: path for folder in root.rglob(name) if folder.is_dir() for path in folder.iterdir()}
    if not found:
        option = "--clavicles" if "clavicle" in label else "--landmarks"
        raise FileNotFoundError(f"{root} has no folder {name!r} with files for {label}; give {option} FOLDER")
    return found


def _mask(files: dict[str, Path], stem: str, label: str) -> NDArray[np.bool_]:
    """(1024, 1024), from landmarks or from a drawn mask."""
    if stem not in files:
        raise FileNotFoundError(f"{label} of {stem} is missing beside {next(iter(files.values()))}")
    if files[stem].suffix == ".npy":
        return _polygon(files[stem])
    mask = read_picture(files[stem], "L")
    if mask.shape != (EDGE, EDGE):
        raise ValueError(f"{files[stem]} must have {EDGE} x {EDGE} pixels, got {mask.shape}")
    return mask > 0


def _spread(paths: list[Path]) -> list[Path]:
    """A share TEST_SHARE of the paths, evenly spread."""
    count = round(len(paths) * TEST_SHARE)
    return [path for index, path in enumerate(paths) if (index + 1) * count // len(paths) > index * count // len(paths)]


def _image(path: Path) -> NDArray[Any]:
    """12 bits, bright bone, (1024, 1024) uint16: the mean of each 2 x 2 pixels."""
    words = np.fromfile(path, dtype=">u2")
    if words.size != (2 * EDGE) ** 2:
        raise ValueError(f"{path} must hold 2048 x 2048 words of 16 bits, got {words.size}")
    if words.max() > 4095:
        raise ValueError(f"{path} must hold 12-bit values, got {words.max()}: is its byte order big-endian?")
    halved = words.reshape(EDGE, 2, EDGE, 2).mean(axis=(1, 3))
    return np.round(4095 - halved).astype(np.uint16)


def _polygon(path: Path) -> NDArray[np.bool_]:
    try:
        points = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or points.min() < 0 or points.max() > EDGE:
        raise ValueError(f"{path} must hold points (x, y) from 0 to {EDGE}, got shape {points.shape}")
    return polygon_mask(points, (EDGE, EDGE))
