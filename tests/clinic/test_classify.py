"""``medmixers clinic classify``: from a DICOM image or series and a model to a DICOM SR, read back by highdicom."""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pydicom
import pytest
import torch
from bundle_helpers import ROOT
from clinic_series import PATIENT, STUDY, series
from dicom_files import DX, write_dicom
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import MPEG2MPML, JPEGLosslessSV1
from small_bundle import write_small_bundle

from medmixers import create_network
from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.render.bundle import render_bundle
from medmixers.cli.main import main
from medmixers.clinic import prediction
from medmixers.clinic.classify import classify_images
from medmixers.clinic.model import ClassificationModel
from medmixers.errors import InputError

highdicom = pytest.importorskip("highdicom", reason="no highdicom: pip install 'medmixers[dicom]'")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("here")]  # of MONAI, on every run
PNEUMONIA, NODULE = "chest_xray_pneumonia_classification_grouped_conv", "lung_nodule_classification_grouped_conv"
SMALL = {"mixer": "grouped_conv", "kernel_size": 3, "depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
PIXELS = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)
DCIODVFY = shutil.which("dciodvfy")


def write_bundle(folder: Path, name: str) -> Path:
    """A small bundle of a row of the catalog, with weights."""
    row = replace(BUNDLES[name], network_options=SMALL, label="small")
    licence = (ROOT / "LICENSE").read_text()
    for path, text in render_bundle(row, package_version=version("medmixers"), licence=licence).items():
        (folder / row.name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / row.name / path).write_text(text)
    torch.manual_seed(0)
    task = row.task_spec
    size = {"spatial_dims": task.spatial_dims, "in_channels": len(task.channels), "out_channels": task.out_channels}
    network = create_network(row.network, **size, **SMALL)
    (folder / row.name / "models").mkdir()
    torch.save(network.state_dict(), folder / row.name / "models" / "model.pt")
    return folder / row.name


@pytest.fixture(scope="module")
def pneumonia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("pneumonia"), PNEUMONIA)


def picture(file: Path, **tags: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    shared = {**STUDY, "Modality": "DX", "sop_class": DX, "SeriesNumber": 3, **PATIENT, **tags}
    return write_dicom(file, PIXELS, **shared)


def table_of_the_bundle(bundle: Path, images: Path, out: Path) -> dict[str, float]:
    """What the bundle's own inference writes for the one image of a folder."""
    options = {"dataset_dir": str(images), "output_dir": str(out), "device": "$torch.device('cpu')", "num_workers": 0}
    config = str(bundle / "configs" / "inference.json")
    monai.bundle.run(config_file=config, bundle_root=str(bundle), **options)
    (row,) = csv.DictReader((out / "predictions.csv").open())
    return {name: float(value) for name, value in row.items() if name not in ("file", "prediction")}


def reported(file: Path) -> dict[str, tuple[float, bool]]:
    """Class -> its probability, and whether it is the decision."""
    report = highdicom.sr.srread(file)
    found = {}
    for group in report.content.get_image_measurement_groups():
        (probability,) = group.get_measurements()
        decision = {each.name.value: each.value.meaning for each in group.get_qualitative_evaluations()}["DECISION"]
        assert (probability.name.meaning, probability.unit.value) == ("Probability", "1")
        found[group.finding_type.meaning] = float(probability.value), decision == "Present"
    return found


def errors_of_dciodvfy(file: Path) -> list[str]:
    done = subprocess.run([str(DCIODVFY), str(file)], capture_output=True, text=True)
    assert "ComprehensiveSR" in done.stderr + done.stdout
    return [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]


def test_the_report_of_an_x_ray_is_what_the_bundle_predicts(
    pneumonia: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command as it is typed."""
    image = picture(tmp_path / "study" / "a.dcm")
    out = tmp_path / "report.dcm"
    main(["clinic", "classify", str(pneumonia), str(image), str(out), "--device", "cpu"])
    said = "".join(capfd.readouterr())
    assert not any(secret in said for secret in ("DOE", "JOHN", "SECRET", "1950"))

    expected = table_of_the_bundle(pneumonia, tmp_path / "study", tmp_path / "table")
    most = max(expected, key=lambda name: expected[name])
    assert reported(out) == {name: (value, name == most) for name, value in expected.items()}
    assert f"decision: {most}" in said
    report, source = pydicom.dcmread(out), pydicom.dcmread(image)
    assert (report.Modality, report.Manufacturer, report.SeriesNumber) == ("SR", "medmixers", 1004)
    assert (report.StudyInstanceUID, report.PatientName) == (source.StudyInstanceUID, source.PatientName)
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert "research only" in report.SeriesDescription
    assert [each.ContentTemplateSequence[0].TemplateIdentifier for each in [report]] == ["1500"]
    if DCIODVFY is not None:
        assert errors_of_dciodvfy(out) == []


def test_a_volume_is_classified_from_its_series(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundles", NODULE)
    voxels = np.random.default_rng(1).integers(0, 900, (30, 28, 26)).astype(np.uint16)
    made = series(tmp_path / "study" / "series", voxels, "axial", Modality="CT", PatientName="")
    classify_images(bundle, tmp_path / "study", tmp_path / "report.dcm", device="cpu")
    expected = table_of_the_bundle(bundle, tmp_path / "study", tmp_path / "table")
    assert {name: value for name, (value, _) in reported(tmp_path / "report.dcm").items()} == expected
    report = pydicom.dcmread(tmp_path / "report.dcm")
    referenced = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    uids = {each.ReferencedSOPInstanceUID for each in referenced}
    assert uids == {pydicom.dcmread(file).SOPInstanceUID for file in made.iterdir()}
    if DCIODVFY is not None:
        assert errors_of_dciodvfy(tmp_path / "report.dcm") == []


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT"}, "the model takes CR or DX, the image is CT"),
        ({"StudyInstanceUID": ""}, r"a\.dcm has no StudyInstanceUID, which a DICOM SR refers to"),
    ],
)
def test_images_that_do_not_fit(tags: dict[str, str], message: str, pneumonia: Path, tmp_path: Path) -> None:
    picture(tmp_path / "study" / "a.dcm", **tags)
    with pytest.raises(InputError, match=message):
        classify_images(pneumonia, tmp_path / "study", tmp_path / "report.dcm", device="cpu")
    assert not (tmp_path / "report.dcm").exists()


def test_a_single_slice_is_no_volume(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundles", NODULE)
    made = series(tmp_path / "series", np.zeros((8, 9, 3), np.uint16), "axial", Modality="CT")
    with pytest.raises(InputError, match=r"series/001\.dcm is a single slice, and the model takes a volume"):
        classify_images(bundle, made / "001.dcm", tmp_path / "report.dcm", device="cpu")


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        (JPEGLosslessSV1, r"a\.dcm has the transfer syntax JPEG Lossless.*: to decode it, install x>=1, or y and z$"),
        (MPEG2MPML, r"a\.dcm has the transfer syntax MPEG2 .*, which pydicom does not decode"),
    ],
)
def test_pixels_without_a_decoder_are_refused(
    syntax: str, message: str, pneumonia: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is installed here: a decoder that pydicom has, and misses packages for."""
    known = get_decoder(JPEGLosslessSV1)
    monkeypatch.setattr(type(known), "is_available", property(lambda self: False))
    monkeypatch.setattr(type(known), "missing_dependencies", property(lambda self: ["x - requires x>=1", "y and z"]))
    image = pydicom.dcmread(picture(tmp_path / "a.dcm"))
    image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = encapsulate([b"ab"])
    image["PixelData"].is_undefined_length = True
    image.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=message):
        classify_images(pneumonia, tmp_path / "a.dcm", tmp_path / "report.dcm", device="cpu")


def test_errors_name_the_files_of_the_user(pneumonia: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle sees links to them."""

    def refuse(bundle: Path, options: dict[str, Any], folder: Path, names: Any) -> None:
        (link,) = Path(options["datalist"][0]).iterdir()
        raise InputError(f"{link} of {link.parent}: {link.name}")

    monkeypatch.setattr(prediction, "run_inference", refuse)
    image = picture(tmp_path / "study" / "a.dcm")
    with pytest.raises(InputError, match=f"^{image} of {image.parent}: a.dcm$"):
        classify_images(pneumonia, image, tmp_path / "report.dcm", device="cpu")


def test_one_image_is_chosen(pneumonia: Path, tmp_path: Path) -> None:
    picture(tmp_path / "study" / "a.dcm")
    picture(tmp_path / "study" / "b.dcm", SeriesInstanceUID="1.2.4")
    with pytest.raises(InputError, match="holds 2 DICOM images in 2 series; the model takes one: give its file"):
        classify_images(pneumonia, tmp_path / "study", tmp_path / "report.dcm", device="cpu")
    with pytest.raises(InputError, match=r"holds no DICOM series '1\.9'; valid: 1\.2\.3, 1\.2\.4"):
        classify_images(pneumonia, tmp_path / "study", tmp_path / "report.dcm", series_uid="1.9", device="cpu")
    classify_images(pneumonia, tmp_path / "study", tmp_path / "report.dcm", series_uid="1.2.4", device="cpu")
    assert (tmp_path / "report.dcm").is_file()


def test_models_that_do_not_classify(tmp_path: Path) -> None:
    picture(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="segments images; use medmixers clinic segment"):
        classify_images(write_small_bundle(tmp_path / "other"), tmp_path / "a.dcm", tmp_path / "report.dcm")
    with pytest.raises(InputError, match=r"has no configs/inference\.json"):
        classify_images(tmp_path, tmp_path / "a.dcm", tmp_path / "report.dcm")
    with pytest.raises(InputError, match="must be a DICOM file to write"):
        classify_images(tmp_path, tmp_path / "a.dcm", tmp_path / "report.csv")


def test_decisions() -> None:
    model = ClassificationModel(Path(), "m", "1", Path(), "X-ray", 2, ("a", "b", "c"), False)
    assert model.decided({"a": 0.3, "b": 0.4, "c": 0.3}) == {"b"}
    several = replace(model, multi_label=True)
    assert several.decided({"a": 0.5, "b": 0.49, "c": 0.9}) == {"a", "c"}
    assert several.decided({"a": 0.1, "b": 0.2, "c": 0.3}) == set()
