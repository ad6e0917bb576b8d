"""A training that is killed and resumed, one that is repeated, and one on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_helpers import run_bundle, run_here, small_options, write_dataset
from tiny_datasets import convert_tiny

from medmixers.bundle_runtime.handlers import EpochSeeds
from medmixers.bundles.catalog import BUNDLES

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run

CLASSIFIER = "chest_xray_pneumonia_classification_grouped_conv"
BUNDLES_HERE = [CLASSIFIER, "brain_tissue_segmentation_grouped_conv"]


def train(bundle: str, data: Path, out: Path, **overrides: Any) -> dict[str, torch.Tensor]:
    """The weights after the last epoch."""
    paths = {"dataset_dir": str(data), "ckpt_dir": str(out), "output_dir": str(out)}
    run_here("train", bundle=bundle, **paths, **{"epochs": 4, "val_interval": 1, "batch_size": 2, **overrides})
    return state(out)["model"]


def state(out: Path) -> dict[str, Any]:
    return torch.load(last_state(out), weights_only=True)


def last_state(out: Path) -> Path:
    return max(out.glob("resume_checkpoint_epoch=*.pt"))  # one digit here


def data_of(bundle: str, folder: Path) -> Path:
    task = BUNDLES[bundle].task_spec.name
    return convert_tiny(task, folder) if bundle == CLASSIFIER else write_dataset(folder / "Dataset001_Tiny")


def kill_in_epoch(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """Let the handler of the seeds die when that epoch begins."""
    own = EpochSeeds.__call__

    def dies(self: EpochSeeds, engine: Any) -> None:
        if engine.state.epoch == epoch:
            raise KeyboardInterrupt
        own(self, engine)

    patch.setattr(EpochSeeds, "__call__", dies)


@pytest.mark.parametrize("bundle", BUNDLES_HERE)
def test_a_killed_training_resumes_to_the_weights_of_a_whole_one(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(bundle, tmp_path / "data")
    options = {"network_def#drop_path_rate": 0.1}  # random numbers in the network too
    whole = train(bundle, data, tmp_path / "whole", **options)
    torch.rand(7)  # a repetition owes nothing to the state that the process is in
    on_disk = {"cache_dir": str(tmp_path / "cache")}  # filled by the repetition, and read after the kill
    assert_equal(train(bundle, data, tmp_path / "again", **on_disk, **options), whole)
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(bundle, data, tmp_path / "killed", **options)
    checkpoint = last_state(tmp_path / "killed")
    assert checkpoint.name == "resume_checkpoint_epoch=2.pt"
    resumed = train(bundle, data, tmp_path / "killed", **options, **on_disk, resume_ckpt=str(checkpoint))
    assert_equal(resumed, whole)
    best, expected = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("killed", "whole"))
    assert_equal(best, expected)


def test_a_resumed_training_keeps_better_weights_of_before(tmp_path: Path) -> None:
    data, models = data_of(CLASSIFIER, tmp_path / "data"), tmp_path / "models"
    train(CLASSIFIER, data, models, epochs=1)
    known = torch.load(last_state(models), weights_only=True)
    ((_, name),) = known["best_weights"]["_saved"]
    known["best_weights"]["_saved"] = [(2.0, name)]  # no F1 is better
    torch.save(known, tmp_path / "known.pt")
    best = (models / "model.pt").read_bytes()
    train(CLASSIFIER, data, models, epochs=2, resume_ckpt=str(tmp_path / "known.pt"))
    assert (models / "model.pt").read_bytes() == best
    elsewhere = tmp_path / "elsewhere"
    train(CLASSIFIER, data, elsewhere, epochs=2, resume_ckpt=str(tmp_path / "known.pt"))
    assert (elsewhere / "model.pt").is_file()  # the best of what this folder has


def assert_equal(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(weights) == list(expected)
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.slow  # of a segmentation: test_bundle_run.py
@pytest.mark.client("torchrun")
def test_two_ranks_train_a_classifier(tmp_path: Path) -> None:
    data = convert_tiny(BUNDLES[CLASSIFIER].task_spec.name, tmp_path / "data")
    small = [word for key, value in small_options(BUNDLES[CLASSIFIER]).items() for word in (f"--{key}", str(value))]
    done = run_bundle(
        tmp_path,
        "train",
        "multi_gpu_train",
        bundle=CLASSIFIER,
        small=tuple(small),
        ranks=2,
        preload=False,
        epochs="2",
        batch_size="3",
        dataset_dir=str(data),
        ckpt_dir=str(tmp_path / "models"),
        output_dir=str(tmp_path / "eval"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Iter: 3/3 -- train_loss") == 2  # 18 cases: 3 steps a rank in each of two epochs
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert weights
    assert not any(name.startswith("module.") for name in weights)
