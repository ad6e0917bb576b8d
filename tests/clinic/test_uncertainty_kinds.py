"""Uncertainty of each kind of bundle: pictures, masks, ignored voxels, slices, regions, classes, several labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import ROOT, small_options
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.new import new_bundle
from medmixers.bundles.verify.synthetic import write_synthetic
from medmixers.clinic.uncertainty import temperature
from medmixers.clinic.uncertainty.calibrate import write_calibration
from medmixers.clinic.uncertainty.calibration import read_calibration
from medmixers.clinic.uncertainty.command import write_uncertainty
from medmixers.errors import InputError
from medmixers.tasks import TASKS

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
SLOW = pytest.mark.slow
SEGMENTATION = [
    pytest.param("wrist_bone_segmentation_grouped_conv", marks=SLOW),  # 2D, overlapping masks
    pytest.param("breast_tissue_segmentation_grouped_conv", marks=SLOW),  # 2D, an ignored value
    pytest.param("brain_tumor_segmentation_token_unet", marks=SLOW),  # 3D, regions, four channels
    pytest.param("cardiac_mri_segmentation_med_unext", marks=SLOW),  # 2D network on 3D volumes
]


def small(source: Path, options: dict[str, Any]) -> Path:
    """The bundle with small images and a small network, and random weights."""
    for name in ("train", "inference"):
        file = source / "configs" / f"{name}.json"
        config = json.loads(file.read_text())
        for key, value in options.items():
            place, _, option = key.rpartition("#")
            (config[place] if place else config)[option] = value
        file.write_text(json.dumps(config))
    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config(str(source / "configs" / "inference.json"))
    parser["bundle_root"] = str(source)
    (source / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), source / "models" / "model.pt")
    return source


def made(name: str, folder: Path) -> tuple[Path, Path]:
    """A bundle of the catalog, and a synthetic data set for it."""
    source = folder / name
    for path in (ROOT / "bundles" / name).rglob("*.*"):
        if path.is_file():
            (source / path.relative_to(ROOT / "bundles" / name)).parent.mkdir(parents=True, exist_ok=True)
            (source / path.relative_to(ROOT / "bundles" / name)).write_bytes(path.read_bytes())
    return small(source, small_options(BUNDLES[name])), data_of(source, BUNDLES[name].task_spec, folder)


def data_of(bundle: Path, task: Any, folder: Path) -> Path:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    preflight = json.loads((bundle / "configs" / "train.json").read_text())["preflight"]
    expected = {**preflight, "spatial_dims": task.spatial_dims}
    return write_synthetic(folder / "data", metadata, expected, regions=list((task.regions or {}).values()))


def infer(bundle: Path, data: Path, out: Path, **options: Any) -> None:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(data), "output_dir": str(out), **options})
    parser.update({"device": "$torch.device('cpu')", "num_workers": 0})
    parser.get_parsed_content("evaluator").run()


def labels_in(folder: Path) -> dict[str, NDArray[Any]]:
    return {
        path.name: np.asarray(nib.load(path).dataobj if path.name.endswith(".nii.gz") else Image.open(path))
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in (".gz", ".png")
    }


@pytest.fixture
def any_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights may be calibrated."""
    monkeypatch.setattr(temperature, "LEAST_EXPLAINED", dict.fromkeys(temperature.LEAST_EXPLAINED, -np.inf))


@pytest.mark.usefixtures("any_model")
@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation(name: str, tmp_path: Path) -> None:
    """The label files are those of the bundle's inference; calibration reads the labels of the training."""
    bundle, data = made(name, tmp_path)
    write_calibration([bundle], data, device="cpu")
    found = read_calibration(bundle / "models" / "calibration.json")
    assert found.likelihood[1] <= found.likelihood[0]
    infer(bundle, data, tmp_path / "bundle", use_mirroring=True)
    said = write_uncertainty([bundle], data, tmp_path / "ours", use_mirroring=True, device="cpu")
    assert "not calibrated" in said
    ours, theirs = (labels_in(tmp_path / place) for place in ("ours", "bundle"))
    assert ours.keys() == theirs.keys()
    for file, label in theirs.items():
        np.testing.assert_array_equal(ours[file], label)
    facts = json.loads(next((tmp_path / "ours" / "uncertainty").glob("*.json")).read_text())
    dims = BUNDLES[name].task_spec.spatial_dims
    assert facts["unit"] == ("ml" if dims == 3 else "pixels")
    assert facts["members"] == 2 ** len(json.loads((bundle / "configs" / "inference.json").read_text())["mirror_axes"])
    assert all(row["low"] <= row["size"] <= row["high"] for row in facts["structures"])
    assert 0 <= facts["mean_mutual_information"] <= facts["mean_entropy"]


@pytest.mark.usefixtures("any_model")
@pytest.mark.parametrize("several", [False, pytest.param(True, marks=SLOW)], ids=["classes", "labels"])
def test_classification(several: bool, tmp_path: Path) -> None:
    if several:
        task = "chest_xray_findings_classification"
        bundle = small(
            new_bundle(task, network="metaformer_s12", mixer="pooling", out=tmp_path),
            {"network_def#depths": [1] * 4, "network_def#dims": [16] * 4, "image_size": [32, 32]},
        )
        data = data_of(bundle, TASKS[task], tmp_path)
    else:
        bundle, data = made("lung_nodule_classification_grouped_conv", tmp_path)
    with pytest.raises(InputError, match="have one split: leave --fold out"):
        write_calibration([bundle], data, fold=1, device="cpu")
    write_calibration([bundle], data, device="cpu")
    found = read_calibration(bundle / "models" / "calibration.json")
    infer(bundle, data, tmp_path / "bundle")
    said = write_uncertainty([bundle], data, tmp_path / "ours", device="cpu")
    with open(tmp_path / "bundle" / "predictions.csv", newline="") as file:
        rows = {Path(row["file"]).name.split(".")[0].removesuffix("_0000"): row for row in csv.DictReader(file)}
    assert len(rows) == len(list((tmp_path / "ours" / "uncertainty").iterdir())) > 0
    for case, row in rows.items():
        facts = json.loads((tmp_path / "ours" / "uncertainty" / f"{case}.json").read_text())
        names = list(facts["probabilities"])
        raw, p = np.array([float(row[name]) for name in names]), np.array(list(facts["probabilities"].values()))
        logits = np.log(raw) - (np.log(1 - raw) if several else 0)
        powers = np.exp(logits / found.temperature)
        np.testing.assert_allclose(p, powers / (1 + powers) if several else powers / powers.sum(), atol=1e-4)
        expected = stats.bernoulli(p).entropy().sum() if several else stats.entropy(p)
        assert facts["mean_entropy"] == pytest.approx(float(expected), abs=1e-5)
        assert f"{case}: {names[0]} {p[0]:.3f}" in said
    write_uncertainty([bundle], data, tmp_path / "mirrored", use_mirroring=True, device="cpu")
    facts = json.loads((tmp_path / "mirrored" / "uncertainty" / f"{case}.json").read_text())
    assert facts["members"] > 1
    assert 0 < facts["mean_mutual_information"] < facts["mean_entropy"]
