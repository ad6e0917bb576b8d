"""The parts of a MetaFormer encoder: channel MLP, block, stems (Yu et al. 2022, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from numbers import Real

from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.activations import ACTIVATIONS
from medmixers.layers.conv import conv_nd
from medmixers.layers.norms import create_norm
from medmixers.layers.scales import create_scale
from medmixers.layers.sizes import halvings, per_axis

STEMS = ("overlapping", "patch", "convolutional")


class ChannelMLP(nn.Sequential):
    """Pointwise C -> ratio C, activation, ratio C -> C: the half of a block that mixes no positions."""

    def __init__(self, dim: int, *, spatial_dims: int, ratio: float, activation: str, bias: bool) -> None:
        if not isinstance(ratio, Real) or not 1 <= ratio * dim < inf:  # written so that a NaN fails
            raise InputError(f"mlp_ratio must be a number >= 1 / dim, got {ratio!r} at {dim=}")
        conv, width = conv_nd(spatial_dims), int(ratio * dim)
        super().__init__()
        self.fc1 = conv(dim, width, 1, bias=bias)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = conv(width, dim, 1, bias=bias)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.get_parameter("weight"), std=0.02)
            if bias:
                nn.init.zeros_(layer.get_parameter("bias"))


class MetaFormerBlock(nn.Module):
    """x + scale1 * mixer(norm1 x), then x + scale2 * mlp(norm2 x), each branch under stochastic depth.

    Args:
        dim: channels C.
        mixer: token mixer, a module (B, C, *spatial) -> the same shape.
        norm, norm_bias, norm_eps: as of :func:`medmixers.layers.norms.create_norm`.
        activation: of the channel MLP.
        mlp_ratio: its width over C.
        mlp_bias: whether its two layers have biases.
        layer_scale_init: start value of the branches' LayerScale; None leaves it out.
        res_scale_init: start value of the shortcuts' ResScale; None leaves it out.
        drop_path: probability of dropping a branch for a whole sample in training.
        residual: False leaves the shortcuts out.
        channel_mlp: False leaves the second half out.
    """

    def __init__(
        self,
        dim: int,
        *,
        spatial_dims: int,
        mixer: nn.Module,
        norm: str = "group_norm",
        norm_bias: bool = True,
        norm_eps: float | None = None,
        activation: str = "gelu",
        mlp_ratio: float = 4.0,
        mlp_bias: bool = True,
        layer_scale_init: float | None = 1e-5,
        res_scale_init: float | None = None,
        drop_path: float = 0.0,
        residual: bool = True,
        channel_mlp: bool = True,
    ) -> None:
        super().__init__()
        self.residual, self.channel_mlp = residual, channel_mlp
        self.norm1 = create_norm(norm, dim, spatial_dims=spatial_dims, bias=norm_bias, eps=norm_eps)
        self.token_mixer = mixer
        self.layer_scale1 = create_scale(dim, spatial_dims=spatial_dims, init=layer_scale_init)
        self.res_scale1 = create_scale(dim, spatial_dims=spatial_dims, init=res_scale_init)
        self.drop_path = DropPath(drop_path)
        if channel_mlp:
            self.norm2 = create_norm(norm, dim, spatial_dims=spatial_dims, bias=norm_bias, eps=norm_eps)
            self.mlp = ChannelMLP(dim, spatial_dims=spatial_dims, ratio=mlp_ratio, activation=activation, bias=mlp_bias)
            self.layer_scale2 = create_scale(dim, spatial_dims=spatial_dims, init=layer_scale_init)
            self.res_scale2 = create_scale(dim, spatial_dims=spatial_dims, init=res_scale_init)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        branch = self.drop_path(self.layer_scale1(self.token_mixer(self.norm1(x))))
        x = self.res_scale1(x) + branch if self.residual else branch
        if not self.channel_mlp:
            return x
        branch = self.drop_path(self.layer_scale2(self.mlp(self.norm2(x))))
        return self.res_scale2(x) + branch if self.residual else branch


class MetaFormerStage(nn.Module):
    """Downsampling (identity in the first stage), then the blocks."""

    def __init__(self, downsample: nn.Module, blocks: list[MetaFormerBlock]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C_in, *spatial) -> (B, C, *spatial / stride)."""
        return self.blocks(self.downsample(x))


class Stem(nn.Module):
    """Overlapping strided convolution, then a norm or none.

    Kernel 2 s - 1 and padding s / 2 give 7 and 2 at stride 4, as published, and 3 and 1 at stride 2, on each axis.
    """

    def __init__(
        self, in_channels: int, dim: int, *, spatial_dims: int, stride: Sequence[int], norm: nn.Module
    ) -> None:
        super().__init__()
        kernel_size, padding = tuple(2 * s - 1 for s in stride), tuple(s // 2 for s in stride)
        self.conv = conv_nd(spatial_dims)(in_channels, dim, kernel_size, stride=tuple(stride), padding=padding)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) -> (B, dim, *spatial / stride)."""
        return self.norm(self.conv(x))


class Downsampling(nn.Module):
    """A norm or none, then a convolution of kernel 3 and stride 2, or 1 on an axis that keeps its size."""

    def __init__(
        self, in_channels: int, dim: int, *, spatial_dims: int, norm: nn.Module, stride: int | Sequence[int] = 2
    ) -> None:
        super().__init__()
        self.norm = norm
        self.conv = conv_nd(spatial_dims)(in_channels, dim, 3, stride=halvings(stride, spatial_dims), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, in_channels, *spatial) -> (B, dim, *ceil(spatial / stride))."""
        return self.conv(self.norm(x))


class ConvolutionalStem(nn.Sequential):
    """Convolutions of stride 2 that double the channels, the first of kernel 7, with GELU between (Xiao et al. 2021).

    Widths dim / 2^(n - 1) ... dim; for stride 16 and 384 channels 48, 96, 192, 384.
    """

    def __init__(self, in_channels: int, dim: int, *, spatial_dims: int, stride: int) -> None:
        steps = stride.bit_length() - 1
        if stride != 2**steps or steps < 1 or dim % 2 ** (steps - 1):
            raise InputError(
                "a convolutional stem needs a stride that is a power of 2 and dim a multiple of stride / 2, "
                f"got {stride=}, {dim=}"
            )
        conv, layers, channels = conv_nd(spatial_dims), [], in_channels
        for step in range(steps):
            width, kernel_size = dim // 2 ** (steps - 1 - step), 7 if step == 0 else 3
            layers += [conv(channels, width, kernel_size, stride=2, padding=kernel_size // 2), nn.GELU()]
            channels = width
        super().__init__(*layers[:-1])


def create_stem(
    name: str, in_channels: int, dim: int, *, spatial_dims: int, stride: int | Sequence[int], norm: nn.Module
) -> nn.Module:
    """The first downsampling: "overlapping", "patch" (kernel = stride, as in ViT) or "convolutional"."""
    strides = per_axis(stride, spatial_dims, "stem_stride")
    if name == "overlapping":
        return Stem(in_channels, dim, spatial_dims=spatial_dims, stride=strides, norm=norm)
    if name == "patch":
        return conv_nd(spatial_dims)(in_channels, dim, strides, stride=strides)
    if name == "convolutional":
        if len(set(strides)) > 1:
            raise InputError(f"a convolutional stem has one stride for all axes, got {stride!r}")
        return ConvolutionalStem(in_channels, dim, spatial_dims=spatial_dims, stride=strides[0])
    raise InputError(f"stem must be one of {STEMS}, got {name!r}")
