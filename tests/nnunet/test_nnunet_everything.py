"""What else nnU-Net offers, with stock commands: regions, ignore label, cascade, PNG, folds, ensembles, zip.

Slow: `scripts/test.sh -m slow tests/nnunet`.
"""

import json

import nibabel as nib
import numpy as np
import pytest
from nnunet_workplace import AFFINE, Workplace

pytestmark = pytest.mark.slow

TINY = (
    "--network", "metaformer_segformer_s12", "--mixer", "pooling", "--depths", "1,1,1,1", "--dims", "16,16,32,32",
    "--decoder_channels", "16", "--stem_stride", "2",
)  # fmt: skip
TRAINER, PLANS = "nnUNetTrainerKeuth2025", "TinyPlans"
TRAIN = ("-tr", TRAINER, "-p", PLANS, "-device", "cpu")
PREDICT = ("-tr", TRAINER, "-p", PLANS, "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta")


def workplace(root, name):
    work = Workplace(root)
    work.raw = root / "nnUNet_raw" / f"Dataset900_{name}"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (work.raw / folder).mkdir(parents=True)
    work.environment |= {"nnUNet_n_proc_DA": "0", "MEDMIXERS_EPOCHS": "2"}
    return work


def describe(work, cases, **row):
    (work.raw / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "numTraining": cases, **row}))


def plan(work, *configurations, patch):
    work.run(
        "nnUNetv2_plan_and_preprocess", "-d", "900", "-c", *configurations, "-np", "1", "-npfp", "1", "--no_pbar",
        nnUNet_n_proc_DA="1",
    )  # fmt: skip
    text = work.medmixers("nnunet", "plan", "-d", "900", *TINY, "--plans_name", PLANS, "--patch_size", patch)
    if "preprocess first" in text:
        missing = text.split(" -c ")[1].splitlines()[0].split()
        work.run("nnUNetv2_preprocess", "-d", "900", "-plans_name", PLANS, "-c", *missing, "-np", *["1"] * len(missing))


def write_volumes(work, cases, size, *, ignore=False):
    rng = np.random.default_rng(0)
    for index in range(cases):
        label = np.zeros((size,) * 3, np.uint8)
        start = rng.integers(4, size - 24, 3)
        label[tuple(slice(s, s + 18) for s in start)] = 1
        label[tuple(slice(s + 5, s + 13) for s in start)] = 2
        image = (rng.normal(size=label.shape) + 4 * label).astype(np.float32)
        if ignore:
            label[:, :, : size // 4] = 3
        nib.save(nib.Nifti1Image(image, AFFINE), work.raw / "imagesTr" / f"c{index}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, AFFINE), work.raw / "labelsTr" / f"c{index}.nii.gz")
    nib.save(nib.Nifti1Image(image, AFFINE), work.raw / "imagesTs" / "t_0000.nii.gz")


def test_regions_with_an_ignore_label_through_the_cascade(tmp_path):
    work = workplace(tmp_path, "Regions")
    write_volumes(work, 3, 64, ignore=True)
    describe(
        work, 3, file_ending=".nii.gz", regions_class_order=[1, 2],
        labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
    )  # fmt: skip
    plan(work, "3d_fullres", patch="32,32,32")
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        work.run("nnUNetv2_train", "900", configuration, "all", *TRAIN)
    low, full = tmp_path / "low", tmp_path / "full"
    images = str(work.raw / "imagesTs")
    work.run("nnUNetv2_predict", "-i", images, "-o", str(low), "-d", "900", "-c", "3d_lowres", "-f", "all", *PREDICT)
    work.run(
        "nnUNetv2_predict", "-i", images, "-o", str(full), "-d", "900", "-c", "3d_cascade_fullres", "-f", "all",
        "-prev_stage_predictions", str(low), *PREDICT,
    )  # fmt: skip
    found = nib.load(full / "t.nii.gz")
    assert found.shape == (64,) * 3
    assert set(np.unique(np.asanyarray(found.dataobj))) <= {0, 1, 2}


def test_2d_pictures(tmp_path):
    from PIL import Image

    work = workplace(tmp_path, "Pictures")
    rng = np.random.default_rng(0)
    for index in range(6):
        label = np.zeros((72, 56), np.uint8)
        row, column = rng.integers(4, 30, 2)
        label[row : row + 20, column : column + 20] = 1
        image = (60 + 120 * label + rng.integers(0, 40, label.shape)).astype(np.uint8)
        case = work.raw / "imagesTr" / f"p{index}_0000.png" if index < 5 else work.raw / "imagesTs" / "t_0000.png"
        Image.fromarray(image).save(case)
        if index < 5:
            Image.fromarray(label).save(work.raw / "labelsTr" / f"p{index}.png")
    describe(work, 5, file_ending=".png", labels={"background": 0, "square": 1})
    plan(work, "2d", patch="64,48")
    work.run("nnUNetv2_train", "900", "2d", "0", *TRAIN, MEDMIXERS_ITERATIONS_PER_EPOCH="40")
    out = tmp_path / "out"
    work.run(
        "nnUNetv2_predict", "-i", str(work.raw / "imagesTs"), "-o", str(out), "-d", "900", "-c", "2d", "-f", "0",
        *PREDICT,
    )  # fmt: skip
    found = np.array(Image.open(out / "t.png"))
    assert 2 * (found * label).sum() / (found.sum() + label.sum()) > 0.7


def test_five_folds_best_configuration_ensemble_and_zip(tmp_path):
    work = workplace(tmp_path, "Folds")
    write_volumes(work, 5, 32)
    describe(work, 5, file_ending=".nii.gz", labels={"background": 0, "shell": 1, "core": 2})
    plan(work, "2d", "3d_fullres", patch="32,32,32")
    for configuration in ("2d", "3d_fullres"):
        for fold in range(5):
            work.run("nnUNetv2_train", "900", configuration, str(fold), "--npz", *TRAIN)
    work.run("nnUNetv2_train", "900", "3d_fullres", "0", "--val", "--val_best", "--npz", *TRAIN)
    work.run("nnUNetv2_train", "900", "3d_fullres", "0", "--c", "--npz", *TRAIN, MEDMIXERS_EPOCHS="3")
    work.run(
        "nnUNetv2_find_best_configuration", "900", "-p", PLANS, "-tr", TRAINER, "-c", "2d", "3d_fullres", "-np", "1"
    )
    results = tmp_path / "nnUNet_results" / work.raw.name
    best = json.loads((results / "inference_information.json").read_text())
    assert len(best["considered_models"]) == 2
    assert any("ensemble" in name for name in best["all_results"])

    zipped, fresh = tmp_path / "model.zip", tmp_path / "fresh_results"
    work.run(
        "nnUNetv2_export_model_to_zip", "-d", "900", "-o", str(zipped), "-c", "3d_fullres", "-f", "0", "1", "-tr",
        TRAINER, "-p", PLANS,
    )  # fmt: skip
    fresh.mkdir()
    work.run("nnUNetv2_install_pretrained_model_from_zip", str(zipped), nnUNet_results=str(fresh))
    outputs = []
    for name, variables in (("here", {}), ("there", {"nnUNet_results": str(fresh)})):
        work.run(
            "nnUNetv2_predict", "-i", str(work.raw / "imagesTs"), "-o", str(tmp_path / name), "-d", "900", "-c",
            "3d_fullres", "-f", "0", "1", *PREDICT, **variables,
        )  # fmt: skip
        outputs.append(np.asanyarray(nib.load(tmp_path / name / "t.nii.gz").dataobj))
    assert np.array_equal(*outputs)
