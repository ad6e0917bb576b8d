"""MONAI Deploy's operator (App SDK 4.0.0): what it feeds to a bundle, against the bundle's own run on the series.

Deploy reads the series itself, deletes the transforms that load and save, and hands over voxels with an affine. Run for
real on these two series, its labels were the emulation's: equal to ours for square pixels. For other pixels they were
not: DICOMSeriesToVolumeOperator.compute_affine_transform multiplies the direction of a row by the spacing of the rows,
where DICOM (PS3.3, C.7.6.2.1.1) has that of the columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import BRAIN, ROOT
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy.spatial.transform import Rotation
from small_bundle import write_small_bundle_with_weights
from test_inputs import write_series

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed, DICOM cannot be written or read")
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run


def oblique(spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, -12, 15], degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = -30, 20, 5
    return affine


def deploys_input(series: Path, *, right: bool = False) -> MetaTensor:
    """Voxels (X, Y, Z) and the RAS affine of Deploy; ``right``: with each spacing at its own axis."""
    slices = sorted(map(pydicom.dcmread, series.iterdir()), key=lambda each: int(each.InstanceNumber))
    first, last = slices[0], slices[-1]
    along_row, along_column = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
    between_rows, between_columns = map(float, first.PixelSpacing)
    steps = (between_columns, between_rows) if right else (between_rows, between_columns)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = along_row * steps[0], along_column * steps[1]
    ends = np.array([first.ImagePositionPatient, last.ImagePositionPatient], float)
    lps[:3, 2], lps[:3, 3] = (ends[1] - ends[0]) / (len(slices) - 1), ends[0]
    affine = np.diag([-1.0, -1, 1, 1]) @ lps
    voxels = np.stack([each.pixel_array * each.RescaleSlope + each.RescaleIntercept for each in slices])
    meta = {"affine": affine, "original_affine": affine.copy(), "original_channel_dim": "no_channel"}
    return MetaTensor(torch.from_numpy(np.swapaxes(voxels, 0, 2).astype(np.int16)), meta=meta)


def deploys_labels(bundle: Path, image: MetaTensor) -> np.ndarray:
    """The operator's steps: transforms without load and save, the inferer, the transforms after it."""
    parser = parsed(bundle)
    before, after = (
        Compose([each for each in parser.get_parsed_content(key).transforms if "Image" not in type(each).__name__])
        for key in ("preprocessing", "postprocessing")
    )
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt"))
    item = before({"image": image})
    with torch.no_grad():
        pred = parser.get_parsed_content("inferer")(inputs=item["image"][None], network=network)[0]
    return after({**item, "pred": pred})["pred"].numpy()[0]


def parsed(bundle: Path, **options: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), "device": "$torch.device('cpu')", **options})
    return parser


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle_with_weights(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 3.1), (1.9, 2.3, 3.1)])
def test_deploys_labels_are_ours_where_its_affine_is_right(
    spacing: tuple[float, float, float], bundle: Path, tmp_path: Path
) -> None:
    volume = np.random.default_rng(0).integers(1, 900, (20, 22, 18))
    write_series(tmp_path / "images" / "s", volume, oblique(spacing))
    parser = parsed(bundle, dataset_dir=str(tmp_path / "images"), output_dir=str(tmp_path / "out"))
    parser.get_parsed_content("evaluator").run()
    ours = nib.load(tmp_path / "out" / "s.nii.gz")
    np.testing.assert_allclose(ours.affine, oblique(spacing), atol=1e-4)

    right = deploys_input(tmp_path / "images" / "s", right=True)
    np.testing.assert_allclose(right.affine, oblique(spacing), atol=1e-4)
    np.testing.assert_array_equal(deploys_labels(bundle, right), np.asarray(ours.dataobj))
    given = deploys_input(tmp_path / "images" / "s")
    lengths = np.linalg.norm(given.affine[:3, :3], axis=0)
    np.testing.assert_allclose(lengths, [spacing[1], spacing[0], spacing[2]], atol=1e-4)  # Deploy's fault
    is_same = np.array_equal(deploys_labels(bundle, given), np.asarray(ours.dataobj))
    assert is_same == (spacing[0] == spacing[1])


def test_every_volume_bundle_puts_the_channel_first_after_what_deploy_deletes() -> None:
    transforms = parsed(ROOT / "bundles" / BRAIN).config["preprocessing"]["transforms"]
    assert [each["_target_"] for each in transforms[:2]] == ["LoadImaged", "EnsureChannelFirstd"]
