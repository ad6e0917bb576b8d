"""Parts of a MetaFormer encoder: channel MLP, block, stems (Yu et al. 2022, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from numbers import Real

import torch
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.activations import ACTIVATIONS
from medmixers.layers.conv import conv_nd
from medmixers.layers.drop_path import DropPath
from medmixers.layers.norms import create_norm
from medmixers.layers.scales import create_scale
from medmixers.layers.sizes import check_feature_size, halvings, per_axis

STEMS = ("overlapping", "patch", "convolutional")


@dataclass(frozen=True)
class BlockOptions:
    """Options of a :class:`MetaFormerBlock`, besides its channels, its mixer and its drop path.

    Args:
        norm, norm_bias, norm_eps: as of :func:`medmixers.layers.norms.create_norm`.
        activation: activation of the channel MLP, a name of :data:`medmixers.layers.activations.ACTIVATIONS`.
        mlp_ratio: width of the channel MLP over C.
        mlp_bias: whether the two layers of the channel MLP have biases.
        layer_scale_init: start value of the branches' LayerScale; None means no LayerScale.
        res_scale_init: start value of the shortcuts' ResScale; None means no ResScale.
        residual: False removes the shortcuts.
        channel_mlp: False removes the channel MLP.
    """

    norm: str = "group_norm"
    norm_bias: bool = True
    norm_eps: float | None = None
    activation: str = "gelu"
    mlp_ratio: float = 4.0
    mlp_bias: bool = True
    layer_scale_init: float | None = 1e-5
    res_scale_init: float | None = None
    residual: bool = True
    channel_mlp: bool = True


class ChannelMLP(nn.Sequential):
    """Pointwise C -> ratio C, activation, ratio C -> C: the half of a block that mixes channels only."""

    def __init__(self, dim: int, options: BlockOptions, *, spatial_dims: int) -> None:
        ratio, bias = options.mlp_ratio, options.mlp_bias
        if not isinstance(ratio, Real) or not 1 <= ratio * dim < inf:  # this form of the condition refuses NaN
            raise InputError(f"mlp_ratio must be a number >= 1 / dim, got {ratio!r} at {dim=}")
        conv, width = conv_nd(spatial_dims), int(ratio * dim)
        super().__init__()
        self.fc1 = conv(dim, width, 1, bias=bias)
        self.act = ACTIVATIONS[options.activation]()
        self.fc2 = conv(width, dim, 1, bias=bias)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.get_parameter("weight"), std=0.02)
            if bias:
                nn.init.zeros_(layer.get_parameter("bias"))


class MetaFormerBlock(nn.Module):
    """x + scale1 * mixer(norm1 x), then x + scale2 * mlp(norm2 x), each branch with stochastic depth.

    Args:
        dim: channels C.
        mixer: token mixer, a module (B, C, *spatial) -> the same shape.
        options: norms, channel MLP, scales and shortcuts.
        drop_path: probability of dropping a branch of a sample in training.
    """

    def __init__(
        self,
        dim: int,
        *,
        spatial_dims: int,
        mixer: nn.Module,
        options: BlockOptions = BlockOptions(),
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        norm = partial(
            create_norm, options.norm, dim, spatial_dims=spatial_dims, bias=options.norm_bias, eps=options.norm_eps
        )
        layer_scale = partial(create_scale, dim, spatial_dims=spatial_dims, init=options.layer_scale_init)
        res_scale = partial(create_scale, dim, spatial_dims=spatial_dims, init=options.res_scale_init)
        self.residual = options.residual
        self.norm1 = norm()
        self.token_mixer = mixer
        self.layer_scale1, self.res_scale1 = layer_scale(), res_scale()
        self.drop_path = DropPath(drop_path)
        self.mlp: ChannelMLP | None = None
        if options.channel_mlp:
            self.norm2 = norm()
            self.mlp = ChannelMLP(dim, options, spatial_dims=spatial_dims)
            self.layer_scale2, self.res_scale2 = layer_scale(), res_scale()

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        branch = self.drop_path(self.layer_scale1(self.token_mixer(self.norm1(x))))
        x = self.res_scale1(x) + branch if self.residual else branch
        if self.mlp is not None:
            branch = self.drop_path(self.layer_scale2(self.mlp(self.norm2(x))))
            x = self.res_scale2(x) + branch if self.residual else branch
        return x


class MetaFormerStage(nn.Module):
    """Downsampling (identity in the first stage), a positional embedding if there is one, and the blocks.

    Args:
        downsample: first module of the stage.
        blocks: the blocks.
        embedding: channels and spatial size of a learned positional embedding, zero at the start, which is added
            before the first block; other sizes then raise. None means no embedding.
    """

    def __init__(
        self, downsample: nn.Module, blocks: list[MetaFormerBlock], *, embedding: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.pos_embedding: Tensor | None = None
        if embedding is not None:
            self.pos_embedding = nn.Parameter(torch.zeros(1, *embedding))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C_in, *spatial) -> (B, C, *spatial / stride)."""
        x = self.downsample(x)
        if self.pos_embedding is not None:
            check_feature_size(x, self.pos_embedding.shape[2:], "the stage's positional embedding")
            x = x + self.pos_embedding
        return self.blocks(x)


class Stem(nn.Module):
    """Overlapping strided convolution, followed by an optional norm.

    Kernel 2 s - 1 and padding s / 2 are 7 and 2 at stride 4, as published, and 3 and 1 at stride 2, on each axis.
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
    """Optional norm, then a convolution of kernel 3 and stride 2, or stride 1 on an axis that keeps its size."""

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
    """Convolutions of stride 2 that double the channels, with GELU between them (Xiao et al. 2021).

    The first has kernel 7, the others kernel 3. Widths are dim / 2^(n - 1) ... dim, for example 48, 96, 192, 384.
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
    """First downsampling: "overlapping", "patch" (kernel = stride, as in ViT) or "convolutional"."""
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
