"""Pictures: drawn from files, right at the pixel where that can be checked, small, and whole or absent."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medmixers.demo.panels import dice, write_case_panel
from medmixers.tasks import Label

pytest.importorskip("matplotlib")
from PIL import Image

LABELS = {1: Label("grey_matter", (204, 121, 167)), 2: Label("white_matter", (0, 158, 115))}
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A ball in the left half, darker to the right: image, its segmentation, and maps of three tokens."""
    position = np.indices((30, 34, 28)) - np.array([9, 16, 14]).reshape(3, 1, 1, 1)
    radius = np.sqrt((position**2).sum(0))
    truth = ((radius < 8).astype(np.uint8) + (radius < 5)).astype(np.uint8)
    image = np.where(radius < 12, 100 - position[0], 0).astype(np.float32)
    maps = np.stack([np.exp(-((radius - r) ** 2) / 8) for r in (0, 4, 8)], axis=-1).astype(np.float32)
    return {
        "image": save(tmp_path / "image.nii.gz", image),
        "truth": save(tmp_path / "truth.nii.gz", truth),
        "near": save(tmp_path / "near.nii.gz", np.roll(truth, 1, axis=0)),
        "maps": save(tmp_path / "maps.nii.gz", maps),
    }


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def draw(files: dict[str, Path], out: Path, **changes: object) -> Path:
    arguments = {
        "image": files["image"],
        "truth": files["truth"],
        "predictions": {"near": files["near"]},
        "labels": LABELS,
        **changes,
    }
    return write_case_panel(out, **arguments)  # type: ignore[arg-type]


def test_dice_is_nnunets() -> None:
    a, b = np.array([1, 1, 2, 0, 0]), np.array([1, 0, 2, 2, 0])
    assert dice(a, b, 1) == 2 * 1 / 3
    assert dice(a, b, 2) == 2 * 1 / 3
    assert math.isnan(dice(a, b, 3))


def test_a_picture_with_attention(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "pictures" / "case.png"
    assert draw(files, out, attention=files["maps"], title="case") == out
    assert out.stat().st_size < 400_000
    with_maps, without = pixels(out), pixels(draw(files, tmp_path / "plain.png"))
    assert with_maps.shape[0] > without.shape[0]
    assert with_maps.shape[1] == without.shape[1]
    assert without.std() > 20  # something is drawn
    assert [path.name for path in out.parent.iterdir()] == ["case.png"]


def coloured(picture: np.ndarray, label: int) -> np.ndarray:
    """Where the overlay of a label is: its hue, whatever the image below."""
    wanted = np.array(LABELS[label].colour)
    near = np.abs(picture - (0.75 * wanted + 0.25 * 128)).sum(-1) < 120
    return near & (np.ptp(picture, axis=-1) > 40)  # no grey


def test_both_labels_are_drawn_and_only_on_the_segmentations(files: dict[str, Path], tmp_path: Path) -> None:
    picture = pixels(draw(files, tmp_path / "a.png"))
    column = picture.shape[1] // 3
    upper = picture[: picture.shape[0] * 9 // 10]  # without the legend
    for label in LABELS:
        counts = [coloured(upper[:, i * column : (i + 1) * column], label).sum() for i in range(3)]
        assert counts[0] == 0
        assert min(counts[1:]) > 500


def test_a_flipped_file_gives_the_same_picture(files: dict[str, Path], tmp_path: Path) -> None:
    plain = pixels(draw(files, tmp_path / "plain.png", attention=files["maps"]))
    for name in ("image", "maps"):
        stored = nib.load(files[name])
        flipped = stored.as_reoriented([[0, -1], [2, 1], [1, 1]])  # another order and direction of the axes
        nib.save(flipped, files[name])
    assert np.array_equal(pixels(draw(files, tmp_path / "flipped.png", attention=files["maps"])), plain)


def test_more_than_two_labels_and_an_empty_image(files: dict[str, Path], tmp_path: Path) -> None:
    save(files["image"], np.zeros((30, 34, 28), dtype=np.float32))
    out = draw(files, tmp_path / "a.png", labels={**LABELS, 3: Label("c", (0, 0, 255))})
    assert pixels(out).any()


def test_another_grid_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    save(files["near"], np.zeros((30, 34, 20), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"near\.nii\.gz of shape \(30, 34, 20\) has another grid"):
        draw(files, tmp_path / "a.png")
    save(files["near"], np.zeros((30, 34, 28), dtype=np.uint8), np.diag([2.0, 2.0, 3.0, 1.0]))
    with pytest.raises(ValueError, match="has another grid"):
        draw(files, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_a_missing_file_and_a_4d_image(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.nii\.gz to draw"):
        draw(files, tmp_path / "a.png", truth=tmp_path / "absent.nii.gz")
    with pytest.raises(ValueError, match=r"pictures are of 3D images, got shape \(30, 34, 28, 3\)"):
        draw(files, tmp_path / "a.png", image=files["maps"])


def test_without_matplotlib_the_extra_is_named(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "medmixers\[demo\]"'):
        draw(files, tmp_path / "a.png")
