"""What inference takes: DICOM series, PNG, NIfTI, alone in a folder; and what it refuses."""

from __future__ import annotations

import csv
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import BRAIN, last_words, run_here
from monai.bundle import ConfigParser
from monai.transforms import Compose
from PIL import Image

from medmixers.bundle_runtime.cases import find_images
from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.verify.synthetic import oblique_affine

ROOT = Path(__file__).resolve().parents[2]
TUMOUR = "brain_tumor_segmentation_unet_star_star"
LUNGS = "chest_xray_segmentation_grouped_conv"
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run


def transforms_of(bundle: str, **overrides: Any) -> tuple[Any, Any]:
    """The transforms before and after the network of inference.json."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs" / "inference.json"))
    for key, value in {"bundle_root": str(ROOT / "bundles" / bundle), **overrides}.items():
        parser[key] = value
    return parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")


def write_series(folder: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """A DICOM series, a file a slice: volume (x, y, z) of whole numbers, affine to RAS millimetres."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed, DICOM cannot be written or read")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    series = generate_uid()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    for z in range(volume.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(str(folder / f"{z:03d}.dcm"), {}, file_meta=meta, preamble=bytes(128))
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        file.SeriesInstanceUID = series
        file.Modality, file.InstanceNumber = "MR", z + 1
        file.Rows, file.Columns = volume.shape[1], volume.shape[0]
        file.PixelSpacing = decimals([spacing[1], spacing[0]])
        file.ImageOrientationPatient = decimals([*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])])
        file.ImagePositionPatient = decimals((lps @ [0, 0, z, 1])[:3])
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation = 15, 0
        file.RescaleSlope, file.RescaleIntercept = 2, -10
        file.PixelData = volume[:, :, z].T.astype(np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"{z:03d}.dcm", file, enforce_file_format=True)


def decimals(values: Any) -> list[str]:
    """At most 16 letters each, as DICOM has it; MONAI's reader leaves out longer ones, and with them the geometry."""
    return [f"{value:.9g}" for value in values]


def test_a_dicom_series_is_the_same_image_as_its_nifti(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(1, 1000, (14, 12, 10))
    write_series(tmp_path / "images" / "series", volume, oblique_affine())
    nib.save(nib.Nifti1Image((2.0 * volume - 10).astype(np.float32), oblique_affine()), tmp_path / "same.nii.gz")
    preprocessing, _ = transforms_of(BRAIN)
    load = Compose(preprocessing.transforms[:3])  # and orient; resampling rounds the size, half a voxel here
    dicom = load({"image": str(tmp_path / "images" / "series")})["image"]
    nifti = load({"image": str(tmp_path / "same.nii.gz")})["image"]
    np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-3)
    np.testing.assert_allclose(np.asarray(dicom), np.asarray(nifti))


def test_a_folder_of_series_is_predicted_in_the_geometry_of_each(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(1, 1000, (20, 18, 16))
    write_series(tmp_path / "images" / "patient", volume, oblique_affine())
    out = tmp_path / "out"
    run_here("inference", bundle=BRAIN, dataset_dir=str(tmp_path / "images"), output_dir=str(out), allow_untrained=True)
    prediction = nib.load(out / "patient.nii.gz")
    assert prediction.shape == volume.shape
    np.testing.assert_allclose(prediction.affine, oblique_affine(), atol=1e-3)


@pytest.mark.parametrize("shape", [(24, 20, 1), (1, 20, 24)])
def test_a_single_slice_is_predicted_as_a_volume(shape: tuple[int, ...], tmp_path: Path) -> None:
    volume = np.random.default_rng(0).uniform(1, 1000, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, oblique_affine()), tmp_path / "a.nii.gz")
    out = tmp_path / "out"
    run_here("inference", bundle=BRAIN, dataset_dir=str(tmp_path), output_dir=str(out), allow_untrained=True)
    prediction = nib.load(out / "a.nii.gz")
    assert prediction.shape == shape
    assert prediction.get_data_dtype() == np.uint8
    np.testing.assert_allclose(prediction.affine, oblique_affine(), atol=1e-3)


@pytest.mark.parametrize(("bundle", "channels", "one_file"), [
    (BRAIN, 1, False), (BRAIN, 2, False), (BRAIN, 2, True), (TUMOUR, 4, False),
])  # fmt: skip
@pytest.mark.parametrize("tilted", [False, True])
def test_a_prediction_lies_as_its_image_is_stored(
    tilted: bool, bundle: str, channels: int, one_file: bool, tmp_path: Path
) -> None:
    """All orders of the axes, some backwards. The "network" decides by the first channel alone."""
    volume = np.random.default_rng(0).uniform(300, 400, (9, 8, 7, channels)).astype(np.float32)
    first = volume[..., 0].astype(np.float64)
    z = (first - first.mean()) / first.std()
    regions = np.array([0, 2, 1, 3])  # value of a voxel in none, one, two and three regions
    expected = np.digitize(z, [-0.5, 0.5]) if bundle == BRAIN else regions[np.digitize(z, [-0.5, 0, 0.5])]
    turn = oblique_affine()[:3, :3] if tilted else np.eye(3)
    turn = turn / np.linalg.norm(turn, axis=0) * BUNDLES[bundle].task_spec.spacing  # nothing is resampled
    reader = {"image_reader#channels": channels, "image_reader#volumes_as_channels": one_file}
    options = {"output_dir": str(tmp_path / "out"), "save_probabilities": True}
    before, after = transforms_of(bundle, **reader, **options)
    for order, signs in product(permutations(range(3)), [(1, 1, 1), (1, -1, -1), (-1, 1, 1)]):
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turn @ (np.eye(3)[:, list(order)] * signs), (5, -7, 11)
        files = [tmp_path / f"a_{channel:04d}.nii.gz" for channel in range(channels)]
        for channel, file in enumerate(files):
            nib.save(nib.Nifti1Image(volume if one_file else volume[..., channel], affine), file)
        image = before({"image": [str(file) for file in files[: 1 if one_file else channels]]})["image"]
        value = image[0].as_tensor()
        logits = [-((value - c) ** 2) for c in (-1, 0, 1)] if bundle == BRAIN else [value + c for c in (0.5, 0, -0.5)]
        after({"image": image, "pred": torch.stack(logits)})
        label, probability = (nib.load(tmp_path / "out" / name) for name in ("a.nii.gz", "probabilities/a.nii.gz"))
        for written in (label, probability):
            np.testing.assert_allclose(written.affine, nib.load(files[0]).affine, atol=1e-6)
        np.testing.assert_array_equal(label.dataobj, expected)
        chances = np.asarray(probability.dataobj)
        decided = chances.argmax(-1) if bundle == BRAIN else regions[(chances >= 0.5).sum(-1)]
        np.testing.assert_array_equal(decided, expected)


def test_the_box_of_a_normalized_image_holds_what_is_below_0(tmp_path: Path) -> None:
    volume = np.zeros((12, 11, 10), np.float32)
    volume[2:9, 3:8, 1:7] = -0.5
    volume[4, 5, 6] = 3
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    preprocessing, _ = transforms_of(BRAIN)
    load_to_crop = Compose(preprocessing.transforms[:4])
    box = load_to_crop({"image": str(tmp_path / "a.nii.gz")})["image"]
    np.testing.assert_array_equal(np.asarray(box)[0], volume[2:9, 3:8, 1:7])


def test_a_series_itself_is_one_case_and_x_rays_are_many(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(1, 1000, (6, 5, 4))
    series = tmp_path / "series"
    write_series(series, volume, oblique_affine())
    assert find_images(series) == [str(series)]
    for file in series.glob("*.dcm"):
        file.rename(file.with_suffix(""))  # as scanners write them
    assert find_images(series) == [str(series)]
    (series / "007.dcm").touch()  # the reader names it
    assert find_images(series) == [str(series)]
    (series / "007.dcm").rename(tmp_path / "000.dcm")
    (series / "a.nii.gz").touch()
    with pytest.raises(ValueError, match="holds slices of a DICOM series and other images; give each series a folder"):
        find_images(series)
    for number in range(2):
        write_series(tmp_path / f"{number}", volume[..., :1], oblique_affine())
        (tmp_path / "rays").mkdir(exist_ok=True)
        (tmp_path / f"{number}" / "000.dcm").rename(tmp_path / "rays" / f"{number}.dcm")
    assert find_images(tmp_path / "rays") == [str(tmp_path / "rays" / f"{number}.dcm") for number in range(2)]


def test_masks_of_a_picture_lie_as_the_picture(tmp_path: Path) -> None:
    """An oracle: where the network is a threshold, each mask is the thresholded picture, row by row."""
    rows, columns = np.mgrid[0:30, 0:50]
    picture = np.where((rows < 12) & (columns > 20), 200, 30).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    preprocessing, postprocessing = transforms_of(LUNGS, output_dir=str(tmp_path / "out"))
    item = preprocessing({"image": str(tmp_path / "a.png")})
    assert tuple(item["image"].shape) == (1, 256, 256)
    item["pred"] = item["image"].repeat(5, 1, 1) * 20
    item["pred"].applied_operations, item["pred"].affine = [], item["image"].affine
    postprocessing(item)
    for name in ("left_lung", "heart"):
        with Image.open(tmp_path / "out" / f"a_{name}.png") as mask:
            assert mask.size == (50, 30)
            assert (np.asarray(mask) == np.where(picture > 100, 255, 0)).mean() > 0.98


def test_pictures_of_a_folder_are_classified(tmp_path: Path) -> None:
    for name in ("b", "a"):
        Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    bundle, out = "colon_pathology_classification_pooling", tmp_path / "out"
    run_here("inference", bundle=bundle, dataset_dir=str(tmp_path), output_dir=str(out), allow_untrained=True)
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("L", {"image_reader#convert_colour": False}, "a.png is a grey picture; the network takes 3 channel(s)"),
        ("RGBA", {}, "a.png has transparent pixels, so its colours depend on a background; save it without alpha"),
    ],
)
def test_pictures_of_other_channels_are_refused(mode: str, options: Any, message: str, tmp_path: Path) -> None:
    Image.new(mode, (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as error:
        run_here(
            "inference",
            bundle="colon_pathology_classification_pooling",
            dataset_dir=str(tmp_path),
            allow_untrained=True,
            **options,
        )
    assert last_words(error).replace(f"{tmp_path}/", "") == f"medmixers: error: {message}"


def test_volumes_are_refused_where_pictures_are_due(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(SystemExit) as error:
        run_here("inference", bundle=LUNGS, dataset_dir=str(tmp_path), allow_untrained=True)
    assert "a.nii.gz' has the shape (4, 5, 6); the network takes 2D images" in last_words(error)


def test_one_file_is_a_case_and_brings_its_channels(tmp_path: Path) -> None:
    for channel in range(2):
        (tmp_path / f"a_{channel:04d}.nii.gz").touch()
    (tmp_path / "b.png").touch()
    first = tmp_path / "a_0000.nii.gz"
    assert find_images(first) == [str(first)]
    assert find_images(first, channels=2) == [[str(first), str(tmp_path / "a_0001.nii.gz")]]
    assert find_images(tmp_path / "b.png", channels=3) == [str(tmp_path / "b.png")]


def test_one_file_is_predicted_from_a_path_with_an_apostrophe(tmp_path: Path) -> None:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    nib.save(nib.Nifti1Image(np.random.default_rng(0).uniform(1, 9, (9, 8, 7)), oblique_affine()), folder / "a.nii.gz")
    out = {"output_dir": str(folder / "out"), "allow_untrained": True}
    run_here("inference", bundle=BRAIN, dataset_dir=str(folder / "a.nii.gz"), **out)
    assert nib.load(folder / "out" / "a.nii.gz").shape == (9, 8, 7)
