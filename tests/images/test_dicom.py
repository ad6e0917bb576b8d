"""DICOM series against SimpleITK's GDCM, pictures against their own numbers, and every irregular series refused."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import DX, oblique_directions, write_dicom, write_multi_frame, write_series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medmixers.errors import InputError, MissingFileError
from medmixers.images.dicom import read_dicom_picture, read_volume

VOXELS = np.random.default_rng(0).integers(0, 2000, (12, 10, 8)).astype(np.int16)
SAGITTAL = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def itk_volume(folder):
    """Voxels (x, y, z) and the affine in RAS, as SimpleITK reads the series."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize(
    "directions", [np.eye(3), oblique_directions(), SAGITTAL], ids=["axial", "oblique", "sagittal"]
)
def test_a_series_is_what_simpleitk_reads(tmp_path, directions):
    folder = write_series(
        tmp_path / "s", VOXELS, spacing=(1.9, 2.3, 3.1), directions=directions, RescaleSlope=2, RescaleIntercept=-1024
    )
    volume = read_volume(folder)
    voxels, affine = itk_volume(folder)
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_array_equal(volume.voxels, 2.0 * VOXELS - 1024)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert [file.name for file in volume.files] == [f"{8 - k:03d}.dcm" for k in range(8)]


def test_each_slice_has_its_own_rescale_slope(tmp_path):
    folder = write_series(tmp_path / "s", VOXELS, kept=[0, 1], RescaleSlope=1, RescaleIntercept=0)
    write_series(folder, VOXELS, kept=[2], RescaleSlope=3, RescaleIntercept=5)
    np.testing.assert_array_equal(read_volume(folder).voxels[..., 2], 3.0 * VOXELS[..., 2] + 5)


def test_frames_of_one_file_are_slices_of_a_volume(tmp_path):
    volume = read_volume(write_multi_frame(tmp_path / "m.dcm", VOXELS))
    np.testing.assert_array_equal(volume.voxels, 2.0 * VOXELS + np.arange(8))
    np.testing.assert_allclose(volume.affine, np.diag([-2, -2, 3, 1]))


@pytest.mark.parametrize("kept", ["groups", "top", "both"])
def test_frames_have_the_slope_of_their_group_or_else_of_the_file(tmp_path, kept):
    file = write_multi_frame(tmp_path / "m.dcm", VOXELS)
    dataset = pydicom.dcmread(file)
    if kept != "groups":
        dataset.RescaleSlope, dataset.RescaleIntercept = 3, -100
    if kept == "top":
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            del groups.PixelValueTransformationSequence
    dataset.save_as(file)
    expected = 3.0 * VOXELS - 100 if kept == "top" else 2.0 * VOXELS + np.arange(8)
    np.testing.assert_array_equal(read_volume(file).voxels, expected)


def test_a_file_of_one_frame_is_one_slice(tmp_path):
    volume = read_volume(write_multi_frame(tmp_path / "m.dcm", VOXELS[..., :1]))
    np.testing.assert_array_equal(volume.voxels, 2.0 * VOXELS[..., :1])


@pytest.mark.parametrize("encoding", ["file meta", ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_slices_without_preamble_are_read(tmp_path, encoding):
    """As senders write them that send a data set as it is; SimpleITK's GDCM reads such too."""
    folder = write_series(tmp_path / "s", VOXELS, RescaleSlope=2, RescaleIntercept=-1024)
    for name in ("001.dcm", "002.dcm", "008.dcm"):
        dataset = pydicom.dcmread(folder / name)
        if encoding == "file meta":
            (folder / name).write_bytes((folder / name).read_bytes()[132:])
        else:
            bare = Dataset(dict(dataset.items()))
            bare.save_as(folder / name, implicit_vr=encoding is ImplicitVRLittleEndian, little_endian=True)
        assert b"DICM" not in (folder / name).read_bytes()
    np.testing.assert_array_equal(read_volume(folder).voxels, 2.0 * VOXELS - 1024)
    if encoding != "file meta":  # with it and without preamble GDCM finds no format
        np.testing.assert_array_equal(read_volume(folder).voxels, itk_volume(folder)[0])


@pytest.mark.parametrize("name", ["009.dcm", "IM009", "009.IMA", "link"])
def test_a_file_that_may_be_a_lost_slice_is_refused_and_others_are_passed_over(tmp_path, name):
    folder = write_series(tmp_path / "s", VOXELS)
    for other in ("notes.txt", "._001.dcm", "LICENSE"):
        (folder / other).write_text("This is no image, and long enough to have bytes from 128 to 132. " * 3)
    (folder / ".lock").touch()
    (folder / "counts.raw").write_bytes(np.array([8, 5, 1, 2] * 40, np.int32).tobytes())  # begins as a data set does
    np.testing.assert_array_equal(read_volume(folder).voxels, VOXELS)
    if name == "link":
        (folder / name).symlink_to(tmp_path / "gone.dcm")
    else:
        (folder / name).write_text("cut" if name == "009.IMA" else "")
    fault = "cannot be read as DICOM" if name == "009.IMA" else "is empty"
    with pytest.raises(InputError, match=rf"{name} {fault}, and may be a slice of a series: copy it again, or remove"):
        read_volume(folder)


def change(file, **tags):
    """Set or delete (None) attributes of a file."""
    dataset = pydicom.dcmread(file)
    for name, value in tags.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(file)


RESCALED = {"RescaleSlope": 2, "RescaleIntercept": -1024}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImagePositionPatient": [0, 0]}, r"004\.dcm has no valid ImagePositionPatient, 3 finite numbers"),
        ({"ImagePositionPatient": ["nan", 0, 0]}, r"004\.dcm has no valid ImagePositionPatient, 3 finite"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, "inf", 0]}, r"004\.dcm has no valid ImageOrientationPatient, 6"),
        ({"PixelSpacing": [2]}, r"004\.dcm has no valid PixelSpacing, 2 finite numbers"),
        ({"PixelSpacing": [2, -2]}, r"004\.dcm has no valid grid: .*spacing \[2\.0, -2\.0\]"),
        ({"Rows": None}, r"004\.dcm has no Rows: its place"),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, r"004\.dcm has no valid RescaleSlope and RescaleIntercept"),
        ({"RescaleIntercept": None}, r"004\.dcm has no valid RescaleSlope and RescaleIntercept: both must be numbers"),
        ({"RescaleSlope": "nan"}, r"004\.dcm has no valid RescaleSlope"),
        ({"RescaleSlope": 0}, r"004\.dcm has no valid RescaleSlope .*, and the slope not 0"),
        (
            {"RescaleSlope": None, "RescaleIntercept": None},
            r"001\.dcm and 004\.dcm in .* have different units: only on",
        ),
        ({"PatientID": "SECRET"}, r"001\.dcm and 004\.dcm in .* have different PatientID; a series has one$"),
        ({"FrameOfReferenceUID": "1.2.77"}, r"001\.dcm and 004\.dcm in .* have different FrameOfReferenceUID; a seri"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_one_slice_with_other_or_malformed_tags_is_refused(tmp_path, tags, message):
    folder = write_series(tmp_path / "s", VOXELS, **RESCALED)
    change(folder / "004.dcm", **tags)
    with pytest.raises(InputError, match=message) as refused:
        read_volume(folder)
    assert "SECRET" not in str(refused.value)
    assert "1.2.77" not in str(refused.value)


def test_frames_have_a_place_each(tmp_path):
    file = write_multi_frame(tmp_path / "m.dcm", VOXELS)
    change(file, NumberOfFrames=9)
    with pytest.raises(InputError, match=r"m\.dcm holds 9 frames and the places of 8"):
        read_volume(file)


def test_a_picture_with_an_empty_slope_is_refused(tmp_path):
    file = write_dicom(tmp_path / "x.dcm", RAMP.astype(np.uint8), sop_class=DX, RescaleSlope="", RescaleIntercept=0)
    with pytest.raises(InputError, match=r"x\.dcm has no valid RescaleSlope and RescaleIntercept"):
        read_dicom_picture(file)


def test_one_series_of_several_is_chosen_by_its_uid(tmp_path):
    write_series(tmp_path, VOXELS, kept=[0, 1, 2])
    write_series(tmp_path, VOXELS + 1, kept=[3, 4, 5], SeriesInstanceUID="1.2.4")
    np.testing.assert_array_equal(read_volume(tmp_path, series_uid="1.2.4").voxels, VOXELS[..., 3:6] + 1)
    with pytest.raises(InputError, match=r"holds 2 DICOM series: 1\.2\.3 \(3 files, 006\.dcm\); 1\.2\.4"):
        read_volume(tmp_path)
    with pytest.raises(InputError, match=r"no DICOM series '9'; valid: 1\.2\.3, 1\.2\.4"):
        read_volume(tmp_path, series_uid="9")


def gap(folder):
    write_series(folder, VOXELS, kept=[0, 1, 2, 5, 6, 7])


def localizer(folder):
    write_series(folder, VOXELS)
    write_dicom(
        folder / "999.dcm", VOXELS[:, :, 0], PixelSpacing=[2, 2], ImageType=["ORIGINAL", "LOCALIZER"],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[40, 0, 200],
    )  # fmt: skip


def copy_of_a_slice(folder):
    write_series(folder, VOXELS)
    write_series(folder / "again", VOXELS, kept=[3])
    (folder / "again" / "005.dcm").rename(folder / "copy.dcm")


def second_echo(folder):
    write_series(folder, VOXELS, EchoNumbers=1)
    write_series(folder / "again", VOXELS, EchoNumbers=2)
    for file in (folder / "again").iterdir():
        file.rename(folder / f"echo2_{file.name}")


def other_size(folder):
    write_series(folder, VOXELS, kept=list(range(7)))
    write_series(folder, VOXELS[:6], kept=[7])


def other_spacing(folder):
    write_series(folder, VOXELS, kept=list(range(7)))
    write_series(folder, VOXELS, kept=[7], PixelSpacing=[1, 1])


def tilted(folder):
    for k in range(8):
        write_series(folder, VOXELS, kept=[k], ImagePositionPatient=[0, 0.5 * k, 2 * k])


def without_position(folder):
    write_series(folder, VOXELS, ImagePositionPatient=None)


def film(folder):
    folder.mkdir()
    write_dicom(folder / "f.dcm", np.zeros((3, 4, 5), np.uint8), NumberOfFrames=3)


def cut(folder):
    write_series(folder, VOXELS)
    file = folder / "004.dcm"
    file.write_bytes(file.read_bytes()[:-40])


def empty(folder):
    folder.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (gap, r"unequal steps: 6 mm from 006\.dcm to 003\.dcm, 2 mm elsewhere; at most 10% of a step"),
        (localizer, r"different orientations \(one is a localizer\)"),
        (copy_of_a_slice, r"lie at the same place: one may be a copy of the other"),
        (second_echo, r"lie at the same place: they differ in EchoNumbers"),
        (other_size, r"different sizes, \(10, 6\) and \(10, 12\)"),
        (other_spacing, r"different pixel spacings"),
        (tilted, r"sheared by 14\.0 degrees \(a gantry tilt\)"),
        (without_position, r"has no ImagePositionPatient: its place in a volume is unknown"),
        (film, r"holds 3 frames without positions: a film"),
        (cut, r"the pixels of .*004\.dcm cannot be decoded"),
        (empty, r"holds no DICOM file"),
    ],
)
def test_an_irregular_series_is_refused(tmp_path, make, message):
    make(tmp_path / "s")
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / "s")


def test_slices_a_little_off_their_grid_are_rounding(tmp_path):
    for k in range(8):
        write_series(tmp_path, VOXELS, kept=[k], ImagePositionPatient=[0, 0, round(0.3333 * k, 2)])
    assert read_volume(tmp_path).affine[2, 2] == pytest.approx(0.3333, abs=1e-3)


RAMP = np.add.outer(np.arange(64), np.arange(64)) * 2.0  # 0 to 252


def window(center, width):
    return {"WindowCenter": center, "WindowWidth": width}


def modality_lut(values):
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [len(values), 0, 8], "US"
    lut.LUTData = np.array(values, np.uint16).tobytes()
    return {"ModalityLUTSequence": Sequence([lut])}


def table(data, descriptor):
    item = Dataset()
    item.LUTDescriptor = descriptor
    item.add_new("LUTData", "OW", data.tobytes())
    return Sequence([item])


STEEP = np.clip(np.arange(4096) - 1000, 0, 255)  # shows 1000 to 1255, by 4096 entries
FAR = (RAMP + 1000).astype(np.uint16)


@pytest.mark.parametrize(
    ("pixels", "tags", "voi", "expected"),
    [
        (RAMP.astype(np.uint8), {}, False, RAMP),
        (RAMP.astype(np.uint16) * 16, {"BitsStored": 12}, False, RAMP * 16 * 255 / 4095),
        (RAMP.astype(np.uint16) * 257, {}, False, RAMP),
        (4095 - RAMP.astype(np.uint16) * 16, {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}, False,
         RAMP * 16 * 255 / 4095),
        ((RAMP * 257 - 32768).astype(np.int16), {}, False, RAMP),
        (RAMP.astype(np.uint16) * 16, {"BitsStored": 12, "RescaleSlope": 0.5, "RescaleIntercept": -100}, False,
         RAMP * 16 * 255 / 4095),
        (RAMP.astype(np.uint8), window(64.5, 129), False, RAMP),
        (RAMP.astype(np.uint8), window(64, 128), True, np.clip((RAMP - 63.5) / 127 + 0.5, 0, 1) * 255),
        (RAMP.astype(np.uint8), modality_lut([255 - value for value in range(256)]), False, 255 - RAMP),
        (RAMP.astype(np.uint8), {"ModalityLUTSequence": table(np.arange(256, dtype=np.uint8), [256, 0, 8])}, False,
         RAMP),
        (FAR, {"BitsStored": 12, "VOILUTSequence": table(STEEP.astype("<u2") * 257, [4096, 0, 16])}, True, RAMP),
        (FAR, {"BitsStored": 12, "VOILUTSequence": table(STEEP.astype("<u2"), [4096, 0, 8])}, True, RAMP),
        (FAR, {"BitsStored": 12, "VOILUTSequence": table(STEEP.astype(np.uint8), [4096, 0, 8])}, True, RAMP),
        (FAR, {"BitsStored": 12, "VOILUTSequence": table(STEEP.astype("<u2"), [4096, 0, 16])}, True, RAMP),
        (RAMP.astype(np.uint8), {"VOILUTSequence": Sequence()}, True, RAMP),
        (4095 - FAR, {"BitsStored": 12, "RescaleSlope": -1, "RescaleIntercept": 4095, **window(1128, 256)}, True, RAMP),
        (FAR, {"BitsStored": 12, "VOILUTFunction": "", **window(1128, 256)}, True, RAMP),
    ],
    ids=["8", "12", "16", "monochrome1", "signed", "rescale", "window ignored", "window", "modality lut",
         "modality lut, two entries in a word", "voi lut", "voi lut of 8 bits", "voi lut, two entries in a word",
         "voi lut of 16 bits with values of 8", "no voi lut", "window after a negative slope", "no function"],
)  # fmt: skip
def test_a_picture_is_scaled_by_its_own_depth(tmp_path, pixels, tags, voi, expected):
    file = write_dicom(tmp_path / "x.dcm", pixels, sop_class=DX, **tags)
    np.testing.assert_allclose(read_dicom_picture(file, voi_window=voi).pixels, expected, atol=0.01)


def test_colour_models_become_rgb(tmp_path):
    colours = np.stack([RAMP, 255 - RAMP, RAMP / 2], axis=-1).astype(np.uint8)
    rgb = write_dicom(tmp_path / "rgb.dcm", colours)
    np.testing.assert_array_equal(read_dicom_picture(rgb).pixels, colours)
    luma = colours @ np.array([0.299, 0.587, 0.114])
    grey = read_dicom_picture(rgb, channels=1)
    np.testing.assert_allclose(grey.pixels, luma, atol=0.01)
    assert grey.converted == "colour reduced to its luma"
    table = {f"{name}PaletteColorLookupTableData": (np.arange(256, dtype=np.uint16) * 257).tobytes() for name in
             ("Red", "Green", "Blue")}  # fmt: skip
    table |= {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    palette = write_dicom(
        tmp_path / "palette.dcm", RAMP.astype(np.uint8), PhotometricInterpretation="PALETTE COLOR", **table
    )
    np.testing.assert_allclose(read_dicom_picture(palette).pixels, np.repeat(RAMP[..., None], 3, -1), atol=0.01)


RGB = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]


@pytest.mark.parametrize(
    ("entries", "bits"),
    [(np.arange(256, dtype="<u2"), 16), (np.arange(256, dtype="<u2"), 8), (np.arange(256, dtype=np.uint8), 8),
     (np.arange(2000, dtype="<u2") // 8, 8)],
    ids=["16 bits with values of 8", "8 bits in words", "8 bits", "more than 256 entries"],
)  # fmt: skip
def test_a_palette_with_values_of_8_bits_is_not_dark(tmp_path, entries, bits):
    tags = {f"{name}Descriptor": [len(entries), 0, bits] for name in RGB}
    tags |= {f"{name}Data": entries.tobytes() for name in RGB}
    pixels = (RAMP * (len(entries) // 256)).astype(np.uint16)
    file = write_dicom(tmp_path / "p.dcm", pixels, PhotometricInterpretation="PALETTE COLOR", **tags)
    np.testing.assert_allclose(read_dicom_picture(file).pixels[..., 1], entries[pixels], atol=0.01)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"VOILUTSequence": table(STEEP[:100].astype("<u2"), [4096, 0, 16])}, "or the data is shorter"),
        ({"VOILUTSequence": Sequence([Dataset()])}, "LUTDescriptor or LUTData is missing"),
        (window(100, 0), r"no valid window: .*Window Width"),
        ({**window(100, 50), "VOILUTFunction": "OTHER"}, r"no valid window: .*'OTHER'"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "RedPaletteColorLookupTableDescriptor or"),
    ],
)
def test_a_faulty_table_or_window_ends_in_one_line(tmp_path, tags, message):
    file = write_dicom(tmp_path / "x.dcm", RAMP.astype(np.uint8), sop_class=DX, **tags)
    with pytest.raises(InputError, match=message):
        read_dicom_picture(file, voi_window=True)


def test_a_film_is_no_picture(tmp_path):
    file = write_dicom(tmp_path / "f.dcm", np.zeros((3, 4, 5), np.uint8), NumberOfFrames=3)
    with pytest.raises(InputError, match="holds 3 frames"):
        read_dicom_picture(file)
    with pytest.raises(MissingFileError):
        read_dicom_picture(tmp_path / "none.dcm")
