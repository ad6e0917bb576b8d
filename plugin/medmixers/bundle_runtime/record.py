"""A record of a training for a study: one row per epoch, and what the network cost."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

COLUMNS = ("epoch", "epochs", "seconds", "steps", "loss", "validation", "peak_memory_mib")


class TrainingRecord:
    """Append a row to a CSV file after every epoch: seconds, mean loss, validation metric, peak GPU memory.

    A resumed training replaces the rows of the epochs that it repeats.

    Args:
        path: of the file.
        validator: the engine that validates.
        metric: its key metric; the column stays empty in an epoch without validation.
    """

    def __init__(self, *, path: str, validator: Engine, metric: str) -> None:
        self.path, self.validator, self.metric = Path(path), validator, metric
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
        rows = read_rows(self.path)
        if any(int(row["epoch"]) >= engine.state.epoch for row in rows) or not self.path.is_file():
            self._write([row for row in rows if int(row["epoch"]) < engine.state.epoch])
        self.losses, self.validation, self.start = [], None, time.perf_counter()

    def _step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self.losses.append(float(output["loss"].detach()))

    def _validated(self, engine: Engine) -> None:
        self.validation = float(engine.state.metrics[self.metric])

    def _end(self, engine: Engine) -> None:
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else ""
        row = {
            "epoch": engine.state.epoch,
            "epochs": engine.state.max_epochs,
            "seconds": f"{time.perf_counter() - self.start:.4f}",
            "steps": len(self.losses),
            "loss": sum(self.losses) / max(1, len(self.losses)),
            "validation": "" if self.validation is None else self.validation,
            "peak_memory_mib": peak,
        }
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)

    def _write(self, rows: list[dict[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of the file; none where it does not exist. A row that a killed training left half-written is dropped."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row.get(name) is not None for name in COLUMNS)]
