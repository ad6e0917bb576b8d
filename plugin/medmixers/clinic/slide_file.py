"""Files of whole slides: windows at given microns per pixel, and tiled label maps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError, MissingFileError, MissingPackageError, first_line
from medmixers.files import written_whole

TILE = 512  # edge of a tile of label maps, in pixels
TOLERANCE = 0.05  # of microns per pixel, relative
MOST_REDUCED = 8  # pixels of a finer level that are averaged along each edge, at most
BIG = 2**31  # bytes of labels from which on a TIFF is a BigTIFF
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SlideView:
    """A slide as a picture of given microns per pixel.

    Args:
        name: of its file.
        reader: MONAI's.
        slide: what the reader opened.
        level: that is read.
        factor: number of its pixels along each edge that make up one pixel.
        size: (x, y) in pixels.
        mpp: its own microns per pixel, (x, y), which may be a little off those that were asked for.
    """

    name: str
    reader: Any
    slide: Any
    level: int
    factor: int
    size: tuple[int, int]
    mpp: tuple[float, float]

    def read(self, low: Sequence[int], high: Sequence[int]) -> Pixels:
        """Pixels from (x, y) ``low`` to ``high``, (3, x, y); several pixels of the level are averaged."""
        extent = [(b - a) * self.factor for a, b in zip(low, high, strict=True)]
        ratio = self.reader.get_downsample_ratio(self.slide, self.level) * self.factor
        corner = [round(each * ratio) for each in low]
        try:
            pixels, _ = self.reader.get_data(
                self.slide, location=(corner[1], corner[0]), size=(extent[1], extent[0]), level=self.level
            )
        except Exception as error:  # OpenSlide's own, of a damaged tile
            raise InputError(f"{self.name} cannot be read at {tuple(corner)}: {first_line(error)}") from error
        if self.factor > 1:
            blocks = pixels.reshape(3, extent[1] // self.factor, self.factor, extent[0] // self.factor, self.factor)
            pixels = np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
        return np.ascontiguousarray(pixels.swapaxes(1, 2))


@contextmanager
def open_slide(path: Path, mpp: float) -> Iterator[SlideView]:
    """A slide at ``mpp`` microns per pixel: a level that has them, or a finer one whose blocks of pixels have them.

    Raises:
        MissingPackageError: OpenSlide is not installed.
        MissingFileError: there is no such file.
        InputError: it is no slide, is a TIFF whose pixels OpenSlide does not give right, does not say its microns per
            pixel, or has no level that fits.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no slide {path}")
    try:
        import openslide
        import tifffile  # noqa: F401  it writes the label map, after hours
    except ImportError as error:
        raise MissingPackageError(
            f'slides need OpenSlide and tifffile ({error}): pip install "medmixers[wsi]"'
        ) from None
    from monai.data import WSIReader

    reader = WSIReader(backend="openslide", channel_dim=0, dtype=np.uint8, mode="RGB")
    try:
        slide = reader.read(str(path))
    except openslide.OpenSlideError as error:  # also a format that it does not know
        hint = " (it reads a TIFF with tiles, not with strips)" if has_strips(path) else ""
        raise InputError(f"{path} is no slide that OpenSlide reads: {first_line(error)}{hint}") from None
    with slide:
        if slide.properties.get("openslide.vendor") == "generic-tiff":
            check_tiff(path)
        mpps = level_mpps(path, reader, slide)
        level, factor = level_for(path, mpps, mpp)
        height, width = (extent // factor for extent in reader.get_size(slide, level))
        own_y, own_x = (each * factor for each in mpps[level])
        yield SlideView(path.name, reader, slide, level, factor, (width, height), (own_x, own_y))


def has_strips(path: Path) -> bool:
    """Whether a file is a TIFF without tiles."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return not file.pages.first.is_tiled
    except Exception:  # no TIFF, or a damaged one
        return False


def check_tiff(path: Path) -> None:
    """Raise InputError for a TIFF of which OpenSlide gives other pixels than it holds, or a part of them."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = list(file.pages)
        first = file.pages.first
        size = (first.imagelength, first.imagewidth)
        alike = sum((each.imagelength, each.imagewidth) == size for each in pages)
        orientation = first.tags.valueof("Orientation", 1)
        bits = first.tags.valueof("BitsPerSample", 8)
    if alike > 1:  # OpenSlide takes the first alone
        raise InputError(
            f"{path} holds {alike} pictures of {size[1]} x {size[0]} pixels, such as channels or focal planes: write "
            "one RGB picture"
        )
    if orientation != 1:  # OpenSlide turns each tile in its place
        raise InputError(
            f"{path} has the orientation {int(orientation)}, which OpenSlide misreads: turn its pixels to orientation 1"
        )
    if any(each != 8 for each in np.atleast_1d(bits)):
        depth = ", ".join(str(each) for each in np.unique(bits))
        raise InputError(f"{path} has {depth} bits per sample: write it with 8, so that 255 is white")


def level_mpps(path: Path, reader: Any, slide: Any) -> list[tuple[float, float]]:
    """Microns per pixel of each level, (y, x)."""
    keys = [("openslide.mpp-x", "openslide.mpp-y"), ("tiff.XResolution", "tiff.YResolution", "tiff.ResolutionUnit")]
    if not any(all(slide.properties.get(key) for key in names) for names in keys):
        raise InputError(f"{path} does not say how many microns a pixel has: write its resolution into the file")
    try:
        return [reader.get_mpp(slide, level) for level in range(reader.get_level_count(slide))]
    except (ValueError, ZeroDivisionError):
        unit, value = (slide.properties.get(key) for key in ("tiff.ResolutionUnit", "tiff.XResolution"))
        raise InputError(
            f"{path} does not say how many microns a pixel has: its resolution is {value}, per {unit}; write the "
            "number of pixels per inch or centimetre into the file"
        ) from None


def level_for(path: Path, mpps: Sequence[tuple[float, float]], mpp: float) -> tuple[int, int]:
    """The level to read, and how many of its pixels along each edge make up one; of several the coarsest level."""
    for level in reversed(range(len(mpps))):
        for factor in range(1, MOST_REDUCED + 1):
            if all(abs(own * factor / mpp - 1) <= TOLERANCE for own in mpps[level]):
                return level, factor
    have = ", ".join(f"{x:.3g}" if abs(x - y) < 1e-3 * x else f"{x:.3g} x {y:.3g}" for y, x in mpps)
    raise InputError(
        f"the network sees {mpp:g} microns per pixel; {path} has levels of {have}, and no whole multiple of one comes "
        f"within {TOLERANCE:.0%}"
    )


def write_label_map(
    out: Path,
    labels: NDArray[Any],
    *,
    mpp: Sequence[float],
    record: Mapping[str, Any],
    touched: Callable[[int], None] = lambda size: None,
) -> None:
    """Write a tiled TIFF with levels of half the size each, whole or not at all.

    Args:
        out: the file.
        labels: (y, x); a view of a file is read tile by tile.
        mpp: microns per pixel, (x, y).
        record: JSON data, for the tag ImageDescription of the largest level.
        touched: called with the number of bytes that each tile read.
    """
    import tifffile

    levels = 1
    while max(labels.shape) / 2 ** (levels - 1) > TILE:
        levels += 1
    options: dict[str, Any] = {"tile": (TILE, TILE), "compression": "zlib", "photometric": "minisblack"}
    with written_whole(out) as partial, tifffile.TiffWriter(partial, bigtiff=labels.size > BIG) as file:
        for level in range(levels):
            step = 2**level
            view = labels[::step, ::step]
            file.write(
                tiles(view, touched),
                shape=view.shape,
                dtype=np.uint8,
                subfiletype=int(level > 0),
                resolution=[_rational(10000 / (each * step)) for each in mpp],
                resolutionunit="CENTIMETER",
                description=None if level else json.dumps(record),
                metadata=None,
                **options,
            )


def _rational(value: float) -> tuple[int, int]:
    """As TIFF holds it, in 32 bits each: tifffile of 2025 rounds a number to five digits."""
    return Fraction(value).limit_denominator(1000).as_integer_ratio()


def tiles(labels: NDArray[Any], touched: Callable[[int], None]) -> Iterator[Pixels]:
    """Whole tiles, row by row; 0 outside the image."""
    height, width = labels.shape
    for row in range(ceil(height / TILE)):
        for column in range(ceil(width / TILE)):
            part = labels[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            tile = np.zeros((TILE, TILE), np.uint8)
            tile[: part.shape[0], : part.shape[1]] = part
            touched(part.shape[0] * part.strides[0])
            yield tile
