"""Deep supervision in nnU-Net's form: logits at several scales, and heads that exist whether it is on or off.

nnU-Net switches ``network.decoder.deep_supervision``. On, a network returns a list, the image's size first; off, one
tensor. The heads belong to the structure (``aux_heads``), the switch to the behaviour: the state dict does not change.
Layers that depend on the class count lie under ``seg_layers``, the name that ``-pretrained_weights`` leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medmixers.layers.conv import conv_nd
from medmixers.layers.sizes import resize


def segmentation_layers(channels: Sequence[int], out_channels: int, *, spatial_dims: int) -> nn.ModuleList:
    """Pointwise classifiers of feature maps with these channels; the first is the network's own."""
    return nn.ModuleList(conv_nd(spatial_dims)(width, out_channels, 1) for width in channels)


def at_scales(logits: Sequence[Tensor], size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits in the sizes of nnU-Net's targets: ``size`` over the strides so far, rounded.

    Where the strides divide the image, as in our plans, nothing is resampled.

    Args:
        logits: one a scale, (B, K, *spatial), finest first.
        size: of the image in voxels.
        strides: of each scale over the one before, an axis each; for the first scale over the image.
    """
    outputs, total = [], [1] * len(size)
    for part, stride in zip(logits, strides, strict=True):
        total = [t * s for t, s in zip(total, stride, strict=True)]
        outputs.append(resize(part, [max(1, round(n / t)) for n, t in zip(size, total, strict=True)]))
    return outputs
