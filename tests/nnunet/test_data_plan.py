"""``bundle new --data``: spacing, patch and batch are those of nnU-Net's own commands on the same cases."""

from __future__ import annotations

import json
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from PIL import Image

from medmixers.bundles.new import new_bundle
from medmixers.bundles.planned import DataPlan
from medmixers.cli.main import main
from medmixers.nnunet.data_plan import plan_data
from medmixers.recipes import RECIPES
from medmixers.tasks import TASKS

TASK = replace(TASKS["brain_tissue_segmentation"], name="mine", spacing=None)
DESCRIPTION = {
    "channel_names": {"0": "T1"},
    "labels": {"background": 0, "grey_matter": 1, "white_matter": 2},
    "file_ending": ".nii.gz",
}
SHAPE, Z_SPACINGS = (48, 40, 8), (5.0, 5.0, 6.0, 9.0)  # x, y, z; nnU-Net's rule for anisotropy takes 5 and not 5.5


def write_volumes(folder: Path, axes: tuple[int, int, int] = (0, 1, 2)) -> Path:
    """Four cases with thick slices; in the files the patient's axes stand in the order ``axes``."""
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for index, thickness in enumerate(Z_SPACINGS):
        image = rng.normal(size=SHAPE).astype(np.float32).transpose(axes)
        affine = np.diag([1.0, 1.0, thickness, 1.0])[:, [*axes, 3]]
        nib.save(nib.Nifti1Image(image, affine), folder / "imagesTr" / f"c{index}_0000.nii.gz")
        nib.save(nib.Nifti1Image((image > 1).astype(np.uint8), affine), folder / "labelsTr" / f"c{index}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({**DESCRIPTION, "numTraining": len(Z_SPACINGS)}))
    return folder


def nnunets_own(folders: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Plans of nnU-Net's fingerprint and planner. Threads read the cases, since processes start slowly.

    The cases are listed in dataset.json: nnU-Net's search for them forks.
    """
    raw = folders / "nnUNet_raw" / "Dataset900_Own"
    description = json.loads((raw / "dataset.json").read_text())
    ending = description["file_ending"]
    names = sorted(path.name.removesuffix(ending) for path in (raw / "labelsTr").iterdir())
    rows = {name: {"images": [f"imagesTr/{name}_0000{ending}"], "label": f"labelsTr/{name}{ending}"} for name in names}
    (raw / "dataset.json").write_text(json.dumps({**description, "dataset": rows}))
    threads = SimpleNamespace(Pool=ThreadPool)
    monkeypatch.setattr(fingerprint_extractor.multiprocessing, "get_context", lambda _: threads)
    fingerprint_extractor.DatasetFingerprintExtractor(900, 1).run()
    plan_experiment_dataset(900)
    return json.loads((folders / "nnUNet_preprocessed" / "Dataset900_Own" / "nnUNetPlans.json").read_text())


def test_plan_is_nnunets(nnunet_folders, monkeypatch, capsys):
    folder = write_volumes(nnunet_folders / "nnUNet_raw" / "Dataset900_Own")
    plans = nnunets_own(nnunet_folders, monkeypatch)
    row, back = plans["configurations"]["3d_fullres"], plans["transpose_backward"]
    x_y_z = {key: [row[key][axis] for axis in back][::-1] for key in ("spacing", "patch_size")}
    plan = plan_data(folder, TASK)
    assert plan.spacing == pytest.approx(x_y_z["spacing"], abs=1e-5) == (1.0, 1.0, 5.0)
    assert plan.median_spacing == (1.0, 1.0, 5.5)
    assert list(plan.patch_size) == x_y_z["patch_size"]
    assert plan.batch_size == row["batch_size"]
    turned = plan_data(write_volumes(nnunet_folders / "turned", axes=(2, 0, 1)), TASK)
    assert turned == plan
    capsys.readouterr()

    (nnunet_folders / "task.yaml").write_text(YAML)
    words = ["--network", "metaformer_segformer_s12", "--mixer", "random_mixing", "--stem_stride", "2"]
    main(
        [
            "bundle",
            "new",
            str(nnunet_folders / "task.yaml"),
            *words,
            "--data",
            str(folder),
            "--out",
            str(nnunet_folders),
        ]
    )
    said = capsys.readouterr().out
    assert "spacing 1 x 1 x 5 mm: median of the cases, along z their 10 % percentile" in said
    assert "cut to 32 per axis: random_mixing" in said
    config = json.loads((nnunet_folders / "mine_random_mixing" / "configs" / "train.json").read_text())
    assert config["roi_size"] == [min(edge, 32) for edge in plan.patch_size]
    assert (config["batch_size"], config["accumulate_batches"]) == (plan.batch_size, 1)
    assert (config["num_iterations_per_epoch"], config["cache_rate"]) == (250, 1.0)
    (resampling,) = (t for t in config["train"]["deterministic_transforms"] if t["_target_"].endswith(".Spacingd"))
    assert resampling["pixdim"] == [1.0, 1.0, 5.0]
    assert "num_iterations_per_epoch 250" in (nnunet_folders / "mine_random_mixing" / "docs" / "README.md").read_text()


YAML = """\
name: mine
title: Mine
task: segmentation
modality: MR
spatial_dims: 3
channels: [T1]
labels: [background, grey_matter, white_matter]
intensity: zscore
licence: ours
citation: none
data_source: here
intended_use: Research.
limits: Not for clinical use.
"""


def test_what_a_person_gives_stays(nnunet_folders):
    folder = write_volumes(nnunet_folders / "data")
    plan = plan_data(folder, replace(TASK, spacing=(2.0, 2.0, 4.0)))
    assert plan.spacing == (1.0, 1.0, 5.0)
    assert plan.median_size == (24, 20, 11)  # 8 slices of 5.5 mm at 4 mm, at the task's spacing
    said: list[str] = []
    given = {"roi_size": (16, 16, 8), "recipe": "short", "network": "token_unet"}
    made = new_bundle(
        replace(TASK, spacing=(2.0, 2.0, 4.0)), out=nnunet_folders, plan=plan, announce=said.append, **given
    )
    config = json.loads((made / "configs" / "train.json").read_text())
    assert (config["roi_size"], config["epochs"], config["batch_size"]) == ([16, 16, 8], 30, 1)
    assert config["num_iterations_per_epoch"] is None
    assert [line.partition(":")[2].split(" (")[0] for line in said[:3]] == [
        " of the task",
        " as given",
        " of the recipe",
    ]


def test_pictures_keep_their_pixels(nnunet_folders, monkeypatch):
    folder = nnunet_folders / "nnUNet_raw" / "Dataset900_Own"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for index in range(3):
        label = np.zeros((40, 64), np.uint8)
        label[5:20, 10:30] = 1
        Image.fromarray(label * 100 + 1).save(folder / "imagesTr" / f"c{index}_0000.png")
        Image.fromarray(label).save(folder / "labelsTr" / f"c{index}.png")
    (folder / "dataset.json").write_text(json.dumps({**DESCRIPTION, "numTraining": 3, "file_ending": ".png"}))
    row = nnunets_own(nnunet_folders, monkeypatch)["configurations"]["2d"]
    plan = plan_data(folder, replace(TASK, spatial_dims=2, intensity="unit"))
    assert (plan.spacing, plan.median_size) == (None, (64, 40))
    assert list(plan.patch_size) == row["patch_size"][::-1] == [64, 40]
    assert plan.batch_size == row["batch_size"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ("T1", "T2")}, "has 1 channels, task 'mine' has 2"),
        (
            {"labels": dict(list(TASK.labels.items())[:2]), "codes": None},
            r"has the labels \[0, 1, 2\], task 'mine' has \[0, 1\]",
        ),
        ({"spatial_dims": 2}, "are 3D, task 'mine' is 2D"),
    ],
)
def test_data_of_another_task_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plan_data(write_volumes(tmp_path / "data"), replace(TASK, **change))


def test_whole_images_get_a_batch_of_five_percent(tmp_path):
    said: list[str] = []
    task = replace(TASKS["skin_lesion_classification"], name="mine")
    for cases, batch in ((300, 15), (20, 2)):
        plan = DataPlan(cases=cases, batch_size=batch, batch_rule="nnU-Net's")
        made = new_bundle(task, network="metaformer_s12", out=tmp_path / str(cases), plan=plan, announce=said.append)
        config = json.loads((made / "configs" / "train.json").read_text())
        assert (config["batch_size"], config["num_iterations_per_epoch"]) == (batch, None)
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [], "validation": [], "test": []}))
    with pytest.raises(ValueError, match="no training case"):
        plan_data(tmp_path, task)


def test_help_and_list_name_every_recipe(capsys):
    for words in (["bundle", "new", "--help"], ["list", "recipes"]):
        main(words)
        said = " ".join(capsys.readouterr().out.split())
        assert [name for name in RECIPES if name not in said] == []
