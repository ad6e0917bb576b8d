"""Fast ways of Token-UNet's modules for inference on a CPU (:mod:`medmixers.kernels.slabs`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.kernels.fast_module import FastModule, is_exactly
from medmixers.kernels.slabs import (
    Where,
    affine_,
    as_rows,
    change_slabs,
    gelu_,
    instance_norm_,
    instance_norm_factors,
    logits_of_slabs,
    pointwise,
    shortcut_slabs,
)
from medmixers.layers.sizes import Ints
from medmixers.networks.token_unet import ResBlock, TokenUNetDecoder
from medmixers.networks.token_unet_released import Gate, GatedBlock

CONVS = (nn.Conv2d, nn.Conv3d)
INSTANCE_NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d)


def is_pointwise(module: nn.Module) -> bool:
    """Whether it is a convolution of kernel 1 with a bias."""
    if not is_exactly(module, *CONVS, groups=1) or module.bias is None:
        return False
    return all(
        set(getattr(module, name)) == {size} for name, size in (("kernel_size", 1), ("stride", 1), ("padding", 0))
    )


def is_shortcut(module: nn.Module) -> bool:
    """Whether it is the identity or a pointwise convolution."""
    return is_exactly(module, nn.Identity) or is_pointwise(module)


def is_instance_norm(module: nn.Module) -> bool:
    """Whether it is an instance norm without weights and running statistics."""
    return is_exactly(module, *INSTANCE_NORMS, affine=False, track_running_stats=False)


def is_gelu(module: nn.Module) -> bool:
    """Whether it is the exact GELU."""
    return is_exactly(module, nn.GELU, approximate="none")


class FastResBlock(FastModule, ResBlock):
    """:class:`ResBlock` with norm, activation and both sums in one pass over the convolution's output."""

    plain = ResBlock

    def can_be_read(self) -> bool:
        """Whether norm, activation and shortcut are plain."""
        return is_instance_norm(self.norm) and is_gelu(self.act) and is_shortcut(self.shortcut)

    def fast_forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """The same as ``forward``; the result is channels-last."""
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


class FastTokenUNetDecoder(FastModule, TokenUNetDecoder):
    """:class:`TokenUNetDecoder` without the classifier's hidden map, the largest map of the network."""

    plain = TokenUNetDecoder

    def can_be_read(self) -> bool:
        """Whether the classifier is plain."""
        if not is_exactly(self.hidden, nn.Sequential) or len(self.hidden) != 2:
            return False
        conv, act = self.hidden
        return is_pointwise(conv) and is_gelu(act) and is_pointwise(self.seg_layers[0])

    def fast_forward(self, x: Tensor, skips: list[Tensor], size: Ints) -> Tensor | list[Tensor]:
        """The same as ``forward``; the finest logits are contiguous."""
        maps = self.upsampled(x, skips)
        rows = as_rows(maps[0])
        hidden = pointwise(rows, self.hidden[0])
        logits = logits_of_slabs(rows, lambda where: gelu_(hidden(where)), self.seg_layers[0])
        return self.outputs(logits, maps, size)


class FastGatedBlock(FastModule, GatedBlock):
    """:class:`GatedBlock` with norms, activation and gated sum in place."""

    plain = GatedBlock

    def can_be_read(self) -> bool:
        """Whether norms, activation, shortcut and gate are plain, and the projection where it is pointwise."""
        if not is_exactly(self.branch, nn.Sequential) or len(self.branch) != 5:
            return False
        outer, _, act, inner, project = self.branch
        return (
            is_instance_norm(outer)
            and is_instance_norm(inner)
            and is_exactly(act, nn.LeakyReLU)
            and (self.resample == "up" or is_pointwise(project))
            and is_shortcut(self.shortcut)
            and is_exactly(self.gate, Gate)
        )

    def fast_forward(self, x: Tensor) -> Tensor:
        """The same as ``forward``; the result is channels-last."""
        layers: list[Any] = list(self.branch)
        outer, expand, act, inner, project = layers
        rows = as_rows(x)
        shortcut = shortcut_slabs(rows, self.shortcut, self.resample, (2,) * (x.ndim - 2))
        wide = as_rows(expand(instance_norm_(rows.clone(), outer.eps).movedim(-1, 1)))
        instance_norm_(F.leaky_relu_(wide, act.negative_slope), inner.eps)
        if self.resample == "up":
            out = as_rows(project(wide.movedim(-1, 1)))
        else:
            out = F.linear(wide, project.weight.flatten(1), project.bias)
        a = self.gate.logit.sigmoid().item()
        change_slabs(out, lambda part, where: part.mul_(a).add_(shortcut(where), alpha=1 - a))
        return out.movedim(-1, 1)
