"""Token-UNet and UNet** of Tshimanga et al. 2026: a light residual U-Net around a bottleneck of a few tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.errors import InputError
from medmixers.kernels.eager import is_eager
from medmixers.kernels.instance_norm import InstanceNorm
from medmixers.kernels.upsampling import upsample_map
from medmixers.layers.conv import check_positive, check_spatial_dims, conv_nd, transposed_conv_nd
from medmixers.layers.sizes import (
    Ints,
    check_image_shape,
    crop,
    halvings,
    level_strides,
    pad_for_instance_norm,
)
from medmixers.networks.deep_supervision import at_scales, segmentation_layers
from medmixers.networks.token_transformer import (
    HEADS,
    LAYERS,
    check_transformer,
    named_transformer,
    published_transformer,
)

RESAMPLINGS = ("none", "down", "up")


class ResamplingBlock(nn.Module):
    """A block with a shortcut that keeps, halves or doubles the size.

    Args:
        resample: "none"; "down": average pooling before the pointwise shortcut; "up": interpolation after it.
        stride: stride of the resampling, 1 or 2, or one per axis.

    Attributes:
        shortcut: pointwise; the subclass creates it.
    """

    if TYPE_CHECKING:  # torch.jit.script knows no modules as annotations
        shortcut: nn.Module

    def __init__(self, *, spatial_dims: int, resample: str, stride: int | Sequence[int]) -> None:
        super().__init__()
        if resample not in RESAMPLINGS:
            raise InputError(f"resample must be one of {RESAMPLINGS}, got {resample!r}")
        self.resample = resample
        self.stride = halvings(1 if resample == "none" else stride, spatial_dims)

    def resampled_shortcut(self, x: Tensor) -> Tensor:
        """x: (B, C_in, *spatial) -> (B, C_out, *spatial), the size over or times the stride."""
        if self.resample == "down":
            x = block_average(x, self.stride)
        x = self.shortcut(x)  # before the interpolation, with which it commutes: the same result, far cheaper
        return upsample_map(x, self.stride) if self.resample == "up" else x


def create_shortcut(in_channels: int, out_channels: int, *, spatial_dims: int) -> nn.Module:
    """The identity, or a pointwise convolution if the channels differ."""
    return nn.Identity() if in_channels == out_channels else conv_nd(spatial_dims)(in_channels, out_channels, 1)


def block_average(x: Tensor, stride: Ints) -> Tensor:
    """Means of the blocks of ``stride`` voxels of a feature map, (B, C, *spatial)."""
    return F.avg_pool2d(x, list(stride)) if x.ndim == 4 else F.avg_pool3d(x, list(stride))


class ResBlock(ResamplingBlock):
    """Convolution, instance norm and GELU, plus a shortcut; nothing follows the sum (figure 2).

    Args:
        in_channels, out_channels: if they differ, the shortcut is a pointwise convolution.
        resample: "none"; "down": strided convolution; "up": transposed convolution.
        stride: stride of the resampling, 1 or 2, or one per axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int,
        resample: str = "none",
        stride: int | Sequence[int] = 2,
    ) -> None:
        super().__init__(spatial_dims=spatial_dims, resample=resample, stride=stride)
        if resample == "up":
            self.conv = transposed_conv_nd(spatial_dims)(
                in_channels, out_channels, 3, stride=self.stride, padding=1,
                output_padding=tuple(s - 1 for s in self.stride),
            )  # fmt: skip
        else:
            self.conv = conv_nd(spatial_dims)(in_channels, out_channels, 3, stride=self.stride, padding=1)
        self.norm = InstanceNorm(out_channels)
        self.act = nn.GELU()
        self.shortcut = create_shortcut(in_channels, out_channels, spatial_dims=spatial_dims)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """x: (B, C_in, *spatial) -> (B, C_out, *spatial), the size over or times the stride; plus ``skip``, if any."""
        y = self.act(self.norm(self.conv(x))) + self.resampled_shortcut(x)
        return y if skip is None else y + skip


class TokenMLP(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear: one score per token at each position."""

    def __init__(self, channels: int, num_tokens: int, *, width: int) -> None:
        super().__init__(nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, num_tokens))


class TokenPooling(nn.Module):
    """Tokens as weighted means of a feature map's positions. Subclasses turn scores into weights.

    Args:
        scores: (B, P, C) -> one score per token at each position, (B, P, N).

    Attributes:
        attention: weights of the last eager forward, (B, N, *grid), detached; None before it.
    """

    def __init__(self, scores: nn.Module) -> None:
        super().__init__()
        self.scores = scores
        self.attention: Tensor | None = None

    def attend(self, positions: Tensor) -> Tensor:
        """positions: (B, P, C) -> weights (B, N, P), of sum 1 over the positions."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, C, *grid) -> tokens (B, N, C) and the attention (B, N, *grid), each map of sum 1."""
        return self.pool(x)

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The forward of the base class: TorchScript has no ``super().forward``."""
        positions = x.flatten(2).transpose(1, 2)  # (B, P, C)
        attention = self.attend(positions)
        maps = attention.unflatten(-1, x.shape[2:])
        if not torch.jit.is_scripting():
            if is_eager(maps):
                self.attention = maps.detach()
        return attention @ positions, maps


class TokenLearner(TokenPooling):
    """Pool a feature map into a few tokens by learned attention over all positions (equations 2 and 3).

    Args:
        channels: C.
        num_tokens: N.
        width: hidden width of the scoring MLP.
    """

    def __init__(self, channels: int, num_tokens: int, *, width: int = 64) -> None:
        super().__init__(TokenMLP(channels, num_tokens, width=width))

    def attend(self, positions: Tensor) -> Tensor:
        """positions: (B, P, C) -> softmax over the positions, (B, N, P)."""
        return self.scores(positions).transpose(1, 2).softmax(dim=-1)


class TokenSpreading(nn.Module):
    """Mix tokens with each other, spread them over a feature map by the scores of its positions, and add them.

    Args:
        scores: (B, P, C) -> (B, P, N).
        mix: of the tokens, (B, C, N) -> the same shape.
    """

    def __init__(self, scores: nn.Module, mix: nn.Module) -> None:
        super().__init__()
        self.scores = scores
        self.mix = mix

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x: (B, C, *grid), tokens: (B, N, C) -> (B, C, *grid)."""
        scores = self.scores(x.flatten(2).transpose(1, 2))  # (B, P, N)
        mixed = self.mix(tokens.transpose(1, 2))  # (B, C, N)
        return x + (mixed @ scores.transpose(1, 2)).view_as(x)


class TokenFuser(TokenSpreading):
    """Spread tokens back over a feature map and add them (equation 4).

    Args: those of :class:`TokenLearner`.
    """

    def __init__(self, channels: int, num_tokens: int, *, width: int = 64) -> None:
        super().__init__(TokenMLP(channels, num_tokens, width=width), nn.Linear(num_tokens, num_tokens, bias=False))


class TokenUNetDecoder(nn.Module):
    """The levels up, each followed by the sum with its skip connection, and a pointwise classifier.

    Args:
        channels: channels of the levels, finest first.
        out_channels: classes K.
        strides: strides per axis of each level after the first.
        head_channels: hidden width of the classifier.
        aux_heads: whether each level between the finest and the coarsest has a classifier.

    Attributes:
        deep_supervision: whether forward also returns the logits of these classifiers; nnU-Net sets it.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out_channels: int,
        *,
        spatial_dims: int,
        strides: Sequence[Sequence[int]],
        head_channels: int,
        aux_heads: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = False
        self.strides = [list(stride) for stride in strides]
        levels = zip(pairwise(channels), strides, strict=True)
        self.blocks = nn.ModuleList(
            ResBlock(coarse, fine, spatial_dims=spatial_dims, resample="up", stride=stride)
            for (fine, coarse), stride in reversed(list(levels))
        )
        self.hidden = nn.Sequential(conv_nd(spatial_dims)(channels[0], head_channels, 1), nn.GELU())
        widths = [head_channels, *(channels[1:-1] if aux_heads else ())]
        self.seg_layers = segmentation_layers(widths, out_channels, spatial_dims=spatial_dims)

    def forward(self, x: Tensor, skips: list[Tensor], size: Ints) -> Tensor | list[Tensor]:
        """x: bottleneck; skips: maps of the levels, finest first -> logits cropped to ``size``.

        With deep supervision a list: these, then the logits of each auxiliary head.
        """
        maps: list[Tensor] = []  # of the levels up, finest first
        for level, block in enumerate(self.blocks):
            x = block(x, skips[-1 - level])
            maps.insert(0, x)
        logits = crop(self.seg_layers[0](self.hidden(x)), size)
        if not self.deep_supervision:
            return logits
        coarser: list[Tensor] = []
        for level, head in enumerate(self.seg_layers):
            if level > 0:
                coarser.append(head(maps[level]))
        return [logits] + at_scales(coarser, size, self.strides[:-1])


class TokenUNet(nn.Module):
    """UNet**, and Token-UNet without and with its Transformer.

    It takes images of any size: the end of each axis is padded to a multiple of the total stride (8 as published), and
    the logits are cropped.

    Args:
        spatial_dims: 3 as published, or 2.
        in_channels: channels of the image.
        out_channels: classes (or sigmoid channels) K.
        channels: channels of the levels, finest first.
        strides: downsampling before each level after the first: 2 as published; or one per level, each 1, 2 or one per
            axis, for example ((1, 2, 2), 2, 2).
        num_tokens: tokens of the bottleneck; 0 removes the bottleneck (UNet**).
        token_mlp_channels: hidden width of TokenLearner's and TokenFuser's MLPs.
        token_dim: width of the tokens in the Transformer. Linear layers map the channels to it and back
            ("decoupled"). None keeps the width of the channels, without such layers.
        transformer: module over the tokens, as None, timm:NAME or package.module.Class. None takes the published one,
            pre-norm encoder layers without positional embedding. timm's are the blocks and norms of a ViT or an
            MLP-Mixer, whose width token_dim must match. A class is called with C and N, and its object maps (B, N, C)
            to the same shape.
        transformer_layers: encoder layers, 4 by default; of timm's network the first ones, all by default.
        transformer_heads: attention heads per encoder layer, 8 by default.
        transformer_options: further arguments of the class.
        head_channels: hidden width of the pointwise classifier.
        aux_heads: whether all decoder levels but the finest have a classifier for deep supervision.

    Raises:
        ValueError: a value out of range, a Transformer without tokens, or token widths that the heads do not divide.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (32, 64, 128, 256),
        strides: int | Sequence[int | Sequence[int]] = 2,
        num_tokens: int = 8,
        token_mlp_channels: int = 64,
        token_dim: int | None = None,
        transformer: str | None = None,
        transformer_layers: int | None = None,
        transformer_heads: int | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        head_channels: int = 64,
        aux_heads: bool = False,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        layers = LAYERS if transformer_layers is None else transformer_layers
        heads = HEADS if transformer_heads is None else transformer_heads
        if len(channels) < 2 or min(num_tokens, layers) < 0:
            raise InputError(
                "at least 2 levels, 0 tokens and 0 layers are needed, "
                f"got {tuple(channels)=}, {num_tokens=}, transformer_layers={layers}"
            )
        width = channels[-1]
        token_width = width if token_dim is None else token_dim
        check_positive(
            **{f"channels[{i}]": entry for i, entry in enumerate(channels)}, token_dim=token_width,
            token_mlp_channels=token_mlp_channels, transformer_heads=heads, head_channels=head_channels,
        )  # fmt: skip
        if (layers or token_dim or transformer) and not num_tokens:
            raise InputError(f"no tokens to process: {num_tokens=}, transformer_layers={layers}, {token_dim=}")
        check_transformer(transformer, transformer_layers, transformer_heads, transformer_options)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        steps = level_strides(strides, len(channels) - 1, spatial_dims, "strides")
        self.stride = tuple(map(prod, zip(*steps, strict=True)))

        self.stem = ResBlock(in_channels, channels[0], spatial_dims=spatial_dims)
        self.encoder = nn.ModuleList(
            ResBlock(fine, coarse, spatial_dims=spatial_dims, resample="down", stride=stride)
            for (fine, coarse), stride in zip(pairwise(channels), steps, strict=True)
        )
        self.token_learner: TokenLearner | None = None
        if num_tokens:
            self.token_learner = TokenLearner(width, num_tokens, width=token_mlp_channels)
            self.token_fuser = TokenFuser(width, num_tokens, width=token_mlp_channels)
            self.to_tokens = nn.Linear(width, token_width) if token_dim else nn.Identity()
            self.to_channels = nn.Linear(token_width, width) if token_dim else nn.Identity()
            self.transformer = (
                published_transformer(token_width, layers=layers, heads=heads)
                if transformer is None
                else named_transformer(
                    transformer, token_width, num_tokens=num_tokens, layers=transformer_layers,
                    options=transformer_options or {},
                )
            )  # fmt: skip
        self.decoder = TokenUNetDecoder(
            channels, out_channels, spatial_dims=spatial_dims, strides=steps, head_channels=head_channels,
            aux_heads=aux_heads,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: image, (B, in_channels, *spatial) of any size -> logits, (B, K, *spatial).

        With deep supervision a list: these, then the logits of each auxiliary head.
        """
        check_image_shape(x, self.spatial_dims, self.in_channels)
        size = x.shape[2:]
        x = self.stem(pad_for_instance_norm(x, list(self.stride)))
        skips: list[Tensor] = []
        for block in self.encoder:
            skips.append(x)
            x = block(x)
        if self.token_learner is not None:
            tokens, _ = self.token_learner(x)
            x = self.token_fuser(x, self.to_channels(self.transformer(self.to_tokens(tokens))))
        return self.decoder(x, skips, size)
