"""Bad input ends the process with one line that names it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import SHAPE, save, write_dataset

from medmixers.bundling.preflight import check_evaluation, check_inference, check_training

EXPECTED = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "Dataset001_Tiny", training=2, held_out=1)


def last_words(error: pytest.ExceptionInfo[SystemExit]) -> str:
    message = str(error.value)
    assert message.startswith("medmixers: error: ")
    assert "\n" not in message
    return message


def test_sound_data_passes(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    check_training(dataset_dir=str(dataset), **EXPECTED)
    check_evaluation(dataset_dir=str(dataset), ckpt_path=str(tmp_path / "model.pt"), **EXPECTED)


def test_nan_in_a_training_image(dataset: Path) -> None:
    image = np.ones(SHAPE, np.float32)
    image[3, 4, 5] = np.nan
    save(dataset / "imagesTr" / "case_1_0000.nii.gz", image)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **EXPECTED)
    message = last_words(error)
    assert "case_1_0000.nii.gz" in message
    assert "NaN" in message


def test_unknown_label(dataset: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[3, 4, 5] = 7
    save(dataset / "labelsTr" / "case_1.nii.gz", label)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **EXPECTED)
    message = last_words(error)
    assert "case_1.nii.gz" in message
    assert "7" in message


def test_data_set_of_another_task(dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    for key, value, message in (
        ("channel_names", {"0": "T1", "1": "T2"}, "names 2 channels; the network takes 1"),
        ("labels", {"background": 0, "brain": 1}, r"has the labels [0, 1]; the network has [0, 1, 2]"),
    ):
        (dataset / "dataset.json").write_text(json.dumps({**description, key: value}))
        with pytest.raises(SystemExit) as error:
            check_training(dataset_dir=str(dataset), **EXPECTED)
        assert message in last_words(error)


def test_network_of_other_dimensions(dataset: Path) -> None:
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), **{**EXPECTED, "spatial_dims": 2})
    assert "are 3D; the network takes 2D images" in last_words(error)


def test_weights_come_first(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        check_evaluation(dataset_dir=str(dataset), ckpt_path=str(tmp_path / "none.pt"), **EXPECTED)
    assert "none.pt" in last_words(error)


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((6, 5), 1.0, "has the shape (6, 5); the network takes 3D images"),
        ((6, 5, 4), np.inf, "NaN or infinity in 120 of 120 voxels"),
        ((6, 5, 4), 0.0, "is 0 in all of its 120 voxels"),
    ],
)
def test_image_to_predict(shape: tuple[int, ...], value: float, message: str, tmp_path: Path) -> None:
    data = np.ones(shape, np.float32)
    data *= value
    path = tmp_path / "case_0000.nii.gz"
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(SystemExit) as error:
        infer([str(path)], tmp_path)
    assert message in last_words(error)


def test_unreadable_image_to_predict(tmp_path: Path) -> None:
    path = tmp_path / "case_0000.nii.gz"
    path.write_text("no image")
    with pytest.raises(SystemExit) as error:
        infer([str(path)], tmp_path)
    assert f"{str(path)!r} cannot be read" in last_words(error)


def test_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        infer([], tmp_path)
    assert f"dataset_dir '{tmp_path}' holds no dataset.json" in last_words(error)


def infer(images: list[str], folder: Path) -> None:
    check_inference(
        dataset_dir=str(folder),
        images=images,
        ckpt_path="",
        load_pretrain=False,
        spatial_dims=3,
        in_channels=1,
    )
