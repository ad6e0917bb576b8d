"""A network of another library, with the contract of ours: logits of the image's size, one clear error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.sizes import crop, pad_for_instance_norm


class Peer(nn.Module):
    """A network that may need a multiple of its strides as size, and may return more than its logits.

    Args:
        network: images (B, in_channels, *spatial) to logits, or to a sequence that starts with them.
        stride: pad the end of each axis to a multiple of it, per axis or one for all, and crop the logits. None: the
            network takes any size, or its own one.
    """

    def __init__(self, network: nn.Module, *, stride: int | Sequence[int] | None) -> None:
        super().__init__()
        self.network = network
        self.stride = stride if stride is None or isinstance(stride, int) else list(stride)

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) -> logits, (B, K) or (B, K, *spatial)."""
        logits = self.network(x if self.stride is None else pad_for_instance_norm(x, self.stride))
        logits = logits if isinstance(logits, Tensor) else logits[0]
        return logits if self.stride is None else crop(logits, x.shape[2:])


def build_peer(name: str, target: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """The network of another library. Raises InputError, with that library's message, where it cannot be built."""
    with torch.device("cpu"):  # some read values of tensors; the meta device has none
        try:
            network = target(**arguments)
        except (ValueError, TypeError, KeyError, AssertionError, RuntimeError) as error:
            raise InputError(f"network {name!r} cannot be built: {error}") from error
    return network.to(torch.get_default_device())
