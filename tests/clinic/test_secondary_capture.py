"""DICOM Secondary Capture: pictures with outlines, read back by pydicom and judged by dciodvfy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from clinic_series import ORIENTATIONS, PATIENT, SPACING, STUDY, lps_affine, series, small_model
from dicom_files import write_multi_frame
from numpy.typing import NDArray
from pydicom.pixels import apply_windowing
from skimage.segmentation import find_boundaries

from medmixers.clinic.grey import percentile_window
from medmixers.clinic.model import SegmentationModel
from medmixers.clinic.secondary_capture import (
    legend,
    picture,
    stated_window,
    write_secondary_capture,
)
from medmixers.clinic.series import find_series
from medmixers.errors import InputError
from medmixers.images.dicom_seg import Segment

pytest.importorskip("highdicom", reason="no highdicom: pip install 'medmixers[dicom]'")
SHAPE = (17, 14, 5)
FACTOR = 31  # 512 pixels for 17
VOXELS = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.uint16)
SEGMENTS = (Segment("the_liver", (1,), (230, 159, 0)), Segment("tumour", (2,), (86, 180, 233)))
WINDOW = {"WindowCenter": [300, 40], "WindowWidth": [400, 80]}
DCIODVFY = shutil.which("dciodvfy")


@pytest.fixture
def model(tmp_path: Path) -> SegmentationModel:
    return small_model(tmp_path, SEGMENTS)


def labels() -> NDArray[np.uint8]:
    made = np.zeros(SHAPE, np.uint8)
    made[3:11, 2:12, 1:4] = 1
    made[5:8, 4:7, 2] = 2
    made[14:, :4, 3] = 2  # at the edge
    return made


def written(folder: Path, model: SegmentationModel, found: NDArray[Any], orientation: str, **tags: Any) -> list[Any]:
    made = series(folder / "series", VOXELS, orientation, **tags)
    write_secondary_capture(folder / "pictures", found, find_series(made, channels=["CT"])[0], model)
    return [pydicom.dcmread(file) for file in sorted((folder / "pictures").iterdir())]


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return find_boundaries(np.kron(mask.T, np.ones((FACTOR, FACTOR), bool)), connectivity=1, mode="inner")


def test_pictures_are_the_windowed_slices_with_outlines(model: SegmentationModel, tmp_path: Path) -> None:
    pictures = written(tmp_path, model, labels(), "axial", **WINDOW)
    assert len(pictures) == SHAPE[2]
    source = pydicom.dcmread(tmp_path / "series" / "001.dcm")
    for number, image in enumerate(pictures):
        pixels = image.pixel_array[: SHAPE[1] * FACTOR]
        assert pixels.shape == (SHAPE[1] * FACTOR, SHAPE[0] * FACTOR, 3)
        free = np.ones(pixels.shape[:2], bool)
        for value in (2, 1):  # the later outline covers the earlier one
            border = outline(labels()[:, :, number] == value)
            assert (pixels[border & free] == SEGMENTS[value - 1].colour).all()
            free &= ~border
        grey = apply_windowing(VOXELS[:, :, number].T.astype(float), source)  # 0 to 65535, as the file's 16 bits
        expected = np.kron(grey / 65535 * 255, np.ones((FACTOR, FACTOR)))
        np.testing.assert_allclose(pixels[free], np.repeat(expected[free][:, None], 3, axis=1), atol=0.51)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_picture_states_its_place_its_source_and_what_it_is(
    orientation: str, model: SegmentationModel, tmp_path: Path
) -> None:
    pictures = written(tmp_path, model, labels(), orientation, SeriesNumber=4, **PATIENT)
    sources = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, (tmp_path / "series").iterdir())}
    assert len({image.SeriesInstanceUID for image in pictures}) == 1
    for number, image in enumerate(pictures):
        (reference,) = image.SourceImageSequence
        source = sources.pop(reference.ReferencedSOPInstanceUID)
        assert image.SeriesInstanceUID != source.SeriesInstanceUID
        assert (image.StudyInstanceUID, image.FrameOfReferenceUID) == tuple(STUDY.values())
        assert (image.Modality, image.PhotometricInterpretation, image.SeriesNumber) == ("OT", "RGB", 1005)
        assert {name: image[name].value for name in PATIENT} == PATIENT
        assert image.SeriesDescription == "small_model, outlines, research only"
        step = np.array(image.PixelSpacing, float)
        np.testing.assert_allclose(step * FACTOR, [SPACING[1], SPACING[0]])
        along_row, along_column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
        middle = (FACTOR - 1) / 2  # the centre of the slice's first pixel
        centre = np.array(image.ImagePositionPatient, float) + middle * (along_row * step[1] + along_column * step[0])
        np.testing.assert_allclose(centre, (lps_affine(orientation) @ [0, 0, number, 1])[:3], atol=1e-6)
        np.testing.assert_allclose(centre, np.array(source.ImagePositionPatient, float), atol=1e-6)
    assert not sources
    assert pictures[0].PatientOrientation == {"sagittal": ["P", "F"]}.get(orientation, ["L", "P"])


@pytest.mark.client("dicom3tools")
@pytest.mark.skipif(DCIODVFY is None, reason="no dciodvfy: apt-get install dicom3tools")
@pytest.mark.parametrize("tags", [PATIENT, {"PatientSex": "X", "StudyTime": "25:00"}], ids=["named", "not allowed"])
def test_dciodvfy_finds_no_error_in_a_picture(tags: Any, model: SegmentationModel, tmp_path: Path) -> None:
    written(tmp_path, model, labels(), "oblique", **tags)
    for file in (tmp_path / "pictures").iterdir():
        done = subprocess.run([str(DCIODVFY), str(file)], capture_output=True, text=True)
        said = (done.stderr + done.stdout).splitlines()
        assert any("SCImage" in line or "SecondaryCapture" in line for line in said), said
        assert [line for line in said if line.startswith("Error")] == []


def test_frames_of_a_multi_frame_file_are_pictures_in_their_order(model: SegmentationModel, tmp_path: Path) -> None:
    file = write_multi_frame(tmp_path / "enhanced.dcm", VOXELS)
    dataset = pydicom.dcmread(file)
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = STUDY.values()
    dataset.save_as(file)
    (found,) = find_series(file, channels=["CT"])
    write_secondary_capture(tmp_path / "pictures", np.stack([labels() == 1, labels() == 2], -1), found, model)
    for number, each in enumerate(sorted((tmp_path / "pictures").iterdir())):
        image = pydicom.dcmread(each)
        assert image.SourceImageSequence[0].ReferencedFrameNumber == found.slices[number].frame + 1
        colours = (image.pixel_array[: SHAPE[1] * FACTOR] == SEGMENTS[0].colour).all(-1)
        assert colours.any() == (labels()[:, :, number] == 1).any()


def test_overlapping_structures_are_drawn_one_over_the_other() -> None:
    masks = [np.ones((9, 9), bool), np.zeros((9, 9), bool)]
    masks[0][0] = False
    masks[1][1:4, 1:4] = True
    pixels = picture(
        np.zeros((9, 9), np.float32), masks, SEGMENTS, percentile_window(np.arange(9, dtype=np.float32)), 1
    )
    assert tuple(pixels[1, 5]) == SEGMENTS[0].colour
    assert tuple(pixels[1, 2]) == SEGMENTS[1].colour
    assert tuple(pixels[2, 2]) == (0, 0, 0)


def test_the_legend_names_the_structures_in_their_colours_and_fits() -> None:
    strip = legend(SEGMENTS, 512)
    assert strip.shape == (14, 512, 3)
    assert {(255, 255, 255), *(each.colour for each in SEGMENTS)} <= {tuple(each) for each in strip.reshape(-1, 3)}
    assert legend(SEGMENTS * 20, 100).shape[1] == 100
    assert len(legend(SEGMENTS * 20, 100)) > 14 * 10


def test_a_series_without_a_window_is_shown_from_its_percentiles() -> None:
    empty = pydicom.Dataset()
    assert stated_window(empty) is None
    empty.WindowCenter, empty.WindowWidth = 40, 1
    assert stated_window(empty) is None
    empty.WindowCenter, empty.WindowWidth = None, ""
    assert stated_window(empty) is None
    voxels = np.append(np.zeros(1000), np.arange(1, 1001)).astype(np.float32)
    np.testing.assert_allclose(percentile_window(voxels), np.percentile(np.arange(1, 1001), (0.5, 99.5)))


def test_a_window_around_zero_is_a_window() -> None:
    header = pydicom.Dataset()
    header.WindowCenter, header.WindowWidth = "0", "2000"
    assert stated_window(header) == (-1000, 999)  # PS3.3, C.11.2.1.2.1


def test_a_window_of_one_frame_is_taken_for_it() -> None:
    header, window = pydicom.Dataset(), pydicom.Dataset()
    window.WindowCenter, window.WindowWidth = 300, 401
    frames = [pydicom.Dataset(), pydicom.Dataset()]
    frames[1].FrameVOILUTSequence = [window]
    header.PerFrameFunctionalGroupsSequence = frames
    assert stated_window(header, 0) is None
    assert stated_window(header, 1) == (99.5, 499.5)


def test_the_lowest_value_of_monochrome1_is_white(model: SegmentationModel, tmp_path: Path) -> None:
    none = np.zeros(SHAPE, np.uint8)
    plain = written(tmp_path / "plain", model, none, "axial", **WINDOW)
    inverted = written(tmp_path / "inverted", model, none, "axial", PhotometricInterpretation="MONOCHROME1", **WINDOW)
    for one, other in zip(plain, inverted, strict=True):
        seen = slice(SHAPE[1] * FACTOR)  # without the legend
        sums = one.pixel_array[seen].astype(int) + other.pixel_array[seen]
        np.testing.assert_allclose(sums, 255, atol=1)


def test_a_folder_with_files_is_refused(model: SegmentationModel, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mine.txt").write_text("mine")
    with pytest.raises(
        InputError, match=r"pictures must be a new or an empty folder: the secondary capture is written"
    ):
        written(tmp_path, model, labels(), "axial")
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["mine.txt"]
