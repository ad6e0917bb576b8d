"""Conditions for a fast way: eager mode, and tensors that own their memory. Also the fast memory layout on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # keyed by the tensor's number of axes


def is_eager(*tensors: Tensor | None) -> bool:
    """Whether a fast way may compute with ``tensors``.

    It may not while a graph is compiled, exported or traced: the graph then holds torch's own operators.
    It may not on tensors of torch.func or of forward-mode differentiation: fast ways have no rules for vmap and jvp.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(tensor is None or _is_plain(tensor) for tensor in tensors)


def is_eager_on_cpu(*tensors: Tensor | None) -> bool:
    """Whether a fast way may compute with ``tensors`` on a CPU."""
    return all(tensor is None or tensor.device.type == "cpu" for tensor in tensors) and is_eager(*tensors)


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor has a storage, unlike torch.func's wrappers, and carries no forward-mode tangent."""
    try:
        tensor.untyped_storage()
    except NotImplementedError:
        return False
    return forward_ad.unpack_dual(tensor).tangent is None
