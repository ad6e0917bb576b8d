"""Classifiers of timm by name, ``timm:convnext_tiny``, untrained. The module has a builder for each of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import timm
import timm.models
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.networks.peers import Peer, build_peer

OF_TOKENS = (timm.models.VisionTransformer, timm.models.MlpMixer)


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if not timm.is_model(name):
        raise AttributeError(name)

    def build(
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        drop_rate: float | None = None,
        drop_path_rate: float | None = None,
        global_pool: str | None = None,
        input_size: Sequence[int] | None = None,
    ) -> nn.Module:
        """A classifier of timm, with the options that its networks share. None takes the default of timm.

        Args:
            drop_rate: dropout before the classifier, a probability.
            drop_path_rate: stochastic depth, a probability.
            global_pool: how positions are pooled: avg, max, avgmax, catavgmax; token of a ViT.
            input_size: of the image, for a network that is built for one size.
        """
        if spatial_dims != 2:
            raise InputError(f"network 'timm:{name}' is 2D, got {spatial_dims=}")
        chosen = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate, "global_pool": global_pool}
        arguments: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
        known = timm.get_pretrained_cfg(name)
        if known and known.fixed_input_size and input_size is not None:
            arguments["img_size"] = tuple(input_size)
        arguments |= {"model_name": name, "in_chans": in_channels, "num_classes": out_channels}
        return Peer(build_peer(f"timm:{name}", timm.create_model, arguments), stride=None)

    return build


class TokenBlocks(nn.Module):
    """Blocks and norms of a network of timm, as its ``forward_features`` applies them after the embeddings.

    Args:
        source: "timm:NAME".
        network: of :data:`OF_TOKENS`.
        layers: blocks to take, the first ones.
    """

    def __init__(self, source: str, network: Any, *, layers: int) -> None:
        super().__init__()
        self.source = source
        self.norm_pre: nn.Module = getattr(network, "norm_pre", nn.Identity())
        self.blocks: nn.Module = network.blocks[:layers]
        self.norm: nn.Module = network.norm

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, C) -> the same shape."""
        mixed: Tensor = self.norm(self.blocks(self.norm_pre(tokens)))
        return mixed


def token_blocks(name: str, dim: int, *, num_tokens: int, layers: int | None = None) -> TokenBlocks:
    """Blocks of a ViT or an MLP-Mixer of timm over tokens, untrained.

    Args:
        name: of timm's network, without a tag.
        dim: channels C of a token.
        num_tokens: N; an MLP-Mixer is built for it.
        layers: blocks, the first ones; None takes all.

    Raises:
        InputError: a network of another kind, another width, or fewer blocks.
    """
    source, arguments = f"timm:{name}", {"model_name": name, "num_classes": 0}
    network: Any = build_peer(source, timm.create_model, arguments)
    of_kind = [kind for kind in OF_TOKENS if isinstance(network, kind)]
    if not of_kind or type(network).forward_features is not of_kind[0].forward_features:
        raise InputError(f"transformer {source!r} must be a ViT or an MLP-Mixer, it is a {type(network).__name__}")
    if network.embed_dim != dim:
        raise InputError(f"transformer {source!r} takes tokens of width {network.embed_dim}, got token_dim={dim}")
    if layers is not None and layers > len(network.blocks):
        raise InputError(f"transformer {source!r} has {len(network.blocks)} layers, got transformer_layers={layers}")
    if isinstance(network, timm.models.MlpMixer) and network.stem.num_patches != num_tokens:
        height, width = network.stem.patch_size
        network = build_peer(source, timm.create_model, {**arguments, "img_size": (height, width * num_tokens)})
    return TokenBlocks(source, network, layers=len(network.blocks) if layers is None else layers)
