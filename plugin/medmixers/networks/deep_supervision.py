"""Deep supervision in nnU-Net's form: logits at several scales, from heads that exist whether it is on or off.

nnU-Net switches ``network.decoder.deep_supervision``. If it is on, a network returns a list, logits of the image's
size first. If it is off, the network returns one tensor. ``aux_heads`` builds the heads; the switch changes no state
dict. Layers that depend on the class count lie under ``seg_layers``, the name that ``-pretrained_weights`` leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medmixers.layers.conv import conv_nd
from medmixers.layers.sizes import Ints, resize


def segmentation_layers(channels: Sequence[int], out_channels: int, *, spatial_dims: int) -> nn.ModuleList:
    """Pointwise classifiers of feature maps with these channels. The first gives the network's own logits."""
    return nn.ModuleList(conv_nd(spatial_dims)(width, out_channels, 1) for width in channels)


def at_scales(logits: list[Tensor], size: Ints, strides: list[list[int]]) -> list[Tensor]:
    """Logits in the sizes of nnU-Net's targets: ``size`` over the product of the strides so far, rounded.

    If the strides divide the image, as in our plans, nothing is resampled.

    Args:
        logits: one tensor per scale, (B, K, *spatial), finest first.
        size: image size in voxels.
        strides: per scale, its strides per axis over the scale before; those of the first scale are over the image.
    """
    outputs: list[Tensor] = []
    total = [1] * len(size)
    for part, stride in zip(logits, strides):  # noqa: B905  torch.jit.script knows no strict
        total = [total[axis] * step for axis, step in enumerate(stride)]
        outputs.append(resize(part, [max(1, int(round(n / total[axis]))) for axis, n in enumerate(size)]))  # noqa: RUF046
    return outputs
