"""``medmixers clinic report``: the page holds what was measured, in the patient's orientation, and loads nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from clinic_series import PATIENT, lps_affine, series
from dicom_files import write_multi_frame
from numpy.typing import NDArray
from PIL import Image

from medmixers.cli.main import main
from medmixers.clinic.report.command import write_report
from medmixers.clinic.report.planes import Drawing, Structure
from medmixers.clinic.uncertainty.command import image_digest
from medmixers.errors import InputError

SHAPE = (20, 22, 18)
RED, BLUE = (255, 0, 0), (0, 0, 255)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = '<script>alert("x")</script>'


def model(**changes: Any) -> dict[str, Any]:
    known = {
        "name": "A model", "version": "0.1.0", "description": "A network.", "data_source": "One hospital",
        "data_licence": None, "intended_use": "Research. One scanner.", "eval_metrics": {"val_mean_dice": 0.8125},
        "weights_sha256": "ab" * 32,
    }  # fmt: skip
    return {**known, **changes}


def facts(case: str, image: Path, **changes: Any) -> dict[str, Any]:
    """As ``clinic uncertainty`` writes them."""
    structure = {"values": [1], "colour": list(RED), "size": 12.34, "low": 10.0, "high": 20.0, "predicted_dice": 0.876}
    calibration = {
        "temperature": 1.25, "validation_cases": 3, "negative_log_likelihood": [0.3, 0.2],
        "expected_calibration_error": [0.0512, 0.0104],
        "structures": [{"name": "the_liver", "cases": 3, "dice": 0.91, "predicted_dice": 0.9, "inside": 2}],
    }  # fmt: skip
    known = {
        "case": case, "date": "2026-01-31", "medmixers": "0.1.0", "images_sha256": [image_digest(image)],
        "models": [model()], "members": 8, "calibrated": True, "calibration": calibration, "unlike_training_data": [],
        "mean_entropy": 0.1, "unit": "ml", "level": 0.9, "structures": [{"name": "the_liver", **structure}],
    }  # fmt: skip
    return {**known, **changes}


def written(folder: Path, case: str, image: Path, affine: NDArray[Any], **changes: Any) -> Path:
    """A folder of predictions of one case."""
    label = np.zeros(SHAPE, np.uint8)
    label[4:9, 5:12, 6:11] = 1
    entropy = np.zeros(SHAPE, np.float32)
    entropy[9, 5:12, 6:11] = 0.6
    (folder / "uncertainty").mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label, affine), folder / f"{case}.nii.gz")
    nib.save(nib.Nifti1Image(entropy, affine), folder / "uncertainty" / f"{case}_entropy.nii.gz")
    (folder / "uncertainty" / f"{case}.json").write_text(json.dumps(facts(case, image, **changes)))
    return folder


def nifti(path: Path, affine: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(voxels, affine)
    image.header["descrip"] = b"JOHN DOE"
    nib.save(image, path)
    return path


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A folder with images and predictions of two cases."""
    affine = np.diag([-2.0, 2, 3, 1])
    doubtful = {"calibrated": False, "calibration": None, "unlike_training_data": None}
    for name, changes in (("case_a", {}), ("case_b", {**doubtful, "models": [model(name=HOSTILE)]})):
        image = nifti(tmp_path / "images" / f"{name}_0000.nii.gz", affine)
        written(tmp_path / "predictions", name, image, affine, **changes)
    return tmp_path


def test_the_page_says_what_is_known(case: Path) -> None:
    main(["clinic", "report", str(case / "predictions"), str(case / "images"), str(case / "report.html")])
    text = (case / "report.html").read_text()
    words = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    for part in (
        "Research only. Not a medical device.",
        "the liver 12.3 10.0 to 20.0 0.88",
        "Interval: 90 %.",
        "Trained on One hospital",
        "Use and limits Research. One scanner.",
        "val_mean_dice 0.812",
        f"SHA-256 of the tensors: {'ab' * 32}",
        f"SHA-256 of the image: {image_digest(case / 'images' / 'case_a_0000.nii.gz')}",
        "Calibrated on 3 validation cases (temperature 1.25)",
        "0.051 before and 0.010 after",
        "the liver 0.910 0.900 2 of 3",
        "from 8 predictions per image",
    ):
        assert part in words, part
    assert words.count("Not calibrated.") == words.count("Not compared with the training data.") == 1
    assert words.count("12.3 10.0 to 20.0") == 2
    assert "JOHN" not in text
    assert sorted(path.name for path in case.iterdir()) == ["images", "predictions", "report.html"]


def test_each_case_has_its_own_model_and_calibration(case: Path) -> None:
    """A folder that two runs wrote: the page must not tell the calibration of one as that of the other."""
    file = case / "predictions" / "uncertainty" / "case_b.json"
    known = json.loads(file.read_text())
    own = {**facts("case_b", case / "images" / "case_b_0000.nii.gz")["calibration"], "temperature": 2.5}
    other = model(name="second_model", weights_sha256="cd" * 32)
    file.write_text(json.dumps({**known, "models": [other], "calibrated": True, "calibration": own}))
    write_report(case / "predictions", case / "images", case / "report.html")
    words = " ".join(re.sub(r"<[^>]+>", " ", (case / "report.html").read_text()).split())
    assert "case_a only: Calibrated on 3 validation cases (temperature 1.25)" in words
    assert "case_b only: Calibrated on 3 validation cases (temperature 2.50)" in words
    first, second = words.split("Predicted 2026-01-31 by ")[1:]
    assert "(weights abababab)" in first
    assert second.startswith("second_model, version 0.1.0 (weights cdcdcdcd)")


def test_the_page_loads_and_runs_nothing(case: Path) -> None:
    write_report(case / "predictions", case / "images", case / "report.html")
    text = (case / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert set(re.findall(r'src="(.{10})', text)) == {"data:image"}
    assert "://" not in text
    assert text.count("data:image/png") == 2 * 6


def test_a_name_may_hold_characters_of_a_pattern(tmp_path: Path) -> None:
    affine = np.diag([-2.0, 2, 3, 1])
    image = nifti(tmp_path / "images" / "case[1]_0000.nii.gz", affine)
    written(tmp_path / "predictions", "case[1]", image, affine)
    write_report(tmp_path / "predictions", tmp_path / "images", tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file()


def test_an_image_unlike_the_training_data_has_a_stamp(case: Path) -> None:
    image = case / "images" / "case_a_0000.nii.gz"
    unlike = {"unlike_training_data": ["spacing 4 x 4 x 4 mm, in training 2 x 2 x 2"]}
    written(case / "predictions", "case_a", image, nib.load(image).affine, **unlike)
    write_report(case / "predictions", case / "images", case / "report.html")
    text = (case / "report.html").read_text()
    assert "This image is unlike the training data.</strong> spacing 4 x 4 x 4 mm, in training 2 x 2 x 2." in text


def test_a_dicom_series_is_found_by_its_content(tmp_path: Path) -> None:
    """Nothing of the patient is on the page, and nothing but the digest ties the image to its prediction."""
    voxels = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.uint16)
    made = series(tmp_path / "study" / "scan", voxels, **PATIENT)
    affine = np.diag([-1, -1, 1, 1]) @ lps_affine("oblique")
    written(tmp_path / "predictions", "scan", made, affine)
    write_report(tmp_path / "predictions", tmp_path / "study", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/png") == 6
    words = re.sub(r'base64,[^"]*', "", text)
    assert not any(str(value) in words for value in PATIENT.values() if len(str(value)) > 3)


def test_a_multi_frame_file_is_a_volume(tmp_path: Path) -> None:
    """Its pictures are those of the same voxels in a NIfTI file."""
    voxels = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.uint16)
    (tmp_path / "frames").mkdir()
    file = write_multi_frame(tmp_path / "frames" / "scan.dcm", voxels)
    affine = np.diag([-2.0, -2, 3, 1])
    other = tmp_path / "nifti" / "scan.nii.gz"
    other.parent.mkdir()
    nib.save(nib.Nifti1Image((2 * voxels + np.arange(SHAPE[2])).astype(np.float32), affine), other)
    pictures = []
    for image in (file, other):
        written(tmp_path / "predictions", "scan", image, affine)
        write_report(tmp_path / "predictions", image.parent, tmp_path / "report.html")
        pictures.append(re.findall(r'data:image/png;base64,([^"]*)', (tmp_path / "report.html").read_text()))
    assert len(pictures[0]) == 6
    assert pictures[0] == pictures[1]


def test_classes_need_no_pictures(tmp_path: Path) -> None:
    image = nifti(tmp_path / "images" / "a.nii.gz", np.eye(4))
    (tmp_path / "predictions" / "uncertainty").mkdir(parents=True)
    known = facts("a", image, probabilities={"well": 0.25, "ill": 0.75}, mean_mutual_information=0.01)
    del known["structures"]
    (tmp_path / "predictions" / "uncertainty" / "a.json").write_text(json.dumps(known))
    write_report(tmp_path / "predictions", tmp_path / "images", tmp_path / "report.html")
    words = " ".join(re.sub(r"<[^>]+>", " ", (tmp_path / "report.html").read_text()).split())
    assert "class probability well 0.250 ill 0.750" in words
    assert "Entropy 0.100 nats, of which 0.010 are disagreement of 8 members" in words


def test_what_does_not_belong_together_is_refused(case: Path) -> None:
    out = case / "report.html"
    with pytest.raises(InputError, match="must be a page to write"):
        write_report(case / "predictions", case / "images", case / "report.pdf")
    with pytest.raises(InputError, match="holds no predictions of: medmixers clinic uncertainty"):
        write_report(case / "images", case / "images", out)
    nifti(case / "images" / "case_b_0000.nii.gz", np.eye(4))
    with pytest.raises(InputError, match="does not hold the image that case_b was predicted from"):
        write_report(case / "predictions", case / "images", out)
    image = case / "images" / "case_b_0000.nii.gz"
    written(case / "predictions", "case_b", image, np.diag([2.0, 2, 2, 1]))
    with pytest.raises(InputError, match="does not lie on the image"):
        write_report(case / "predictions", case / "images", out)
    (case / "predictions" / "uncertainty" / "case_b.json").write_text("{}")
    with pytest.raises(InputError, match=r"case_b.json was not written by medmixers clinic uncertainty"):
        write_report(case / "predictions", case / "images", out)
    assert not out.exists()


def pixels(png: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(png)), int)


@pytest.mark.parametrize("turn", [np.diag([1, 1, 1, 1]), np.diag([-1, -1, 1, 1]), np.eye(4)[[2, 0, 1, 3]]], ids=str)
def test_planes_are_radiological_however_the_file_is_stored(turn: NDArray[Any]) -> None:
    """A bright box in the patient's right, anterior, upper corner is outlined; a doubtful one lies opposite."""
    ras = np.diag([1.0, 1, 2, 1])
    shape = (30, 40, 15)
    image, mask, entropy = np.ones(shape), np.zeros(shape, bool), np.zeros(shape, np.float32)
    box = np.s_[22:28, 30:38, 10:13]
    image[box], mask[box] = 100, True
    entropy[2:8, 2:8, 1:6] = 1.0
    affine = ras @ turn
    order = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(ras), nib.orientations.io_orientation(affine)
    )
    image, mask, entropy = (nib.orientations.apply_orientation(each, order) for each in (image, mask, entropy))
    drawn = Drawing(image, [Structure(mask, BLUE)], entropy, affine)
    axial, coronal, sagittal = drawn.fullest()
    assert [plane.words for plane in (axial, coronal, sagittal)] == [
        "axial, slice 11 of 15", "coronal, slice 31 of 40", "sagittal, slice 23 of 30",
    ]  # fmt: skip
    scale = 320 / 40
    for plane, size, centre in (
        (axial, (40, 30), (6, 5)),
        (coronal, (30, 30), (7, 5)),
        (sagittal, (30, 40), (7, 6)),
    ):
        found = pixels(plane.png)
        assert found.shape[:2] == tuple(round(each * scale) for each in size)
        blue = np.argwhere((found == BLUE).all(axis=-1))
        np.testing.assert_allclose((blue.min(axis=0) + blue.max(axis=0) + 1) / 2 / scale, centre, atol=0.3)
    for plane in drawn.least_sure():
        found = pixels(plane.png)
        rows, columns = np.nonzero((found[..., 0] > 150) & (found[..., 1] > 150) & (found[..., 2] < 100))
        assert rows.min() > found.shape[0] / 2
        assert columns.min() > found.shape[1] / 2


def test_a_picture_has_one_plane() -> None:
    image = np.zeros((30, 20, 3))
    image[20:, :10] = (200, 100, 0)
    mask = np.zeros((30, 20), bool)
    mask[2:8, 10:18] = True
    drawn = Drawing(image, [Structure(mask, BLUE)], np.zeros((30, 20), np.float32), None)
    (plane,) = drawn.fullest()
    found = pixels(plane.png)
    assert found.shape[1] > found.shape[0]
    blue = np.argwhere((found == BLUE).all(axis=-1))
    assert blue[:, 0].min() >= found.shape[0] / 2 - 1
    assert blue[:, 1].max() < found.shape[1] / 3


STUB = """(function(g){g.niivue={Niivue:class{
  constructor(options){this.said=[options.isRadiologicalConvention];this.volumes=[]}
  async attachToCanvas(canvas){FAULT;this.canvas=canvas}
  async loadFromArrayBuffer(buffer,name){
    this.volumes.push({id:name,setColormapLabel:(map)=>this.said.push(map.labels)});
    this.said.push([name,new Uint8Array(buffer)[0]])}
  setColormap(id,map){this.said.push([id,map])}
  setOpacity(volume,value){this.said.push([volume,value])}
  updateGLVolume(){this.canvas.dataset.said=JSON.stringify(this.said)}
}}})(globalThis);/* globalThis;.niivue= </script> */"""
OPENED = 'window.addEventListener("load",()=>{document.querySelector("details.viewer").open=true})'


@pytest.fixture
def viewer(tmp_path: Path) -> Path:
    """A stand-in for NiiVue, which says what it was given."""
    (tmp_path / "niivue.umd.js").write_text(STUB.replace("FAULT;", ""))
    return tmp_path / "niivue.umd.js"


def test_the_viewer_has_the_volumes_of_the_case(case: Path, viewer: Path) -> None:
    write_report(case / "predictions", case / "images", case / "report.html", viewer=viewer)
    text = (case / "report.html").read_text()
    policy = re.search(r"script-src ([^;]*);", text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert policy is not None
    assert policy[1].split() == [
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts
    ]
    assert text.count("data:image/png") == 2 * 6  # the pictures stay
    found = {}
    for name in ("image", "labels", "entropy"):
        data = re.search(f'id="viewer-1-{name}">(.*?)</script>', text)
        assert data is not None
        content = gzip.decompress(base64.b64decode(data[1]))
        assert b"JOHN" not in content
        found[name] = nib.Nifti1Image.from_bytes(content)
    label = nib.as_closest_canonical(nib.load(case / "predictions" / "case_a.nii.gz"))
    np.testing.assert_array_equal(np.asarray(found["labels"].dataobj), np.asarray(label.dataobj))
    np.testing.assert_allclose(found["labels"].affine, label.affine)
    assert np.asarray(found["entropy"].dataobj).max() == round(255 * 0.6 / np.log(2))
    image = nib.as_closest_canonical(nib.load(case / "images" / "case_a_0000.nii.gz"))
    grey, voxels = (np.asarray(each.dataobj, float).ravel() for each in (found["image"], image))
    inside = (grey > 0) & (grey < 255)
    assert inside.mean() > 0.9
    assert np.corrcoef(grey[inside], voxels[inside])[0, 1] > 0.9999


def test_another_file_is_no_viewer(case: Path, viewer: Path) -> None:
    viewer.write_text("alert(1)")
    with pytest.raises(InputError, match=r"is not niivue.umd.js of NiiVue: npm pack @niivue/niivue"):
        write_report(case / "predictions", case / "images", case / "report.html", viewer=viewer)
    with pytest.raises(InputError, match="it is in NiiVue's package"):
        write_report(case / "predictions", case / "images", case / "report.html", viewer=case / "none.js")


@pytest.mark.slow
@pytest.mark.client("Chromium")
@pytest.mark.skipif(BROWSER is None, reason="no chromium")
@pytest.mark.parametrize("fault", ["", "throw new Error('no WebGL');"], ids=["works", "no WebGL"])
def test_the_viewer_in_a_browser(fault: str, case: Path, viewer: Path) -> None:
    """The page's policy lets its own scripts run, and a browser without WebGL keeps the pictures."""
    viewer.write_text(STUB.replace("FAULT;", fault))
    write_report(case / "predictions", case / "images", case / "report.html", viewer=viewer)
    text = (case / "report.html").read_text()
    digest = base64.b64encode(hashlib.sha256(OPENED.encode()).digest()).decode()
    text = text.replace("script-src", f"script-src 'sha256-{digest}'", 1)
    (case / "opened.html").write_text(text.replace("</body>", f"<script>{OPENED}</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    command = [str(BROWSER), *options, (case / "opened.html").as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    if fault:
        assert "cannot show the viewer (Error: no WebGL). The pictures above show the case." in dom
        return
    said = re.search(r'data-said="([^"]*)"', dom)
    assert said is not None
    assert json.loads(html.unescape(said[1])) == [
        True, ["image.nii.gz", 31], ["labels.nii.gz", 31], ["entropy.nii.gz", 31], ["", "the liver"],
        ["entropy.nii.gz", "warm"], [1, 0.5], [2, 0],
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.client("Chromium")
@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_the_page_in_a_browser(case: Path, tmp_path: Path) -> None:
    """Every picture is drawn, at a phone's width too; and the style is that of the page's own policy."""
    write_report(case / "predictions", case / "images", case / "report.html")
    text = (case / "report.html").read_text()
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode() in text
    for width in (1200, 360):
        shot = tmp_path / f"{width}.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2600", f"--screenshot={shot}"]
        command = [str(BROWSER), *options, (case / "report.html").as_uri()]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        assert "Refused" not in done.stderr
        red = (np.asarray(Image.open(shot).convert("RGB")) == RED).all(axis=-1)
        assert red.sum() > 500
