"""Trainers whose run is given in minutes: length, learning rate, batch, and what they refuse."""

import math
import os
from copy import deepcopy

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunets_module

from medmixers.errors import InputError
from medmixers.nnunet import timed
from medmixers.nnunet.timed import smaller_batch
from medmixers.nnunet.trainer_classes import TRAINERS

CPU = torch.device("cpu")
NAME = "nnUNetTrainerTokenUNet_10minutes"


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timed.time, "monotonic", clock)
    monkeypatch.setattr(nnunets_module, "time", clock)
    return clock


def trainer_of(plans, dataset_json, clock, monkeypatch, *, step=0.5, validation=2.0):
    """A trainer whose steps and validations only take time; ``rates`` are those of its updates."""
    trainer = TRAINERS[NAME](deepcopy(plans), "3d_fullres", "all", dataset_json, CPU)
    trainer.network = torch.nn.Linear(1, 1)
    trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
    trainer.was_initialized, trainer.rates = True, []
    trainer.dataloader_train = trainer.dataloader_val = iter(lambda: None, 0)

    def train_step(_):
        clock.now += step
        trainer.optimizer.step()
        trainer.rates.append(trainer.optimizer.param_groups[0]["lr"])
        return {"loss": np.float32(0.5)}

    def validation_step(_):
        clock.now += validation / trainer.num_val_iterations_per_epoch
        return {"loss": np.float32(0.5), "tp_hard": np.ones(1), "fp_hard": np.ones(1), "fn_hard": np.ones(1)}

    quiet = {"on_train_start": None, "on_train_end": None, "save_checkpoint": None, "print_to_log_file": None}
    for name in quiet:
        monkeypatch.setattr(trainer, name, lambda *_, **__: None)
    monkeypatch.setattr(trainer.logger, "plot_progress_png", lambda *_: None)
    monkeypatch.setattr(trainer, "train_step", train_step)
    monkeypatch.setattr(trainer, "validation_step", validation_step)
    return trainer


def test_a_run_takes_its_minutes(nnunet_folders, stock_plans, dataset_json, clock, monkeypatch):
    trainer = trainer_of(stock_plans, dataset_json, clock, monkeypatch)
    trainer.run_training()
    assert trainer.current_epoch == trainer.num_epochs == 10
    assert clock.now - 1000 == pytest.approx(600, abs=5)
    assert len(trainer.rates) == pytest.approx((600 - 10 * 2) / 0.5, abs=10)


def test_a_slow_step_leaves_one_iteration_per_epoch(nnunet_folders, stock_plans, dataset_json, clock, monkeypatch):
    trainer = trainer_of(stock_plans, dataset_json, clock, monkeypatch, step=500.0)
    trainer.run_training()
    assert len(trainer.rates) == timed.TIMED_STEPS + 10


def test_the_rate_changes_with_each_step(nnunet_folders, stock_plans, dataset_json, clock, monkeypatch):
    trainer = trainer_of(stock_plans, dataset_json, clock, monkeypatch)
    trainer.run_training()
    rates = trainer.rates[timed.TIMED_STEPS :]
    highest = int(np.argmax(rates))
    assert max(rates) == pytest.approx(3e-3)
    assert highest == pytest.approx(len(rates) / 10, abs=6)
    assert rates[:highest] == sorted(rates[:highest])
    half_way = 3e-3 * (1 + math.cos(math.pi * 0.4 / 0.9)) / 2
    assert rates[len(rates) // 2] == pytest.approx(half_way, rel=0.02)
    assert rates[-1] < 1e-6


def test_a_resumed_run_takes_the_time_that_is_left(nnunet_folders, stock_plans, dataset_json, clock, monkeypatch):
    killed = trainer_of(stock_plans, dataset_json, clock, monkeypatch)
    ends_epoch = killed.on_epoch_end

    def killed_after_the_fourth():
        ends_epoch()
        if killed.current_epoch == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(killed, "on_epoch_end", killed_after_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        killed.run_training()

    clock.now = resumed_at = 9000.0  # the computer was off
    resumed = trainer_of(stock_plans, dataset_json, clock, monkeypatch)
    resumed.logger.load_checkpoint(killed.logger.get_checkpoint())
    resumed.current_epoch = 4
    resumed.run_training()
    assert clock.now - resumed_at == pytest.approx(360, abs=5)
    assert resumed.rates[timed.TIMED_STEPS] == pytest.approx(killed.rates[-1], rel=0.02)


def test_minutes_come_from_the_environment(nnunet_folders, stock_plans, dataset_json, clock, monkeypatch):
    monkeypatch.setenv("MEDMIXERS_MINUTES", "3")
    trainer = trainer_of(stock_plans, dataset_json, clock, monkeypatch)
    trainer.run_training()
    assert clock.now - 1000 == pytest.approx(180, abs=5)


@pytest.mark.parametrize(
    ("name", "variable", "value", "message"),
    [
        (NAME, "MEDMIXERS_MINUTES", "0", "MEDMIXERS_MINUTES must be a whole number of at least 1, got '0'"),
        (NAME, "MEDMIXERS_MINUTES", "2.5", "MEDMIXERS_MINUTES must be a whole number of at least 1, got '2.5'"),
        (NAME, "MEDMIXERS_EPOCHS", "7", f"{NAME} counts minutes .MEDMIXERS_MINUTES., not epochs"),
        ("nnUNetTrainerTokenUNet", "MEDMIXERS_MINUTES", "7", "nnUNetTrainerTokenUNet counts epochs, not minutes"),
    ],
)
def test_a_length_of_the_other_kind_is_refused(
    name, variable, value, message, nnunet_folders, stock_plans, dataset_json, monkeypatch
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=message):
        TRAINERS[name](stock_plans, "2d", "all", dataset_json, CPU)
    assert not list(nnunet_folders.iterdir()), "a refused run must leave nothing behind"


@pytest.mark.parametrize(
    ("batch", "patch", "voxels", "expected"),
    [
        (2, [48, 64, 48], 294_912, (2, [48, 64, 48])),
        (2, [96, 112, 96], 294_912, (2, [48, 48, 56])),
        (2, [20, 256, 256], 294_912, (2, [20, 80, 88])),  # thick slices keep their number
        (49, [256, 256], 294_912, (4, [256, 256])),
        (12, [512, 512], 294_912, (2, [384, 384])),
        (1, [64, 64, 64], 294_912, (1, [64, 64, 64])),
        (2, [128, 128, 128], 1, (2, [16, 16, 16])),
        (2, [12, 128, 128], 1, (2, [12, 16, 16])),
    ],
)
def test_a_batch_shrinks_to_so_many_voxels(batch, patch, voxels, expected):
    found = smaller_batch(batch, patch, voxels=voxels)
    assert found == expected
    assert found[0] * math.prod(found[1]) <= voxels or max(found[1]) == timed.SMALLEST_EDGE


def test_only_a_cpu_trains_smaller_batches(nnunet_folders, stock_plans, dataset_json):
    stock_plans["configurations"]["3d_fullres"].update(patch_size=[96, 112, 96], batch_size=3)
    trainer = TRAINERS[NAME](deepcopy(stock_plans), "3d_fullres", "all", dataset_json, CPU)
    row = trainer.configuration_manager
    assert (row.batch_size, row.patch_size) == (2, [48, 48, 56])
    assert "batches of 2 patches of 48 x 48 x 56 instead of batches of 3 patches of 96 x 112 x 96" in "\n".join(
        trainer.choices()
    )
    on_gpu = trainer._with_network(stock_plans, "3d_fullres", torch.device("cuda"))["configurations"]["3d_fullres"]
    assert (on_gpu["batch_size"], on_gpu["patch_size"]) == (3, [96, 112, 96])


def test_no_mirroring_and_more_foreground(nnunet_folders, stock_plans, dataset_json):
    trainer = TRAINERS[NAME](stock_plans, "3d_fullres", "all", dataset_json, CPU)
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] is None
    assert trainer.inference_allowed_mirroring_axes is None  # nnU-Net saves it with the weights
    assert trainer.oversample_foreground_percent == 0.67


def test_a_cpu_augments_in_the_training_process(nnunet_folders, stock_plans, dataset_json, monkeypatch):
    monkeypatch.setattr(nnunets_module.nnUNetTrainer, "get_dataloaders", lambda _: os.environ[timed.LOADERS_VARIABLE])
    trainer = TRAINERS[NAME](stock_plans, "3d_fullres", "all", dataset_json, CPU)
    monkeypatch.setenv(timed.LOADERS_VARIABLE, "3")
    assert trainer.get_dataloaders() == "3"
    monkeypatch.delenv(timed.LOADERS_VARIABLE)
    assert trainer.get_dataloaders() == "0"
    monkeypatch.delenv(timed.LOADERS_VARIABLE)
