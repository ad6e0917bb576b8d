"""MedUNeXt of Xue et al. 2026: a U-Net whose two coarsest levels are MED blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medmixers.layers.conv import conv_nd, transposed_conv_nd
from medmixers.layers.sizes import check_image, crop, pad_to_multiple, resize
from medmixers.networks.med_blocks import ConvNormAct, MEDBlock
from medmixers.networks.med_next import MAX_POOLS

STRIDE = 32  # max-pooling and four strided convolutions


class MedUNeXt(nn.Module):
    """Max-pooling, three convolution and two MED levels down, the mirrored levels up, bilinear to the image.

    The paper does not give widths and depths. Those here, with skips concatenated at the convolution levels and added
    at the MED level, meet the published count at 512 x 512: a parameter-matched reconstruction.

    Args:
        spatial_dims: 2 as published, or 3 (our extension).
        in_channels: channels of the image.
        out_channels: classes (or sigmoid channels) K.
        input_size: image size in voxels that SEM's linear layers are made for; other sizes are resampled inside.
            None means 512 on each axis in 2D, 128 in 3D.
        channels: of the five levels, finest first; the last two are equal.
        med_depth: MED blocks of a level.
        kernel_sizes: of SEM's strips.
        rescale: of LAFFN; not in the paper.
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
    ) -> None:
        super().__init__()
        conv, up = conv_nd(spatial_dims), transposed_conv_nd(spatial_dims)
        if len(channels) != 5 or channels[3] != channels[4]:
            raise ValueError(f"channels must be five levels, the last two equal; got {tuple(channels)}")
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        image = input_size or ({2: 512, 3: 128}[spatial_dims],) * spatial_dims
        padded = [-(-axis // STRIDE) * STRIDE for axis in image]

        def level(before: int, width: int) -> nn.Module:
            return nn.Sequential(
                ConvNormAct(before, width, spatial_dims=spatial_dims),
                ConvNormAct(width, width, spatial_dims=spatial_dims),
            )

        def med_level(width: int, stride: int) -> nn.Module:
            feature_size = [axis // stride for axis in padded]
            return nn.Sequential(
                *(
                    MEDBlock(
                        width,
                        spatial_dims=spatial_dims,
                        feature_size=feature_size,
                        kernel_sizes=kernel_sizes,
                        rescale=rescale,
                    )
                    for _ in range(med_depth)
                )
            )

        fine, deep = channels[:3], channels[3]
        self.encoder = nn.ModuleList(
            level(before, width) for before, width in zip((in_channels, *fine), fine, strict=False)
        )
        self.encoder.extend([med_level(deep, 16), med_level(deep, 32)])
        # Below a convolution level the next one changes the width; a MED level cannot, so its downsampling does.
        widths = (*fine[:2], deep, deep)
        self.downsamplings = nn.ModuleList(
            conv(before, after, 3, stride=2, padding=1, bias=False)
            for before, after in zip(channels[:4], widths, strict=True)
        )
        self.upsamplings = nn.ModuleList(
            up(channels[i + 1], channels[i], 2, stride=2, bias=False) for i in (3, 2, 1, 0)
        )
        self.decoder = nn.ModuleList([med_level(deep, 16), *(level(2 * width, width) for width in reversed(fine))])
        self.head = conv(channels[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) of any size -> logits, (B, K, *spatial)."""
        check_image(x, self.spatial_dims, self.in_channels)
        size = x.shape[2:]
        padded = pad_to_multiple(x, STRIDE)
        x = MAX_POOLS[self.spatial_dims](padded, 2)
        skips = []
        for level, downsampling in zip(self.encoder, self.downsamplings, strict=False):
            x = level(x)
            skips.append(x)
            x = downsampling(x)
        x = self.encoder[-1](x)
        for i, (upsampling, level) in enumerate(zip(self.upsamplings, self.decoder, strict=True)):
            x, skip = upsampling(x), skips.pop()
            x = level(x + skip if i == 0 else torch.cat([x, skip], 1))
        return crop(resize(self.head(x), padded.shape[2:]), size)
