from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.errors import InputError
from medmixers.layers.conv import check_spatial_dims
from medmixers.layers.sizes import check_feature_size


def head_count(dim: int, head_dim: int) -> int:
    """Number of heads of ``head_dim`` channels in ``dim``. Raises ValueError unless ``head_dim`` divides ``dim``."""
    if head_dim < 1 or dim % head_dim:
        raise InputError(f"dim must be divisible by head_dim, got {dim=}, {head_dim=}")
    return dim // head_dim


class GlobalAttention(nn.Module):
    """Multi-head self-attention over all positions (Keuth et al. 2025, equation 5).

    Args:
        dim: channels C, a multiple of ``head_dim``.
        spatial_dims: 2 or 3.
        head_dim: channels per head; 16 in Keuth et al. 2025, 32 in Yu et al. 2022 and 2023.
        qkv_bias: whether queries, keys and values have a bias.
        proj_bias: whether the output projection has a bias; False in Yu et al. 2023.
        feature_size: size of a learned positional embedding, zero at the start and added to the input; other sizes
            then raise. None means no embedding and any size.
    """

    def __init__(
        self,
        dim: int,
        *,
        spatial_dims: int,
        head_dim: int = 16,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        feature_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.heads = head_count(dim, head_dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
        self.pos_embedding: Tensor | None = None
        if feature_size is not None:
            self.pos_embedding = nn.Parameter(torch.zeros(1, dim, *feature_size))

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        if self.pos_embedding is not None:
            check_feature_size(x, self.pos_embedding.shape[2:], "global_attention's positional embedding")
            x = x + self.pos_embedding
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        mixed = full_attention(self.qkv(tokens), self.heads)
        return self.proj(mixed).transpose(1, 2).reshape(x.shape)


def full_attention(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention of every token to every token.

    Args:
        qkv: queries, keys and values side by side, (B, N, 3 C).
        heads: number of heads, each of C / heads channels.

    Returns:
        Mixed values, (B, N, C).
    """
    batch, count, width = qkv.shape
    q, k, v = qkv.view(batch, count, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width // 3)
