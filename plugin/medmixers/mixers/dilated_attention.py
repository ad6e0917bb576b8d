import torch
from torch import Tensor, nn

from medmixers.kernels.tile_attention import Tiling, tile_attention
from medmixers.layers.conv import check_kernel_size, check_positive, check_spatial_dims
from medmixers.mixers.global_attention import head_count
from medmixers.mixers.local_attention import TILE_SIZE


class DilatedAttention(nn.Module):
    """Self-attention to a dilated neighbourhood (DiNAT, Hassani and Shi 2022, section 3.2).

    A query attends to the keys inside the image whose offset on every axis is a multiple of the dilation d, at most
    d (kernel_size // 2). So the map falls into d^dims grids of every d-th voxel, and each grid attends locally. With
    d = 1 it is local attention. Near the border fewer keys are seen; DiNAT shifts the neighbourhood instead.

    Args:
        dim: channels C, a multiple of ``head_dim``.
        spatial_dims: 2 or 3.
        kernel_size: keys of the neighbourhood per axis, odd.
        dilation: d, the distance of neighbouring keys in voxels.
        head_dim: channels of one head.
    """

    def __init__(
        self, dim: int, *, spatial_dims: int, kernel_size: int = 7, dilation: int = 2, head_dim: int = 16
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive(dilation=dilation)
        self.kernel_size = check_kernel_size(kernel_size)
        self.dilation = dilation
        self.tile_size = TILE_SIZE
        self.heads = head_count(dim, head_dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        tiling = Tiling(self.heads, self.kernel_size, self.tile_size)
        grids = [self.qkv(x.movedim(1, -1))]  # (B, *spatial, 3 C)
        for axis in range(1, x.ndim - 1):
            parts: list[Tensor] = []
            for grid in grids:
                parts.extend(_every_nth(grid, axis, self.dilation))
            grids = parts
        grids = [tile_attention(grid, tiling) for grid in grids]
        for axis in range(x.ndim - 2, 0, -1):
            count = min(self.dilation, x.shape[axis + 1])
            grids = [_interleave(grids[i : i + count], axis) for i in range(0, len(grids), count)]
        return self.proj(grids[0]).movedim(-1, 1)


def _every_nth(x: Tensor, axis: int, n: int) -> list[Tensor]:
    """Positions 0, n, 2 n ...; 1, n + 1 ... along an axis; at most n tensors, none of them empty."""
    size = x.shape[axis]
    return [x.index_select(axis, torch.arange(first, size, n, device=x.device)) for first in range(min(n, size))]


def _interleave(parts: list[Tensor], axis: int) -> Tensor:
    """The inverse of :func:`_every_nth`."""
    sizes = [part.shape[axis] for part in parts]
    order = [torch.arange(size, device=parts[0].device) * len(parts) + first for first, size in enumerate(sizes)]
    return torch.cat(parts, axis).index_select(axis, torch.cat(order).argsort())
