"""Linear resampling between two grids, piece by piece: MONAI's result without its coordinates of all voxels.

MONAI computes those in double precision, 56 bytes per voxel, and samples each voxel from its eight neighbours. Where
the axes of both grids are parallel, one axis after another is the same interpolation, and faster. They are parallel
after ``Orientationd`` and ``Spacingd``, unless a file's affine has a shear. The rounding of an oblique one is a shear.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from monai import transforms
from monai.data import MetaTensor, to_affine_nd
from monai.transforms import TraceableTransform
from monai.utils import get_equivalent_dtype
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

Box = tuple[slice, ...]  # start and stop along each spatial axis

# What MONAI's Spacing does unless it is told otherwise: mode, padding_mode, align_corners, dtype
LINEAR = ("bilinear", "border", False, "float64")
PARALLEL = 1e-12  # voxels per voxel that an axis may drift along the others: rounding of double precision
MARGIN = 1e-6  # voxels, for the same
UNCHANGED = 1e-3  # MONAI's tolerance of affines that are the same
PIECE = 2**23  # bytes of double precision that are computed at a time; they fit a cache


class Grids:
    """Where the voxels of a target grid lie in a source grid.

    Args:
        source, target: their affines, (D + 1, D + 1).
        source_shape: of the source; beyond its border its outermost voxels count.
    """

    def __init__(self, source: NDArray[Any], target: NDArray[Any], source_shape: Sequence[int]) -> None:
        self.matrix = np.linalg.solve(source, target)  # from voxels of the target to voxels of the source
        self.linear, self.offsets = self.matrix[:-1, :-1], self.matrix[:-1, -1]
        self.steps = np.diag(self.linear)
        self.source_shape = tuple(source_shape)
        self.are_parallel = bool(np.abs(self.linear - np.diag(self.steps)).max() < PARALLEL and (self.steps > 0).all())

    def source_box(self, box: Box) -> Box:
        """The voxels of the source that a box of the target is made of."""
        ends = np.array(list(product(*((each.start, each.stop - 1) for each in box))))
        places = ends @ self.linear.T + self.offsets
        found = zip(places.min(axis=0) - MARGIN, places.max(axis=0) + MARGIN, self.source_shape, strict=True)
        return tuple(
            slice(min(max(int(np.floor(low)), 0), size - 1), min(max(int(np.ceil(high)), 0), size - 1) + 1)
            for low, high, size in found
        )

    def resample(self, values: Tensor, box: Box) -> Tensor:
        """values: (C, *sizes) at :meth:`source_box` -> (C, *sizes) at ``box`` of the target, float32."""
        along = self._axis_by_axis if self.are_parallel else self._at_once
        return along(values.double(), box, [each.start for each in self.source_box(box)]).float()

    def _axis_by_axis(self, values: Tensor, box: Box, starts: Sequence[int]) -> Tensor:
        for axis in reversed(range(len(box))):  # the first axis, whose rows are whole blocks, when there is most to do
            last = self.source_shape[axis] - 1
            place = self.steps[axis] * np.arange(box[axis].start, box[axis].stop) + self.offsets[axis]
            place = np.clip(place, 0, last) - starts[axis]
            low = np.floor(place).astype(np.int64)
            high = np.minimum(low + 1, values.shape[axis + 1] - 1)
            shape = [-1 if each == axis else 1 for each in range(len(box))]
            weights = torch.from_numpy(place - low).to(values.device).view(shape)
            values = _taken(values, axis + 1, low).lerp_(_taken(values, axis + 1, high), weights)
        return values

    def _at_once(self, values: Tensor, box: Box, starts: Sequence[int]) -> Tensor:
        half = np.array([(each.stop - each.start - 1) / 2 for each in box])  # torch counts both grids from -1 to 1
        first = np.array([each.start for each in box])
        scale = 2 / np.maximum(np.array(values.shape[1:]) - 1, 1)
        offsets = scale * (self.linear @ (first + half) + self.offsets - starts) - 1
        theta = np.column_stack(
            [(scale[:, None] * self.linear * half)[::-1, ::-1], offsets[::-1]]
        )  # the last axis first
        sizes = [1, 1, *(each.stop - each.start for each in box)]
        grid = affine_grid(torch.from_numpy(theta).to(values.device)[None], sizes, align_corners=True)
        return grid_sample(values[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _taken(values: Tensor, dim: int, places: NDArray[np.int64]) -> Tensor:
    """``index_select``, by ``gather`` along the last axis, where it is four times as fast on a CPU."""
    index = torch.from_numpy(places).to(values.device)
    if dim < values.ndim - 1:
        return values.index_select(dim, index)
    return values.gather(dim, index.expand(*values.shape[:-1], -1))


def pieces(shape: Sequence[int], *, most: int, first: int = 0) -> Iterator[Box]:
    """Boxes that fill a grid, about as long as they are wide.

    Args:
        shape: of the grid.
        most: voxels of a box.
        first: the axis along which the boxes come last to an end.
    """
    sizes = list(shape)
    while prod(sizes) > max(most, 1):
        axis = sizes.index(max(sizes))
        sizes[axis] = -(-sizes[axis] // 2)
    order = [first, *(axis for axis in range(len(shape)) if axis != first)]
    for number in np.ndindex(*(-(-shape[axis] // sizes[axis]) for axis in order)):
        at = dict(zip(order, number, strict=True))
        yield tuple(
            slice(at[axis] * size, min((at[axis] + 1) * size, extent))
            for axis, (size, extent) in enumerate(zip(sizes, shape, strict=True))
        )


def is_unchanged(grids: Grids, source: NDArray[Any], target: NDArray[Any], shape: Sequence[int]) -> bool:
    """Whether MONAI takes two grids for the same one, and does not resample. ``shape``: of the target."""
    is_near = np.allclose(source, target, atol=UNCHANGED) or np.allclose(
        grids.matrix, np.eye(len(grids.matrix)), atol=UNCHANGED
    )
    return is_near and tuple(shape) == grids.source_shape


class SpatialResample(transforms.SpatialResample):
    """MONAI's; linear resampling in double precision goes piece by piece."""

    def __call__(
        self,
        img: Tensor,
        dst_affine: Any = None,
        spatial_size: Any = None,
        mode: Any = None,
        padding_mode: Any = None,
        align_corners: bool | None = None,
        dtype: Any = None,
        lazy: bool | None = None,
    ) -> Tensor:
        """img: (C, *spatial). Arguments as MONAI has them."""
        chosen = (
            str(self.mode if mode is None else mode),
            str(self.padding_mode if padding_mode is None else padding_mode),
            self.align_corners if align_corners is None else align_corners,
            np.dtype(get_equivalent_dtype(self.dtype if dtype is None else dtype, np.ndarray)).name,
        )
        is_lazy = self.lazy if lazy is None else lazy
        if chosen == LINEAR and not is_lazy and isinstance(img, MetaTensor) and not img.pending_operations:
            resampled = self._by_pieces(img, dst_affine, spatial_size)
            if resampled is not None:
                return resampled
        return super().__call__(img, dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy)

    def _by_pieces(self, img: MetaTensor, dst_affine: Any, spatial_size: Any) -> Tensor | None:
        """None where MONAI's own way is to be taken."""
        dims = img.ndim - 1
        if dst_affine is None or np.ndim(spatial_size) != 1 or len(spatial_size) != dims or min(spatial_size) < 1:
            return None
        source, target = (to_affine_nd(dims, np.asarray(affine, np.float64)) for affine in (img.affine, dst_affine))
        grids = Grids(source, target, img.shape[1:])
        if is_unchanged(grids, source, target, spatial_size):
            return None
        shape = [int(size) for size in spatial_size]
        voxels = img.as_tensor()
        result = torch.empty(len(img), *shape, dtype=torch.float32, device=img.device)
        for channel in range(len(img)):
            for box in pieces(shape, most=PIECE // 8):
                of_source, of_target = ((slice(channel, channel + 1), *each) for each in (grids.source_box(box), box))
                result[of_target] = grids.resample(voxels[of_source], box)
        traced = TraceableTransform.track_transform_meta(
            img,
            sp_size=shape,
            affine=torch.from_numpy(grids.matrix),
            extra_info={
                **dict(zip(("mode", "padding_mode", "align_corners", "dtype"), LINEAR, strict=True)),
                "src_affine": torch.from_numpy(source),
            },
            orig_size=tuple(img.shape[1:]),
            transform_info=self.get_transform_info(),
        )
        return MetaTensor(result).copy_meta_from(traced)


class Spacingd(transforms.Spacingd):
    """MONAI's, whose memory is that of the image and its result. Arguments: MONAI's."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.spacing_transform.sp_resample = SpatialResample(lazy=self.lazy)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Resample. MONAI takes each entry KEY_... for metadata, also the text that MONAI Label has as image_path."""
        metadata = {key: value for key, value in data.items() if key in self.keys or isinstance(value, dict)}
        return {**data, **super().__call__(metadata, lazy)}
