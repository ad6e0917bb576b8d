"""The committed bundle as a user runs it: subprocesses, a foreign working directory, an oblique data set."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import SHAPE, run_bundle, save, write_dataset

from medmixers.bundles.verify.synthetic import oblique_affine


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, and a bundle trained on it for two epochs."""
    folder = tmp_path_factory.mktemp("bundle")
    write_dataset(folder / "Dataset001_Tiny")
    done = run_bundle(folder, "train", epochs="2", val_interval="1", preload=False, **paths(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def paths(folder: Path) -> dict[str, str]:
    names = {"dataset_dir": "Dataset001_Tiny", "ckpt_dir": "models", "output_dir": "eval"}
    return {key: str(folder / name) for key, name in names.items()}


def test_training_saves_flat_weights_and_a_state(work: Path) -> None:
    weights = torch.load(work / "models" / "model.pt", weights_only=True)
    assert weights
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    state = torch.load(work / "models" / "resume_checkpoint_epoch=2.pt", weights_only=True)
    assert set(state) == {"model", "optimizer", "lr_scheduler", "trainer", "best_weights", "average"}
    assert list(state["model"]) == list(weights)


def test_resume_goes_on_where_training_stopped(work: Path) -> None:
    done = run_bundle(
        work,
        "train",
        epochs="3",
        val_interval="2",  # so the last epoch validates because it is the last
        resume_ckpt=str(work / "models" / "resume_checkpoint_epoch=2.pt"),
        **{**paths(work), "ckpt_dir": str(work / "resumed")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Epoch: 3/3" in done.stdout
    assert "Epoch: 1/3" not in done.stdout
    assert "Epoch[3] Metrics -- val_mean_dice" in done.stdout
    assert (work / "resumed" / "model.pt").is_file()


def test_two_ranks_share_the_training_cases_and_stop_together(work: Path) -> None:
    done = run_bundle(
        work,
        "train",
        "multi_gpu_train",
        ranks=2,
        epochs="4",
        val_interval="1",
        learning_rate="0",
        early_stop="True",
        patience="1",
        **{**paths(work), "ckpt_dir": str(work / "two_ranks")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # 3 cases: 2 steps a rank; only the first rank says so; standing still, both stop after the second epoch
    assert done.stdout.count("Iter: 2/2 -- train_loss") == 2
    weights = torch.load(work / "two_ranks" / "model.pt", weights_only=True)
    assert list(weights) == list(torch.load(work / "models" / "model.pt", weights_only=True))


def test_evaluation_and_inference_agree_in_the_geometry_of_the_images(work: Path) -> None:
    evaluated = run_bundle(work, "train", "evaluate", **paths(work))
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    predicted = run_bundle(
        work,
        "inference",
        dataset_dir=str(work / "Dataset001_Tiny"),
        ckpt_path=str(work / "models" / "model.pt"),
        output_dir=str(work / "predictions"),
    )
    assert predicted.returncode == 0, predicted.stderr[-3000:]

    with open(work / "eval" / "val_mean_dice_raw.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(path.name for path in (work / "predictions").iterdir()) == [
        "case_4.nii.gz",
        "case_5.nii.gz",
    ]
    for name, row in zip(("case_4", "case_5"), rows, strict=True):
        prediction = nib.load(work / "predictions" / f"{name}.nii.gz")
        assert name in row["filename"]
        assert prediction.shape == SHAPE
        assert prediction.get_data_dtype() == np.uint8
        np.testing.assert_allclose(prediction.affine, oblique_affine(), atol=1e-5)
        label = np.asanyarray(nib.load(work / "Dataset001_Tiny" / "labelsTs" / f"{name}.nii.gz").dataobj)
        dice = [mean_dice(np.asanyarray(prediction.dataobj) == k, label == k) for k in (1, 2)]
        np.testing.assert_allclose([float(row["class0"]), float(row["class1"])], dice, atol=1e-3)


def test_openvino_predicts_the_same(work: Path) -> None:
    paths = {"dataset_dir": str(work / "Dataset001_Tiny"), "ckpt_path": str(work / "models" / "model.pt")}
    for folder, configs in (("by_torch", ["inference"]), ("by_openvino", ["inference", "inference_openvino"])):
        done = run_bundle(work, *configs, output_dir=str(work / folder), **paths)
        assert done.returncode == 0, done.stderr[-3000:]
    for file in sorted((work / "by_torch").iterdir()):
        expected, found = nib.load(file), nib.load(work / "by_openvino" / file.name)
        assert np.array_equal(expected.affine, found.affine)
        assert np.mean(np.asanyarray(expected.dataobj) == np.asanyarray(found.dataobj)) > 0.999


def mean_dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_bad_input_ends_in_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    done = run_bundle(tmp_path, "train", dataset_dir=str(missing), ckpt_dir=str(tmp_path / "models"))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"medmixers: error: there is no data set folder {missing}")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_weights_of_other_options_end_in_one_line(work: Path) -> None:
    weights = str(work / "models" / "model.pt")
    done = run_bundle(work, "inference", **{**paths(work), "ckpt_path": weights, "kernel_size": "5"})
    assert done.returncode == 2
    assert "model.pt' holds the weights of another network, or of other options" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_untrained_bundle_refuses_to_predict(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    save(tmp_path / "images" / "case_0000.nii.gz", np.zeros(SHAPE, np.float32))
    done = run_bundle(tmp_path, "inference", ckpt_path=str(tmp_path / "model.pt"))
    assert done.returncode == 2
    assert "this bundle is untrained" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
