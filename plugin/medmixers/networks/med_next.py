"""MedNeXt of Xue et al. 2026: a classifier of LAFFN, SEM and SDFFN. MONAI's MedNeXt is that of Roy et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.layers.conv import conv_nd
from medmixers.layers.sizes import check_image_shape
from medmixers.networks.med_blocks import ConvNormAct, MEDBlock
from medmixers.networks.metaformer import stage_sizes


def max_pool(x: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """Maximum over windows of a feature map, (B, C, *spatial)."""
    if x.ndim == 4:
        return F.max_pool2d(x, kernel_size, stride, padding)
    return F.max_pool3d(x, kernel_size, stride, padding)


class MedNeXt(nn.Module):
    """Convolutional stem, four stages of MED blocks, global average pooling, linear head.

    The stem's widths, the kernels and the strided convolutions between stages are inferred from published counts.

    Args:
        spatial_dims: 2 as published, or 3 (our extension).
        in_channels: channels of the image.
        out_channels: classes K.
        input_size: image size in voxels that SEM's linear layers fit; the network resamples other sizes.
        depths: MED blocks per stage.
        dims: channels per stage.
        kernel_sizes: lengths of SEM's strips.
        rescale: as of LAFFN; not in the paper.
        attention: laffn, or in its place softmax, linear or simplified attention (figure 2), or none.
        sem: whether blocks have SEM.
        feed_forward: sdffn, or in its place ffn of ratio 4 or smooth_ffn of ratio 1 (figure 4).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        input_size: Sequence[int] | None = None,
        depths: Sequence[int] = (2, 2, 2, 2),
        dims: Sequence[int] = (64, 128, 256, 512),
        kernel_sizes: tuple[int, int] = (7, 11),
        rescale: bool = False,
        attention: str = "laffn",
        sem: bool = True,
        feed_forward: str = "sdffn",
    ) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        strides = [(stride,) * spatial_dims for stride in (4, *(2,) * (len(dims) - 1))]
        sizes = stage_sizes(input_size or (224,) * spatial_dims, strides)
        widths = (dims[0] // 4, dims[0] // 2, dims[0])
        pairs = zip((in_channels, *widths), widths, strict=False)
        self.stem = nn.Sequential(
            *(
                ConvNormAct(before, after, spatial_dims=spatial_dims, stride=2 if i == 0 else 1, norm_last=True)
                for i, (before, after) in enumerate(pairs)
            )
        )
        parts: dict[str, Any] = {"kernel_sizes": kernel_sizes, "rescale": rescale}
        parts |= {"attention": attention, "sem": sem, "feed_forward": feed_forward}
        self.stages = nn.ModuleList()
        for i, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
            downsample = []
            if i:
                downsample.append(conv(dims[i - 1], dim, 3, stride=2, padding=1, bias=False))
            blocks = [MEDBlock(dim, spatial_dims=spatial_dims, feature_size=sizes[i], **parts) for _ in range(depth)]
            self.stages.append(nn.Sequential(*downsample, *blocks))
        self.head = nn.Linear(dims[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) -> logits, (B, K)."""
        check_image_shape(x, self.spatial_dims, self.in_channels)
        x = max_pool(self.stem(x), 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.flatten(2).mean(-1))
