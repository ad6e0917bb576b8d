"""MLP-Mixer (Tolstikhin et al. 2021) over tokens, for the option ``transformer`` of Token-UNet."""

from __future__ import annotations

from torch import Tensor, nn

from medmixers.layers.conv import check_positive

EPS = 1e-6  # of the layer norms, as in the authors' code


class MLP(nn.Sequential):
    """Linear, GELU, Linear over the last axis.

    Args:
        dim: width of the axis.
        width: hidden width.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, dim))


class MLPMixerBlock(nn.Module):
    """An MLP over the tokens, then an MLP over the channels, each after a LayerNorm and with a shortcut.

    Args:
        dim: channels C of a token; the MLP over the channels is 4 C wide.
        num_tokens: N; the MLP over the tokens is C / 2 wide.
    """

    def __init__(self, dim: int, num_tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.tokens, self.channels = MLP(num_tokens, max(1, dim // 2)), MLP(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: tokens, (B, N, C) -> the same shape."""
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MLPMixer(nn.Module):
    """Blocks of MLP-Mixer and a LayerNorm.

    Args:
        dim: channels C of a token.
        num_tokens: N.
        layers: blocks.
    """

    def __init__(self, dim: int, num_tokens: int, *, layers: int = 4) -> None:
        check_positive(dim=dim, num_tokens=num_tokens, layers=layers)
        super().__init__()
        self.blocks = nn.Sequential(*(MLPMixerBlock(dim, num_tokens) for _ in range(layers)))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """x: tokens, (B, N, C) -> the same shape."""
        mixed: Tensor = self.norm(self.blocks(x))
        return mixed
