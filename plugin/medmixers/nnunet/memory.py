"""GPU memory of a training step: estimated, not measured. It needs no GPU and allocates nothing.

The estimate is what autograd keeps for the backward pass, in float32 on the meta device, plus 16 bytes per parameter
(weight, gradient, two moments). Under nnU-Net's mixed precision, activations take less and workspaces and the loss
more. The sum is within 12 % of the estimate of nnU-Net's own planner for its reference U-Nets; a test compares them.
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
BYTES_PER_PARAMETER = 16


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step.

    Args:
        fixed: parameters, their gradients and optimizer state, and buffers.
        sample: activations of one patch.
    """

    fixed: int
    sample: int

    def gib(self, batch_size: int) -> float:
        """GiB at a batch size."""
        return (self.fixed + batch_size * self.sample) / GIB


class _FusedAttention(torch.autograd.Function):
    """Attention that keeps what a fused kernel keeps: on the meta device torch's own keeps tokens squared."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        mixed = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, mixed, None if mask is None else mask.to(query.dtype))
        return mixed


class _GroupNorm(torch.autograd.Function):
    """What torch's own keeps, without its slow arithmetic of shapes on the meta device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(len(x), groups), x.new_empty(len(x), groups))
        return torch.empty_like(x)


class _Resize(torch.autograd.Function):
    """Interpolation keeps nothing; on the meta device torch works its many steps out, which takes half of the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, ...]) -> Tensor:
        return x.new_empty(*x.shape[:2], *size)


class _Shortcuts(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3], options.get("attn_mask"))
        if func is F.group_norm:
            x, groups, *affine = args
            weight, bias = (*affine, None, None)[:2]
            return _GroupNorm.apply(x, groups, options.get("weight", weight), options.get("bias", bias))
        if func is F.interpolate and isinstance(options.get("size"), (tuple, list)):
            return _Resize.apply(args[0], tuple(options["size"]))
        return func(*args, **options)


def training_memory(build: Callable[[], nn.Module], in_channels: int, patch_size: Sequence[int]) -> TrainingMemory:
    """Estimate a training step of the network that ``build`` makes, with all its supervised outputs.

    Args:
        build: function that makes the network; called on the meta device.
        in_channels: channels of the image.
        patch_size: in voxels.
    """
    with torch.device("meta"):
        network = build()
    owned = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with _Shortcuts(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(torch.empty(1, in_channels, *patch_size, device="meta"))
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = [*network.buffers(), *(p for p in network.parameters() if not p.requires_grad)]
    return TrainingMemory(
        fixed=BYTES_PER_PARAMETER * trained + sum(tensor.nbytes for tensor in frozen),
        sample=sum(t.untyped_storage().nbytes() for storage, t in kept.items() if storage not in owned),
    )
