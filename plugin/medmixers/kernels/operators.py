"""Operators that this package registers with torch: networks compiled by torch.compile take them as eager ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from medmixers.kernels.eager import is_eager
from medmixers.layers.sizes import is_exporting

NAMESPACE = __name__.partition(".")[0]  # in torch.ops: the copy of this package in a packed bundle has its own
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def operator(
    schema: str,
    compute: Callable[..., Tensor],
    *,
    fake: Callable[..., Tensor],
    keep: Callable[[Any, tuple[Any, ...], Tensor], None],
    gradients: Callable[[Any, Tensor], tuple[Tensor | None, ...]],
) -> Callable[..., Tensor]:
    """Register a function with torch as an operator with one result.

    torch.library.custom_op does the same, but its first call imports torch's compiler: 1.2 s and 160 MiB.

    Args:
        schema: name, arguments and result, as torch.library.define takes them.
        compute: the function, on every device. Autograd does not see what it calls.
        fake: an empty result of the shape and the layout that ``compute`` gives.
        keep, gradients: setup_context and backward of torch.library.register_autograd.
    """
    name = schema.partition("(")[0]
    registered = getattr(torch.ops, NAMESPACE)
    if not hasattr(registered, name):  # a package that is imported twice has them
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
        torch.library.register_autograd(f"{NAMESPACE}::{name}", gradients, setup_context=keep, lib=_LIBRARY)
    function: Callable[..., Tensor] = getattr(registered, name).default
    return function


def takes_operators(*tensors: Tensor | None) -> bool:
    """Whether an operator of this package may compute with ``tensors``.

    It may in eager mode and in a graph of torch.compile. It may not in an exported or traced graph, which must load
    without this package, nor under a dispatch mode (FLOP counters, tracers), which must see torch's own operators.
    """
    if torch.compiler.is_compiling():
        return not is_exporting()
    return is_eager(*tensors) and _get_current_dispatch_mode() is None  # torch has no public query
