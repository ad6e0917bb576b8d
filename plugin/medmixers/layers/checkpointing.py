"""Activation checkpointing: a block keeps only its input, and the backward pass computes its activations again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from medmixers.errors import InputError


def checkpoint_blocks(network: nn.Module, classes: Sequence[type[nn.Module]]) -> nn.Module:
    """Let every block of ``network`` recompute its activations in training, and return the network.

    Outputs, gradients, random numbers of dropout and drop path, batch-norm statistics and keys of the state dict stay
    the same. In eval mode or without gradients nothing changes.

    Args:
        network: changed in place.
        classes: classes of the blocks. A block inside another block is computed with the outer one.

    Raises:
        ValueError: the network has no block of these classes.
    """
    blocks = list(_outermost(network, tuple(classes)))
    if not blocks:
        names = ", ".join(sorted(each.__name__ for each in classes)) or "none named"
        raise InputError(f"{type(network).__name__} has no blocks to checkpoint: {names}")
    for block in blocks:
        # On the instance: the name of a wrapping module would appear in every key of the state dict.
        block.forward = partial(_checkpointed_forward, block)
    return network


def _outermost(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, classes):
            yield child
        else:
            yield from _outermost(child, classes)


def _checkpointed_forward(block: nn.Module, *inputs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    if norms and not torch.compiler.is_compiling():  # the compiler itself updates statistics once
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, norms))
    return checkpoint(forward, *inputs, use_reentrant=False)


def _contexts(norms: Sequence[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(norms)


@contextmanager
def _statistics_kept(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Keep the running statistics: the first pass has updated them."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
