"""What a training step needs of a GPU's memory, counted and not measured: no GPU and no allocation.

The bytes that autograd keeps for the backward pass are counted in float32 on the meta device, and 16 bytes a parameter
added (weight, gradient, two moments). Under nnU-Net's mixed precision activations take less, workspaces and the loss
more; the sum comes within 12 % of what nnU-Net's own planner assumes for its reference U-Nets (a test compares).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

GIB = 2**30
BYTES_A_PARAMETER = 16


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step.

    Args:
        fixed: of parameters, their gradients and optimizer state, and buffers.
        sample: of the activations of one patch.
    """

    fixed: int
    sample: int

    def gib(self, batch_size: int) -> float:
        """GiB at a batch size."""
        return (self.fixed + batch_size * self.sample) / GIB


class _FusedAttention(torch.autograd.Function):
    """Keeps what a fused kernel keeps: the meta device's own attention would keep tokens squared."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        mixed = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, mixed, None if mask is None else mask.to(query.dtype))
        return mixed


class _FuseAttention(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3], (kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


def training_memory(build: Callable[[], nn.Module], in_channels: int, patch_size: Sequence[int]) -> TrainingMemory:
    """Count a training step of the network that ``build`` makes, with what its ``decoder`` supervises.

    Args:
        build: called on the meta device.
        in_channels: of the image.
        patch_size: in voxels.
    """
    with torch.device("meta"):
        network = build()
    owned = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with _FuseAttention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(torch.empty(1, in_channels, *patch_size, device="meta"))
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = [*network.buffers(), *(p for p in network.parameters() if not p.requires_grad)]
    return TrainingMemory(
        fixed=BYTES_A_PARAMETER * trained + sum(tensor.nbytes for tensor in frozen),
        sample=sum(t.untyped_storage().nbytes() for storage, t in kept.items() if storage not in owned),
    )
