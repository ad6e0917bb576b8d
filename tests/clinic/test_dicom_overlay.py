"""configs/dicom.json over configs/inference.json: DICOM series in, DICOM SEG out, with MONAI's own command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pydicom
import pytest
import torch
from bundle_helpers import ROOT
from clinic_series import PATIENT, lps_affine, series, voxels_in
from small_bundle import start_weights, write_small_bundle_with_weights

from medmixers.bundle_runtime import dicom_saving
from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.pack import pack_bundle
from medmixers.clinic.segment import segment_series
from medmixers.errors import InputError, MissingPackageError
from medmixers.files import file_digest
from medmixers.tasks import TASKS
from medmixers.tasks.palette import coloured

pytest.importorskip("highdicom", reason="no highdicom: pip install 'medmixers[dicom]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
SHAPE = (20, 22, 18)
CODE = {"type": ["X", "99MINE", "X"]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle_with_weights(tmp_path_factory.mktemp("bundle"))


def voxels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(1, 900, SHAPE).astype(np.uint16)


def predict(bundle: Path, images: Path, out: Path, **options: Any) -> None:
    configs = [str(bundle / "configs" / f"{name}.json") for name in ("inference", "dicom")]
    shared = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(out), "num_workers": 0}
    monai.bundle.run(config_file=configs, **shared, **{"device": "$torch.device('cpu')", **options})


@pytest.mark.usefixtures("here")
def test_each_series_of_a_folder_becomes_the_seg_of_clinic_segment(bundle: Path, tmp_path: Path) -> None:
    for seed, orientation in enumerate(("axial", "oblique")):
        series(tmp_path / "images" / orientation, voxels(seed), orientation, **PATIENT)
    predict(bundle, tmp_path / "images", tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["axial.dcm", "oblique.dcm"]
    segment_series(bundle, tmp_path / "images" / "oblique", tmp_path / "ours.dcm", device="cpu")
    files = tmp_path / "out" / "oblique.dcm", tmp_path / "ours.dcm"
    found, ours = (voxels_in(file, SHAPE, lps_affine("oblique")) for file in files)
    np.testing.assert_array_equal(found, ours)
    assert found[0].any()
    assert found[1].any()
    one, other = map(pydicom.dcmread, files)
    own = {"SOPInstanceUID", "SeriesInstanceUID", "DimensionOrganizationUID", "PixelData"}
    for each in one:
        if each.VR not in ("SQ", "DT", "DA", "TM") and each.keyword not in own:
            assert other[each.tag] == each, each
    assert one.DeviceSerialNumber == file_digest(bundle / "models" / "model.pt")
    assert {name: one[name].value for name in PATIENT} == PATIENT


def test_channels_and_structures_that_overlap(tmp_path: Path) -> None:
    """Two channels, each a folder; masks; two weights that are averaged; one of several series in a folder."""
    task = replace(
        TASKS["brain_tissue_segmentation"], name="mine", labels=coloured("whole", "core"), channels=("T1", "T2"),
        multi_label=True, regions=None, codes=None,
    )  # fmt: skip
    made = write_small_bundle_with_weights(tmp_path, out_channels=2, task_spec=task, recipe="tshimanga2026")
    metadata = json.loads((made / "configs" / "metadata.json").read_text())
    for facts in metadata["segments"].values():
        facts.update(CODE)
    (made / "configs" / "metadata.json").write_text(json.dumps(metadata))
    weights = start_weights(2)
    first = next(key for key, value in weights.items() if value.ndim == 5 and value.shape[1] == 1)
    weights[first] = weights[first].repeat(1, 2, *[1] * 3)
    for name, factor in (("a", 1.0), ("b", 0.5)):
        torch.save({key: value * factor for key, value in weights.items()}, tmp_path / f"{name}.pt")
    uids = ["1.2.826.7", "1.2.826.8"]
    for channel, uid in enumerate(uids):
        series(tmp_path / "images" / f"case_{channel:04d}", voxels(channel), SeriesInstanceUID=uid)
    members = [str(tmp_path / f"{name}.pt") for name in "ab"]
    entries = [[str(tmp_path / "images" / f"case_{channel:04d}") for channel in (0, 1)]]
    predict(made, tmp_path / "images", tmp_path / "out", datalist=entries, ensemble=members)
    seg = pydicom.dcmread(tmp_path / "out" / "case.dcm")
    referenced = {each.SeriesInstanceUID for each in seg.ReferencedSeriesSequence}
    assert referenced == set(uids)
    assert len(seg.DeviceSerialNumber) == 64
    whole, core = voxels_in(tmp_path / "out" / "case.dcm", SHAPE, lps_affine("oblique"))
    assert whole.any() or core.any()


NO_CODE = r"no code says what white_matter is; give medmixers clinic segment --codes FILE with a line for each, as whit"


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (None, r"metadata\.json of .*copy has no segments: make the bundle with this version"),
        ({"a": {"colour": [1, 2, 256]}}, r"'a' in the segments of .*copy must have colour, \[red, green, blue\], and"),
        ({"a": {"colour": [1, 2, 3], "values": [1.5]}}, r"'a' in .*copy must have .*values, \[1, \.\.\.\], got "),
        ({"a": {"colour": [1, 2, 3], "type": ["X", "SCT"]}}, r"type in codes of 'a' .* must be \[value, scheme, mean"),
        ({"a": {"colour": [1, 2, 3], "type": ["X", "SCT", 5]}}, r"each of type in codes of 'a' .* must be text, got 5"),
    ],
)
def test_segments_of_another_form_are_refused_alike_by_command_and_overlay(
    segments: Any, message: str, bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    metadata = json.loads((copy / "configs" / "metadata.json").read_text()) | {"segments": segments}
    (copy / "configs" / "metadata.json").write_text(json.dumps(metadata))
    made = series(tmp_path / "series", voxels(0))
    for refused in (lambda: saver(copy, made), lambda: segment_series(copy, made, tmp_path / "seg.dcm")):
        with pytest.raises(InputError, match=message):
            refused()


def saver(bundle: Path, image: Path, **options: Any) -> Any:
    shared = {"bundle_root": str(bundle), "output_dir": "out", "weights": [str(bundle / "models" / "model.pt")]}
    return dicom_saving.DicomSegmentationSaved("pred", images=[str(image)], **{**shared, **options})


def test_what_no_seg_can_be_written_of_is_refused_before_the_prediction(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = series(tmp_path / "series", voxels(0))
    (tmp_path / "a.nii.gz").write_bytes(b"")
    bare = series(tmp_path / "bare", voxels(0), StudyInstanceUID="")
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    metadata = json.loads((copy / "configs" / "metadata.json").read_text())
    del metadata["segments"]["white_matter"]["type"], metadata["segments"]["white_matter"]["category"]
    (copy / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=NO_CODE):
        segment_series(copy, made, tmp_path / "seg.dcm")
    for arguments, options, message in (
        ((bundle, tmp_path / "a.nii.gz"), {}, r"a\.nii\.gz is no DICOM series; a DICOM SEG refers to one"),
        ((bundle, bare), {}, "has no StudyInstanceUID, which a DICOM SEG refers to"),
        ((bundle, made), {"weights": ["gone.pt"]}, r"there are no weights 'gone\.pt'"),
        ((bundle, made), {"series_uid": "1.9"}, r"holds no DICOM series '1\.9'; valid: "),
        ((copy, made), {}, NO_CODE),
    ):
        with pytest.raises(InputError, match=message):
            saver(*arguments, **options)
    monkeypatch.setattr("medmixers.images.dicom_seg.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="needs the package highdicom: pip install highdicom"):
        saver(bundle, made)


def test_every_segmentation_of_volumes_has_the_overlay_and_no_other_bundle() -> None:
    for folder in sorted((ROOT / "bundles").iterdir()):
        if not (folder / "configs" / "inference.json").is_file():
            continue
        config = json.loads((folder / "configs" / "inference.json").read_text())
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        expected = "segments" in metadata and config["image_reader"]["spatial_dims"] == 3
        assert (folder / "configs" / "dicom.json").is_file() == expected, folder.name
        if expected:
            (key,) = json.loads((folder / "configs" / "dicom.json").read_text())
            replaced = config["postprocessing"]["transforms"][int(key.split("::")[-1])]
            assert replaced["_target_"].split(".")[-1] in ("SaveImaged", "mask_saver")
            assert replaced == config["postprocessing"]["transforms"][-1]


@pytest.mark.slow
def test_a_zip_needs_monai_and_highdicom_and_not_this_package(bundle: Path, tmp_path: Path) -> None:
    """In a process that cannot import this package."""
    packed = pack_bundle(bundle, weights=bundle / "models" / "model.pt", out=tmp_path / "packed").path
    opened = open_archive(packed, tmp_path / "opened")
    series(tmp_path / "images" / "scan", voxels(0))
    assert util.find_spec("medmixers") is not None
    hide = "import sys; sys.modules['medmixers'] = None; from monai.bundle.__main__ import *; import fire; fire.Fire()"
    configs = [str(opened / "configs" / f"{name}.json") for name in ("inference", "dicom")]
    command = [sys.executable, "-c", hide, "run", "--bundle_root", str(opened), "--config_file", str(configs)]
    command += ["--dataset_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    segment_series(bundle, tmp_path / "images", tmp_path / "ours.dcm", device="cpu")
    files = tmp_path / "out" / "scan.dcm", tmp_path / "ours.dcm"
    found, ours = (voxels_in(file, SHAPE, lps_affine("oblique")) for file in files)
    np.testing.assert_array_equal(found, ours)
