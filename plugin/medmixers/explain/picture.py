"""A picture of maps on an image: the planes through one voxel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.files import written_whole

EDGE = 192  # pixels of the longest side of a plane
GAP = 4  # pixels between planes
MARK = (0, 255, 255)


def write_picture(
    file: Path,
    image: NDArray[Any],
    maps: NDArray[Any],
    voxel: Sequence[int],
    spacing: Sequence[float],
) -> None:
    """Write a PNG: a row per map, in it the planes across each axis that has several voxels.

    The image is grey. A map is red and yellow, from nothing to its largest value in the row. A cross marks the voxel.
    The first axis of a plane goes to the right and the second upwards, as stored in the file.

    Args:
        image: (X, Y, Z).
        maps: (X, Y, Z, N).
        spacing: millimetres per axis.
    """
    from PIL import Image

    across = [axis for axis in range(3) if image.shape[axis] == 1] or [0, 1, 2]
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    rows = []
    for number in range(maps.shape[-1]):
        one = maps[..., number] / max(maps[..., number].max(), 1e-12)
        rows.append(_side_by_side([_plane(grey, one, voxel, spacing, axis) for axis in across]))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0))) for row in rows]
    with written_whole(file) as partial:
        Image.fromarray(np.concatenate(rows)[:-GAP]).save(partial, "PNG")


def _plane(
    grey: NDArray[Any], heat: NDArray[Any], voxel: Sequence[int], spacing: Sequence[float], axis: int
) -> NDArray[np.uint8]:
    from PIL import Image

    first, second = (other for other in range(3) if other != axis)
    # square roots show weak influence; red fills up first, then green turns it yellow
    strength = np.sqrt(np.take(heat, voxel[axis], axis))
    tint = np.stack([np.clip(2 * strength, 0, 1), np.clip(2 * strength - 1, 0, 1), np.zeros_like(strength)], -1)
    alpha = 0.7 * np.clip(2 * strength, 0, 1)[..., None]
    colours = (1 - alpha) * np.take(grey, voxel[axis], axis)[..., None] + alpha * tint
    pixels = np.rint(255 * colours).astype(np.uint8).swapaxes(0, 1)[::-1]
    size = np.array([grey.shape[first] * spacing[first], grey.shape[second] * spacing[second]])
    width, height = (int(n) for n in np.maximum(1, np.rint(size * EDGE / size.max())))
    canvas = np.array(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC))
    column = int((voxel[first] + 0.5) / grey.shape[first] * width)
    row = height - 1 - int((voxel[second] + 0.5) / grey.shape[second] * height)
    for step in (-6, -5, -4, -3, 3, 4, 5, 6):
        canvas[row, min(max(column + step, 0), width - 1)] = MARK
        canvas[min(max(row + step, 0), height - 1), column] = MARK
    return canvas


def _side_by_side(planes: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = max(plane.shape[0] for plane in planes)
    padded = [np.pad(plane, ((0, height - plane.shape[0]), (0, GAP), (0, 0))) for plane in planes]
    return np.concatenate(padded, axis=1)[:, :-GAP]
