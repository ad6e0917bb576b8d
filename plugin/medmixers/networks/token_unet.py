"""Token-UNet and UNet** of Tshimanga et al. 2026: a light residual U-Net around a bottleneck of a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.errors import InputError
from medmixers.kernels.eager import is_eager
from medmixers.kernels.slabs import (
    Where,
    affine_,
    as_rows,
    change_slabs,
    described,
    gelu_,
    instance_norm_factors,
    logits_of_slabs,
    pointwise,
    runs_in_slabs,
    shortcut_slabs,
)
from medmixers.layers.conv import check_positive, check_spatial_dims, conv_nd, transposed_conv_nd
from medmixers.layers.sizes import INTERPOLATIONS, check_image, crop, halvings, level_strides, pad_for_instance_norm
from medmixers.networks.deep_supervision import at_scales, segmentation_layers

AVG_POOLS = {2: F.avg_pool2d, 3: F.avg_pool3d}
INSTANCE_NORMS: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
RESAMPLINGS = ("none", "down", "up")


def resampled_shortcut(x: Tensor, project: nn.Module, resample: str, stride: Sequence[int]) -> Tensor:
    """A block's shortcut: ``project``, pointwise, pooled before it ("down") or interpolated behind it ("up")."""
    if resample == "down":
        x = AVG_POOLS[x.ndim - 2](x, tuple(stride))
    x = project(x)  # before the interpolation, which it commutes with: the same result, far cheaper
    if resample == "up":
        scale = tuple(map(float, stride))
        x = F.interpolate(x, scale_factor=scale, mode=INTERPOLATIONS[x.ndim - 2], align_corners=False)
    return x


def check_resample(resample: str) -> None:
    """Raise ValueError for a name that is not in ``RESAMPLINGS``."""
    if resample not in RESAMPLINGS:
        raise InputError(f"resample must be one of {RESAMPLINGS}, got {resample!r}")


class ResBlock(nn.Module):
    """Convolution, instance norm and GELU beside a shortcut; nothing after the sum (figure 2).

    Args:
        in_channels, out_channels: a pointwise convolution joins the shortcut where they differ.
        resample: "none"; "down": strided convolution and average pooling; "up": transposed convolution and
            interpolation.
        stride: of the resampling, 1 or 2, or one an axis.
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
        super().__init__()
        check_resample(resample)
        conv = conv_nd(spatial_dims)
        self.stride = halvings(1 if resample == "none" else stride, spatial_dims)
        if resample == "up":
            branch = transposed_conv_nd(spatial_dims)(
                in_channels, out_channels, 3, stride=self.stride, padding=1,
                output_padding=tuple(s - 1 for s in self.stride),
            )  # fmt: skip
        else:
            branch = conv(in_channels, out_channels, 3, stride=self.stride, padding=1)
        self.conv = branch
        self.norm: Any = INSTANCE_NORMS[spatial_dims](out_channels)
        self.act = nn.GELU()
        self.shortcut = nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)
        self.resample = resample
        self.as_built = described(self.read_in_slabs())

    def read_in_slabs(self) -> tuple[nn.Module, ...]:
        """What :meth:`in_slabs` reads instead of calling it."""
        return self.norm, self.act, self.shortcut

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """x: (B, C_in, *spatial) -> (B, C_out, *spatial), the size over or times the stride; plus ``skip``, if any."""
        if runs_in_slabs(x, self.read_in_slabs(), self.as_built):
            return self.in_slabs(x, skip)
        y = self.act(self.norm(self.conv(x))) + resampled_shortcut(x, self.shortcut, self.resample, self.stride)
        return y if skip is None else y + skip

    def in_slabs(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """The same without gradients, faster on a CPU (:mod:`medmixers.kernels.slabs`); channels-last."""
        rows = as_rows(x)
        shortcut = shortcut_slabs(rows, self.shortcut, self.resample, self.stride)
        out = as_rows(self.conv(rows.movedim(-1, 1)))
        scale, shift = instance_norm_factors(out, self.norm.eps)
        skip = None if skip is None else as_rows(skip)

        def finish(part: Tensor, where: Where) -> None:
            gelu_(affine_(part, scale[where[0]], shift[where[0]])).add_(shortcut(where))
            if skip is not None:
                part.add_(skip[where].flatten(0, -2))

        change_slabs(out, finish)
        return out.movedim(-1, 1)


class TokenMLP(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear: one score a token at each position."""

    def __init__(self, channels: int, num_tokens: int, *, width: int) -> None:
        super().__init__(nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, num_tokens))


class TokenPooling(nn.Module):
    """Tokens as weighted means of a feature map's positions. Subclasses make the weights of the scores.

    Args:
        scores: (B, P, C) -> one score a token at each position, (B, P, N).

    Attributes:
        attention: the weights of the last forward, (B, N, *grid), detached; None before the first, and after compiled,
            exported or traced ones.
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
        positions = x.flatten(2).transpose(1, 2)  # (B, P, C)
        attention = self.attend(positions)
        maps = attention.unflatten(-1, x.shape[2:])
        if is_eager():
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

    Args: as of :class:`TokenLearner`.
    """

    def __init__(self, channels: int, num_tokens: int, *, width: int = 64) -> None:
        super().__init__(TokenMLP(channels, num_tokens, width=width), nn.Linear(num_tokens, num_tokens, bias=False))


class TokenUNetDecoder(nn.Module):
    """The levels up, each followed by the sum with its skip connection, and a pointwise classifier.

    Args:
        channels: of the levels, finest first.
        out_channels: classes K.
        strides: of each level behind the first, an axis each.
        head_channels: hidden width of the classifier.
        aux_heads: whether the levels between the finest and the coarsest have a classifier each.

    Attributes:
        deep_supervision: whether forward returns their logits too; nnU-Net sets it.
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
        self.strides = tuple(map(tuple, strides))
        levels = zip(pairwise(channels), strides, strict=True)
        self.blocks = nn.ModuleList(
            ResBlock(coarse, fine, spatial_dims=spatial_dims, resample="up", stride=stride)
            for (fine, coarse), stride in reversed(list(levels))
        )
        self.hidden = nn.Sequential(conv_nd(spatial_dims)(channels[0], head_channels, 1), nn.GELU())
        widths = [head_channels, *(channels[1:-1] if aux_heads else ())]
        self.seg_layers = segmentation_layers(widths, out_channels, spatial_dims=spatial_dims)
        self.as_built = described(self.read_in_slabs())

    def read_in_slabs(self) -> tuple[nn.Module, ...]:
        """What :meth:`classify_in_slabs` reads instead of calling it."""
        return self.hidden, self.seg_layers[0]

    def forward(self, x: Tensor, skips: Sequence[Tensor], size: Sequence[int]) -> Tensor | list[Tensor]:
        """x: bottleneck; skips: of the levels, finest first -> logits cropped to ``size``; a list when supervised."""
        maps: list[Tensor] = []
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
            maps.insert(0, x)
        in_slabs = runs_in_slabs(x, self.read_in_slabs(), self.as_built)
        logits = crop(self.classify_in_slabs(x) if in_slabs else self.seg_layers[0](self.hidden(x)), size)
        if not self.deep_supervision:
            return logits
        coarser = [head(features) for head, features in zip(self.seg_layers[1:], maps[1:], strict=True)]
        return [logits, *at_scales(coarser, size, self.strides[:-1])]

    def classify_in_slabs(self, x: Tensor) -> Tensor:
        """The finest logits without the map of the hidden width at full resolution, larger than all others."""
        rows = as_rows(x)
        hidden = pointwise(rows, self.hidden[0])
        return logits_of_slabs(rows, lambda where: gelu_(hidden(where)), self.seg_layers[0])


class TokenUNet(nn.Module):
    """UNet**, and Token-UNet without and with its Transformer.

    Any input size: the end of each axis is padded to a multiple of the total stride (8 as published) and cropped again.

    Args:
        spatial_dims: 3 as published, or 2.
        in_channels: channels of the image.
        out_channels: classes (or sigmoid channels) K.
        channels: of the levels, finest first.
        strides: downsampling before each further level: 2 as published; or one a level, each 1 or 2 or a choice an
            axis, as ((1, 2, 2), 2, 2).
        num_tokens: tokens of the bottleneck; 0 leaves the bottleneck out (UNet**).
        token_mlp_channels: hidden width of TokenLearner's and TokenFuser's MLPs.
        token_dim: width of the tokens in the Transformer, apart from the channels: a linear layer leads there and one
            back ("decoupled"). None keeps the channels' width and has no such layers.
        transformer_layers: pre-norm encoder layers over the tokens, without positional embedding.
        transformer_heads: attention heads of each.
        head_channels: hidden width of the pointwise classifier.
        aux_heads: classifiers for deep supervision, on all decoder levels but the finest.

    Raises:
        ValueError: a value out of range, a Transformer without tokens, or channels that the heads do not divide.
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
        transformer_layers: int = 4,
        transformer_heads: int = 8,
        head_channels: int = 64,
        aux_heads: bool = False,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        if len(channels) < 2 or min(num_tokens, transformer_layers) < 0:
            raise InputError(
                "at least 2 levels, 0 tokens and 0 layers are needed, "
                f"got {tuple(channels)=}, {num_tokens=}, {transformer_layers=}"
            )
        width = channels[-1]
        token_width = width if token_dim is None else token_dim
        check_positive(
            **{f"channels[{i}]": entry for i, entry in enumerate(channels)}, token_dim=token_width,
            token_mlp_channels=token_mlp_channels, transformer_heads=transformer_heads, head_channels=head_channels,
        )  # fmt: skip
        if (transformer_layers or token_dim) and not num_tokens:
            raise InputError(f"no tokens to process: {num_tokens=}, {transformer_layers=}, {token_dim=}")
        if transformer_layers and token_width % transformer_heads:
            raise InputError(f"tokens of width {token_width} cannot be split into {transformer_heads=}")
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
            self.transformer = nn.Sequential(
                *(
                    nn.TransformerEncoderLayer(
                        token_width, transformer_heads, 4 * token_width, dropout=0.0, activation="gelu",
                        batch_first=True, norm_first=True,
                    )
                    for _ in range(transformer_layers)
                )
            )  # fmt: skip
        self.decoder = TokenUNetDecoder(
            channels, out_channels, spatial_dims=spatial_dims, strides=steps, head_channels=head_channels,
            aux_heads=aux_heads,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: image, (B, in_channels, *spatial) of any size -> logits, (B, K, *spatial).

        With deep supervision a list: these, and those of each auxiliary head.
        """
        check_image(x, self.spatial_dims, self.in_channels)
        size = x.shape[2:]
        x = self.stem(pad_for_instance_norm(x, self.stride))
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = block(x)
        if self.token_learner is not None:
            tokens, _ = self.token_learner(x)
            x = self.token_fuser(x, self.to_channels(self.transformer(self.to_tokens(tokens))))
        return self.decoder(x, skips, size)
