"""Stock commands from raw data to a score, each a process: plan, train, kill, resume, predict, evaluate.

About a minute on two cores; most of it is the start of nnU-Net's commands and of their workers.
"""

import json
import signal
from copy import copy

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunet_workplace import AFFINE, MODEL, TRAINER, Workplace, write_cases

from medmixers import create_network

# A network that 250 iterations of the stock trainer fit in seconds, with nnU-Net's stock data.
NETWORK = ("metaformer_segformer_s12", "--mixer", "grouped_conv", "--stem_stride", "2")
NETWORK += ("--depths", "1,1,1,1", "--dims", "16,16,32,32", "--decoder_channels", "16")
PLANS = "TinyMetaFormerPlans"
STOCK_TRAINER = "nnUNetTrainer_1epoch"


def kill_in_epoch(work: Workplace, epoch: int) -> None:
    """Start a training of 40 epochs and kill it when ``epoch`` begins, between two checkpoints."""
    process = work.start_training(preload=True, MEDMIXERS_EPOCHS="40")
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
    work.run("nnUNetv2_plan_and_preprocess", "-d", "900", "-c", "3d_fullres", "-npfp", "1", "-np", "1", "--no_pbar")
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
        "arch_kwargs": {"name": "token_unet", "spatial_dims": 3, "strides": [[1] * 3, [2] * 3, [2] * 3, [2] * 3]},
        "_kw_requires_import": [],
    }
    plain = create_network("token_unet", spatial_dims=3, in_channels=1, out_channels=2, aux_heads=True)
    plain.load_state_dict(checkpoint(work, "checkpoint_final.pth")["network_weights"])
    assert json.loads((work.fold / "debug.json").read_text())["enable_deep_supervision"] == "True"


@pytest.mark.slow
def test_validation_alone(work):
    summary = work.fold / "validation" / "summary.json"
    before = json.loads(summary.read_text())
    summary.unlink()
    work.train("--val")
    assert json.loads(summary.read_text())["foreground_mean"] == before["foreground_mean"]


def test_a_bad_variable_stops_the_training_with_one_line(work):
    process = work.start_training(preload=True, MEDMIXERS_EPOCHS="two")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in output
    assert output.endswith("\nmedmixers: error: MEDMIXERS_EPOCHS must be a whole number of at least 1, got 'two'\n")


def test_predict_and_evaluate(work):
    out = work.root / "predictions"
    work.run(
        "nnUNetv2_predict", "-i", str(work.raw / "imagesTs"), "-o", str(out), "-d", "900", "-c", "3d_fullres",
        "-f", "0", "-tr", TRAINER, "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta",
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

    # a portable copy needs neither the trainers nor any folder of nnU-Net; workers read and write here, and not above
    words = ("nnunet", "portable", str(work.model), "-o", str(work.root / "portable"))
    assert "identical" in work.medmixers(*words, preload=True)
    copied = work.root / "portable_predictions"
    work.run(
        "nnUNetv2_predict_from_modelfolder", "-i", str(work.raw / "imagesTs"), "-o", str(copied), "-f", "0",
        "-m", str(work.root / "portable"), "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta",
        nnUNet_extTrainer="", nnUNet_results="", nnUNet_raw="", nnUNet_preprocessed="",
    )  # fmt: skip
    assert (copied / "cube_5.nii.gz").read_bytes() == (out / "cube_5.nii.gz").read_bytes()


@pytest.fixture(scope="module")
def planned(work):
    """A model of our plans, trained by a stock trainer on stock preprocessed data, without nnUNet_extTrainer."""
    before = {path.name for path in (work.root / "nnUNet_preprocessed" / "Dataset900_Cube").iterdir()}
    text = work.medmixers(
        "nnunet", "plan", "-d", "900", "--network", *NETWORK, "--gpu_memory_gb", "2", "--plans_name", PLANS
    )
    assert "data nnUNetPlans_3d_fullres" in text
    after = {path.name for path in (work.root / "nnUNet_preprocessed" / "Dataset900_Cube").iterdir()}
    assert after - before == {f"{PLANS}.json"}
    work.run(
        "nnUNetv2_train", *MODEL, "-p", PLANS, "-tr", STOCK_TRAINER, "-device", "cpu", "--npz",
        nnUNet_n_proc_DA="0", nnUNet_extTrainer="",
    )  # fmt: skip
    return work.root / "nnUNet_results" / "Dataset900_Cube" / f"{STOCK_TRAINER}__{PLANS}__3d_fullres" / "fold_0"


@pytest.mark.slow
def test_a_stock_trainer_learns_with_our_plans(work, planned):
    summary = json.loads((planned / "validation" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] > 0.8
    assert len(list((planned / "validation").glob("*.npz"))) == 1
    saved = torch.load(planned / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert saved["trainer_name"] == STOCK_TRAINER
    heads = [key for key in saved["network_weights"] if ".seg_layers." in key]
    assert len(heads) == 2 * 3, "weight and bias of the network's own classifier and of two auxiliary heads"


@pytest.mark.slow
def test_our_plans_predict_without_the_variable(work, planned):
    out = work.root / "planned_predictions"
    work.run(
        "nnUNetv2_predict", "-i", str(work.raw / "imagesTs"), "-o", str(out), "-d", "900", "-c", "3d_fullres",
        "-f", "0", "-p", PLANS, "-tr", STOCK_TRAINER, "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta",
        nnUNet_extTrainer="",
    )  # fmt: skip
    truth = np.asanyarray(nib.load(work.raw / "labelsTs" / "cube_5.nii.gz").dataobj) == 1
    found = np.asanyarray(nib.load(out / "cube_5.nii.gz").dataobj) == 1
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.8


@pytest.mark.slow
def test_a_run_of_one_minute_is_killed_and_uses_the_time_that_is_left(work):
    trainer = "nnUNetTrainerTokenUNet_10minutes"
    command = ("nnUNetv2_train", *MODEL, "-tr", trainer, "-device", "cpu")
    work = copy(work)
    kept = {name: value for name, value in work.environment.items() if not name.endswith("ITERATIONS_PER_EPOCH")}
    work.environment = {**kept, "MEDMIXERS_MINUTES": "1", "nnUNet_n_proc_DA": "0"}
    process = work.start(*command)
    assert process.stdout is not None
    for line in process.stdout:
        if line.rstrip().endswith(": Epoch 4"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    resumed = work.run(*command, "--c")
    assert "Epoch 4" in resumed
    assert ": Epoch 3\n" not in resumed
    assert "no mirroring" in resumed
    fold = work.root / "nnUNet_results" / "Dataset900_Cube" / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"
    final = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    logged = final["logging"]
    seconds = [
        end - start for start, end in zip(logged["epoch_start_timestamps"], logged["epoch_end_timestamps"], strict=True)
    ]
    assert len(seconds) == 10
    assert 40 < sum(seconds) < 75
    assert final["inference_allowed_mirroring_axes"] is None
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] > 0.9
