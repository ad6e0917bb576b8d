"""Optimizer and learning rate of a :class:`medmixers.recipes.TrainingRecipe`, for nnU-Net's epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from medmixers.errors import InputError
from medmixers.nnunet.accumulation import AccumulatingSGD
from medmixers.recipes import TrainingRecipe


def build_optimizer(
    recipe: TrainingRecipe, parameters: Iterable[nn.Parameter], *, accumulate: int = 1
) -> torch.optim.Optimizer:
    """The recipe's optimizer over ``parameters``; a recipe's momentum is Nesterov's.

    On a CPU, AdamW and Adam update by PyTorch's fused kernel: for MetaFormer S12 a fifth of the time.

    Args:
        recipe: optimizer, learning rate, weight decay and momentum.
        parameters: of the network.
        accumulate: batches per update.
    """
    options: dict[str, Any]
    adaptive = {"AdamW": torch.optim.AdamW, "Adam": torch.optim.Adam}
    if recipe.optimizer in adaptive:
        if accumulate > 1:
            raise InputError(f"{recipe.optimizer} cannot accumulate gradients here, got {accumulate=}")
        parameters = list(parameters)
        fused = True if all(each.device.type == "cpu" for each in parameters) else None  # None: PyTorch's default
        options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": fused}
        return adaptive[recipe.optimizer](parameters, **options)
    if recipe.optimizer == "SGD":
        options = {
            "lr": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            "momentum": recipe.momentum,
            "nesterov": recipe.momentum > 0,
        }
        if accumulate > 1:
            return AccumulatingSGD(parameters, accumulate=accumulate, **options)
        return torch.optim.SGD(parameters, **options)
    raise InputError(f"optimizer must be 'AdamW', 'Adam' or 'SGD', got {recipe.optimizer!r}")


def learning_rate_at(recipe: TrainingRecipe, epoch: int, epochs: int) -> float:
    """Learning rate of one epoch: linear warm-up, then one cosine cycle down to the recipe's minimum.

    The warm-up takes the same share of the run as in the recipe, so a short run is not all warm-up. The cycle reaches
    its minimum at ``epochs``, one after the last epoch: no epoch runs at a learning rate of 0.

    Args:
        recipe: learning rates and warm-up.
        epoch: 0 ... epochs - 1.
        epochs: length of this run in nnU-Net's epochs.
    """
    warmup = round(epochs * recipe.warmup_epochs / recipe.epochs)
    if epoch < warmup:
        return recipe.learning_rate * (epoch + 1) / (warmup + 1)
    progress = (epoch - warmup) / (epochs - warmup)
    span = recipe.learning_rate - recipe.min_learning_rate
    return recipe.min_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2


class RecipeSchedule(LRScheduler):
    """Sets the learning rate as a function of the epoch alone, so a resumed run needs no saved schedule.

    nnU-Net calls ``step(epoch)`` before each epoch and stores no state of the schedule.

    Args:
        optimizer: all its parameter groups get the recipe's learning rate.
        recipe: learning rates and warm-up.
        epochs: length of the run in nnU-Net's epochs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: TrainingRecipe, epochs: int) -> None:
        self.recipe = recipe
        self.epochs = epochs
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Set the learning rate of ``epoch``; None means the next epoch."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        rate = learning_rate_at(self.recipe, self.last_epoch, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._last_lr = [rate] * len(self.optimizer.param_groups)
