"""Every fault that the auditor of a datalist.json names, on a folder that is sound but for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medmixers.bundle_runtime.image_reader import BundleImageReader
from medmixers.bundle_runtime.preflight_files import check_listed_case
from medmixers.datasets.audit_datalist import audit_datalist


def save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(data.astype(np.uint8)).save(path)


def entry(name: str, label: Any) -> dict[str, Any]:
    return {"image": f"images/{name}.png", "label": label}


def write(folder: Path, **parts: list[dict[str, Any]]) -> Path:
    (folder / "datalist.json").write_text(json.dumps({"training": [], "validation": [], "test": []} | parts))
    return folder


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for index, name in enumerate("abcd"):
        save(tmp_path / f"images/{name}.png", np.full((6 + index, 5, 3), 10 * index))
    return write(tmp_path, training=[entry("a", 0), entry("b", 1), entry("c", 1)], test=[entry("d", 0)])


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    training = []
    for name in "ab":
        save(tmp_path / f"images/{name}.png", np.arange(42).reshape(6, 7))
        save(tmp_path / f"masks/{name}_0.png", 255 * np.eye(6, 7))
        save(tmp_path / f"masks/{name}_1.png", np.zeros((6, 7)))
        training.append(entry(name, [f"masks/{name}_{index}.png" for index in range(2)]))
    return write(tmp_path, training=training, test=[])


def test_a_sound_folder_of_classes(classes: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medmixers", "dataset", "check", str(classes)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{classes}: no error found",
        "cases: 3 training, 0 validation, 1 test, in 4 groups",
        "channels: 3",
        "voxels: 5 x 6 to 5 x 9",
        "classes of training: 0: 1, 1: 2",
        "classes of test: 0: 1",
    ]


def test_a_sound_folder_of_masks(masks: Path) -> None:
    report = audit_datalist(masks)
    assert (report.masks, report.channels, report.shapes) == (2, 1, ((7, 6), (7, 6)))
    assert report.notes == ("there is no test part: nothing is held out",)


def test_class_ids_with_a_gap_and_a_class_that_is_only_tested_are_noted(classes: Path) -> None:
    write(classes, training=[entry("a", 0), entry("b", 2)], test=[entry("d", 5)])
    assert audit_datalist(classes).notes == (
        "class ids of the training part are [0, 2], not 0 to 2",
        "classes [5] of the test part have no training case",
    )


def test_a_damaged_image(classes: Path) -> None:
    path = classes / "images/c.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"c\.png cannot be read"):
        audit_datalist(classes)


def test_an_image_with_other_channels(classes: Path) -> None:
    """A picture is converted to what the network takes; a volume among pictures is not."""
    save(classes / "images/c.png", np.zeros((6, 5)))
    report = audit_datalist(classes)
    assert report.channels == 3
    assert "1 grey pictures and 3 in colour: a bundle converts them to what its network takes" in report.notes
    nib.save(nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), np.eye(4)), classes / "images/c.nii.gz")
    content = json.loads((classes / "datalist.json").read_text().replace("c.png", "c.nii.gz"))
    (classes / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"c\.nii\.gz has 1 channels in 3D, .*a\.png has 3 in 2D"):
        audit_datalist(classes)


def test_several_classes_per_case(classes: Path) -> None:
    write(classes, training=[entry("a", [0, 2]), entry("b", [])], validation=[entry("c", [2])], test=[])
    report = audit_datalist(classes)
    assert report.classes == {"training": {0: 1, 2: 1}, "validation": {2: 1}}
    assert "classes: any number per case\nclasses of training: 0: 1, 2: 1" in str(report)
    write(classes, training=[entry("a", [0, 2]), entry("b", 1)])
    with pytest.raises(ValueError, match=r"b\.png has the label 1, .*a\.png has \[0, 2\]"):
        audit_datalist(classes)


@pytest.mark.parametrize("label", [[2, 1], [0, 0, 1], [-1]])
def test_classes_that_are_no_ids_in_order(classes: Path, label: list[int]) -> None:
    write(classes, training=[entry("a", label)])
    with pytest.raises(ValueError, match=r"a\.png has the label \[.*\]; a bundle takes one class id"):
        audit_datalist(classes)


def test_classes_and_masks_in_one_folder(masks: Path) -> None:
    write(masks, training=[entry("a", ["masks/a_0.png"]), entry("b", 1)])
    with pytest.raises(ValueError, match=r"b\.png has the label 1, .*a\.png has \["):
        audit_datalist(masks)


def test_a_mask_of_another_size(masks: Path) -> None:
    save(masks / "masks/b_1.png", np.zeros((6, 8)))
    with pytest.raises(ValueError, match=r"b_1\.png has 1 channels of \(8, 6\), .*b\.png has the shape \(7, 6\)"):
        audit_datalist(masks)


def test_a_mask_of_several_values(masks: Path) -> None:
    save(masks / "masks/a_1.png", np.arange(42).reshape(6, 7))
    with pytest.raises(ValueError, match=r"a_1\.png holds 0, 1, 2, 3, 4 and more; a mask has 0 and 1, or 0 and 255"):
        audit_datalist(masks)


def test_no_training_case(classes: Path) -> None:
    write(classes, test=[entry("d", 0)])
    with pytest.raises(ValueError, match=r"datalist\.json lists no training case"):
        audit_datalist(classes)


@pytest.mark.parametrize("affine", [np.diag([-1.0, 1, 1, 1]), np.diag([1.0, 1, 2, 1])])
def test_a_mask_of_a_volume_that_lies_elsewhere(affine: np.ndarray, tmp_path: Path) -> None:
    """By the auditor, and by the check of a training, which reorients and resamples by each file's own affine."""
    volume = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image((volume > 30).astype(np.uint8), affine), tmp_path / "m.nii.gz")
    write(tmp_path, training=[{"image": "a.nii.gz", "label": ["m.nii.gz"]}])
    with pytest.raises(ValueError, match=r"m\.nii\.gz lies elsewhere than a\.nii\.gz: a corner is \d mm away"):
        audit_datalist(tmp_path)
    case = {"image": str(tmp_path / "a.nii.gz"), "label": [str(tmp_path / "m.nii.gz")]}
    reader = BundleImageReader(spatial_dims=3, channels=1)
    with pytest.raises(ValueError, match=r"lies elsewhere"):
        check_listed_case(case, reader=reader, masks=1)
    nib.save(nib.Nifti1Image((volume > 30).astype(np.uint8), np.eye(4)), tmp_path / "m.nii.gz")
    check_listed_case(case, reader=reader, masks=1)
    assert audit_datalist(tmp_path).masks == 1
