"""Token-UNet as its authors released it: a gated U-Net with other tokens than the paper's network.

The source of its details is the authors' repository, MedMaxLab/tokenunet. The paper describes
:mod:`medmixers.networks.token_unet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.errors import InputError
from medmixers.kernels.instance_norm import InstanceNorm
from medmixers.layers.conv import check_positive, conv_nd, transposed_conv_nd
from medmixers.layers.sizes import check_image_shape, crop, pad_for_instance_norm
from medmixers.networks.token_unet import (
    ResamplingBlock,
    TokenPooling,
    TokenSpreading,
    create_shortcut,
)

TOKEN_PROCESSORS = ("none", "mlp_mixer", "attention")


def unit_rms(x: Tensor) -> Tensor:
    """x: (..., C) -> the same shape, each vector scaled to root mean square 1, L2 norm sqrt(C)."""
    return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5


class Gate(nn.Module):
    """Residual sum (1 - a) x + a branch with a = sigmoid of one learnable number, 0.076 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor([-2.5]))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """x, branch: (..., C) -> the same shape."""
        a = self.logit.sigmoid()
        return (1 - a) * x + a * branch


class UnitLinear(nn.Linear):
    """Linear layer without bias: weights of variance 1, scaled in the forward by gain / sqrt(fan in).

    The learning rate is therefore relative to weights of variance 1 at every width.
    """

    def __init__(self, in_features: int, out_features: int, *, gain: float = 1.0) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = gain / in_features**0.5

    def reset_parameters(self) -> None:
        """Draw the weights from N(0, 1)."""
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight * self.scale)


class GatedBlock(ResamplingBlock):
    """Instance norm, convolution to twice the channels, leaky ReLU, instance norm, projection; gated with a shortcut.

    Args:
        in_channels, out_channels: if they differ, the shortcut is a pointwise convolution.
        resample: "none"; "down": the convolution has stride 2; "up": the projection is a transposed convolution of
            kernel and stride 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, spatial_dims: int, resample: str = "none") -> None:
        super().__init__(spatial_dims=spatial_dims, resample=resample, stride=2)
        conv, width = conv_nd(spatial_dims), 2 * in_channels
        expand = conv(in_channels, width, 3, stride=2 if resample == "down" else 1, padding=1)
        if resample == "up":
            project = transposed_conv_nd(spatial_dims)(width, out_channels, 2, stride=2)
        else:
            project = conv(width, out_channels, 1)
        for layer in (expand, project):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.branch = nn.Sequential(InstanceNorm(in_channels), expand, nn.LeakyReLU(0.1), InstanceNorm(width), project)
        self.shortcut = create_shortcut(in_channels, out_channels, spatial_dims=spatial_dims)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C_in, *spatial) -> (B, C_out, *spatial), halved or doubled."""
        return self.gate(self.resampled_shortcut(x), self.branch(x))


class TokenMasks(nn.Linear):
    """Linear layer and sigmoid of each position's features at root mean square 1: masks that do not compete."""

    def forward(self, positions: Tensor) -> Tensor:
        """positions: (B, P, C) -> (B, P, N), each in (0, 1)."""
        return F.linear(unit_rms(positions), self.weight, self.bias).sigmoid()


class MaskedTokenLearner(TokenPooling):
    """Tokens as means of the features under :class:`TokenMasks`, followed by a linear layer.

    Args:
        channels: C.
        num_tokens: N.
    """

    def __init__(self, channels: int, num_tokens: int) -> None:
        super().__init__(TokenMasks(channels, num_tokens))
        self.project = nn.Linear(channels, channels)

    def attend(self, positions: Tensor) -> Tensor:
        """positions: (B, P, C) -> masks divided by their sum, (B, N, P)."""
        masks = self.scores(positions).transpose(1, 2)
        return masks / (masks.sum(-1, keepdim=True) + 1e-8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, C, *grid) -> tokens (B, N, C) and the attention (B, N, *grid), each map of sum 1."""
        tokens, maps = self.pool(x)
        return self.project(tokens), maps


class GatedMLP(nn.Module):
    """Linear, ReLU, linear, gated with the input.

    Args:
        dim: width of the last axis.
        width: hidden width.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.fc1 = UnitLinear(dim, width)
        self.fc2 = UnitLinear(width, dim, gain=2**0.5)  # a ReLU halves the variance
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> the same shape."""
        return self.gate(x, self.fc2(self.fc1(x).relu()))


class MLPMixerLayer(nn.Module):
    """An MLP over the tokens, then an MLP over the channels.

    Args:
        dim: channels C of a token; both MLPs are 2 C wide.
        num_tokens: N.
    """

    def __init__(self, dim: int, num_tokens: int) -> None:
        super().__init__()
        self.tokens = GatedMLP(num_tokens, 2 * dim)
        self.channels = GatedMLP(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: tokens, (B, N, C) -> the same shape."""
        return self.channels(self.tokens(x.transpose(1, 2)).transpose(1, 2))


class AttentionLayer(nn.Module):
    """Self-attention with queries, keys and output at root mean square 1, then an MLP; both gated, without biases.

    Args:
        dim: channels C of a token; the MLP is 2 C wide.
        heads: attention heads; C must be a multiple of them.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = UnitLinear(dim, 3 * dim)
        self.out = UnitLinear(dim, dim)
        self.gate = Gate()
        self.mlp = GatedMLP(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: tokens, (B, N, C) -> the same shape."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(unit_rms(query), unit_rms(key), value)  # (B, heads, N, C / heads)
        return self.mlp(self.gate(x, self.out(unit_rms(mixed.transpose(1, 2).flatten(2)))))


class UnitRMS(nn.Module):
    """:func:`unit_rms` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C) -> the same shape."""
        return unit_rms(x)


class TokenUNetReleased(nn.Module):
    """The released Token-UNet: without tokens, with tokens, or with tokens and a processor.

    It takes images of any size: the end of each axis is padded to a multiple of the total stride (8), and the logits
    are cropped. The decoder adds a skip before each block and none after the last, so the finest map is not a skip.

    Args:
        spatial_dims: 3 as released, or 2.
        in_channels: channels of the image.
        out_channels: classes (or sigmoid channels) K.
        channels: channels of the levels, finest first; each level halves the resolution.
        num_tokens: tokens of the bottleneck; 0 means none.
        token_processor: "none", "mlp_mixer" or "attention".
        processor_layers: layers of the processor; the released "long" network has 8.
        attention_heads: attention heads per layer.

    Raises:
        ValueError: a processor without tokens, or channels that the heads do not divide.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (16, 32, 64, 128),
        num_tokens: int = 8,
        token_processor: str = "attention",
        processor_layers: int = 2,
        attention_heads: int = 4,
    ) -> None:
        super().__init__()
        if len(channels) < 2 or num_tokens < 0:
            raise InputError(f"at least 2 levels and 0 tokens are needed, got {tuple(channels)=}, {num_tokens=}")
        if token_processor not in TOKEN_PROCESSORS:
            raise InputError(f"token_processor must be one of {TOKEN_PROCESSORS}, got {token_processor!r}")
        if token_processor != "none" and not num_tokens:
            raise InputError(f"no tokens to process: {num_tokens=}, {token_processor=}")
        check_positive(processor_layers=processor_layers, attention_heads=attention_heads)
        conv, width = conv_nd(spatial_dims), channels[-1]
        if token_processor == "attention" and width % attention_heads:
            raise InputError(f"tokens of width {width} cannot be split into {attention_heads=}")
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.stride = 2 ** (len(channels) - 1)

        pairs = list(pairwise(channels))
        self.norm = InstanceNorm(in_channels)
        self.stem = GatedBlock(in_channels, channels[0], spatial_dims=spatial_dims)
        self.encoder = nn.ModuleList(
            GatedBlock(fine, coarse, spatial_dims=spatial_dims, resample="down") for fine, coarse in pairs
        )
        self.token_learner: MaskedTokenLearner | None = None
        if num_tokens:
            self.token_learner = MaskedTokenLearner(width, num_tokens)
            self.token_processor = nn.Sequential()
            if token_processor != "none":
                self.token_processor.append(UnitRMS())
                for _ in range(processor_layers):
                    self.token_processor.append(
                        AttentionLayer(width, attention_heads)
                        if token_processor == "attention"
                        else MLPMixerLayer(width, num_tokens)
                    )
            self.token_fuser = TokenSpreading(TokenMasks(width, num_tokens), nn.Linear(num_tokens, num_tokens))
        self.decoder = nn.ModuleList(
            GatedBlock(coarse, fine, spatial_dims=spatial_dims, resample="up") for fine, coarse in reversed(pairs)
        )
        self.head = conv(channels[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) of any size -> logits, (B, K, *spatial)."""
        check_image_shape(x, self.spatial_dims, self.in_channels)
        size = x.shape[2:]
        x = self.stem(self.norm(pad_for_instance_norm(x, self.stride)))
        skips: list[Tensor] = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        skips.pop()
        if self.token_learner is not None:
            tokens, _ = self.token_learner(x)
            x = self.token_fuser(x, self.token_processor(tokens))
        for level, block in enumerate(self.decoder):
            x = block(x + skips.pop() if level > 0 else x)
        return crop(self.head(x), size)
