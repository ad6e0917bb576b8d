"""Real trainings: a bundle's in the normal suite, a whole study of both worlds, killed and resumed, in the slow one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import pytest

import preloaded

sys.path.insert(0, str(Path(__file__).parents[1] / "bundles"))
sys.path.insert(0, str(Path(__file__).parents[1] / "nnunet"))
from bundle_helpers import write_dataset
from nnunet_workplace import write_cases

from medmixers.bundle_runtime.epoch_table import NORM_COLUMNS, read_rows
from medmixers.study.engine.command import write_plan
from medmixers.study.engine.records import read_plan
from medmixers.study.engine.spec import read_spec

scores = pytest.importorskip("medmixers.study.scores", reason="the scorer of studies is not installed")

SMALL = "depths: [[1, 1, 1, 1]], dims: [[8, 8, 16, 16]]"
BRAIN = """\
  - task: brain_tissue_segmentation
    folder: brain
    name: brain
    train: {recipe: keuth2025_segmentation_short, patch_size: [16, 16, 16], batch_size: 2, gradient_norms: true}
"""
CUBE = "  - {nnunet: 900, name: cube, train: {iterations: 2, gpu_memory_gb: 0.3, gradient_norms: true}}\n"
ENTRIES = f"  - {{network: metaformer_segformer_s12, mixer: [identity, pooling], kernel_size: 3, {SMALL}}}\n"
NNUNET = "  - {nnunet: nnUNetTrainer, name: nnunet, data: cube}\n"
REST = "train: {epochs: 2}\nrun: {devices: [cpu, cpu], threads: 1}\n"


def write_study(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_dataset(folder / "brain", training=4, held_out=3)
    write_cases(folder / "nnUNet_raw" / "Dataset900_Cube")
    monkeypatch.setenv("nnUNet_raw", str(folder / "nnUNet_raw"))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = folder / "s.yaml"
    file.write_text(f"study: tiny\nquestion: {{margin: 0.01}}\n{text}")
    return file


def medmixers(*words: str | Path, python: str = sys.executable) -> subprocess.Popen:
    return subprocess.Popen(
        [python, "-m", "medmixers", *map(str, words)], text=True, env=dict(os.environ),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_a_bundle_trains_predicts_and_is_scored(tmp_path, monkeypatch):
    file = write_study(tmp_path, f"data:\n{BRAIN}entries:\n{ENTRIES}seeds: [7]\n{REST}", monkeypatch)
    out = tmp_path / "tiny"
    write_plan(read_spec(file), out, allow_underpowered=True)
    done = medmixers("study", "job", out, "brain__pooling__seed7", "--device", "cpu", python=preloaded.python())
    said, _ = done.communicate(timeout=300)
    assert done.returncode == 0, said
    assert said.splitlines()[-1] == "brain__pooling__seed7: train, predict, score"
    run = out / "runs" / "brain__pooling__seed7"
    facts = json.loads((run / "run.json").read_text())
    assert (facts["seed"], facts["epochs"], facts["device"], facts["spatial_dims"]) == (7, 2, "cpu", 3)
    assert facts["parameters"] == read_plan(out)["datasets"][0]["parameters"]["pooling"]
    assert facts["macs"] > 0
    with open(run / "curve.csv", newline="") as content:
        curve = list(csv.DictReader(content))
    assert [row["epoch"] for row in curve] == ["1", "2"]
    assert 0 <= float(curve[-1]["validation"]) <= 1
    norms = read_rows(run / "gradient_norms.csv", NORM_COLUMNS)
    assert {row["epoch"] for row in norms} == {"1", "2"}
    assert len(norms) > 2 * 10
    assert sum(float(row["mean"]) > 0 for row in norms) > 2 * 10  # pooling of a map of one voxel has no gradient
    for case in ("case_4", "case_5", "case_6"):
        prediction = nib.load(run / "predictions" / f"{case}.nii.gz")
        assert prediction.shape == nib.load(tmp_path / "brain" / "labelsTs" / f"{case}.nii.gz").shape
    config = json.loads((run / "bundle" / "configs" / "study_train.json").read_text())
    assert config["seed"] == 7
    with open(run / "scores.csv", newline="") as content:
        rows = list(csv.DictReader(content))
    assert {row["case"] for row in rows} >= {"case_4", "case_5", "case_6"}
    assert {(row["entry"], row["seed"]) for row in rows} == {("pooling", "7")}


@pytest.mark.slow
def test_a_study_of_both_worlds_killed_in_the_middle_and_resumed(tmp_path, monkeypatch):
    """Twice the same study: one is killed while it trains. The scores are the same bytes."""
    text = f"data:\n{BRAIN}{CUBE}entries:\n{ENTRIES}{NNUNET}seeds: [0, 1, 2]\n{REST}"
    file = write_study(tmp_path, text, monkeypatch)
    words = ("study", "run", file, "--allow_underpowered", "--out")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = medmixers(*words, whole)
    said, _ = first.communicate(timeout=3600)
    assert first.returncode == 0, said
    assert "all 16 jobs done" in said

    process = medmixers(*words, killed)
    while len(list(killed.glob("runs/cube__*/progress.csv"))) < 2:  # two of nnU-Net's are in training
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    before = {path: path.stat().st_mtime_ns for path in killed.glob("runs/*/train.json")}
    again = medmixers(*words, killed)
    said, _ = again.communicate(timeout=3600)
    assert again.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in before} == before  # no finished training is repeated
    assert (killed / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()
    assert len(list(killed.glob("runs/*/score.json"))) == 3 * (2 + 3)
    norms = {path.relative_to(whole): read_rows(path, NORM_COLUMNS) for path in whole.glob("runs/*/gradient_norms.csv")}
    assert len(norms) == 3 * (2 + 3)
    assert all({row["epoch"] for row in rows} == {"1", "2"} for rows in norms.values())
