"""Every door takes or refuses every kind of input of cases.json as the table of the guide says: one line, no traceback.

The table of plugin/docs/troubleshooting.md is rendered from the same file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from doors import DOORS
from kinds import AFFINE, COLOURS, PICTURES, RAMP, SHAPE, VOLUMES, VOXELS, nifti

from medmixers.bundle_runtime.cases import find_images
from medmixers.bundle_runtime.image_reader import BundleImageReader
from medmixers.bundle_runtime.nnunet_images import NnUNetImages, find_cases
from medmixers.bundle_runtime.preflight import check_inference, check_training
from medmixers.bundle_runtime.preflight_raw import RawCases
from medmixers.cli.main import main
from medmixers.errors import InputError

CASES = json.loads((Path(__file__).parent / "cases.json").read_text("utf-8"))
NETWORK = torch.nn.Identity()
VOLUME = BundleImageReader(spatial_dims=3, channels=1)
TRAINING = {"validation_every": 2, "network": NETWORK, "pretrained_ckpt": None, "resume_ckpt": None}
PLANS: Any = SimpleNamespace(
    channels=1,
    dims=3,
    dataset={"file_ending": ".nii.gz"},
    manager=SimpleNamespace(plans={"image_reader_writer": "SimpleITKIO"}),
)


def rows(kind: str) -> list[Any]:
    return [
        pytest.param(row["input"], door, result, row["says"], id=f"{row['input']}-{door}")
        for row in CASES[kind]
        for door, result in row["results"].items()
        if result != "not reached"
    ]


def predict(folder: Path, reader: BundleImageReader) -> None:
    images = find_images(folder)
    shared = {"ckpt_path": "", "network": NETWORK, "load_pretrain": False}
    check_inference(dataset_dir=str(folder), images=images, image_reader=reader, **shared)


def outcome(open_door: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str | None:
    """The one line of a refusal; None where the input was taken."""
    try:
        open_door()
    except (InputError, SystemExit) as error:
        said = capsys.readouterr().err.splitlines()
        lines = [line.partition("error: ")[2] for line in said if "error: " in line] or [str(error)]
        assert len(lines) == 1
        return lines[0]
    return None


def judge(refusal: str | None, result: str, says: str) -> None:
    assert (refusal is None) == (result == "read"), refusal
    assert says in (refusal or says)


@pytest.mark.parametrize(("name", "door", "result", "says"), rows("volumes"))
def test_a_volume(
    name: str, door: str, result: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    description = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "numTraining": 3}))
    for case in "abc":
        (nifti(VOXELS) if case != "b" else VOLUMES[name])(tmp_path / f"imagesTr/{case}_0000.nii.gz")
        label = nifti(np.ones(SHAPE, np.uint8), AFFINE)
        label(tmp_path / f"labelsTr/{case}.nii.gz")
    if name == "sheared axes":
        VOLUMES[name](tmp_path / "labelsTr/b.nii.gz")
    file, folder = tmp_path / "imagesTr/b_0000.nii.gz", str(tmp_path)
    training = {**TRAINING, "image_reader": VOLUME, "label_values": [0, 1], "raw": RawCases()}
    doors: dict[str, Callable[[], Any]] = {
        "dataset check": lambda: main(["dataset", "check", folder]),
        "training": lambda: check_training(dataset_dir=folder, **training),
        "prediction": lambda: predict(tmp_path / "imagesTr", VOLUME),
        "nnU-Net bundle": lambda: [
            NnUNetImages(plans=PLANS).check_case([Path(path) for path in case])
            for case in find_cases(str(tmp_path / "imagesTr"), PLANS)
        ],
        "loading": lambda: np.testing.assert_array_equal(VOLUME.get_data([file])[0], VOXELS),
    }
    judge(outcome(doors[door], capsys), result, says)


@pytest.mark.parametrize(("name", "door", "result", "says"), rows("pictures"))
def test_a_picture(
    name: str, door: str, result: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ending, write, tolerance = PICTURES[name]
    for other in "ac":
        PICTURES["RGB PNG"][1](tmp_path / f"{other}.png")
    file = tmp_path / f"b{ending}"
    write(file)
    entries = [{"image": path, "label": 0} for path in ("a.png", file.name, "c.png")]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": entries, "validation": [], "test": entries[:0]}))
    reader, folder = BundleImageReader(spatial_dims=2, channels=3), str(tmp_path)

    def load() -> None:
        expected = COLOURS if name not in ("grey PNG", "16-bit grey PNG") else np.stack([RAMP] * 3, -1)
        read = reader.get_data([file])[0]
        np.testing.assert_allclose(read.swapaxes(0, 1), expected, atol=tolerance)

    def predict_alone() -> None:
        (tmp_path / "datalist.json").unlink()
        predict(tmp_path, reader)

    doors: dict[str, Callable[[], Any]] = {
        "dataset check": lambda: main(["dataset", "check", folder]),
        "training": lambda: check_training(dataset_dir=folder, classes=1, image_reader=reader, **TRAINING),
        "prediction": predict_alone,
        "loading": load,
    }
    judge(outcome(doors[door], capsys), result, says)


@pytest.mark.parametrize("row", [row for row in CASES["others"] if "test" not in row], ids=lambda row: row["input"])
def test_another_door(
    row: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    judge(outcome(lambda: DOORS[row["input"]](tmp_path), capsys), row["result"], row["says"])
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("row", [row for row in CASES["others"] if "test" in row], ids=lambda row: row["input"])
def test_a_row_without_a_door_names_its_test(row: dict[str, str]) -> None:
    file, _, name = row["test"].partition("::")
    assert f"def {name}(" in (Path(__file__).parents[2] / file).read_text("utf-8")


def test_every_input_is_in_the_table() -> None:
    assert [row["input"] for row in CASES["volumes"]] == list(VOLUMES)
    assert [row["input"] for row in CASES["pictures"]] == list(PICTURES)
    assert [row["input"] for row in CASES["others"] if "test" not in row] == list(DOORS)
    assert sum(map(len, CASES.values())) >= 120
