"""``medmixers clinic segment``: from a folder of DICOM files and a model to a DICOM SEG."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from clinic_series import PATIENT, lps_affine, series, voxels_in
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from small_bundle import write_small_bundle_with_weights

from medmixers.bundle_runtime import dicom_saving
from medmixers.bundles.share.archive import write_archive
from medmixers.bundles.share.pack import pack_bundle
from medmixers.cli.main import main
from medmixers.clinic import prediction
from medmixers.clinic.model import open_model
from medmixers.clinic.segment import segment_series
from medmixers.clinic.series import find_series
from medmixers.errors import InputError
from medmixers.images.dicom_seg import Segment
from medmixers.progress import silent
from medmixers.tasks import TASKS
from medmixers.tasks.palette import coloured

pytest.importorskip("highdicom", reason="no highdicom: pip install 'medmixers[dicom]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
SHAPE = (20, 22, 18)
VOXELS = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.uint16)
BRAIN_TISSUE = TASKS["brain_tissue_segmentation"]
CODE = "{type: [X, 99MINE, X]}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle_with_weights(tmp_path_factory.mktemp("bundle"))


def labels_of_the_bundle(bundle: Path, images: Path, out: Path, name: str) -> NDArray[Any]:
    """What the bundle's own inference writes for a folder with DICOM series."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    options = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(out)}
    parser.update({**options, "device": "$torch.device('cpu')", "num_workers": 0})
    parser.get_parsed_content("evaluator").run()
    return np.asarray(nib.load(out / f"{name}.nii.gz").dataobj)


@pytest.mark.usefixtures("preload")
def test_the_segmentation_is_what_the_bundle_predicts(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command as it is typed, on a study with values that DICOM does not allow; other objects are left out."""
    made = series(
        tmp_path / "study" / "a" / "b", VOXELS, **{**PATIENT, "PatientSex": "SECRET8", "StudyTime": "SECRET9"}
    )
    report = pydicom.dcmread(next(made.iterdir()))
    report.Modality, report.SeriesInstanceUID = "SR", "1.2.9"
    report.save_as(tmp_path / "study" / "report.dcm")
    (tmp_path / "study" / "notes.txt").write_text("SECRET")

    out, pictures = tmp_path / "seg.dcm", tmp_path / "study" / "pictures"
    words = ["--device", "cpu", "--secondary_capture", str(pictures)]
    main(["clinic", "segment", str(bundle), str(tmp_path / "study"), str(out), *words])
    said = "".join(capfd.readouterr())
    assert not any(secret in said for secret in ("DOE", "JOHN", "SECRET", "1950"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seg.dcm", "study"]
    shown = [pydicom.dcmread(file) for file in pictures.iterdir()]
    assert {each.SourceImageSequence[0].ReferencedSOPInstanceUID for each in shown} == {
        pydicom.dcmread(file).SOPInstanceUID for file in made.iterdir()
    }
    (found_again,) = find_series(tmp_path / "study", channels=["T1"])  # the pictures are no series to segment
    assert found_again.files[0].parent == made

    labels = labels_of_the_bundle(bundle, tmp_path / "study" / "a", tmp_path / "nifti", "b")
    found = voxels_in(out, SHAPE, lps_affine("oblique"))
    np.testing.assert_array_equal(found, [labels == 1, labels == 2])
    assert 0 < found[0].sum() < found[0].size
    millilitres = [mask.sum() * 1.9 * 2.3 * 3.1 / 1000 for mask in found]
    assert f"grey_matter {millilitres[0]:.1f} ml, white_matter {millilitres[1]:.1f} ml" in said
    segments = pydicom.dcmread(out).SegmentSequence
    assert [each.SegmentLabel for each in segments] == ["grey_matter", "white_matter"]
    assert segments[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "389081007"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("regions", [{"whole": (1, 2), "core": (2,)}, None], ids=["regions", "masks"])
def test_structures_that_overlap_are_segments_that_overlap(regions: Any, tmp_path: Path) -> None:
    task = replace(
        BRAIN_TISSUE, name="mine", labels=coloured("whole", "core"), multi_label=True, regions=regions, codes=None
    )
    bundle = write_small_bundle_with_weights(tmp_path, out_channels=2, task_spec=task, recipe="tshimanga2026")
    (tmp_path / "codes.yaml").write_text(f"whole: {CODE}\ncore: {CODE}\n")
    made = series(tmp_path / "series", VOXELS)
    with pytest.raises(InputError, match=r"no code says what whole, core are; give medmixers clinic segment --c"):
        segment_series(bundle, made, tmp_path / "seg.dcm")
    segment_series(bundle, made, tmp_path / "seg.dcm", codes=tmp_path / "codes.yaml")
    whole, core = voxels_in(tmp_path / "seg.dcm", SHAPE, lps_affine("oblique"))
    assert (whole & core).any()
    assert (whole & ~core).any()
    assert (core <= whole).all() == (regions is not None)  # masks need not lie in each other


def test_values_of_the_file_become_numbers_of_segments(bundle: Path, tmp_path: Path) -> None:
    """Values with gaps, and more segments than 8 bits count."""
    (volume,) = find_series(series(tmp_path / "series", VOXELS), channels=["T1"])
    values = np.arange(1, 301) * 2
    labels = np.resize(np.append(0, values), SHAPE).astype(np.uint16)
    nib.save(nib.Nifti1Image(labels, volume.affine), tmp_path / "series.nii.gz")
    model = open_model(bundle, tmp_path, checkpoint=None, announce=silent)
    segments = tuple(Segment(str(value), (int(value),), (0, 0, 0)) for value in values)
    found = prediction._read(replace(model, segments=segments), volume, tmp_path)
    np.testing.assert_array_equal(found, labels // 2)


@pytest.mark.usefixtures("here")
def test_a_single_slice_has_areas(bundle: Path, tmp_path: Path) -> None:
    said = segment_series(bundle, series(tmp_path / "series", VOXELS, kept=[0]), tmp_path / "seg.dcm")
    grey, white = (
        mask.sum() * 1.9 * 2.3 / 100 for mask in voxels_in(tmp_path / "seg.dcm", SHAPE, lps_affine("oblique"))
    )
    assert said.endswith(f": grey_matter {grey:.1f} cm2, white_matter {white:.1f} cm2")
    assert grey + white > 0


def as_zip(bundle: Path, target: Path) -> Path:
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    write_archive(target, bundle.name, files)
    return target


def test_a_zip_is_opened_and_its_weights_can_be_replaced(bundle: Path, tmp_path: Path) -> None:
    packed = as_zip(bundle, tmp_path / "a.zip")
    model = open_model(packed, tmp_path / "out", checkpoint=None, announce=silent)
    assert model.name == bundle.name
    assert model.modalities == ("MR",)
    assert model.weights.read_bytes() == (bundle / "models" / "model.pt").read_bytes()
    other = open_model(bundle, tmp_path, checkpoint=str(packed), announce=silent)
    assert other.weights == packed


ROOT_OF_BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "skin_lesion_classification_conv",
            r"classifies images: use medmixers clinic classify, which writes a DICOM SR",
        ),
        ("chest_xray_segmentation_conv", r"takes single pictures; this command segments volumes"),
        ("brain_tissue_segmentation_conv", r"has no weights, model\.pt; train it, or give a file by --checkpoint"),
        ("gone", r"there is no model '.*gone': give the folder or the zip of a bundle"),
        (".", r"is neither a bundle, with configs/inference\.json, nor the zip of one, nor a trained nnU-Net model"),
    ],
)
def test_models_that_segment_no_volume_are_refused(model: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        open_model(ROOT_OF_BUNDLES / model, tmp_path, checkpoint=None, announce=silent)


def test_the_runtime_is_one_that_there_is(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown runtime 'onnx'; valid: torch, openvino"):
        segment_series(bundle, tmp_path, tmp_path / "seg.dcm", runtime="onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"Modality": "CT"}, r"channel T1 of the model is MR, the series is CT"),
        ({"kept": [0, 1, 2, 4]}, r"have unequal steps: 6\.2 mm"),
        ({"StudyInstanceUID": ""}, r"has no StudyInstanceUID, which a DICOM SEG refers to"),
    ],
)
@pytest.mark.usefixtures("here")
def test_series_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, bundle: Path, tmp_path: Path
) -> None:
    made = series(tmp_path / "series", VOXELS, **options)
    with pytest.raises(InputError, match=message):
        segment_series(bundle, made, tmp_path / "seg.dcm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["series"]


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("StudyInstanceUID", r"0(01|18)\.dcm and 005\.dcm have different StudyInstanceUID; a DICOM SEG refers to one$"),
        ("SOPInstanceUID", r"00[45]\.dcm and 00[45]\.dcm have the same SOPInstanceUID, by which a DICOM SEG refers"),
    ],
)
def test_one_slice_with_another_reference_is_refused_before_the_prediction(
    tag: str, message: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medmixers.clinic.segment.predict", None)
    made = series(tmp_path / "series", VOXELS)
    changed = pydicom.dcmread(made / "005.dcm")
    changed[tag].value = "1.2.77" if tag == "StudyInstanceUID" else pydicom.dcmread(made / "004.dcm")[tag].value
    changed.save_as(made / "005.dcm")
    with pytest.raises(InputError, match=message) as refused:
        segment_series(bundle, made, tmp_path / "seg.dcm")
    assert "1.2." not in str(refused.value)
    options = {"images": [str(made)], "bundle_root": str(bundle), "output_dir": "out", "weights": []}
    with pytest.raises(InputError, match=message):  # the overlay of MONAI's own command
        dicom_saving.DicomSegmentationSaved("pred", **options)


@pytest.mark.parametrize("size", [0, 132, 140, 300, 370, 700])
def test_a_slice_that_was_cut_off_is_refused_wherever_it_lies(size: int, tmp_path: Path) -> None:
    """pydicom reads the part of a header without a word; at the end of a series nothing else would miss the slice."""
    made = series(tmp_path / "study" / "a", VOXELS)
    last = tmp_path / "study" / "b" / "001.dcm"
    last.parent.mkdir()
    last.write_bytes((made / "001.dcm").read_bytes()[:size])
    (made / "001.dcm").unlink()
    with pytest.raises(InputError, match=r"b/001\.dcm is (empty, and may|an image that ends in its header: copy it)"):
        find_series(tmp_path / "study", channels=["T1"])


@pytest.mark.usefixtures("here")
def test_slices_without_preamble_are_segmented(bundle: Path, tmp_path: Path) -> None:
    """By bundles of before too, which know DICOM by the letters after its preamble: they are given copies."""
    made = series(tmp_path / "series", VOXELS)
    segment_series(bundle, made, tmp_path / "whole.dcm", device="cpu")
    (made / "001.dcm").write_bytes((made / "001.dcm").read_bytes()[132:])
    bare = pydicom.Dataset(dict(pydicom.dcmread(made / "002.dcm").items()))
    bare.save_as(made / "002.dcm", implicit_vr=True, little_endian=True)
    segment_series(bundle, made, tmp_path / "bare.dcm", device="cpu")
    found = [voxels_in(tmp_path / name, SHAPE, lps_affine("oblique")) for name in ("whole.dcm", "bare.dcm")]
    np.testing.assert_array_equal(*found)
    prediction._linked(sorted(made.iterdir()), given := tmp_path / "given")
    for k, file in enumerate(sorted(given.iterdir())):
        np.testing.assert_array_equal(pydicom.dcmread(file).pixel_array, VOXELS[:, :, 17 - k].T)
    assert sum(file.is_symlink() for file in given.iterdir()) == 16


def test_the_channels_of_a_case_are_of_one_patient(tmp_path: Path) -> None:
    for uid, patient in (("1.2.3", "SECRET7"), ("1.2.4", "SECRET8")):
        series(tmp_path / uid, VOXELS, SeriesInstanceUID=uid, PatientID=patient)
    with pytest.raises(
        InputError, match=r"series 1\.2\.3 and 1\.2\.4 have different PatientID; a case is of one patient$"
    ):
        find_series(tmp_path, channels=["T1", "T2"], series_uid=["1.2.3", "1.2.4"])


def test_of_several_series_one_per_channel_is_named(tmp_path: Path) -> None:
    uids = ["1.2.3", "1.2.4"]
    for uid in uids:
        series(tmp_path / uid, VOXELS, SeriesInstanceUID=uid)
    series(tmp_path / "other", VOXELS[:, :, :9], SeriesInstanceUID="1.2.5")

    def find(channels: list[str], *series_uid: str) -> list[str]:
        found = find_series(tmp_path, channels=channels, series_uid=series_uid)
        return [each.files[0].parent.name for each in found]

    assert find(["T1"], "1.2.4") == ["1.2.4"]
    assert find(["T1", "T2"], *reversed(uids)) == ["1.2.4", "1.2.3"]
    for channels, chosen, message in (
        (["T1"], [], r"holds 3 DICOM series; name one by --series_uid: 1\.2\.3 \(MR, 18 files, "),
        (["T1"], ["1.2"], r"holds no DICOM series '1\.2'; valid: 1\.2\.3"),
        (["T1", "T2"], ["1.2.3"], r"takes 2 images per case; give the series of each, T1, T2, as --series_uid"),
        (["T1", "T2"], ["1.2.3", "1.2.5"], r"the series 1\.2\.3 and 1\.2\.5 lie on different grids"),
    ):
        with pytest.raises(InputError, match=message):
            find(channels, *chosen)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (f"bone: {CODE}", r"the model has no label 'bone'; valid: grey_matter, white_matter"),
        ("grey_matter: {type: [X, 99MINE]}", r"codes\.yaml: type in codes of grey_matter must be \[value, scheme, m"),
        ("grey_matter", r"codes\.yaml: codes must be 'label: "),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes: str, message: str, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "codes.yaml").write_text(codes)
    with pytest.raises(InputError, match=message):
        segment_series(bundle, tmp_path, tmp_path / "seg.dcm", codes=tmp_path / "codes.yaml")


def test_the_output_is_a_dicom_file_and_not_the_input(bundle: Path, tmp_path: Path) -> None:
    made = series(tmp_path / "series", VOXELS)
    with pytest.raises(InputError, match=r"out\.nii\.gz must be a DICOM file to write, \.dcm"):
        segment_series(bundle, made, tmp_path / "out.nii.gz")
    with pytest.raises(InputError, match=r"is the input"):
        segment_series(bundle, made, made / "001.dcm")
    with pytest.raises(InputError, match=r"series must be a new or an empty folder: the secondary capture is written"):
        segment_series(bundle, made, tmp_path / "seg.dcm", secondary_capture=made)


@pytest.mark.slow
def test_the_zip_that_pack_writes_segments(bundle: Path, tmp_path: Path) -> None:
    packed = pack_bundle(bundle, weights=bundle / "models" / "model.pt", out=tmp_path / "packed").path
    made = series(tmp_path / "series", VOXELS)
    for model, out in ((packed, "zip.dcm"), (bundle, "folder.dcm")):
        segment_series(model, made, tmp_path / out, device="cpu")
    found = [voxels_in(tmp_path / out, SHAPE, lps_affine("oblique")) for out in ("zip.dcm", "folder.dcm")]
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
@pytest.mark.client("nnU-Net")
def test_a_model_of_nnunet_segments_as_nnunetv2_predict_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions, two channels of two modalities; SimpleITK reads the series for nnU-Net's command."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from trained_models import REGIONS
    from trained_models import train as train_nnunet

    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    model = train_nnunet(tmp_path, nnUNetTrainer, folds=1, labels=REGIONS, regions_class_order=[1, 2])
    (tmp_path / "codes.yaml").write_text(f"whole: {CODE}\ncore: {CODE}\n")
    (tmp_path / "images").mkdir()
    for channel, modality in enumerate(("MR", "CT")):
        voxels = np.random.default_rng(channel).integers(1, 900, SHAPE).astype(np.uint16)
        folder = series(tmp_path / "study" / modality, voxels, Modality=modality, SeriesInstanceUID=f"1.2.{channel}")
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        sitk.WriteImage(reader.Execute(), tmp_path / "images" / f"case_{channel:04d}.nii.gz")
    segment_series(
        model, tmp_path / "study", tmp_path / "seg.dcm", series_uid=["1.2.0", "1.2.1"], codes=tmp_path / "codes.yaml",
        device="cpu",
    )  # fmt: skip
    command = shutil.which("nnUNetv2_predict_from_modelfolder", path=str(Path(sys.executable).parent))
    words = [str(command), "-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "-m", str(model), "-f", "0"]
    environment = {**os.environ, "nnUNet_def_n_proc": "1"}
    subprocess.run([*words, "-device", "cpu", "-npp", "1", "-nps", "1"], check=True, env=environment)
    labels = np.asarray(nib.load(tmp_path / "out" / "case.nii.gz").dataobj)
    expected = [np.isin(labels, [1, 2]), labels == 2]
    np.testing.assert_array_equal(voxels_in(tmp_path / "seg.dcm", SHAPE, lps_affine("oblique")), expected)
    assert expected[0].any()
    assert expected[1].any()
    segment_series(
        model, tmp_path / "study", tmp_path / "openvino.dcm", series_uid=["1.2.0", "1.2.1"],
        codes=tmp_path / "codes.yaml", device="cpu", runtime="openvino",
    )  # fmt: skip
    assert np.mean(voxels_in(tmp_path / "openvino.dcm", SHAPE, lps_affine("oblique")) == expected) > 0.999
