"""Gradient accumulation in the optimizer: nnU-Net's training step stays unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medmixers.errors import InputError


class AccumulatingSGD(torch.optim.SGD):
    """SGD that updates on every ``accumulate``-th call of ``step``, with the mean of the gradients of these calls.

    nnU-Net clears, unscales and clips the gradients in each training step. So each call adds the finished gradients of
    its batch to a separate sum; with clipping, the mean is of clipped gradients. A batch that the gradient scaler skips
    for an overflow does not count. Checkpoints do not hold an unfinished sum: resuming loses at most
    ``accumulate - 1`` batches.

    Args:
        parameters, options: as in torch.optim.SGD.
        accumulate: calls per update.
    """

    def __init__(self, parameters: Any, *, accumulate: int, **options: Any) -> None:
        if accumulate < 1:
            raise InputError(f"accumulate must be at least 1, got {accumulate}")
        super().__init__(parameters, **options)
        self.accumulate, self.calls = accumulate, 0
        self.sums: dict[Tensor, Tensor] = {}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Add the gradients to the sum; on every ``accumulate``-th call update the parameters."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        for p in parameters:
            if p.grad is not None:
                part = p.grad / self.accumulate
                self.sums[p] = self.sums[p].add_(part) if p in self.sums else part
        self.calls += 1
        if self.calls < self.accumulate:
            return None
        for p in parameters:
            p.grad = self.sums.get(p)
        self.sums, self.calls = {}, 0
        return super().step(closure)
