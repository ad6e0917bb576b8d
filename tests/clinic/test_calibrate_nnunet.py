"""``medmixers clinic calibrate`` with a model of nnU-Net: each case by the fold that held it out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import trained_models
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from medmixers.clinic.uncertainty import calibrate, split
from medmixers.clinic.uncertainty.calibrate import write_calibration
from medmixers.clinic.uncertainty.calibration import read_calibration
from medmixers.clinic.uncertainty.command import write_uncertainty
from medmixers.errors import InputError, MissingFileError

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's and nnU-Net's
HELD_OUT = {"0": ("a", "b"), "1": ("c",)}  # cases d and e are of the training
TEMPERATURE = 0.15  # by which the labels are drawn from the probabilities


def trained(folder: Path, **dataset: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(folder / name))
        return trained_models.train(folder, nnUNetTrainer, **dataset)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("model"))


def write_dataset(folder: Path, model: Path) -> Path:
    """Labels drawn from the probabilities of nnU-Net's own prediction by the fold that holds a case out."""
    description = json.loads((model / "dataset.json").read_text())
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in "abcde":
        for channel, scale in enumerate((1.0, 100.0)):
            voxels = scale * rng.normal(1, 1, (18, 22, 20)).astype(np.float32)
            file = folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
            nib.save(nib.Nifti1Image(voxels, trained_models.OBLIQUE), file)
        fold = next((fold for fold, names in HELD_OUT.items() if name in names), "0")
        (p,) = probabilities(model, folder, [name], fold)
        q = p.astype(np.float64) ** (1 / TEMPERATURE)
        if "regions_class_order" in description:
            drawn = rng.random(q.shape) < q / (q + (1 - p.astype(np.float64)) ** (1 / TEMPERATURE))
            label = drawn[0] + 2 * drawn[1]
        else:
            label = (rng.random(p.shape[1:]) > np.cumsum(q / q.sum(0), axis=0)).sum(axis=0)
        if "ignore" in description["labels"]:
            label[:9] = 4
        image = nib.Nifti1Image(label.transpose(2, 1, 0).astype(np.uint8), trained_models.OBLIQUE)
        nib.save(image, folder / "labelsTr" / f"{name}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(description | {"numTraining": 5}))
    return folder


def probabilities(model: Path, dataset: Path, names: list[str], fold: str) -> list[np.ndarray]:
    """(K, Z, Y, X) of each case, as nnU-Net's predictor has them."""
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (int(fold),))
    files = [[str(dataset / "imagesTr" / f"{name}_{channel:04d}.nii.gz") for channel in (0, 1)] for name in names]
    return [p for _, p in predictor.predict_from_files_sequential(files, None, save_probabilities=True)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "Dataset901_Made", model)


def copied(model: Path, folder: Path) -> Path:
    """With nnU-Net's scores of each fold's validation."""
    copy = folder / model.name
    shutil.copytree(model, copy)
    for fold, names in HELD_OUT.items():
        (copy / f"fold_{fold}" / "validation").mkdir()
        rows = [{"prediction_file": f"/elsewhere/validation/{name}.nii.gz"} for name in names]
        summary = copy / f"fold_{fold}" / "validation" / "summary.json"
        summary.write_text(json.dumps({"metric_per_case": rows}))
    return copy


def test_the_temperature_is_that_of_the_fold_that_held_a_case_out(model: Path, dataset: Path, tmp_path: Path) -> None:
    copy = copied(model, tmp_path)
    said = write_calibration([copy], dataset, device="cpu")
    found = read_calibration(copy / "calibration.json")
    assert found.temperature == pytest.approx(TEMPERATURE, rel=0.03)
    assert (found.cases, found.folds) == (3, 2)
    assert found.error[1] < 0.01 < found.error[0]
    assert [each.name for each in found.structures] == ["shell", "core"]
    assert found.training_images is not None
    assert found.training_images.count == 5
    np.testing.assert_allclose(found.training_images.spacing[0], [1.1, 0.9, 2.7], rtol=1e-5)
    assert "predictions average 2 folds, which are together less sure" in said
    assert (copy / "calibration.svg").is_file()

    said = write_uncertainty([copy], dataset / "imagesTr", tmp_path / "out", device="cpu")
    facts = json.loads((tmp_path / "out" / "uncertainty" / "a.json").read_text())
    assert facts["calibrated"]
    assert facts["members"] == 2
    assert facts["calibration"]["folds"] == 2
    assert facts["unlike_training_data"] == []
    assert "not calibrated" not in said


@pytest.mark.slow
def test_one_fold_by_the_split_of_the_data_set(
    model: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in nnU-Net's preprocessed folder, and of a bundle of the model, which has no scores."""
    splits = json.dumps([{"train": ["d", "e"], "val": names} for names in HELD_OUT.values()])
    data = tmp_path / dataset.name
    shutil.copytree(dataset, data)
    (data / "splits_final.json").write_text(splits)
    by_data = write_calibration([model], data, out=tmp_path / "one.json", fold=1, device="cpu")
    (data / "splits_final.json").unlink()
    (tmp_path / "preprocessed" / dataset.name).mkdir(parents=True)
    (tmp_path / "preprocessed" / dataset.name / "splits_final.json").write_text(splits)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    by_preprocessed = write_calibration([model], data, out=tmp_path / "two.json", fold=1, device="cpu")
    assert by_data.splitlines()[:3] == by_preprocessed.splitlines()[:3]
    found = read_calibration(tmp_path / "one.json")
    assert found.cases == 1
    assert found.temperature == pytest.approx(TEMPERATURE, rel=0.05)


@pytest.mark.slow
def test_regions(tmp_path: Path) -> None:
    """That overlap freely: value 3 is of both. Voxels to ignore count for none."""
    labels = {"background": 0, "left": [1, 3], "right": [2, 3]}
    model = trained(tmp_path, labels=labels, regions_class_order=[1, 2])
    description = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps(description | {"labels": labels | {"ignore": 4}}))
    data = write_dataset(tmp_path / "Dataset901_Made", model)
    write_calibration([copied(model, tmp_path / "copy")], data, out=tmp_path / "found.json", device="cpu")
    found = read_calibration(tmp_path / "found.json")
    assert [each.name for each in found.structures] == ["left", "right"]
    assert found.error[1] < 0.01 < found.error[0]
    assert found.temperature == pytest.approx(TEMPERATURE, rel=0.03)


def test_models_of_other_splits_are_not_calibrated_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One would have been trained on the validation cases of the other."""
    splits = iter([["a"], ["b"]])
    monkeypatch.setattr(
        calibrate, "read_split", lambda *_: split.Split([], [{"image": next(splits)}], lambda case: case)
    )
    first, second = (SimpleNamespace(bundle=SimpleNamespace(source=Path(name))) for name in ("one.zip", "two.zip"))
    with pytest.raises(InputError, match=r"two\.zip and one\.zip were validated with other cases"):
        calibrate._common_split(SimpleNamespace(predictors=[first, second], bundle=first.bundle), tmp_path, None)


def test_what_nothing_can_be_fitted_on_is_said_in_a_line(model: Path, dataset: Path, tmp_path: Path) -> None:
    copy = copied(model, tmp_path)
    other = tmp_path / "Dataset902_Other"
    shutil.copytree(dataset, other)
    description = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(description | {"labels": {"background": 0, "shell": 1, "rim": 2}}))
    for source, data, fold, message in (
        (copy, other, None, r"Dataset902_Other is not the data set of .*: its dataset.json has other labels"),
        (copy, dataset, 4, r"has no fold 4; it has 0, 1"),
        (model, dataset, None, r"nothing says which cases fold 0 of .* put nnU-Net's splits_final.json, of its"),
    ):
        with pytest.raises((InputError, MissingFileError), match=message):
            write_calibration([source], data, fold=fold, out=tmp_path / "found.json", device="cpu")
    (copy / "fold_0" / "validation" / "summary.json").write_text(
        json.dumps({"metric_per_case": [{"prediction_file": "z.nii.gz"}]})
    )
    with pytest.raises(InputError, match=r"summary.json names case 'z', which .* does not hold"):
        write_calibration([copy], dataset, out=tmp_path / "found.json", device="cpu")
    (copy / "fold_1").rename(copy / "fold_all")
    shutil.rmtree(copy / "fold_0")
    with pytest.raises(InputError, match="was trained on all cases: no case is left"):
        write_calibration([copy], dataset, out=tmp_path / "found.json", device="cpu")
    assert not (tmp_path / "found.json").exists()
