"""Stochastic depth (Huang et al. 2016), per sample of the batch."""

from __future__ import annotations

from torch import Tensor, nn

from medmixers.errors import InputError


class DropPath(nn.Module):
    """Drop a whole branch for random samples in training, and divide the rest by the probability of keeping it.

    Random numbers and results equal those of ``monai.networks.layers.DropPath``. MONAI's import would cost every
    process seconds, so the layer is written here.

    Args:
        drop_prob: probability of dropping the branch of a sample.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop_prob <= 1:
            raise InputError(f"drop_prob must be in [0, 1], got {drop_prob!r}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """x: output of a branch, (B, ...) -> the same shape."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        kept = x.new_empty([x.shape[0]] + [1] * (x.ndim - 1)).bernoulli_(keep_prob)
        if keep_prob > 0.0:
            kept.div_(keep_prob)
        return x * kept
