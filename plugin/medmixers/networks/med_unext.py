"""MedUNeXt of Xue et al. 2026: a U-Net with MED blocks at its two coarsest levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.conv import conv_nd, transposed_conv_nd
from medmixers.layers.sizes import check_image_shape, crop, pad_to_multiple, resize
from medmixers.networks.deep_supervision import at_scales, segmentation_layers
from medmixers.networks.med_blocks import ConvNormAct, MEDBlock
from medmixers.networks.med_next import max_pool

STRIDE = 32  # max-pooling and four strided convolutions


class MedUNeXtDecoder(nn.Module):
    """The levels up: transposed convolution, skip added at the MED level and concatenated elsewhere, then the level.

    Args:
        levels: modules of the levels, coarsest first.
        channels: channels of the encoder's five levels, finest first.
        out_channels: classes K.
        aux_heads: whether all levels but the finest have a classifier.

    Attributes:
        deep_supervision: whether forward also returns the logits of these classifiers; nnU-Net sets it.
    """

    def __init__(
        self,
        levels: Sequence[nn.Module],
        channels: Sequence[int],
        out_channels: int,
        *,
        spatial_dims: int,
        aux_heads: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = False
        up = transposed_conv_nd(spatial_dims)
        self.upsamplings = nn.ModuleList(
            up(channels[i + 1], channels[i], 2, stride=2, bias=False) for i in (3, 2, 1, 0)
        )
        self.levels = nn.ModuleList(levels)
        widths = [channels[0], *(channels[1:4] if aux_heads else ())]
        self.seg_layers = segmentation_layers(widths, out_channels, spatial_dims=spatial_dims)

    def forward(self, x: Tensor, skips: list[Tensor]) -> list[Tensor]:
        """x: the coarsest map; skips: finest first -> the finest logits, then those of each active auxiliary head."""
        maps: list[Tensor] = []
        for upsampling, level in zip(self.upsamplings, self.levels):  # noqa: B905  not in TorchScript
            x, skip = upsampling(x), skips[-1 - len(maps)]
            x = level(torch.cat([x, skip], 1) if maps else x + skip)
            maps.insert(0, x)
        logits: list[Tensor] = []
        for i, head in enumerate(self.seg_layers):
            if i == 0 or self.deep_supervision:
                logits.append(head(maps[i]))
        return logits


class MedUNeXt(nn.Module):
    """Max-pooling, three convolution and two MED levels down, the mirrored levels up, bilinear to the image.

    The paper gives neither widths nor depths. Our values match the published parameter count at 512 x 512, with skips
    concatenated at the convolution levels and added at the MED level.

    Args:
        spatial_dims: 2 as published, or 3 (our extension).
        in_channels: channels of the image.
        out_channels: classes (or sigmoid channels) K.
        input_size: image size in voxels that SEM's linear layers fit; the network resamples other sizes. None means
            512 on each axis in 2D, 128 in 3D.
        channels: channels of the five levels, finest first; the last two are equal.
        med_depth: MED blocks per level.
        kernel_sizes: lengths of SEM's strips.
        rescale: as of LAFFN; not in the paper.
        attention: laffn, or in its place softmax, linear or simplified attention (figure 2), or none.
        sem: whether blocks have SEM.
        feed_forward: sdffn, or in its place ffn of ratio 4 or smooth_ffn of ratio 1 (figure 4).
        aux_heads: whether all decoder levels but the finest have a classifier for deep supervision.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        input_size: Sequence[int] | None = None,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        med_depth: int = 3,
        kernel_sizes: tuple[int, int] = (7, 11),
        rescale: bool = False,
        attention: str = "laffn",
        sem: bool = True,
        feed_forward: str = "sdffn",
        aux_heads: bool = False,
    ) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        if len(channels) != 5 or channels[3] != channels[4]:
            raise InputError(f"channels must be five levels, the last two equal; got {tuple(channels)}")
        self.spatial_dims, self.in_channels, self.stride = spatial_dims, in_channels, STRIDE
        image = input_size or ({2: 512, 3: 128}[spatial_dims],) * spatial_dims
        parts: dict[str, Any] = {"kernel_sizes": kernel_sizes, "rescale": rescale}
        parts |= {"attention": attention, "sem": sem, "feed_forward": feed_forward}
        padded = [-(-axis // STRIDE) * STRIDE for axis in image]

        def level(before: int, width: int) -> nn.Module:
            return nn.Sequential(
                ConvNormAct(before, width, spatial_dims=spatial_dims),
                ConvNormAct(width, width, spatial_dims=spatial_dims),
            )

        def med_level(width: int, stride: int) -> nn.Module:
            feature_size = [axis // stride for axis in padded]
            blocks = (
                MEDBlock(width, spatial_dims=spatial_dims, feature_size=feature_size, **parts) for _ in range(med_depth)
            )
            return nn.Sequential(*blocks)

        fine, deep = channels[:3], channels[3]
        self.encoder = nn.ModuleList(
            level(before, width) for before, width in zip((in_channels, *fine), fine, strict=False)
        )
        self.encoder.extend([med_level(deep, 16), med_level(deep, 32)])
        # After a convolution level the next level changes the width. A MED level cannot, so its downsampling does.
        widths = (*fine[:2], deep, deep)
        self.downsamplings = nn.ModuleList(
            conv(before, after, 3, stride=2, padding=1, bias=False)
            for before, after in zip(channels[:4], widths, strict=True)
        )
        levels = [med_level(deep, 16), *(level(2 * width, width) for width in reversed(fine))]
        self.decoder = MedUNeXtDecoder(levels, channels, out_channels, spatial_dims=spatial_dims, aux_heads=aux_heads)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: image, (B, in_channels, *spatial) of any size -> logits, (B, K, *spatial).

        With deep supervision a list: these, the same before their upsampling, then the logits of each auxiliary head.
        """
        check_image_shape(x, self.spatial_dims, self.in_channels)
        size = x.shape[2:]
        padded = pad_to_multiple(x, self.stride)
        x = max_pool(padded, 2, stride=2, padding=0)
        skips: list[Tensor] = []
        for level, downsampling in zip(self.encoder, self.downsamplings):  # noqa: B905  not in TorchScript
            x = level(x)
            skips.append(x)
            x = downsampling(x)
        x = self.encoder[-1](x)
        parts = self.decoder(x, skips)
        logits = crop(resize(parts[0], padded.shape[2:]), size)
        if not self.decoder.deep_supervision:
            return logits
        strides = [[2] * self.spatial_dims] * len(parts)
        return [logits] + at_scales(parts, size, strides)
