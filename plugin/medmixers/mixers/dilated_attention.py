from torch import Tensor, nn

from medmixers.kernels.dilated_tile_attention import dilated_tile_attention
from medmixers.kernels.tile_attention import TILE_SIZE
from medmixers.layers.conv import check_kernel_size, check_positive, check_spatial_dims
from medmixers.mixers.global_attention import head_count


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
        qkv = self.qkv(x.movedim(1, -1))  # (B, *spatial, 3 C)
        mixed = dilated_tile_attention(qkv, self.heads, self.kernel_size, self.tile_size, self.dilation)
        return self.proj(mixed).movedim(-1, 1)
