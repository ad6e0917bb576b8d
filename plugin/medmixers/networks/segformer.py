"""Semantic segmentation: a MetaFormer encoder with the SegFormer decoder (Keuth et al. 2025, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.layers.conv import conv_nd
from medmixers.layers.norms import create_norm
from medmixers.layers.sizes import INTERPOLATIONS, crop, resize
from medmixers.networks.metaformer import MetaFormerEncoder


class SegFormerDecoder(nn.Module):
    """All-MLP decoder of Xie et al. 2021: project every feature map, bring all to the finest, fuse, classify.

    Args:
        dims: channels of the feature maps, finest first.
        out_channels: channels K of the logits.
        channels: width of the decoder.
    """

    def __init__(self, dims: Sequence[int], out_channels: int, *, spatial_dims: int, channels: int = 256) -> None:
        super().__init__()
        conv = conv_nd(spatial_dims)
        self.channels = channels
        self.projections = nn.ModuleList(conv(dim, channels, 1) for dim in dims)
        self.fuse = conv(channels * len(dims), channels, 1, bias=False)
        self.norm = create_norm("group_norm", channels, spatial_dims=spatial_dims)
        self.act = nn.GELU()
        self.classify = conv(channels, out_channels, 1)
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
        return self.classify(self.act(self.norm(fused)))


class MetaFormerSegFormer(nn.Module):
    """MetaFormer encoder, one GroupNorm(1) on each stage's output, SegFormer decoder.

    Args:
        encoder: gives the feature maps.
        out_channels: classes (or sigmoid channels) K.
        decoder_channels: width of the decoder.
    """

    def __init__(self, encoder: MetaFormerEncoder, out_channels: int, *, decoder_channels: int = 256) -> None:
        super().__init__()
        dims, spatial_dims = encoder.dims, encoder.spatial_dims
        self.encoder = encoder
        self.norms = nn.ModuleList(create_norm("group_norm", dim, spatial_dims=spatial_dims) for dim in dims)
        self.decoder = SegFormerDecoder(dims, out_channels, spatial_dims=spatial_dims, channels=decoder_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) of any size -> logits, (B, K, *spatial)."""
        features = [norm(feature) for norm, feature in zip(self.norms, self.encoder(x), strict=True)]
        logits = self.decoder(features)
        if self.encoder.stem_stride > 1:
            logits = F.interpolate(
                logits,
                scale_factor=self.encoder.stem_stride,
                mode=INTERPOLATIONS[x.ndim - 2],
                align_corners=False,
            )
        return crop(logits, x.shape[2:])
