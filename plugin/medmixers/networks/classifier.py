"""Image classification with a MetaFormer encoder."""

from __future__ import annotations

from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.activations import SquaredReLU
from medmixers.layers.norms import create_norm
from medmixers.networks.metaformer import MetaFormerEncoder

HEAD_ORDERS = ("norm_pool", "pool_norm")
HEADS = ("linear", "mlp")


class MLPHead(nn.Module):
    """Linear C -> 4 C, squared ReLU, LayerNorm, dropout, linear: the head of ConvFormer and CAFormer.

    Args:
        dim: channels C.
        out_channels: classes K.
        dropout: probability in training.
        eps: added to the variance in LayerNorm.
    """

    def __init__(self, dim: int, out_channels: int, *, dropout: float = 0.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = SquaredReLU()
        self.norm = nn.LayerNorm(4 * dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(4 * dim, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C) -> logits, (B, K)."""
        return self.fc2(self.dropout(self.norm(self.act(self.fc1(x)))))


class MetaFormerClassifier(nn.Module):
    """Encoder, norm and global average pooling in either order, and a head.

    Args:
        encoder: makes the feature maps; the last one is classified.
        out_channels: classes K.
        head_order: "norm_pool": a norm, then the mean over the positions (Yu et al. 2022, Keuth et al. 2025);
            "pool_norm": the mean, then LayerNorm (timm, and Yu et al. 2023).
        head_norm: norm of the "norm_pool" order, a name of :data:`medmixers.layers.norms.NORMS`; None means
            "group_norm" there. The "pool_norm" order has LayerNorm.
        head_norm_eps: added to the variance; None means 1e-6 for LayerNorm and 1e-5 for the other norms.
        head: "linear" or "mlp" (:class:`MLPHead`).
        head_mlp_eps: added to the variance in the mlp head's LayerNorm: 1e-6 in timm, 1e-5 in the authors' code.
        dropout: probability in the mlp head, in training.
    """

    def __init__(
        self,
        encoder: MetaFormerEncoder,
        out_channels: int,
        *,
        head_order: str = "norm_pool",
        head_norm: str | None = None,
        head_norm_eps: float | None = None,
        head: str = "linear",
        head_mlp_eps: float = 1e-6,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if head_order not in HEAD_ORDERS:
            raise InputError(f"head_order must be one of {HEAD_ORDERS}, got {head_order!r}")
        if head not in HEADS:
            raise InputError(f"head must be one of {HEADS}, got {head!r}")
        if head == "linear" and dropout:
            raise InputError(f"dropout belongs to head='mlp', got {head=}, {dropout=}")
        if head_order == "pool_norm" and head_norm not in (None, "layer_norm"):
            raise InputError(f"head_order='pool_norm' has head_norm='layer_norm', got {head_norm=}")
        dim = encoder.dims[-1]
        self.encoder = encoder
        self.pool_first = head_order == "pool_norm"
        name = "layer_norm" if self.pool_first else head_norm or "group_norm"
        self.norm = create_norm(name, dim, spatial_dims=encoder.spatial_dims, eps=head_norm_eps)
        self.head = (
            nn.Linear(dim, out_channels)
            if head == "linear"
            else MLPHead(dim, out_channels, dropout=dropout, eps=head_mlp_eps)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) -> logits, (B, K)."""
        x = self.encoder(x)[-1]
        if self.pool_first:
            return self.head(self.norm(x.flatten(2).mean(-1)))
        return self.head(self.norm(x).flatten(2).mean(-1))
