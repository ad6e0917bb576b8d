"""Handlers of the training and of the prediction. Resumed trainings are in tests/bundles/test_resume.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import tqdm
from bundle_helpers import BRAIN, last_words, run_here, write_dataset
from ignite.engine import Engine, Events
from monai.transforms import Compose, RandFlip

from medmixers.bundle_runtime.handlers import EarlyStop, EpochSeeds, Progress

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "Dataset001_Tiny", training=6, held_out=0)
    out = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval")}
    with pytest.raises(SystemExit) as error:
        run_here("train", bundle=BRAIN, dataset_dir=str(data), epochs=1, batch_size=1, learning_rate=1e30, **out)
    assert re.fullmatch(
        r"medmixers: error: the loss is (nan|inf) in epoch 1, iteration \d of \d: look for NaN in the images "
        r"\(`medmixers dataset check DATA` reads every voxel\), or lower --learning_rate",
        last_words(error),
    )
    assert not list((tmp_path / "models").glob("*.pt"))


def test_an_epoch_draws_the_same_numbers_whatever_was_drawn_before() -> None:
    drawn: dict[int, list[float]] = {}
    transforms = Compose([RandFlip(prob=0.5)])

    def draw(engine: Engine, batch: object) -> None:
        numbers = [float(torch.rand(())), float(transforms.transforms[0].R.rand())]
        drawn.setdefault(engine.state.epoch, []).extend(numbers)

    for first in (1, 2):  # the second training starts at its second epoch
        engine = Engine(draw)
        EpochSeeds(seed=5, transforms=transforms).attach(engine)
        engine.add_event_handler(Events.STARTED, lambda engine, first=first: setattr(engine.state, "epoch", first - 1))
        engine.run([0], max_epochs=3)
    assert drawn[2][:2] == drawn[2][2:]
    assert drawn[3][:2] == drawn[3][2:]
    assert drawn[1] != drawn[2][:2]
    assert torch.initial_seed() == 5 + 3000


def test_early_stop_waits_for_its_patience() -> None:
    scores = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    validator = Engine(lambda engine, batch: None)
    validator.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(val_f1=next(scores)))
    trainer = Engine(lambda engine, batch: None)
    EarlyStop(validator=validator, metric="val_f1", patience=2).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: validator.run([0]))
    assert trainer.run([0], max_epochs=5).epoch == 4


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(lambda engine, batch: None)
    Progress("predict").attach(engine)
    engine.run([0, 0, 0])
    assert capsys.readouterr() == ("", "")
    own = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: own(**{**options, "disable": False, "mininterval": 0}))
    engine.run([0, 0, 0])
    shown = capsys.readouterr().err
    assert "predict:   0%" in shown
    assert "3/3" in shown
