"""Stock commands from raw data to a score, each a process: plan, train, kill, resume, predict, evaluate.

About a minute on two cores; most of it is nnU-Net's start, eight times.
"""

import json
import os
import signal
import subprocess
import sysconfig
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medmixers import create_network
from medmixers.nnunet.environment import trainer_path

TRAINER = "nnUNetTrainerTokenUNet"
MODEL = ("900", "3d_fullres", "0")
AFFINE = np.diag([1.5, 1.5, 1.5, 1.0])
AFFINE[:3, 3] = 10, -20, 30


class Workplace:
    """nnU-Net's folders, and its commands run in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.raw = root / "nnUNet_raw" / "Dataset900_Cube"
        self.model = root / "nnUNet_results" / "Dataset900_Cube" / f"{TRAINER}__nnUNetPlans__3d_fullres"
        self.fold = self.model / "fold_0"
        self.environment = {
            **os.environ,
            **{name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
            "nnUNet_extTrainer": trainer_path({}),
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",  # nnU-Net takes every core: waiting threads must not spin in parallel runs
            "MEDMIXERS_ITERATIONS_PER_EPOCH": "2",
            "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH": "1",
        }

    def start(self, command: str, *arguments: str, **variables: str) -> subprocess.Popen:
        script = Path(sysconfig.get_path("scripts")) / command
        return subprocess.Popen(
            [script, *arguments],
            env={**self.environment, **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, command: str, *arguments: str, **variables: str) -> str:
        process = self.start(command, *arguments, **variables)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output[-4000:]
        return output

    def train(self, *flags: str, **variables: str) -> str:
        # The augmenter runs in this process: planning is the one command that needs a worker.
        return self.run(
            "nnUNetv2_train",
            *MODEL,
            "-tr",
            TRAINER,
            "-device",
            "cpu",
            *flags,
            nnUNet_n_proc_DA="0",
            **variables,
        )


def write_cases(raw: Path) -> None:
    """Five training and one test case of 32^3: a bright cube in noise."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (raw / folder).mkdir(parents=True)
    for index in range(6):
        part = "Tr" if index < 5 else "Ts"
        label = np.zeros((32, 32, 32), np.uint8)
        corner = rng.integers(4, 14, 3)
        label[tuple(slice(start, start + 14) for start in corner)] = 1
        image = (rng.normal(size=label.shape) + 5 * label).astype(np.float32)
        nib.save(nib.Nifti1Image(image, AFFINE), raw / f"images{part}" / f"cube_{index}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, AFFINE), raw / f"labels{part}" / f"cube_{index}.nii.gz")
    row = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "cube": 1},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(row))


def kill_in_epoch(work: Workplace, epoch: int) -> None:
    """Start a training of 40 epochs and kill it when ``epoch`` begins, between two checkpoints."""
    process = work.start(
        "nnUNetv2_train",
        *MODEL,
        "-tr",
        TRAINER,
        "-device",
        "cpu",
        nnUNet_n_proc_DA="0",
        MEDMIXERS_EPOCHS="40",
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.rstrip().endswith(f": Epoch {epoch}"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL, "".join(lines)[-4000:]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A training killed in epoch 3 of 40 and resumed to end after it; ``resumed`` holds the second output."""
    work = Workplace(tmp_path_factory.mktemp("nnunet"))
    write_cases(work.raw)
    work.run(
        "nnUNetv2_plan_and_preprocess", "-d", "900", "-c", "3d_fullres", "-npfp", "1", "-np", "1",
        "--no_pbar", "--verify_dataset_integrity",
    )  # fmt: skip
    kill_in_epoch(work, 3)
    work.resumed = work.train("--c", MEDMIXERS_EPOCHS="4")
    return work


def checkpoint(work, name):
    return torch.load(work.fold / name, map_location="cpu", weights_only=False)


def test_a_killed_training_goes_on_where_it_was(work):
    # 40 epochs save every second one, so the last checkpoint before the kill is that of epoch 1.
    assert "Epoch 2" in work.resumed
    assert ": Epoch 1\n" not in work.resumed
    final = checkpoint(work, "checkpoint_final.pth")
    assert final["current_epoch"] == 4
    assert len(final["logging"]["train_losses"]) == 4
    assert np.isfinite(final["logging"]["train_losses"]).all()
    assert final["logging"]["lrs"][2] > final["logging"]["lrs"][3] > 0


def test_saved_plans_rebuild_the_network(work):
    architecture = json.loads((work.model / "plans.json").read_text())["configurations"]["3d_fullres"]["architecture"]
    assert architecture == {
        "network_class_name": "medmixers.nnunet.architecture.create_network_from_plans",
        "arch_kwargs": {"name": "token_unet", "spatial_dims": 3},
        "_kw_requires_import": [],
    }
    plain = create_network("token_unet", spatial_dims=3, in_channels=1, out_channels=2)
    plain.load_state_dict(checkpoint(work, "checkpoint_final.pth")["network_weights"])


def test_validation_alone(work):
    summary = work.fold / "validation" / "summary.json"
    before = json.loads(summary.read_text())
    summary.unlink()
    work.train("--val")
    assert json.loads(summary.read_text())["foreground_mean"] == before["foreground_mean"]


def test_a_bad_variable_stops_the_training_with_one_line(work):
    process = work.start(
        "nnUNetv2_train",
        *MODEL,
        "-tr",
        TRAINER,
        "-device",
        "cpu",
        nnUNet_n_proc_DA="0",
        MEDMIXERS_EPOCHS="two",
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output.rstrip().endswith("ValueError: MEDMIXERS_EPOCHS must be a whole number of at least 1, got 'two'")


def test_predict_and_evaluate(work):
    out = work.root / "predictions"
    work.run(
        "nnUNetv2_predict", "-i", str(work.raw / "imagesTs"), "-o", str(out), "-d", "900", "-c", "3d_fullres",
        "-f", "0", "-tr", TRAINER, "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta",
    )  # fmt: skip
    prediction = nib.load(out / "cube_5.nii.gz")
    assert prediction.shape == (32, 32, 32)
    np.testing.assert_allclose(prediction.affine, AFFINE, atol=1e-4)
    assert set(np.unique(np.asanyarray(prediction.dataobj))) <= {0, 1}

    work.run(
        "nnUNetv2_evaluate_folder", str(work.raw / "labelsTs"), str(out), "-np", "1",
        "-djfile", str(work.model / "dataset.json"), "-pfile", str(work.model / "plans.json"),
    )  # fmt: skip
    truth = np.asanyarray(nib.load(work.raw / "labelsTs" / "cube_5.nii.gz").dataobj) == 1
    found = np.asanyarray(prediction.dataobj) == 1
    dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    assert json.loads((out / "summary.json").read_text())["foreground_mean"]["Dice"] == pytest.approx(dice)
