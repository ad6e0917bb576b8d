"""MONAI's LoadImaged through the bundles' reader: 8-bit pictures, NIfTI and series as by MONAI's own readers."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "images"))

from dicom_files import oblique_directions, write_dicom, write_series

from medmixers.bundle_runtime.cases import find_images, unread_files
from medmixers.bundle_runtime.image_reader import BundleImageReader
from medmixers.errors import InputError

RAMP = (np.add.outer(np.arange(20), np.arange(32)) * 3).astype(np.uint8)


def load(path, **options):
    reader = BundleImageReader(**{"spatial_dims": 2, "channels": 1, **options})
    return LoadImaged("image", reader=reader, ensure_channel_first=True)({"image": path})["image"]


def by_monai(path):
    return LoadImaged("image", ensure_channel_first=True)({"image": path})["image"]


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


def test_pictures_of_8_bits_are_what_monai_reads(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "g.png")
    Image.fromarray(np.stack([RAMP, 255 - RAMP, RAMP // 2], -1)).save(tmp_path / "c.png")
    assert_same(load(tmp_path / "g.png"), by_monai(tmp_path / "g.png"))
    assert_same(load(tmp_path / "c.png", channels=3), by_monai(tmp_path / "c.png"))


def test_volumes_are_what_monai_reads(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 99, (6, 7, 8)).astype(np.int16)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 5, 6, 7
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "v.nii.gz")
    assert_same(load(tmp_path / "v.nii.gz", spatial_dims=3), by_monai(tmp_path / "v.nii.gz"))
    nib.save(nib.Nifti1Image(voxels + 1, affine), tmp_path / "w.nii.gz")
    pair = [tmp_path / "v.nii.gz", tmp_path / "w.nii.gz"]
    assert_same(load(pair, spatial_dims=3), by_monai(pair))
    series = write_series(tmp_path / "s", voxels, spacing=(1.9, 2.3, 3.1), directions=oblique_directions())
    ours = load(series, spatial_dims=3)
    np.testing.assert_array_equal(ours[0], voxels)


def test_depth_and_inversion(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "16.png")
    twelve = 4095 - RAMP.astype(np.uint16) * 16
    write_dicom(tmp_path / "m1.dcm", twelve, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(load(tmp_path / "16.png")[0], RAMP.T, atol=0.01)
    np.testing.assert_allclose(load(tmp_path / "m1.dcm")[0], RAMP.T * (16 * 255 / 4095), atol=0.01)


def test_a_conversion_is_said_once(tmp_path, caplog):
    for name in ("a.png", "b.png"):
        Image.fromarray(RAMP).save(tmp_path / name)
    reader = BundleImageReader(spatial_dims=2, channels=3)
    transform = LoadImaged("image", reader=reader, ensure_channel_first=True)
    with caplog.at_level(logging.WARNING, "medmixers"):
        shapes = [tuple(transform({"image": tmp_path / name})["image"].shape) for name in ("a.png", "b.png")]
    assert shapes == [(3, 32, 20)] * 2
    (record,) = [record for record in caplog.records if record.name == "medmixers"]
    assert "grey repeated as red, green and blue" in record.getMessage()


def test_errors_reach_the_caller(tmp_path):
    """MONAI tries its other readers after an error of ``read``: a gap would be predicted after all."""
    voxels = np.zeros((4, 4, 8), np.int16)
    write_series(tmp_path / "gap", voxels, kept=[0, 1, 2, 6, 7])
    with pytest.raises(InputError, match="unequal steps"):
        load(tmp_path / "gap", spatial_dims=3)
    Image.fromarray(RAMP).save(tmp_path / "g.png")
    with pytest.raises(InputError, match="is a grey picture"):
        load(tmp_path / "g.png", channels=3, convert_colour=False)


def test_the_check_before_a_start_finds_what_reading_would(tmp_path):
    voxels = np.ones((4, 4, 8), np.int16)
    volume = BundleImageReader(spatial_dims=3, channels=1)
    volume.check_case([write_series(tmp_path / "whole", voxels)])
    with pytest.raises(InputError, match="unequal steps"):
        volume.check_case([write_series(tmp_path / "gap", voxels, kept=[0, 1, 2, 6, 7])])
    write_series(tmp_path / "two", voxels)
    write_series(tmp_path / "two", voxels[..., :3], SeriesInstanceUID="1.2.9")
    with pytest.raises(InputError, match="holds 2 DICOM series"):
        volume.check_case([tmp_path / "two"])
    BundleImageReader(spatial_dims=3, channels=1, series_uid="1.2.9").check_case([tmp_path / "two"])
    picture = BundleImageReader(spatial_dims=2, channels=3)
    Image.fromarray(RAMP).save(tmp_path / "g.png")
    for whole in (True, False):
        picture.check_case([tmp_path / "g.png"], whole=whole)
    with pytest.raises(InputError, match="is 2D; the network takes 3D images"):
        volume.check_case([tmp_path / "g.png"])


def test_files_that_are_not_predicted_are_named(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    Image.fromarray(RAMP).save(tmp_path / "b.gif")
    (tmp_path / "patient2").mkdir()
    Image.fromarray(RAMP).save(tmp_path / "patient2" / "c.png")
    images = find_images(tmp_path)
    assert [Path(file).name for file in images] == ["a.png"]
    assert unread_files(tmp_path, images) == ["b.gif", "patient2"]


def test_a_grey_picture_per_channel_gives_one_channel_each(tmp_path):
    files = [tmp_path / f"case_{channel:04d}.png" for channel in range(3)]
    for shift, file in enumerate(files):
        Image.fromarray(RAMP + np.uint8(shift)).save(file)
    reader = BundleImageReader(spatial_dims=2, channels=3)
    reader.check_case(files)
    image = load(files, channels=3)
    np.testing.assert_array_equal(image, [(RAMP + np.uint8(shift)).T for shift in range(3)])
    Image.fromarray(np.stack([RAMP, 255 - RAMP, RAMP], -1)).save(files[1])
    BundleImageReader(spatial_dims=2, channels=3).check_case(files)  # one channel of it: its luma
    with pytest.raises(InputError, match=r"case_0001\.png is a colour picture; the network takes 1 channel"):
        BundleImageReader(spatial_dims=2, channels=3, convert_colour=False).check_case(files)
    with pytest.raises(InputError, match=r"case_0000\.png' has 2 channels; the network takes 3"):
        reader.check_case(files[:2])


def test_volumes_of_a_4d_file_are_channels_on_request(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).uniform(1, 9, (5, 6, 7, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 3, 4, 1])), tmp_path / "a.nii.gz")
    plain = BundleImageReader(spatial_dims=3, channels=4)
    with pytest.raises(InputError, match=r"has 4 axes \(5, 6, 7, 4\)"):
        plain.check_case([tmp_path / "a.nii.gz"])
    reader = BundleImageReader(spatial_dims=3, channels=4, volumes_as_channels=True)
    for whole in (True, False):
        reader.check_case([tmp_path / "a.nii.gz"], whole=whole)

    image = load(str(tmp_path / "a.nii.gz"), spatial_dims=3, channels=4, volumes_as_channels=True)
    np.testing.assert_array_equal(image, np.moveaxis(voxels, -1, 0))
    np.testing.assert_array_equal(image.affine, np.diag([2.0, 3, 4, 1]))


def test_dicom_pictures_of_other_endings_are_cases_too(tmp_path: Path) -> None:
    for name, series in (("a.IMA", "1.2.3"), ("b.dicom", "1.2.4"), ("c.dcm", "1.2.5")):
        write_dicom(tmp_path / name, RAMP, SeriesInstanceUID=series)
    images = find_images(tmp_path)
    assert images == [str(tmp_path / name) for name in ("a.IMA", "b.dicom", "c.dcm")]
    assert unread_files(tmp_path, images) == []
    first, *others = (load(Path(image))[0] for image in images)
    for other in others:
        np.testing.assert_array_equal(other, first)
