"""A record of a training for a study: one row per epoch, and what the network cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from medmixers.bundle_runtime.epoch_table import PROGRESS_COLUMNS, EpochTable


class TrainingRecord:
    """Append a row to a CSV file after every epoch: seconds, mean loss, validation metric, peak GPU memory.

    A resumed training replaces the rows of the epochs that it repeats.

    Args:
        path: of the file.
        validator: the engine that validates.
        metric: its key metric; the column stays empty in an epoch without validation.
    """

    def __init__(self, *, path: str, validator: Engine, metric: str) -> None:
        self.table = EpochTable(Path(path), PROGRESS_COLUMNS)
        self.validator, self.metric = validator, metric
        self.validation: float | None = None
        self.losses: list[float] = []
        self.start = 0.0

    def attach(self, engine: Engine) -> None:
        """engine: the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)
        self.validator.add_event_handler(Events.COMPLETED, self._validated)

    def _begin(self, engine: Engine) -> None:
        self.table.begin(engine.state.epoch)
        self.losses, self.validation, self.start = [], None, time.perf_counter()

    def _step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self.losses.append(float(output["loss"].detach()))

    def _validated(self, engine: Engine) -> None:
        self.validation = float(engine.state.metrics[self.metric])

    def _end(self, engine: Engine) -> None:
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else ""
        row = {
            "epochs": engine.state.max_epochs,
            "seconds": f"{time.perf_counter() - self.start:.4f}",
            "steps": len(self.losses),
            "loss": sum(self.losses) / max(1, len(self.losses)),
            "validation": "" if self.validation is None else self.validation,
            "peak_memory_mib": peak,
        }
        self.table.add(engine.state.epoch, [row])
