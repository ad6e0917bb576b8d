"""Steps that run in a process with nnU-Net: plans of equal shape, and a seeded training of a chosen length.

``python -m medmixers.study.engine.worlds.nnunet_steps plan|train REQUEST.json``
"""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path
from typing import Any

from medmixers.bundle_runtime.epoch_table import PROGRESS_COLUMNS
from medmixers.errors import one_line_errors
from medmixers.files import written_whole
from medmixers.results import write_json
from medmixers.study.engine.records import GRADIENT_NORMS, PROGRESS


def plan(asked: dict[str, Any]) -> None:
    """Write plans for each network, with the patch and batch size of nnU-Net's own; their shapes go to a file."""
    from medmixers.nnunet.planner import STOCK_PLANS, default_plans_name, plan_network

    folder, configuration = Path(asked["preprocessed"]), asked["configuration"]
    if asked["batch_size"]:
        for name in {STOCK_PLANS, *asked["stock"].values()}:
            _set_batch(folder / f"{name}.json", configuration, asked["batch_size"])
    stock = _shape(folder, STOCK_PLANS, configuration)
    shapes = {entry: _shape(folder, name, configuration) for entry, name in asked["stock"].items()}
    for row in asked["networks"]:
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in row["options"].items()
        }
        name = default_plans_name(row["network"], options)
        plan_network(
            asked["dataset"], row["network"], gpu_memory_gb=1000, plans_name=name, patch_size=stock["patch_size"],
            **options,
        )  # fmt: skip
        _set_batch(folder / f"{name}.json", configuration, stock["batch_size"])
        shapes[row["entry"]] = _shape(folder, name, configuration)
    write_json(Path(asked["out"]), shapes)


def _configuration(plans: dict[str, Any], name: str) -> dict[str, Any]:
    row: dict[str, Any] = plans["configurations"][name]
    return row


def _set_batch(file: Path, configuration: str, batch_size: int) -> None:
    plans = json.loads(file.read_text())
    _configuration(plans, configuration)["batch_size"] = batch_size
    with written_whole(file) as partial:
        partial.write_text(json.dumps(plans, indent=4, sort_keys=False))


def _shape(folder: Path, plans_name: str, configuration: str) -> dict[str, Any]:
    row = _configuration(json.loads((folder / f"{plans_name}.json").read_text()), configuration)
    return {
        "plans": plans_name,
        "patch_size": row["patch_size"],
        "batch_size": row["batch_size"],
        "data": row["data_identifier"],
        "architecture": row["architecture"]["network_class_name"].rpartition(".")[2],
    }


def train(asked: dict[str, Any]) -> None:
    """nnUNetv2_train with a seed and a length. The validation after the last epoch is left to the prediction."""
    import numpy as np
    import torch
    from nnunetv2.run import run_training

    from medmixers.bundle_runtime.epoch_table import NORM_COLUMNS, EpochTable
    from medmixers.bundle_runtime.gradient_norms import GradientNorms

    make, folder = run_training.get_trainer_from_args, Path(asked["folder"])

    def seeded(*arguments: Any, **keywords: Any) -> Any:
        trainer = make(*arguments, **keywords)
        trainer.num_epochs = asked["epochs"] or trainer.num_epochs
        trainer.num_iterations_per_epoch = asked["iterations"] or trainer.num_iterations_per_epoch
        if asked["iterations"]:
            trainer.num_val_iterations_per_epoch = max(1, asked["iterations"] // 5)  # nnU-Net's 50 of 250
        trainer.save_every = max(1, min(trainer.save_every, trainer.num_epochs // 20))
        trainer.perform_actual_validation = lambda *_, **__: None
        start, end = trainer.on_epoch_start, trainer.on_epoch_end
        norms: list[GradientNorms] = []
        table = EpochTable(folder / GRADIENT_NORMS, NORM_COLUMNS)

        def on_epoch_start() -> None:
            set_seeds(asked["seed"] + 1000 * (1 + trainer.current_epoch))  # a resumed training draws the same
            if asked["gradient_norms"] and not norms:
                norms.append(_gradient_norms(trainer))
                table.begin(trainer.current_epoch + 1)
            start()

        def on_epoch_end() -> None:
            end()
            _write_progress(folder, trainer)
            for each in norms:
                table.add(trainer.current_epoch, each.take())

        trainer.on_epoch_start, trainer.on_epoch_end = on_epoch_start, on_epoch_end
        set_seeds(asked["seed"])
        if asked["threads"]:
            torch.set_num_threads(asked["threads"])  # nnU-Net takes all cores of a CPU
        trainers.append(trainer)
        return trainer

    def set_seeds(value: int) -> None:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(value)

    trainers: list[Any] = []
    run_training.get_trainer_from_args = seeded
    sys.argv = ["nnUNetv2_train", *asked["words"]]
    run_training.run_training_entry()
    _write_facts(folder, trainers[-1])


def _gradient_norms(trainer: Any) -> Any:
    from medmixers.bundle_runtime.gradient_norms import GradientNorms

    scale = {} if trainer.grad_scaler is None else {"scale": trainer.grad_scaler.get_scale}
    return GradientNorms(trainer.network, trainer.optimizer, **scale)


def _log(trainer: Any) -> dict[str, list[float]]:
    logger = trainer.logger
    values: dict[str, list[float]] = getattr(logger, "local_logger", logger).my_fantastic_logging
    return values


def _rows(trainer: Any) -> list[dict[str, Any]]:
    import torch

    log = _log(trainer)
    peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else ""
    times = zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=False)
    return [
        {"epoch": epoch, "epochs": trainer.num_epochs, "seconds": f"{end - start:.4f}",
         "steps": trainer.num_iterations_per_epoch, "loss": float(loss), "validation": float(dice),
         "peak_memory_mib": peak}
        for epoch, ((start, end), loss, dice) in enumerate(
            zip(times, log["train_losses"], log["mean_fg_dice"], strict=False), start=1)
    ]  # fmt: skip


def _write_table(file: Path, header: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    with written_whole(file) as partial, partial.open("w", newline="", encoding="utf-8") as content:
        writer = csv.DictWriter(content, header, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _write_progress(folder: Path, trainer: Any) -> None:
    _write_table(folder / PROGRESS, PROGRESS_COLUMNS, _rows(trainer))


def _macs(trainer: Any) -> float | None:
    """Multiply-adds of one patch."""
    import torch

    from medmixers.layers.macs import count_macs
    from medmixers.nnunet.trainer import plain_network

    trainer.set_deep_supervision_enabled(False)
    image = torch.zeros(1, trainer.num_input_channels, *trainer.configuration_manager.patch_size, device=trainer.device)
    return count_macs(plain_network(trainer.network), image)


def _write_facts(folder: Path, trainer: Any) -> None:
    import torch

    peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    rows = _rows(trainer)
    _write_table(folder / "curve.csv", ("epoch", "loss", "validation"), rows)
    seconds = [float(row["seconds"]) for row in rows]
    steps = sorted(second / trainer.num_iterations_per_epoch for second in seconds)
    facts = {
        "spatial_dims": len(trainer.configuration_manager.patch_size),
        "parameters": sum(each.numel() for each in trainer.network.parameters() if each.requires_grad),
        "train_seconds": sum(seconds),
        "epochs": len(rows),
        "step_seconds": steps[len(steps) // 2] if steps else None,
        "peak_memory_mib": peak,
        "macs": _macs(trainer),
    }
    write_json(folder / "facts.json", facts)


if __name__ == "__main__":
    with one_line_errors("medmixers"):
        {"plan": plan, "train": train}[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
