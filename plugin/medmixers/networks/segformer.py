"""Semantic segmentation: a MetaFormer encoder with the SegFormer decoder (Keuth et al. 2025, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.layers.conv import conv_nd
from medmixers.layers.norms import create_norm
from medmixers.layers.sizes import crop, resize, upsample
from medmixers.networks.deep_supervision import at_scales, segmentation_layers
from medmixers.networks.metaformer import MetaFormerEncoder


class SegFormerDecoder(nn.Module):
    """All-MLP decoder of Xie et al. 2021: project every feature map, bring all to the finest, fuse, classify.

    Args:
        dims: channels of the feature maps, finest first.
        out_channels: channels K of the logits.
        channels: width of the decoder.
        aux_heads: whether the projection of each map between the finest and the coarsest has a classifier.

    Attributes:
        deep_supervision: whether the network also returns the logits of these classifiers; nnU-Net sets it.
    """

    def __init__(
        self,
        dims: Sequence[int],
        out_channels: int,
        *,
        spatial_dims: int,
        channels: int = 256,
        aux_heads: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = False
        conv = conv_nd(spatial_dims)
        self.channels = channels
        self.projections = nn.ModuleList(conv(dim, channels, 1) for dim in dims)
        self.fuse = conv(channels * len(dims), channels, 1, bias=False)
        self.norm = create_norm("group_norm", channels, spatial_dims=spatial_dims)
        self.act = nn.GELU()
        heads = 1 + len(dims[1:-1]) if aux_heads else 1
        self.seg_layers = segmentation_layers([channels] * heads, out_channels, spatial_dims=spatial_dims)

    def forward(self, features: list[Tensor]) -> Tensor:
        """features: (B, dims[i], *spatial_i), finest first -> logits, (B, K, *spatial_0)."""
        # A pointwise convolution of concatenated, resized maps is the sum of its parts. Each part commutes with the
        # interpolation, because its weights sum to one. So each map is fused at its own resolution: exact, far cheaper.
        fused: Tensor | None = None
        weights = self.fuse.weight.split(self.channels, dim=1)
        for level, projection in enumerate(self.projections):
            part = pointwise(projection(features[level]), weights[level])
            part = resize(part, features[0].shape[2:])
            fused = part if fused is None else fused + part
        assert fused is not None
        return self.seg_layers[0](self.act(self.norm(fused)))

    def auxiliary(self, features: list[Tensor]) -> list[Tensor]:
        """features: as of forward -> logits of the maps between the finest and the coarsest, each at its own size."""
        maps = [features[0]]
        for level, projection in enumerate(self.projections):
            if 0 < level < len(features) - 1:
                maps.append(projection(features[level]))
        logits: list[Tensor] = []
        for level, head in enumerate(self.seg_layers):
            if level > 0:
                logits.append(head(maps[level]))
        return logits


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution of (B, C, *spatial) with a weight of kernel 1."""
    return F.conv2d(x, weight) if x.ndim == 4 else F.conv3d(x, weight)


class MetaFormerSegFormer(nn.Module):
    """MetaFormer encoder, one GroupNorm(1) on each stage's output, SegFormer decoder.

    Args:
        encoder: makes the feature maps.
        out_channels: classes (or sigmoid channels) K.
        decoder_channels: width of the decoder.
        aux_heads: whether all stages but the first and the last have a classifier for deep supervision.
    """

    def __init__(
        self,
        encoder: MetaFormerEncoder,
        out_channels: int,
        *,
        decoder_channels: int = 256,
        aux_heads: bool = False,
    ) -> None:
        super().__init__()
        dims, spatial_dims = encoder.dims, encoder.spatial_dims
        self.encoder = encoder
        self.norms = nn.ModuleList(create_norm("group_norm", dim, spatial_dims=spatial_dims) for dim in dims)
        self.decoder = SegFormerDecoder(
            dims, out_channels, spatial_dims=spatial_dims, channels=decoder_channels, aux_heads=aux_heads
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of an image of any size.

        Args:
            x: image, (B, in_channels, *spatial).

        Returns:
            (B, K, *spatial). With deep supervision a list: these, the same before their upsampling (if the stem
            downsamples), then the logits of each auxiliary head.
        """
        features: list[Tensor] = self.encoder(x)
        for level, norm in enumerate(self.norms):
            features[level] = norm(features[level])
        fine = logits = self.decoder(features)
        strides = [list(stride) for stride in self.encoder.strides]
        has_stem_stride = max(strides[0]) > 1
        if has_stem_stride:
            logits = upsample(fine, strides[0])
        logits = crop(logits, x.shape[2:])
        if not self.decoder.deep_supervision:
            return logits
        coarser = self.decoder.auxiliary(features)
        if has_stem_stride:
            return [logits] + at_scales([fine] + coarser, x.shape[2:], strides[:-1])
        return [logits] + at_scales(coarser, x.shape[2:], strides[1:-1])
