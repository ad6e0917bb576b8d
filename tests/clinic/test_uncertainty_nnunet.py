"""``medmixers clinic uncertainty`` with a model of nnU-Net: labels and probabilities are nnU-Net's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import trained_models
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from numpy.typing import NDArray
from scipy import stats

from medmixers.clinic.report.command import write_report
from medmixers.clinic.uncertainty.calibrate import write_calibration
from medmixers.clinic.uncertainty.command import write_uncertainty
from medmixers.errors import InputError, MissingFileError

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's and nnU-Net's
CASE = "case"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "imagesTs"
    trained_models.write_images(folder)
    return folder


def trained(folder: Path, *, reader: str = "SimpleITKIO", folds: int = 2, **dataset: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(folder / name))
        model = trained_models.train(folder, nnUNetTrainer, folds=folds, **dataset)
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": reader}))
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("model"))


def by_nnunet(
    model: Path, images: Path, out: Path, *, folds: tuple[int, ...] = (0, 1), mirror: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels (X, Y, Z) and probabilities (K, Z, Y, X) of nnU-Net's own prediction."""
    out.mkdir(parents=True)
    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    predictor.predict_from_files_sequential(str(images), str(out), save_probabilities=True)
    with np.load(out / f"{CASE}.npz") as stored:
        probabilities = stored["probabilities"].astype(np.float64)
    return np.asarray(nib.load(out / f"{CASE}.nii.gz").dataobj), probabilities


def written(out: Path) -> tuple[NDArray[Any], dict[str, NDArray[Any]], dict[str, Any]]:
    """Labels, maps and facts."""
    maps = {
        file.name.removeprefix(f"{CASE}_").removesuffix(".nii.gz"): np.asarray(nib.load(file).dataobj, np.float64)
        for file in (out / "uncertainty").glob("*.nii.gz")
    }
    facts = json.loads((out / "uncertainty" / f"{CASE}.json").read_text())
    return np.asarray(nib.load(out / f"{CASE}.nii.gz").dataobj), maps, facts


def entropy(p: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(stats.entropy(p, axis=0))


def test_labels_and_entropy_are_nnunets(model: Path, images: Path, tmp_path: Path) -> None:
    labels, p = by_nnunet(model, images, tmp_path / "nnunet")
    said = write_uncertainty([model], images, tmp_path / "ours", device="cpu")
    found, maps, facts = written(tmp_path / "ours")
    np.testing.assert_array_equal(found, labels)
    assert np.unique(found).size > 1
    np.testing.assert_allclose(maps["entropy"], entropy(p).transpose(2, 1, 0), atol=2e-3)
    affine = nib.load(tmp_path / "ours" / "uncertainty" / f"{CASE}_entropy.nii.gz").affine
    np.testing.assert_allclose(affine, trained_models.OBLIQUE, atol=1e-5)

    assert facts["members"] == 2
    assert not facts["calibrated"]
    millilitre = abs(np.linalg.det(trained_models.OBLIQUE[:3, :3])) / 1000
    for row, value in zip(facts["structures"], (1, 2), strict=True):
        assert (row["name"], row["values"]) == (("shell", "core")[value - 1], [value])
        assert row["size"] == pytest.approx((labels == value).sum() * millilitre, rel=1e-4)
        assert row["low"] <= row["size"] <= row["high"]
    assert said.startswith("case: shell ")


@pytest.mark.slow
def test_mutual_information_is_that_of_the_folds(model: Path, images: Path, tmp_path: Path) -> None:
    """On images of the plans' spacing, where nothing is resampled."""
    (tmp_path / "images").mkdir()
    for file in images.iterdir():
        voxels = np.asarray(nib.load(file).dataobj)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.3, 2.2, 1])), tmp_path / "images" / file.name)
    write_uncertainty([model], tmp_path / "images", tmp_path / "ours", device="cpu")
    _, maps, _ = written(tmp_path / "ours")
    each = [by_nnunet(model, tmp_path / "images", tmp_path / f"fold_{fold}", folds=(fold,))[1] for fold in (0, 1)]
    expected = entropy(np.mean(each, axis=0)) - np.mean([entropy(one) for one in each], axis=0)
    assert expected.max() > 0.01
    np.testing.assert_allclose(maps["mutual_information"], expected.transpose(2, 1, 0), atol=2e-3)


@pytest.mark.slow
def test_mirrored_copies_are_members_too(model: Path, images: Path, tmp_path: Path) -> None:
    labels, p = by_nnunet(model, images, tmp_path / "nnunet", folds=(0, 1), mirror=True)
    write_uncertainty([model], images, tmp_path / "ours", use_mirroring=True, device="cpu")
    found, maps, facts = written(tmp_path / "ours")
    assert facts["members"] == 16
    assert (found == labels).mean() > 0.99  # nnU-Net adds copies in half precision, and this network is unsure
    assert np.abs(maps["entropy"] - entropy(p).transpose(2, 1, 0)).mean() < 2e-3
    assert maps["mutual_information"].max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "NibabelIO"])
def test_readers_that_turn_images(reader: str, images: Path, tmp_path: Path) -> None:
    """Regions, of one fold: one member."""
    model = trained(
        tmp_path, reader=reader, folds=1, labels=trained_models.REGIONS, regions_class_order=[1, 2]
    )  # fmt: skip
    labels, _ = by_nnunet(model, images, tmp_path / "nnunet", folds=(0,))
    write_uncertainty([model], images, tmp_path / "ours", device="cpu")
    found, maps, facts = written(tmp_path / "ours")
    np.testing.assert_array_equal(found, labels)
    assert set(maps) == {"entropy"}
    assert [row["values"] for row in facts["structures"]] == [[1, 2], [2]]
    inside = maps["entropy"] > 0
    voxels = np.asarray(nib.load(images / f"{CASE}_0000.nii.gz").dataobj)
    assert inside.shape == voxels.shape
    assert not inside[voxels == 0].all()  # the border is cropped, where the file has it
    assert inside[voxels != 0].all()


@pytest.mark.slow
def test_a_page_shows_them(model: Path, images: Path, tmp_path: Path) -> None:
    write_uncertainty([model], images, tmp_path / "ours", device="cpu")
    assert write_report(tmp_path / "ours", images, tmp_path / "report.html").endswith("report.html: 1 case")
    page = (tmp_path / "report.html").read_text()
    assert "Dataset901_Made (3d_fullres)" in page
    assert "Not calibrated" in page


@pytest.mark.slow
def test_what_does_not_fit_is_said_in_a_line(model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MissingFileError, match=r"imagesTs has no dataset\.json; a data set in nnU-Net raw format needs"
    ):
        write_calibration([model], images, out=tmp_path / "calibration.json", device="cpu")
    with pytest.raises(InputError, match="two of the models have the same weights"):
        write_uncertainty([model, model], images, tmp_path / "ours", device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected files named CASE_0000\.nii\.gz"):
        write_uncertainty([model], tmp_path / "empty", tmp_path / "ours", device="cpu")
