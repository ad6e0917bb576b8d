"""Weights and states of a training are written whole, whatever ends the process."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import last_words
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from PIL import Image

import preloaded
from medmixers.bundle_runtime.cases import case_name
from medmixers.bundle_runtime.checkpoint_files import WholeFiles
from medmixers.bundle_runtime.handlers import TrainingState, WeightAverage
from medmixers.bundle_runtime.preflight_weights import check_state
from medmixers.bundle_runtime.saving import best_weights_saver, label_writer, mask_saver
from medmixers.errors import InputError

BYTES = 100_000


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of this process end at BYTES, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def weights(size: int, value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"w": torch.full((size,), value)}


def test_a_full_disk_keeps_the_weights_of_before(tmp_path: Path, small_disk: None) -> None:
    save = WholeFiles(tmp_path, "model.pt")
    save(weights(10), "ignored")
    save.remove("ignored")  # what ignite calls before it writes the next
    with pytest.raises(SystemExit) as error:
        save(weights(BYTES), "ignored")
    assert "model.pt' cannot be written, is the disk full? " in last_words(error)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert torch.equal(torch.load(tmp_path / "model.pt")["w"], torch.ones(10))


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
@pytest.mark.parametrize("saver", ["label map", "masks"])
def test_predictions_are_written_whole(
    saver: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in the middle of a write keeps the file of before, and leaves nothing else."""
    shared = {"output_dir": str(tmp_path), "output_ext": ending, "output_dtype": np.uint8, "separate_folder": False}
    if saver == "masks":
        names = ["left", "right"]
        save = mask_saver(
            keys="pred", label_names=names, volumes=ending != ".png", output_name_formatter=case_name, **shared
        )
    else:
        writer = label_writer(output_ext=ending)
        save = SaveImaged(keys="pred", output_postfix="", output_name_formatter=case_name, writer=writer, **shared)
    shape = (8, 6) if ending == ".png" else (8, 6, 1)

    def predict(value: int) -> None:
        channels = 2 if saver == "masks" else 1
        save({"pred": MetaTensor(torch.full((channels, *shape), value), meta={"filename_or_obj": f"case{ending}"})})

    predict(1)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == (2 if saver == "masks" else 1)
    own_save, own_bytes = Image.Image.save, nib.save

    def torn(write: Callable[..., None], place: int) -> Callable[..., None]:
        def half(*arguments: Any, **options: Any) -> None:
            write(*arguments, **options)
            os.truncate(arguments[place], 10)
            raise OSError("no space left on the device")

        return half

    monkeypatch.setattr(Image.Image, "save", torn(own_save, 1))
    monkeypatch.setattr(nib, "save", torn(own_bytes, 1))
    with pytest.raises(Exception, match=r"no space left|applying transform"):
        predict(0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


KILLED = """
import os, signal, sys, torch
from medmixers.bundle_runtime.checkpoint_files import WholeFiles
own = torch.save
def half(content, path):
    own(content, path)
    os.truncate(path, 1000)
    os.kill(os.getpid(), signal.SIGKILL)
save = WholeFiles(sys.argv[1], "model.pt")
save({"w": torch.ones(10)}, "")
torch.save = half
save({"w": torch.zeros(10_000)}, "")
"""


def test_a_kill_in_the_middle_of_a_write_keeps_the_weights_of_before(tmp_path: Path) -> None:
    done = subprocess.run([preloaded.python(), "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert torch.equal(torch.load(tmp_path / "model.pt")["w"], torch.ones(10))
    WholeFiles(tmp_path, "model.pt")(weights(20), "")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]  # nothing is left of the killed one


def engines(folder: Path) -> tuple[Engine, torch.nn.Module]:
    """A trainer that saves its state after every epoch, and its network."""
    network, trainer, validator = torch.nn.Linear(3, 2), Engine(lambda engine, batch: None), Engine(lambda *_: None)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    best = best_weights_saver(save_dir=str(folder), save_dict={"model": network})
    best.attach(validator)
    validator.state.key_metric_name = "score"
    TrainingState(
        save_dir=str(folder),
        interval=1,
        resume_ckpt=None,
        device="cpu",
        network=network,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        best_weights=best,
        average=WeightAverage(network=network, validator=validator, decay=0.0),
    ).attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        validator.state.metrics["score"] = engine.state.epoch
        best.metrics_completed(validator)

    return trainer, network


def test_a_torn_state_names_the_one_before(tmp_path: Path) -> None:
    (tmp_path / ".model.pt.partial-killed").mkdir()
    trainer, network = engines(tmp_path)
    trainer.run([0], max_epochs=11)
    states = [f"resume_checkpoint_epoch={epoch}.pt" for epoch in (10, 11)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", *states]
    newest = tmp_path / states[1]
    check_state(str(newest), network, epochs=11)
    newest.write_bytes(newest.read_bytes()[:-500])
    with pytest.raises(InputError, match=f"take the state before it: --resume_ckpt .*{states[0]}$"):
        check_state(str(newest), network, epochs=11)


def test_a_second_training_in_one_folder_is_refused(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from medmixers.files import held\n"
    hold += "with held(Path(sys.argv[1]) / '.training.lock', Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        trainer, _ = engines(tmp_path)
        with pytest.raises(SystemExit) as error:
            trainer.run([0], max_epochs=1)
        first.kill()
    assert f"{tmp_path} is being written by process {first.pid} on " in last_words(error)
    trainer, _ = engines(tmp_path)
    trainer.run([0], max_epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "resume_checkpoint_epoch=1.pt"]
