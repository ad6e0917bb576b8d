"""Planes of a case as PNG: the outlines of its structures, and where the model is unsure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medmixers.clinic.grey import percentile_window

Array = NDArray[Any]

LONGEST = 320  # pixels of the longest side of the image; all planes have one scale
LINE = 2  # pixels of an outline
UNSURE = float(np.log(2))  # entropy of a draw between two labels: the end of the colour scale
NEIGHBOURHOOD = 5.0  # millimetres, standard deviation: the least sure place is a region, not a voxel
VIEWS = ("sagittal", "coronal", "axial")  # across x, y, z
# letters at the left and at the top
LETTERS = {"sagittal": ("A", "H"), "coronal": ("R", "H"), "axial": ("R", "A")}


class Plane(NamedTuple):
    """A PNG file's bytes, and what it shows."""

    png: bytes
    words: str


class Structure(NamedTuple):
    """A mask on the grid of the image, and its colour, red, green, blue from 0 to 255."""

    mask: Array
    colour: tuple[int, int, int]


class Drawing:
    """A case whose planes are drawn. Radiological view: the patient's right is on the left.

    Args:
        image: (X, Y, Z), or of a picture (X, Y) or (X, Y, 3), whose Y counts downwards.
        structures: on the same grid.
        entropy: on the same grid, in nats.
        affine: voxels to RAS millimetres, (4, 4); None for a picture.
    """

    def __init__(
        self, image: Array, structures: Sequence[Structure], entropy: Array, affine: NDArray[np.float64] | None
    ) -> None:
        self.affine = affine
        self.grid: NDArray[np.float64] | None  # of the turned voxels
        if affine is None:
            self.grid, self.spacing = None, np.ones(2)
            self.image, self.entropy, self.structures = image, entropy, list(structures)
        else:
            turned = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(image.shape, np.uint8), affine))
            self.grid, self.spacing = turned.affine, np.linalg.norm(turned.affine[:3, :3], axis=0)
            self.image, self.entropy = _canonical(image, affine), _canonical(entropy, affine)
            self.structures = [Structure(_canonical(each.mask, affine), each.colour) for each in structures]
        self.black, self.white = percentile_window(self.image)

    def fullest(self) -> list[Plane]:
        """The planes with most voxels of all structures, with the outlines."""
        union = np.any([each.mask for each in self.structures], axis=0) if self.structures else self.entropy > np.inf
        if self.grid is None:
            return [self._picture(None)]
        places = []
        for axis in range(3):
            counts = np.count_nonzero(union, axis=tuple(other for other in range(3) if other != axis))
            places.append(int(counts.argmax()) if counts.any() else len(counts) // 2)
        return [self._plane(axis, places[axis], None) for axis in (2, 1, 0)]

    def least_sure(self) -> list[Plane]:
        """The planes through the place of the largest entropy, averaged over NEIGHBOURHOOD; the entropy in colour."""
        heat = np.clip(self.entropy / UNSURE, 0, 1)
        if self.grid is None:
            return [self._picture(heat)]
        smooth = ndimage.gaussian_filter(self.entropy.astype(np.float32), NEIGHBOURHOOD / self.spacing, mode="constant")
        place = np.unravel_index(int(smooth.argmax()), smooth.shape)
        return [self._plane(axis, int(place[axis]), heat) for axis in (2, 1, 0)]

    def explained(self, maps: Sequence[Array], titles: Sequence[str]) -> list[Plane]:
        """Maps on the grid of the image as it was given, in colour: each from nothing to its largest absolute value.

        One map: the planes through its largest value. Several: of each the axial plane through the largest sum of all.

        Args:
            maps: (X, Y, Z), or of a picture (X, Y).
            titles: of the maps.
        """
        strengths = [self._turned(np.sqrt(np.abs(each) / max(float(np.abs(each).max()), 1e-12))) for each in maps]
        if self.grid is None:
            return [self._picture(heat, title) for heat, title in zip(strengths, titles, strict=True)]
        total = np.sum([heat**2 for heat in strengths], axis=0)
        place = [int(index) for index in np.unravel_index(int(total.argmax()), total.shape)]
        if len(maps) == 1:
            return [self._plane(axis, place[axis], strengths[0], titles[0]) for axis in (2, 1, 0)]
        return [self._plane(2, place[2], heat, title) for heat, title in zip(strengths, titles, strict=True)]

    def _turned(self, volume: Array) -> Array:
        return volume if self.affine is None else _canonical(volume, self.affine)

    def _picture(self, heat: Array | None, title: str = "the picture") -> Plane:
        masks = [each.mask.T for each in self.structures]
        pixels = self._coloured(self.image.swapaxes(0, 1), None if heat is None else heat.T, masks)
        return Plane(_png(pixels), title)

    def _plane(self, axis: int, index: int, heat: Array | None, title: str = "") -> Plane:
        first, second = (other for other in range(3) if other != axis)
        # right and anterior to the left; head, or anterior, on top
        flips = (slice(None, None, -1), slice(None, None, -1))

        def cut(volume: Array) -> Array:
            return np.take(volume, index, axis=axis)[flips].T

        view = VIEWS[axis]
        pixels = self._coloured(
            cut(self.image), None if heat is None else cut(heat), [cut(each.mask) for each in self.structures],
            spacing=(self.spacing[second], self.spacing[first]),
        )  # fmt: skip
        words = f"{view}, slice {index + 1} of {self.image.shape[axis]}"
        return Plane(_png(_lettered(pixels, *LETTERS[view])), f"{title}; {words}" if title else words)

    def _coloured(
        self, image: Array, heat: Array | None, masks: Sequence[Array], spacing: Sequence[float] = (1.0, 1.0)
    ) -> NDArray[np.uint8]:
        """(rows, columns, 3) of a plane (rows, columns[, 3]); ``spacing`` is that of rows and columns.

        ``heat`` is from 0 to 1, and is drawn over the image.
        """
        scale = LONGEST / max(np.array(self.image.shape[: len(self.spacing)]) * self.spacing)
        size = [max(1, round(count * edge * scale)) for count, edge in zip(image.shape[:2], spacing, strict=True)]
        grey = np.clip((image.astype(np.float64) - self.black) / max(self.white - self.black, 1e-12), 0, 1)
        colour = _resized(grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2), size, smooth=True)
        if heat is not None:
            colour = _heated(colour, _resized(heat[..., None], size, smooth=True)[..., 0])
        for mask, structure in zip(masks, self.structures, strict=True):
            large = _resized(mask.astype(np.float64)[..., None], size, smooth=False)[..., 0] > 0.5
            inner = ndimage.binary_erosion(large, iterations=LINE if heat is None else 1, border_value=1)
            outline = large & ~inner
            colour[outline] = np.array(structure.colour) / 255
        return np.rint(255 * colour).astype(np.uint8)


def _canonical(volume: Array, affine: NDArray[np.float64]) -> Array:
    """The voxels with axes to the right, anterior and superior."""
    turn = nib.orientations.io_orientation(affine)
    return nib.orientations.apply_orientation(volume, turn)


def _resized(plane: Array, size: Sequence[int], *, smooth: bool) -> Array:
    """(rows, columns, n) of another size."""
    factors = (size[0] / plane.shape[0], size[1] / plane.shape[1], 1)
    found = ndimage.zoom(plane, factors, order=1 if smooth else 0, mode="nearest", grid_mode=True)
    return np.clip(found, 0, 1)


def _heated(colour: Array, strength: Array) -> Array:
    """Red, then yellow, over a grey plane."""
    tint = np.stack([np.clip(2 * strength, 0, 1), np.clip(2 * strength - 1, 0, 1), np.zeros_like(strength)], axis=-1)
    alpha = 0.75 * np.clip(2 * strength, 0, 1)[..., None]
    mixed: Array = (1 - alpha) * colour + alpha * tint
    return mixed


def _lettered(pixels: NDArray[np.uint8], left: str, top: str) -> NDArray[np.uint8]:
    """With a letter for the side of the patient at the left and at the top."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    for place, letter in (((3, height // 2 - 6), left), ((width // 2 - 3, 1), top)):
        draw.text(place, letter, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(picture)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
