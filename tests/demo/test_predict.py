"""``medmixers demo predict``: the model that the package carries, on images that it never saw."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import preloaded
from medmixers.demo.predict import MODEL, predict_brain
from medmixers.demo.subjects import load_anatomy, simulate_case
from medmixers.errors import InputError, MissingFileError
from medmixers.results import measured


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_brain_is_segmented_on_its_grid(tmp_path: Path) -> None:
    """A simulated subject of the demo: another way to simulate than that of the training."""
    anatomy = load_anatomy(2)
    case = simulate_case(anatomy, seed=5, index=0)
    image, out = tmp_path / "my head.nii.gz", tmp_path / "tissues.nii.gz"
    nib.save(nib.Nifti1Image(case.image, anatomy.affine), image)
    done = subprocess.run(
        [preloaded.python(), "-m", "medmixers", "demo", "predict", str(image), str(out), "--device", "cpu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = nib.load(out)
    np.testing.assert_array_equal(found.affine, anatomy.affine)
    labels = np.asarray(found.dataobj)
    for value in (1, 2):
        assert dice(labels == value, case.label == value) > 0.6
    volumes = [int(text) for text in re.findall(r"(\d+) ml", done.stdout)]
    assert volumes == [round((labels == value).sum() * 8 / 1000) for value in (1, 2)]
    assert "research only, not a medical device" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my head.nii.gz", "tissues.nii.gz"]


def test_what_cannot_be_predicted_is_one_line(tmp_path: Path) -> None:
    image = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), image)
    for arguments, error, message in (
        ((tmp_path / "b.nii.gz", tmp_path / "out.nii.gz"), MissingFileError, "there is no image"),
        ((image, tmp_path / "out.png"), InputError, "must be a NIfTI file to write"),
        ((image, image), InputError, "a.nii.gz"),
    ):
        with pytest.raises(error, match=message):
            predict_brain(*arguments)
    with pytest.raises(InputError, match="unknown runtime 'tensorrt'"):
        predict_brain(image, tmp_path / "out.nii.gz", runtime="tensorrt")


def test_the_card_says_what_it_is_and_the_zip_is_small() -> None:
    assert MODEL.stat().st_size < 8e6
    with zipfile.ZipFile(MODEL) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("docs/model_card.md")]
        card = " ".join(archive.read(name).decode().split())
    for words in ("One anatomy", "No patient and no lesion was in the training", "not a medical device"):
        assert words in card
    for row in measured()["demo model"]["figures"]:
        assert set(row["dice"]) == {"grey matter", "white matter"}


def test_the_training_labels_are_the_most_probable_tissue() -> None:
    import torch
    from heads import PATCH, load_maps, random_patch

    anatomy = load_anatomy(4)
    maps = load_maps(anatomy)
    image, labels = random_patch(maps, torch.Generator().manual_seed(1))
    again, _ = random_patch(maps, torch.Generator().manual_seed(1))
    assert torch.equal(image, again)
    assert image.shape == (1, *PATCH)
    assert torch.isfinite(image).all()
    assert set(labels.unique().tolist()) <= {0, 1, 2}
    shares = [float((labels == value).float().mean()) for value in (1, 2)]
    assert min(shares) > 0.01
