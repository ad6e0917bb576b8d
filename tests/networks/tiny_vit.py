"""A small random ViT with the interface of transformers' Dinov2Model, for networks over a frozen encoder."""

from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):  # torch.compile traces a named tuple; a SimpleNamespace it refuses
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None


class TinyViT(nn.Module):
    """Patches of 7 voxels, transformer layers with dropout, a norm that only ``last_hidden_state`` has seen."""

    def __init__(self, *, hidden_size=16, image_size=28, layers=5, heads=2):
        super().__init__()
        self.config = SimpleNamespace(
            hidden_size=hidden_size, image_size=image_size, patch_size=7, num_hidden_layers=layers
        )
        self.embed = nn.Conv2d(3, hidden_size, 7, stride=7)
        self.positions = nn.Parameter(torch.randn(1, 1 + (image_size // 7) ** 2, hidden_size))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden_size, heads, 2 * hidden_size, dropout=0.5, batch_first=True)
            for _ in range(layers)
        )
        self.layernorm = nn.LayerNorm(hidden_size)

    def forward(self, pixel_values, output_hidden_states=False):
        patches = self.embed(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([torch.zeros_like(patches[:, :1]), patches], 1) + self.positions
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]))
        hidden = tuple(states) if output_hidden_states else None
        return Output(self.layernorm(states[-1]), hidden)
