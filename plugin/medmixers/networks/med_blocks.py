"""LAFFN, SEM, SDFFN and MED block of Xue et al. 2026. The 3D forms are ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from medmixers.errors import InputError
from medmixers.layers.conv import check_kernel_size, conv_nd
from medmixers.layers.linear_attention import linear_attention
from medmixers.layers.norms import ChannelLayerNorm, create_norm
from medmixers.layers.sizes import resize

# What may stand in place of LAFFN and of SDFFN: Xue et al. 2026, figures 2 and 4.
ATTENTIONS = ("laffn", "softmax", "linear", "simplified", "none")
FEED_FORWARDS = ("sdffn", "ffn", "smooth_ffn")


class LAFFN(nn.Module):
    """Linear attention as a feed-forward network: (softmax_C(x W1) * softmax_N(x W2)) W3 (equation 9).

    As published, each entry of the product is about 1 / (C N), so the branch contributes almost nothing at the start.

    Args:
        dim: channels C.
        rescale: multiply the product by C N, so that its entries are about 1; not in the paper.
    """

    def __init__(self, dim: int, *, spatial_dims: int, rescale: bool = False) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        self.rescale = rescale
        self.query = conv(dim, dim, 1, bias=False)
        self.key = conv(dim, dim, 1, bias=False)
        self.out = conv(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        channels = self.query(x).softmax(dim=1)
        positions = self.key(x).flatten(2).softmax(dim=-1).view_as(x)
        product = channels * positions
        if self.rescale:
            product = product * x[0].numel()
        return self.out(product)


class MEDAttention(nn.Module):
    """The attention that LAFFN is derived from (figure 2), of one head, with x in rows of positions.

    - "softmax" (2A): softmax(Q K^T / sqrt C) V, at a cost of positions squared
    - "linear" (2B): softmax_C(Q) (softmax_N(K)^T V)
    - "simplified" (2C): the same with Q = K = V = x, without weights

    Args:
        dim: channels C.
        kind: one of these three.
    """

    def __init__(self, dim: int, *, spatial_dims: int, kind: str) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        self.kind = kind
        layers = () if kind == "simplified" else (conv(dim, dim, 1, bias=False) for _ in range(3))
        self.projections = nn.ModuleList(layers)  # to queries, keys and values

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        parts = [x, x, x]
        for i, projection in enumerate(self.projections):
            parts[i] = projection(x)
        if self.kind != "softmax":
            return linear_attention(parts[0], parts[1], parts[2])
        query, key, value = [part.flatten(2).transpose(1, 2).unsqueeze(1) for part in parts]
        return scaled_dot_product_attention(query, key, value).squeeze(1).transpose(1, 2).reshape(x.shape)


class SEM(nn.Module):
    """Spatial encoding module (equation 12): a map of weights from strips and axes, times a projection of the input.

    z = W_l x. Z0 and Z1 are sums of depthwise strip convolutions of z, one per axis. Z2 joins one linear layer along
    each axis of z. With a = conv [Z0, Z1, Z2] the output is W_o (a * W_r x).

    Args:
        dim: channels C.
        feature_size: spatial size of the linear layers. At another size the axis is resampled to it and back.
        kernel_sizes: lengths of the strips of Z0 and Z1. 7 and 11 are inferred from the published counts.
    """

    def __init__(
        self, dim: int, *, spatial_dims: int, feature_size: Sequence[int], kernel_sizes: tuple[int, int] = (7, 11)
    ) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        if len(feature_size) != spatial_dims:
            raise InputError(f"feature_size must have {spatial_dims} values, got {tuple(feature_size)}")
        self.feature_size = list(feature_size)
        self.left, self.right, self.out = (conv(dim, dim, 1, bias=False) for _ in range(3))
        self.near, self.far = (
            nn.ModuleList(_strip(dim, spatial_dims, axis, check_kernel_size(k)) for axis in range(spatial_dims))
            for k in kernel_sizes
        )
        self.axes = nn.ModuleList(nn.Linear(size, size, bias=False) for size in feature_size)
        self.join = conv(spatial_dims * dim, dim, 1, bias=False)
        self.weigh = conv(3 * dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        z = self.left(x)
        near: list[Tensor] = []
        far: list[Tensor] = []
        for strip in self.near:
            near.append(strip(z))
        for strip in self.far:
            far.append(strip(z))
        parts = [_sum(near), _sum(far), self.join(torch.cat(self.along_axes(z), 1))]
        return self.out(self.weigh(torch.cat(parts, 1)) * self.right(x))

    def along_axes(self, z: Tensor) -> list[Tensor]:
        """z: (B, C, *spatial) -> per axis the same shape, the linear layer applied along that axis."""
        lines: list[Tensor] = []
        for axis, linear in enumerate(self.axes):
            size = list(z.shape[2:])
            size[axis] = self.feature_size[axis]
            mixed = linear(resize(z, size).movedim(axis + 2, -1)).movedim(-1, axis + 2)
            lines.append(resize(mixed, z.shape[2:]))
        return lines


def _sum(maps: list[Tensor]) -> Tensor:
    total = maps[0]
    for each in maps[1:]:
        total = total + each
    return total


def _strip(dim: int, spatial_dims: int, axis: int, length: int) -> nn.Module:
    """Depthwise convolution of ``length`` along one axis and 1 along the others."""
    kernel, padding = [1] * spatial_dims, [0] * spatial_dims
    kernel[axis], padding[axis] = length, length // 2
    return conv_nd(spatial_dims)(dim, dim, tuple(kernel), padding=tuple(padding), groups=dim, bias=False)


class SDFFN(nn.Module):
    """Feed-forward network that keeps its width: linear, depthwise 3, linear (figure 4C); 2 C^2 + 9 C weights in 2D.

    Args:
        dim: channels C.
    """

    def __init__(self, dim: int, *, spatial_dims: int) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        self.fc1 = conv(dim, dim, 1, bias=False)
        self.dwconv = conv(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.fc2 = conv(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        return self.fc2(self.dwconv(self.fc1(x)))


class FFN(nn.Sequential):
    """Linear, GELU, linear: figure 4A with ``ratio`` 4, and figure 4B, the "smooth" one, with 1. GELU is inferred."""

    def __init__(self, dim: int, *, spatial_dims: int, ratio: int) -> None:
        conv = conv_nd(spatial_dims)
        super().__init__(conv(dim, ratio * dim, 1, bias=False), nn.GELU(), conv(ratio * dim, dim, 1, bias=False))


class MEDBlock(nn.Module):
    """x + LAFFN(norm x), then the same with SEM and with SDFFN.

    Args:
        dim: channels C.
        feature_size, kernel_sizes: of SEM.
        rescale: of LAFFN.
        attention: "laffn", or a form of :class:`MEDAttention` in its place, or "none".
        sem: whether the block has SEM.
        feed_forward: "sdffn", or in its place "ffn" of ratio 4 or "smooth_ffn" of ratio 1.
    """

    def __init__(
        self,
        dim: int,
        *,
        spatial_dims: int,
        feature_size: Sequence[int],
        kernel_sizes: tuple[int, int] = (7, 11),
        rescale: bool = False,
        attention: str = "laffn",
        sem: bool = True,
        feed_forward: str = "sdffn",
    ) -> None:
        super().__init__()
        _check_choice("attention", attention, ATTENTIONS)
        _check_choice("feed_forward", feed_forward, FEED_FORWARDS)
        if rescale and attention != "laffn":
            raise InputError(f"rescale belongs to attention 'laffn', got attention={attention!r}")
        has = (attention != "none", sem, True)
        self.norms = nn.ModuleList(ChannelLayerNorm(dim) if each else nn.Identity() for each in has)
        first: nn.Module | None = None
        if attention == "laffn":
            first = LAFFN(dim, spatial_dims=spatial_dims, rescale=rescale)
        elif attention != "none":
            first = MEDAttention(dim, spatial_dims=spatial_dims, kind=attention)
        self.laffn = first  # what stands in place of a module has its key
        self.sem = None
        if sem:
            self.sem = SEM(dim, spatial_dims=spatial_dims, feature_size=feature_size, kernel_sizes=kernel_sizes)
        last: nn.Module = SDFFN(dim, spatial_dims=spatial_dims)
        if feed_forward != "sdffn":
            last = FFN(dim, spatial_dims=spatial_dims, ratio=4 if feed_forward == "ffn" else 1)
        self.sdffn = last

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        if self.laffn is not None:
            x = x + self.laffn(self.norms[0](x))
        if self.sem is not None:
            x = x + self.sem(self.norms[1](x))
        return x + self.sdffn(self.norms[2](x))


def _check_choice(option: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise InputError(f"{option} must be one of {', '.join(valid)}, got {value!r}")


class ConvNormAct(nn.Sequential):
    """Convolution of kernel 3, then BatchNorm and ReLU, or ReLU and BatchNorm (``norm_last``)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, spatial_dims: int, stride: int = 1, norm_last: bool = False
    ) -> None:
        norm = create_norm("batch_norm", out_channels, spatial_dims=spatial_dims)
        conv = conv_nd(spatial_dims)(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        super().__init__(conv, *((nn.ReLU(), norm) if norm_last else (norm, nn.ReLU())))
