"""Bad pictures and bad datalist.json files end the process with one line that names them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bundle_helpers import last_words, write_dataset
from PIL import Image

from medmixers.bundle_runtime.image_reader import BundleImageReader
from medmixers.bundle_runtime.preflight import check_evaluation, check_training
from medmixers.bundle_runtime.preflight_raw import RawCases

NETWORK = torch.nn.Conv3d(1, 3, 1)
PICTURES = {"image_reader": BundleImageReader(spatial_dims=2, channels=3), "validation_every": 2, "network": NETWORK}
LISTED = {**PICTURES, "pretrained_ckpt": None, "resume_ckpt": None}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures of two classes, with datalist.json."""
    return write_pictures(tmp_path / "pictures", [0, 1, 0, 1])


def write_pictures(folder: Path, labels: list[object]) -> Path:
    folder.mkdir()
    entries = []
    for index, label in enumerate(labels):
        Image.new("RGB", (8, 6), (index, 2, 3)).save(folder / f"{index}.png")
        Image.new("L", (8, 6), 255).save(folder / f"mask_{index}.png")
        entries.append({"image": f"{index}.png", "label": label})
    (folder / "datalist.json").write_text(json.dumps({"training": entries, "validation": [], "test": []}))
    return folder


def test_sound_pictures_pass(pictures: Path) -> None:
    check_training(dataset_dir=str(pictures), classes=2, **LISTED)


def test_a_class_that_the_network_lacks(pictures: Path) -> None:
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(pictures), classes=1, **LISTED)
    assert "1.png' has the class 1; the network has 0 to 0" in last_words(error)


def test_headers_of_all_pictures_are_read(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", [0, 1] * 4)  # numbers 0, 2, 4, 6 validate, and come last
    content = (pictures / "6.png").read_bytes()
    (pictures / "6.png").write_bytes(content[:-20])
    check_training(dataset_dir=str(pictures), classes=2, **LISTED)
    (pictures / "6.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(pictures), classes=2, **LISTED)
    assert "6.png cannot be read: Pillow knows no such picture format" in last_words(error)


def test_classes_where_masks_are_due_and_masks_where_classes_are(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(pictures), masks=2, **LISTED)
    assert "has the label 1; the network has 2 channels, a mask file each" in last_words(error)
    masked = write_pictures(tmp_path / "masked", [[f"mask_{index}.png"] for index in range(4)])
    check_training(dataset_dir=str(masked), masks=1, **LISTED)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(masked), classes=2, **LISTED)
    assert "has the class ['" in last_words(error)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    masked = write_pictures(tmp_path / "masked", [[f"mask_{index}.png"] for index in range(4)])
    Image.new("L", (6, 8)).save(masked / "mask_2.png")
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(masked), masks=1, **LISTED)
    assert "2.png' and its masks have different sizes: [(6, 8), (8, 6)]" in last_words(error)


def test_a_damaged_or_grey_picture(pictures: Path) -> None:
    content = (pictures / "2.png").read_bytes()
    (pictures / "2.png").write_bytes(content[:-20])
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(pictures), classes=2, **LISTED)
    assert "2.png cannot be read" in last_words(error)
    Image.new("L", (8, 6)).save(pictures / "2.png")
    check_training(dataset_dir=str(pictures), classes=2, **LISTED)  # the reader repeats grey as red, green and blue


def test_data_in_the_other_format(pictures: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "Dataset001_Tiny", training=2, held_out=1)
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(dataset), classes=2, **LISTED)
    assert "is in nnU-Net raw format; this bundle reads a folder with datalist.json" in last_words(error)
    (pictures / "datalist.json").rename(pictures / "other.json")
    with pytest.raises(SystemExit) as error:
        check_training(dataset_dir=str(pictures), label_values=[0, 1, 2], raw=RawCases(), **LISTED)
    assert "has no dataset.json" in last_words(error)


def test_classes_without_a_case_to_score_are_named(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(NETWORK.state_dict(), tmp_path / "model.pt")
    scored = {"dataset_dir": str(pictures), "part": "validation", "ckpt_path": str(tmp_path / "model.pt"), **PICTURES}
    check_evaluation(classes=2, class_names=["well", "ill"], **scored)  # numbers 0 and 2 validate, of class 0
    assert capsys.readouterr().out == (
        "medmixers: note: no validation case is of class 1 ill: left out of the means val_f1, val_precision, "
        "val_recall and val_auc. val_auc is nan: all cases are of one class\n"
    )
