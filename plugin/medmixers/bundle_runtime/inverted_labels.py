"""Logits to labels on the voxel grid of the file, piece by piece: memory does not grow with the number of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from medmixers.bundle_runtime.file_tensors import HELD, release
from medmixers.bundle_runtime.regions import regions_to_ids
from medmixers.bundle_runtime.resampling import LINEAR, PIECE, Box, Grids, is_unchanged, pieces

ROUNDING = 1e-5  # relative, of probabilities
# Dictionary transforms -> the name under which MONAI traces what they did
TRACED = {"Orientationd": "Orientation", "Spacingd": "SpatialResample", "CropForegroundd": "CropForeground"}


class InvertedLabelsd(MapTransform):
    """MONAI's ``Activationsd``, ``Invertd`` and ``AsDiscreted`` in one, with the same labels.

    Probabilities are resampled, not labels: their borders stay smooth. Pieces of the image go from logits to labels one
    after another, where its preprocessing is ``Orientationd``, ``CropForegroundd`` and ``Spacingd`` or less. Any other
    goes through ``Invertd`` as a whole. A class that cannot be a label in a piece is not resampled there.

    Args:
        keys: key of the logits, (K, *spatial).
        transform: the preprocessing.
        orig_keys: key of the image that it made, with the trace of what it did.
        sigmoid: whether labels may overlap: 1 from a probability of 0.5 on. Else they exclude each other, and the most
            probable one counts.
        regions: label values of each channel, where :func:`medmixers.bundle_runtime.regions.regions_to_ids` makes one
            label map of them.
        probabilities_key: key under which the probabilities are kept, too, (K, *spatial). None: they are not.
    """

    def __init__(
        self,
        keys: str,
        *,
        transform: InvertibleTransform,
        orig_keys: str,
        sigmoid: bool,
        regions: Sequence[Sequence[int]] | None = None,
        probabilities_key: str | None = None,
    ) -> None:
        super().__init__(keys)
        self.transform, self.orig_key = transform, orig_keys
        self.sigmoid, self.regions, self.probabilities_key = sigmoid, regions, probabilities_key
        self.invert = Invertd(keys, transform, orig_keys=orig_keys, nearest_interp=False, to_tensor=True)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Replace the logits by labels, (1, *spatial), or (K, *spatial) where they overlap and have no regions."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result.get(self.orig_key)
            prunes = self.regions is None and self.probabilities_key is None
            source = inverse(result[key], image, self.transform, sigmoid=self.sigmoid, prunes=prunes)
            if source is None:
                whole = activated(convert_to_tensor(result[key], track_meta=True), sigmoid=self.sigmoid)
                probabilities = self.invert({**result, key: whole})[key]
                result[key] = self._decided(Piece(torch.arange(len(whole)), probabilities), len(whole))
            else:
                probabilities, result[key] = self._by_pieces(source, image)
            if self.probabilities_key is not None:
                result[self.probabilities_key] = probabilities
        return result

    def _by_pieces(self, source: Source, image: MetaTensor) -> tuple[Tensor | None, Tensor]:
        """Probabilities, where they are kept, and labels."""
        kept = None if self.probabilities_key is None else torch.empty(source.classes, *source.shape)
        labels: Tensor | None = None
        read_per_voxel = max(1, image[0].numel() / prod(source.shape))
        for box in pieces(source.shape, most=int(PIECE / 8 / source.classes / read_per_voxel), first=source.slowest):
            at, piece = (slice(None), *box), source.read(box)
            decided = self._decided(piece, source.classes)
            if labels is None:
                labels = torch.empty(len(decided), *source.shape, dtype=decided.dtype, device=decided.device)
            labels[at] = decided
            if kept is not None:
                kept[at] = piece.values
        if labels is None:
            raise RuntimeError(f"an image of the shape {source.shape} has no voxels")
        return (None if kept is None else with_geometry(kept, image, source)), with_geometry(labels, image, source)

    def _decided(self, piece: Piece, classes: int) -> Tensor:
        """Labels, (1, *sizes), or (K, *sizes) of ``classes`` masks."""
        values = piece.values
        if not self.sigmoid:
            most = values.max(dim=0, keepdim=True).indices  # of equal ones the first; argmax is slower
            return piece.classes.to(values.device, smallest(classes - 1))[most]
        if self.regions is not None:
            highest = max(value for ids in self.regions for value in ids)
            return regions_to_ids((values >= 0.5).to(smallest(highest)), self.regions)
        masks = torch.zeros(classes, *values.shape[1:], dtype=torch.uint8, device=values.device)
        masks[piece.classes] = (values >= 0.5).to(torch.uint8)
        return masks


def smallest(highest: int) -> torch.dtype:
    """The type of labels up to ``highest``."""
    return torch.uint8 if highest < 256 else torch.int32


class Piece(NamedTuple):
    """Probabilities of a box."""

    classes: Tensor  # the numbers of those channels that count there, ascending
    values: Tensor  # theirs, (len(classes), *sizes), float32


class Source(Protocol):
    """Probabilities on a grid, which are computed where they are read.

    Attributes:
        classes: K.
        device: of what is read.
        shape: of the grid.
        affine: of its voxels, (D + 1, D + 1).
        slowest: the axis that lies along the first axis of the logits.
    """

    classes: int
    device: torch.device
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    slowest: int

    def read(self, box: Box) -> Piece:
        """Probabilities of a box."""


class Activated:
    """Probabilities on the grid of the network.

    Args:
        logits: (K, *spatial).
        image: on the same grid; its device computes.
        sigmoid: as :class:`InvertedLabelsd` has it.
        prunes: whether :func:`candidates` alone are read.
    """

    slowest = 0

    def __init__(self, logits: Tensor, image: MetaTensor, *, sigmoid: bool, prunes: bool) -> None:
        self.logits = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
        self.classes, self.shape = len(logits), tuple(logits.shape[1:])
        self.device, self.affine = image.device, np.asarray(image.affine, np.float64)
        self.sigmoid, self.prunes = sigmoid, prunes
        self.touched = 0  # bytes, since memory was released

    def read(self, box: Box) -> Piece:
        at = (slice(None), *box)
        values = activated(self.logits[at].to(self.device), sigmoid=self.sigmoid)
        self.touched += values[..., 0].nbytes * self.shape[-1]  # whole lines: a page of a file holds several
        if self.touched > HELD:
            release(self.logits)
            self.touched = 0
        if not self.prunes:
            return Piece(torch.arange(len(values)), values)
        classes = candidates(values, sigmoid=self.sigmoid)
        return Piece(classes, values if len(classes) == len(values) else values[classes])


def candidates(values: Tensor, *, sigmoid: bool) -> Tensor:
    """The classes that some mean of these voxels may be labelled with. The others need no resampling.

    Exclusive: those with a voxel above 1 / K, and above the least value of each other class; and the background, which
    is the label of what was cut off. Overlapping: those with a voxel of 0.5.

    Args:
        values: probabilities, (K, *sizes).
        sigmoid: whether they overlap.
    """
    low, high = values.flatten(1).aminmax(dim=1)
    least = torch.full_like(high[0], 0.5) if sigmoid else low.max().clamp(min=1 / len(values))
    left_out = high < least * (1 - ROUNDING)  # a NaN stays
    if not sigmoid:
        left_out[0] = False
    return (~left_out).nonzero().flatten()


class Shifted:
    """The inverse of a crop, which adds voxels of probability 0, or of a padding, which cuts voxels off.

    Args:
        source: after the crop.
        before: voxels that were cut off at the start of each axis; negative where they were added.
        shape: before the crop.
    """

    def __init__(self, source: Source, before: Sequence[int], shape: Sequence[int]) -> None:
        self.source, self.classes, self.shape = source, source.classes, tuple(shape)
        self.before = tuple(int(count) for count in before)
        self.affine = source.affine.copy()
        self.affine[:-1, -1] -= source.affine[:-1, :-1] @ np.asarray(self.before)
        self.slowest, self.device = source.slowest, source.device

    def read(self, box: Box) -> Piece:
        wanted = [slice(each.start - n, each.stop - n) for each, n in zip(box, self.before, strict=True)]
        found = [
            slice(max(each.start, 0), min(each.stop, size))
            for each, size in zip(wanted, self.source.shape, strict=True)
        ]
        if found == wanted:
            return self.source.read(tuple(found))
        sizes = [each.stop - each.start for each in wanted]
        if any(each.start >= each.stop for each in found):
            return Piece(torch.arange(self.classes), torch.zeros(self.classes, *sizes, device=self.device))
        inner = self.source.read(tuple(found))
        values = torch.zeros(len(inner.values), *sizes, device=self.device)
        places = (slice(has.start - want.start, has.stop - want.start) for has, want in zip(found, wanted, strict=True))
        at = (slice(None), *places)
        values[at] = inner.values
        return Piece(inner.classes, values)


class Turned:
    """The inverse of ``Orientation``.

    Args:
        source: after it.
        affine: before it.
        shape: before it.
    """

    def __init__(self, source: Source, affine: NDArray[np.float64], shape: Sequence[int]) -> None:
        self.source, self.classes, self.shape = source, source.classes, tuple(shape)
        self.affine, self.device = affine, source.device
        turn = np.linalg.solve(affine[:-1, :-1], source.affine[:-1, :-1])
        self.axes = np.abs(turn).argmax(axis=0)  # of the target, for each axis of the source
        self.flipped = [axis for axis, own in enumerate(self.axes) if turn[own, axis] < 0]
        self.slowest = int(self.axes[source.slowest])

    def read(self, box: Box) -> Piece:
        turned = [box[own] for own in self.axes]
        for axis in self.flipped:
            size = self.source.shape[axis]
            turned[axis] = slice(size - turned[axis].stop, size - turned[axis].start)
        classes, values = self.source.read(tuple(turned))
        values = values.flip([axis + 1 for axis in self.flipped])
        return Piece(classes, values.permute(0, *(np.argsort(self.axes) + 1).tolist()))


class Resampled:
    """The inverse of a linear resampling. Args: as :class:`Turned`."""

    def __init__(self, source: Source, affine: NDArray[np.float64], shape: Sequence[int]) -> None:
        self.source, self.classes, self.shape = source, source.classes, tuple(shape)
        self.affine, self.device = affine, source.device
        self.grids = Grids(source.affine, affine, source.shape)
        self.slowest = source.slowest

    def read(self, box: Box) -> Piece:
        classes, values = self.source.read(self.grids.source_box(box))
        return Piece(classes, self.grids.resample(values, box))


def activated(logits: Tensor, *, sigmoid: bool) -> Tensor:
    """(K, *spatial) -> probabilities, float32."""
    return torch.sigmoid(logits.float()) if sigmoid else torch.softmax(logits.float(), dim=0)


def inverse(
    logits: Tensor, image: Any, transform: InvertibleTransform, *, sigmoid: bool, prunes: bool = False
) -> Source | None:
    """Probabilities on the grid of the file; None where MONAI's ``Invertd`` is to invert the preprocessing.

    Args:
        logits: (K, *spatial).
        image: that the preprocessing made.
        transform: the preprocessing.
        sigmoid: as :class:`InvertedLabelsd` has it.
        prunes: as :class:`Activated` has it.
    """
    if not isinstance(image, MetaTensor) or logits.shape[1:] != image.shape[1:] or image.pending_operations:
        return None
    done = image.applied_operations
    if not isinstance(transform, Compose) or [each[TraceKeys.CLASS_NAME] for each in done] != traced(transform):
        return None
    if done and image.ndim != 4:
        return None
    source: Source | None = Activated(logits, image, sigmoid=sigmoid, prunes=prunes)
    for operation in reversed(done):
        source = None if source is None else undone(source, operation)
    return source


def traced(transform: Compose) -> list[str]:
    """The names under which MONAI traces the transforms."""
    invertible = [each for each in transform.flatten().transforms if isinstance(each, InvertibleTransform)]
    return [TRACED.get(type(each).__name__, "") for each in invertible]


def undone(source: Source, operation: Mapping[str, Any]) -> Source | None:
    """The grid before one traced operation; None where only MONAI knows how to undo it."""
    extra, shape = operation[TraceKeys.EXTRA_INFO], [int(size) for size in operation[TraceKeys.ORIG_SIZE]]
    match operation[TraceKeys.CLASS_NAME]:
        case "Orientation":
            return Turned(source, np.asarray(extra["original_affine"], np.float64), shape)
        case "CropForeground":
            padded = extra["pad_info"][TraceKeys.EXTRA_INFO]["padded"]
            return None if np.any(padded) else Shifted(source, extra["cropped"][::2], shape)
        case _:
            return resampled_back(source, extra, shape)


def resampled_back(source: Source, extra: Mapping[str, Any], shape: Sequence[int]) -> Source | None:
    """The grid before a resampling. ``extra``: what MONAI traced of it; ``shape``: of the grid before."""
    if tuple(extra[name] for name in ("mode", "padding_mode", "align_corners", "dtype")) != LINEAR:
        return None
    affine = np.asarray(extra["src_affine"], np.float64)
    resampled = Resampled(source, affine, shape)
    return source if is_unchanged(resampled.grids, source.affine, affine, shape) else resampled


def with_geometry(values: Tensor, image: MetaTensor, source: Source) -> MetaTensor:
    """values: (C, *spatial) on the grid of the file, with the metadata of the image there."""
    result = MetaTensor(values, meta=deepcopy(image.meta))
    result.affine = torch.from_numpy(source.affine)
    result.applied_operations = []
    return result
