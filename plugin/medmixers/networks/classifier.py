"""Image classification with a MetaFormer encoder."""

from __future__ import annotations

from torch import Tensor, nn

from medmixers.layers.norms import ChannelLayerNorm, create_norm
from medmixers.networks.metaformer import MetaFormerEncoder

HEAD_ORDERS = ("norm_pool", "pool_norm")


class MetaFormerClassifier(nn.Module):
    """Encoder, norm and global average pooling in either order, linear head.

    Args:
        encoder: its last feature map is classified.
        out_channels: classes K.
        head_order: "norm_pool": GroupNorm(1), then the mean over the positions (Keuth et al. 2025);
            "pool_norm": the mean, then LayerNorm (timm's PoolFormer).
    """

    def __init__(self, encoder: MetaFormerEncoder, out_channels: int, *, head_order: str = "norm_pool") -> None:
        super().__init__()
        if head_order not in HEAD_ORDERS:
            raise ValueError(f"head_order must be one of {HEAD_ORDERS}, got {head_order!r}")
        dim = encoder.dims[-1]
        self.encoder = encoder
        self.pool_first = head_order == "pool_norm"
        self.norm = (
            ChannelLayerNorm(dim)
            if self.pool_first
            else create_norm("group_norm", dim, spatial_dims=encoder.spatial_dims)
        )
        self.head = nn.Linear(dim, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) -> logits, (B, K)."""
        x = self.encoder(x)[-1]
        if self.pool_first:
            return self.head(self.norm(x.flatten(2).mean(-1)))
        return self.head(self.norm(x).flatten(2).mean(-1))
