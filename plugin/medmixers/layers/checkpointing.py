"""Activation checkpointing: a block keeps its input only and is computed again in the backward pass."""

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

    Outputs, gradients, the random numbers of dropout and drop path, the statistics of batch norms and the keys of the
    state dict stay the same. In eval mode, and where no gradient is asked for, nothing changes.

    Args:
        network: changed in place.
        classes: of the blocks; a block inside another is computed with it.

    Raises:
        ValueError: the network has no such block.
    """
    blocks = list(_outermost(network, tuple(classes)))
    if not blocks:
        names = ", ".join(sorted(each.__name__ for each in classes)) or "none named"
        raise InputError(f"{type(network).__name__} has no blocks to checkpoint: {names}")
    for block in blocks:
        # On the instance, not in a wrapping module, whose name would stand in every key of the state dict.
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
    if norms and not torch.compiler.is_compiling():  # the compiler itself computes no update of statistics twice
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, norms))
    return checkpoint(forward, *inputs, use_reentrant=False)


def _contexts(norms: Sequence[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(norms)


@contextmanager
def _statistics_kept(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Running statistics, which the first pass updated, stay as they are."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
