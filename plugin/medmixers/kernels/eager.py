"""When a layer may take a way of its own through a CPU's memory, and the layout that is fast there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the tensor's number of axes


def is_eager() -> bool:
    """Whether functions run as they are called: what is traced, compiled or exported holds torch's own operators.

    So does what torch.func or forward-mode differentiation transforms: functions with a backward pass of their own say
    nothing about vmap or jvp.
    """
    graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not (graph or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether ``x`` is computed on a CPU now."""
    return x.device.type == "cpu" and is_eager()
