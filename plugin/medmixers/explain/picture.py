"""A picture of maps on an image: the planes through one voxel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.explain.source import Source
from medmixers.files import written_whole

EDGE = 192  # pixels of the longest side of a plane; a single plane per map has twice as many
GAP = 4  # pixels between planes
STRIP = 16  # pixels of a line of text
MARK = (0, 255, 255)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


class Row(NamedTuple):
    """A row of a picture.

    Args:
        title: a line above it.
        maps: (X, Y, Z) each, side by side.
    """

    title: str
    maps: Sequence[NDArray[Any]]


def write_picture(
    file: Path, source: Source, rows: Sequence[Row], voxel: Sequence[int], *, notes: Sequence[str] = ()
) -> None:
    """Write a PNG or JPEG: a row per title, in it for each map the planes across each axis that has several voxels.

    The image is grey. Positive values of a map are red and yellow, negative ones blue and cyan, from nothing to the
    largest absolute value of the map. A cross marks the voxel. The first axis of a plane goes to the right; the second
    goes upwards as stored in a volume, and downwards in a picture.

    Args:
        source: the image file.
        rows: of the picture.
        voxel: x, y, z.
        notes: lines above the rows.
    """
    from PIL import Image

    grey = source.grey
    low, high = np.percentile(grey, (0.5, 99.5))
    grey = np.clip((grey - low) / max(high - low, 1e-12), 0, 1)
    across = [axis for axis in range(3) if grey.shape[axis] == 1] or [0, 1, 2]
    parts: list[NDArray[np.uint8]] = []
    for row in rows:
        planes = [
            _plane(grey, one / max(float(np.abs(one).max()), 1e-12), voxel, source, axis)
            for one in row.maps
            for axis in across
        ]
        side_by_side = _side_by_side(planes)
        parts += [_text([row.title], side_by_side.shape[1]), side_by_side]
    width = max([part.shape[1] for part in parts])
    parts = [*([_text(notes, width)] if notes else []), *parts]
    width = max(part.shape[1] for part in parts)
    parts = [np.pad(part, ((0, GAP), (0, width - part.shape[1]), (0, 0))) for part in parts]
    with written_whole(file) as partial:
        Image.fromarray(np.concatenate(parts)[:-GAP]).save(partial, FORMATS[file.suffix.lower()])


def _text(lines: Sequence[str], width: int) -> NDArray[np.uint8]:
    """Lines of white text on black, as wide as they need and at least ``width``."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    wide = max([width, *(int(font.getlength(line)) + 2 * GAP for line in lines)])
    canvas = Image.new("RGB", (wide, STRIP * len(lines)))
    for number, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((GAP, STRIP * number + 2), line, fill=(255, 255, 255), font=font)
    return np.array(canvas)


def _plane(
    grey: NDArray[Any], heat: NDArray[Any], voxel: Sequence[int], source: Source, axis: int
) -> NDArray[np.uint8]:
    from PIL import Image

    first, second = (other for other in range(3) if other != axis)
    edge = EDGE if min(grey.shape) > 1 else 2 * EDGE
    # square roots show weak influence; the first colour fills up first, then green brightens it
    value = np.take(heat, voxel[axis], axis)
    strength = np.sqrt(np.abs(value))
    ends, green = np.clip(2 * strength, 0, 1), np.clip(2 * strength - 1, 0, 1)
    tint = np.stack([np.where(value > 0, ends, 0), green, np.where(value < 0, ends, 0)], -1)
    alpha = 0.7 * ends[..., None]
    colours = (1 - alpha) * np.take(grey, voxel[axis], axis)[..., None] + alpha * tint
    pixels = np.rint(255 * colours).astype(np.uint8).swapaxes(0, 1)
    pixels = pixels if source.is_picture else pixels[::-1]
    size = np.array([grey.shape[each] * source.spacing[each] for each in (first, second)])
    width, height = (int(n) for n in np.maximum(1, np.rint(size * edge / size.max())))
    canvas = np.array(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC))
    column = int((voxel[first] + 0.5) / grey.shape[first] * width)
    row = int((voxel[second] + 0.5) / grey.shape[second] * height)
    row = row if source.is_picture else height - 1 - row
    for step in (-6, -5, -4, -3, 3, 4, 5, 6):
        canvas[row, min(max(column + step, 0), width - 1)] = MARK
        canvas[min(max(row + step, 0), height - 1), column] = MARK
    return canvas


def _side_by_side(planes: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = max(plane.shape[0] for plane in planes)
    padded = [np.pad(plane, ((0, height - plane.shape[0]), (0, GAP), (0, 0))) for plane in planes]
    return np.concatenate(padded, axis=1)[:, :-GAP]
