import torch
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.kernels.flex_attention import flex_attention_by_tiles
from medmixers.kernels.tile_attention import TILE_SIZE, Tiling, tile_attention
from medmixers.layers.conv import check_kernel_size, check_spatial_dims
from medmixers.layers.sizes import has_known_size, is_exporting, product_of
from medmixers.mixers.global_attention import full_attention, head_count

BACKENDS = ("auto", "tiles", "flex")


class LocalAttention(nn.Module):
    """Self-attention of every position to its neighbourhood (Keuth et al. 2025, equation 8).

    A query attends to the keys inside the image with an offset of at most ``kernel_size // 2`` on every axis. It is
    computed exactly, in tiles of queries, each with the keys of the tile and a halo around it. Memory grows with tokens
    times window. On a CPU it grows with tokens alone, because a few tiles are computed at a time.

    Args:
        dim: channels C, a multiple of ``head_dim``.
        spatial_dims: 2 or 3.
        kernel_size: edge of the neighbourhood in voxels, odd.
        head_dim: channels of one head.
        full_attention_tokens: feature maps of at most this many positions attend globally, as in the code of Keuth et
            al.; 0 keeps every map local.
        backend: changes the speed, not the result. "tiles": as described above. "flex": compiled FlexAttention over
            tokens in tile order, for GPUs; on a CPU it is slow and cannot be trained, and graphs contain tiles.
            "auto": tiles on every device, until flex has been measured on a GPU.
    """

    def __init__(
        self,
        dim: int,
        *,
        spatial_dims: int,
        kernel_size: int = 7,
        head_dim: int = 16,
        full_attention_tokens: int = 64,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        if backend not in BACKENDS:
            raise InputError(f"backend must be one of {BACKENDS}, got {backend!r}")
        self.backend = backend
        self.kernel_size = check_kernel_size(kernel_size)
        self.tile_size = TILE_SIZE
        self.heads = head_count(dim, head_dim)
        self.full_attention_tokens = full_attention_tokens
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        qkv = self.qkv(x.movedim(1, -1))  # (B, *spatial, 3 C)
        if torch.jit.is_scripting():
            mixed = _by_size(qkv, self.heads, self.kernel_size, self.tile_size, self.full_attention_tokens)
        else:
            mixed = self._by_backend(qkv)
        shape = list(qkv.shape[:-1]) + [self.proj.in_features]
        return self.proj(mixed.view(shape)).movedim(-1, 1)

    def _by_backend(self, qkv: Tensor) -> Tensor:
        is_small = product_of(qkv.shape[1:-1]) <= self.full_attention_tokens
        if is_exporting() and not has_known_size(qkv):  # the exported program takes small and large images
            tiling = Tiling(self.heads, self.kernel_size, self.tile_size)
            return torch.cond(is_small, lambda x: _full(x, self.heads), lambda x: _tiled(x, tiling), (qkv,))
        if self.backend == "flex" and not (is_small or is_exporting() or torch.jit.is_tracing()):
            return flex_attention_by_tiles(qkv, heads=self.heads, kernel_size=self.kernel_size)
        return _by_size(qkv, self.heads, self.kernel_size, self.tile_size, self.full_attention_tokens)


@torch.jit.script_if_tracing  # a trace would keep one branch, and be wrong for maps of the other one's size
def _by_size(qkv: Tensor, heads: int, kernel_size: int, tile_size: int, full_attention_tokens: int) -> Tensor:
    if product_of(qkv.shape[1:-1]) <= full_attention_tokens:
        return _full(qkv, heads)
    return _tiled(qkv, Tiling(heads, kernel_size, tile_size))


# Both return a flat tensor: torch.cond requires equal strides, which it cannot prove for symbolic sizes.
def _full(qkv: Tensor, heads: int) -> Tensor:
    return full_attention(qkv.flatten(1, -2), heads).flatten()


def _tiled(qkv: Tensor, tiling: Tiling) -> Tensor:
    return tile_attention(qkv, tiling).flatten()
