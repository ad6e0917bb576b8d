"""What `medmixers dataset check` notes: copies, patients in two parts, and outliers; and the page that shows them."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy.ndimage import gaussian_filter
from scipy.stats import median_abs_deviation

from medmixers.cli.main import main
from medmixers.datasets.audit import AuditReport, audit_nnunet_dataset
from medmixers.datasets.audit_datalist import DatalistReport, audit_datalist
from medmixers.datasets.case_facts import CaseFacts, patient_of
from medmixers.datasets.check_page import choose
from medmixers.datasets.findings import Measure
from medmixers.datasets.thumbnails import Thumbnail, thumbnail
from medmixers.errors import InputError

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (20, 16, 12)


def volume(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.5)
    return (300 * noise / noise.std()).round().astype(np.int16)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def add(folder: Path, part: str, name: str, data: np.ndarray, affine: np.ndarray = AFFINE, voxels: int = 60) -> None:
    label = np.zeros(data.shape, np.uint8)
    label.reshape(-1)[data.size // 2 - voxels // 2 :][:voxels] = 1
    save(folder / f"images{part}/{name}_0000.nii.gz", data, affine)
    save(folder / f"labels{part}/{name}.nii.gz", label, affine)


def describe(folder: Path, training: int) -> None:
    labels = {"background": 0, "organ": 1}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": training, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset001_<b>"
    for k in range(6):
        add(folder, "Tr", f"scan{k}", volume(k))
    add(folder, "Ts", "held", volume(10))
    describe(folder, 6)
    return folder


def found(report: AuditReport | DatalistReport, kind: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.text, each.cases) for each in report.findings if each.kind == kind]


def test_a_sound_data_set_has_no_findings(raw: Path) -> None:
    report = audit_nnunet_dataset(raw)
    assert report.findings == ()
    assert [each.name for each in report.facts] == [*(f"scan{k}" for k in range(6)), "held"]
    assert report.facts[0].spacing == (2, 2, 3)
    assert report.facts[0].labels == {"organ": pytest.approx(60 * 12 / 1000)}


def turned(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with x and y exchanged and x reversed, by nibabel."""
    image = nib.Nifti1Image(data, AFFINE)
    other = image.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]]))
    return np.asanyarray(other.dataobj), other.affine


@pytest.mark.parametrize("how", ["bytes", "single precision", "another scale", "rounding", "orientation"])
def test_copies_of_volumes_are_found_however_they_were_saved(how: str, raw: Path) -> None:
    data, affine = volume(3), AFFINE
    if how == "single precision":
        data = data.astype(np.float32)
    elif how == "another scale":
        data = (data * 0.1 + 7).astype(np.float32)
    elif how == "rounding":
        data = (data + np.random.default_rng(0).uniform(-0.5, 0.5, SHAPE)).astype(np.float32)
    elif how == "orientation":
        data, affine = turned(data)
    add(raw, "Ts", "other", data, affine)
    ((text, cases),) = found(audit_nnunet_dataset(raw), "copies")
    assert cases == ("scan3", "other")
    assert text == (
        "near-identical images in different parts, which makes scores too good: scan3 (training) and other (test); "
        "1 such group"
    )


def test_copies_in_one_part_count_unless_folds_keep_them_together(raw: Path) -> None:
    add(raw, "Tr", "scan6", volume(2))
    describe(raw, 7)
    ((text, cases),) = found(audit_nnunet_dataset(raw), "copies")
    assert cases == ("scan2", "scan6")
    assert "that folds may divide, without splits_final.json: scan2 (training) and scan6 (training)" in text
    names = [f"scan{k}" for k in range(7)]
    for together, expected in ((["scan2", "scan6"], 0), (["scan1", "scan2"], 1)):
        folds = [{"train": [name for name in names if name not in together], "val": together}]
        (raw / "splits_final.json").write_text(json.dumps(folds))
        assert len(found(audit_nnunet_dataset(raw), "copies")) == expected


def picture(seed: int, blur: float = 6) -> Image.Image:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(90, 100, 3)), (blur, blur, 0))
    return Image.fromarray(np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("how", ["JPEG", "half the size", "grey", "brighter"])
def test_copies_of_pictures_are_found_by_a_perceptual_hash(how: str, tmp_path: Path) -> None:
    copy = picture(1)
    if how == "half the size":
        copy = copy.resize((50, 45))
    elif how == "grey":
        copy = copy.convert("L")
    elif how == "brighter":
        copy = copy.point(lambda value: int(255 * (value / 255) ** 0.8))
    for k in range(4):
        picture(k).save(tmp_path / f"{k}.png")
    copy.save(tmp_path / "copy.jpg", quality=60)
    entries = [{"image": f"{k}.png", "label": k % 2} for k in range(4)]
    held = [{"image": "copy.jpg", "label": 1}]
    content = {"training": entries, "validation": [], "test": held}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    ((text, cases),) = found(audit_datalist(tmp_path), "copies")
    assert cases == ("1.png", "copy.jpg")
    assert "1.png (training) and copy.jpg (test)" in text
    same_group = [{**entry, "group": "g"} for entry in (entries[1], *held)]
    content = {"training": [entries[0], *same_group], "validation": [], "test": [entries[2]]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    assert found(audit_datalist(tmp_path), "copies") == []


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient001_frame12", "patient001"),
        ("sub-01_ses-02", "sub-01"),
        ("images/Patient_7_left", "patient_7"),
        ("TCGA-AB-1234-01Z", "tcga-ab-1234"),
        ("BraTS-GLI-00012-100", "brats-gli-00012"),
        ("case12_slice003", "case12"),
        ("0001_visit2_img_4", "0001"),
        ("images/12_left.png", "images/12"),
        ("BraTS2021_00012", None),
        ("la_003", None),
        ("img0012", None),
        ("submarine_photo", None),
        ("scan_01", None),
    ],
)
def test_patients_by_names(name: str, patient: str | None) -> None:
    assert patient_of(name, Path(f"{name}.nii.gz")) == patient


@pytest.mark.parametrize("name", ["a.dcm", "a.IMA", "a.dicom", "a"])
def test_patients_by_dicom(tmp_path: Path, name: str) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset(str(tmp_path / name), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientID = "MRN 42"
    dataset.save_as(tmp_path / name)
    assert patient_of("image", tmp_path / name) == "MRN 42"


def test_a_patient_in_two_parts(raw: Path) -> None:
    add(raw, "Tr", "patient7_frame01", volume(20))
    add(raw, "Ts", "patient7_frame02", volume(21))
    describe(raw, 7)
    ((text, cases),) = found(audit_nnunet_dataset(raw), "patient")
    assert cases == ("patient7_frame01", "patient7_frame02")
    assert text.startswith("cases of one patient, by names or DICOM, in different parts, which makes scores too good: ")


def test_what_most_names_share_is_no_patient(tmp_path: Path) -> None:
    for k in range(6):
        add(tmp_path, "Tr", f"2020_scan_{k}", volume(k))
    describe(tmp_path, 6)
    assert found(audit_nnunet_dataset(tmp_path), "patient") == []


def test_outliers_in_every_measure(raw: Path) -> None:
    add(raw, "Tr", "scan6", volume(6) + np.int16(2000), np.diag([2.0, 2.0, 9.0, 1.0]))
    add(raw, "Tr", "scan7", np.concatenate([volume(7)] * 3), voxels=3)
    describe(raw, 8)
    lines = dict(found(audit_nnunet_dataset(raw), "outlier"))
    assert lines["spacing along z (mm): 1 of 9 cases beyond 3.5 modified z-scores of the median 3 (scan6: 9)"] == (
        "scan6",
    )
    assert lines["size along x (voxels): 1 of 9 cases beyond 3.5 modified z-scores of the median 20 (scan7: 60)"] == (
        "scan7",
    )
    assert [cases for text, cases in lines.items() if text.startswith("mean of CT")] == [("scan6",)]
    assert {cases for text, cases in lines.items() if text.startswith("organ (ml)")} == {("scan7",)}
    assert not any(text.startswith(("spacing along x", "size along z")) for text in lines)


def test_scores_are_those_of_scipys_median_absolute_deviation() -> None:
    values = np.random.default_rng(0).normal(50, 4, 40)
    names = [str(k) for k in range(40)]
    scores = Measure("m", dict(zip(names, values, strict=True)), is_ratio=False).scores()
    oracle = (values - np.median(values)) / median_abs_deviation(values, scale="normal")
    np.testing.assert_allclose([scores[name] for name in names], oracle, rtol=1e-3)


def test_two_common_values_are_no_outliers_and_few_cases_have_none() -> None:
    sizes = {str(k): 140.0 if k % 4 == 0 else 128.0 for k in range(40)}
    assert Measure("size", sizes, is_ratio=True).outliers() == {}
    assert list(Measure("size", {**sizes, "far": 700.0}, is_ratio=True).outliers()) == ["far"]
    assert Measure("size", {"a": 1.0, "b": 1.0, "c": 1.0, "d": 9.0}, is_ratio=True).scores() == {}


class Page(HTMLParser):
    """Tags with their attributes, and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_shows_every_case_and_loads_nothing(raw: Path, tmp_path: Path, capsys: Any) -> None:
    add(raw, "Ts", "other", volume(3))
    page = tmp_path / "look.html"
    main(["dataset", "check", str(raw), "--report", str(page)])
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == str(page)
    text = page.read_text("utf-8")
    read = Page(text)
    (policy,) = [each["content"] for tag, each in read.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not {"script", "iframe", "object"} & {tag for tag, _ in read.tags}
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    images = [each for tag, each in read.tags if tag == "img"]
    assert len(images) == 8
    assert images[0]["alt"].startswith("scan0, slice ")
    assert all(
        each["role"] == "img" and each["aria-label"] for tag, each in read.tags if tag == "svg" and "role" in each
    )
    assert next(note.removeprefix("note: ") for note in out if "near-identical" in note) in read.words
    assert "Dataset001_<b>" in read.words
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("place", ["look.txt", "imagesTr/look.html", "."])
def test_a_page_is_not_written_over_data(place: str, raw: Path) -> None:
    before = sorted(raw.rglob("*"))
    with pytest.raises((InputError, SystemExit)) as caught:
        main(["dataset", "check", str(raw), "--report", str(raw / place)])
    assert getattr(caught.value, "code", 2) == 2
    assert sorted(raw.rglob("*")) == before


def test_thumbnails_show_the_middle_slice_with_the_patients_right_on_the_left() -> None:
    data = np.zeros((20, 30, 9))
    data[15:, 20:, 4] = 100  # right, anterior
    label = np.zeros(data.shape, np.uint8)
    label[2:8, 4:10, 4] = 1  # left, posterior
    shown = thumbnail(data, (1, 1, 2), [label])
    pixels = np.asarray(Image.open(io.BytesIO(shown.jpeg)), int)
    assert shown.words == "slice 5 of 9 along z"
    assert pixels.shape[:2] == (176, 117)
    assert pixels[20, 10].min() > 200  # upper left
    coloured = np.ptp(pixels, axis=-1) > 60
    rows, columns = np.nonzero(coloured)
    assert rows.min() > 88
    assert columns.min() > 58
    label[:] = 0
    label[5, 5, 7] = 1
    assert thumbnail(data, (1, 1, 2), [label]).words == "slice 8 of 9 along z"
    assert thumbnail(data, (3, 1, 2), []).words == "slice 11 of 20 along x"


def test_at_most_so_many_thumbnails_with_the_findings_first() -> None:
    drawn = Thumbnail(b"", "")
    facts = [CaseFacts(str(k), "training", "", None, (1, 1), (), {}, None, thumbnail=drawn) for k in range(50)]
    from medmixers.datasets.findings import Finding

    shown = [each.name for each in choose(facts, [Finding("outlier", "", ("17", "33"))], most=10)]
    assert len(shown) == 10
    assert {"17", "33", "0", "49"} <= set(shown)
    assert shown == sorted(shown, key=int)
    assert len(choose(facts, [], most=50)) == 50


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_the_page_fits_a_phone(raw: Path, tmp_path: Path) -> None:
    page = tmp_path / "look.html"
    main(["dataset", "check", str(raw), "--report", str(page)])
    shot = tmp_path / "shot.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=360,900", f"--screenshot={shot}"]
    subprocess.run(["chromium", *options, page.as_uri()], check=True, capture_output=True, timeout=120)
    assert np.asarray(Image.open(shot).convert("L")).std() > 0
