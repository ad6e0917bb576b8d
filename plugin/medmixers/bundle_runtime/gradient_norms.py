"""Norm of each layer's gradient while a network trains (Keuth et al. 2025, section 5.1.4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medmixers.bundle_runtime.epoch_table import NORM_COLUMNS, EpochTable

WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


class GradientNorms:
    """Euclidean norm of the gradient of each layer at every update, before any clipping.

    A layer is a module with parameters of its own. An update that a GradScaler skips is not counted. Of several ranks,
    each sees the gradient of its own batch.

    Args:
        network: trains.
        optimizer: makes the updates.
        scale: factor on the loss at an update, such as ``GradScaler.get_scale``.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, scale: Callable[[], float] = lambda: 1.0
    ) -> None:
        self.scale = scale
        self.squares: dict[str, torch.Tensor] = {}
        self.layer_of: dict[str, str] = {}
        self.norms: list[dict[str, torch.Tensor]] = []
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                self.layer_of[name] = _layer(name)
                parameter.register_post_accumulate_grad_hook(partial(self._keep, name))
        optimizer.register_step_pre_hook(self._update)

    def _keep(self, name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        self.squares[name] = parameter.grad.detach().float().square().sum()

    def _update(self, *_: Any) -> None:
        factor = self.scale() ** 2
        sums: dict[str, torch.Tensor] = {}
        for name, layer in self.layer_of.items():
            if name in self.squares:
                sums[layer] = sums.get(layer, 0) + self.squares[name] / factor
        self.norms.append({layer: value.sqrt() for layer, value in sums.items()})
        self.squares.clear()

    def take(self) -> list[dict[str, Any]]:
        """One row per layer, in the network's order, over the updates since the last call.

        Returns:
            Rows with ``NORM_COLUMNS`` but ``epoch``. Mean and largest are over the finite norms.
        """
        norms, self.norms = self.norms, []
        rows = []
        for layer in dict.fromkeys(self.layer_of.values()):
            known = [each[layer] for each in norms if layer in each]
            if known:
                values = torch.stack(known).cpu()
                finite = values[values.isfinite()]
                rows.append({
                    "layer": layer,
                    "mean": float(finite.mean()) if len(finite) else "",
                    "largest": float(finite.max()) if len(finite) else "",
                    "updates": len(values),
                    "not_finite": len(values) - len(finite),
                })  # fmt: skip
        return rows


def _layer(parameter: str) -> str:
    for wrapper in WRAPPERS:
        parameter = parameter.replace(wrapper, "")
    return parameter.rpartition(".")[0] or "network"


class GradientNormsHandler:
    """Write the gradient norms of a MONAI trainer, one row per epoch and layer.

    Args:
        path: of the CSV file.
    """

    def __init__(self, *, path: str) -> None:
        self.table = EpochTable(Path(path), NORM_COLUMNS)

    def attach(self, engine: Any) -> None:
        """engine: the trainer, a ``monai.engines.SupervisedTrainer``."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda each: self.table.begin(each.state.epoch))
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Any) -> None:
        # MONAI gives the trainer its network after its handlers, and its GradScaler as it starts
        scale = {} if engine.scaler is None else {"scale": engine.scaler.get_scale}
        self.norms = GradientNorms(engine.network, engine.optimizer, **scale)

    def _end(self, engine: Any) -> None:
        self.table.add(engine.state.epoch, self.norms.take())
