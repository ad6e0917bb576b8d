"""Semantic segmentation: a MetaFormer encoder with the SegFormer decoder (Keuth et al. 2025, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.layers.conv import conv_nd
from medmixers.layers.norms import create_norm
from medmixers.layers.sizes import INTERPOLATIONS, crop, resize
from medmixers.networks.deep_supervision import at_scales, segmentation_layers
from medmixers.networks.metaformer import MetaFormerEncoder


class SegFormerDecoder(nn.Module):
    """All-MLP decoder of Xie et al. 2021: project every feature map, bring all to the finest, fuse, classify.

    Args:
        dims: channels of the feature maps, finest first.
        out_channels: channels K of the logits.
        channels: width of the decoder.
        aux_heads: whether the projections of all maps but the finest and the coarsest have a classifier each.

    Attributes:
        deep_supervision: whether the network returns their logits too; nnU-Net sets it.
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
        self.pointwise = {2: F.conv2d, 3: F.conv3d}[spatial_dims]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """features: (B, dims[i], *spatial_i), finest first -> logits, (B, K, *spatial_0)."""
        # A pointwise convolution of concatenated, resized maps is the sum of its parts, and a part commutes with
        # the interpolation (whose weights sum to one): fuse each map at its own resolution, exactly and far cheaper.
        weights = self.fuse.get_parameter("weight").split(self.channels, dim=1)
        fused = None
        for feature, projection, weight in zip(features, self.projections, weights, strict=True):
            part = resize(self.pointwise(projection(feature), weight), features[0].shape[2:])
            fused = part if fused is None else fused + part
        return self.seg_layers[0](self.act(self.norm(fused)))

    def auxiliary(self, features: Sequence[Tensor]) -> list[Tensor]:
        """features: as of forward -> logits of the maps between the finest and the coarsest, each at its own size."""
        maps = zip(self.seg_layers[1:], self.projections[1:-1], features[1:-1], strict=True)
        return [head(projection(feature)) for head, projection, feature in maps]


class MetaFormerSegFormer(nn.Module):
    """MetaFormer encoder, one GroupNorm(1) on each stage's output, SegFormer decoder.

    Args:
        encoder: gives the feature maps.
        out_channels: classes (or sigmoid channels) K.
        decoder_channels: width of the decoder.
        aux_heads: classifiers for deep supervision, on all stages but the first and the last.
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
            downsamples), and one of each auxiliary head.
        """
        features = [norm(feature) for norm, feature in zip(self.norms, self.encoder(x), strict=True)]
        fine = logits = self.decoder(features)
        stem = self.encoder.strides[0]
        if max(stem) > 1:
            scale = tuple(map(float, stem))
            logits = F.interpolate(fine, scale_factor=scale, mode=INTERPOLATIONS[x.ndim - 2], align_corners=False)
        logits = crop(logits, x.shape[2:])
        if not self.decoder.deep_supervision:
            return logits
        coarser, strides = self.decoder.auxiliary(features), self.encoder.strides
        if max(stem) > 1:
            return [logits, *at_scales([fine, *coarser], x.shape[2:], strides[:-1])]
        return [logits, *at_scales(coarser, x.shape[2:], strides[1:-1])]
