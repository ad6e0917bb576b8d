"""``medmixers clinic report --explanation``: maps of ``medmixers explain`` on the image that they are of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_case_report import SHAPE, facts, nifti, pixels, written

from medmixers.cli.main import main
from medmixers.clinic.report.command import write_report
from medmixers.clinic.report.planes import Drawing
from medmixers.clinic.uncertainty.command import image_digest
from medmixers.errors import InputError, MissingFileError
from medmixers.images.explanations import Explanation, read_explanation, with_explanation

AFFINE = np.diag([-2.0, 2, 3, 1])


def explain(file: Path, image: Path, maps: NDArray[Any], affine: NDArray[Any] = AFFINE, **changes: Any) -> Path:
    """A file as ``medmixers explain`` writes it."""
    count = maps.shape[-1]
    known = {"kind": "tokens", "titles": tuple(f"token {n}, A" for n in range(count)), "notes": ("whole case",)}
    stated = Explanation(**{**known, "image_sha256": image_digest(image), **changes})
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(with_explanation(nib.Nifti1Image(maps.astype(np.float32), affine), stated), file)
    return file


@pytest.fixture
def case(tmp_path: Path) -> Path:
    image = nifti(tmp_path / "images" / "a_0000.nii.gz", AFFINE)
    written(tmp_path / "predictions", "a", image, AFFINE)
    return tmp_path


def words_of(page: Path) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.read_text()).split())


def test_the_page_shows_each_map_and_says_what_it_shows(case: Path) -> None:
    image = case / "images" / "a_0000.nii.gz"
    maps = np.random.default_rng(0).normal(size=(*SHAPE, 2))
    explain(case / "maps" / "a.nii.gz", image, maps)
    (case / "maps" / "a.png").write_bytes(b"the picture of explain")
    one = explain(
        case / "gradcam.nii", image, maps[..., :1], kind="activation", titles=("gradcam: class 1, liver",), notes=()
    )
    out = case / "report.html"
    words_of_command = [str(each) for each in (case / "predictions", case / "images", out)]
    main(["clinic", "report", *words_of_command, "--explanation", f"{case / 'maps'},{one}"])
    words = words_of(out)
    assert "Where each token of the network comes from (A) and where it goes to (B)." in words
    assert "It does not show which token decides a label. Made so: whole case." in words
    assert "It does not show that the class is right" in words
    assert re.search(r"token 0, A; axial, slice \d+ of 18 token 1, A; axial, slice", words)
    for view in ("axial", "coronal", "sagittal"):
        assert f"gradcam: class 1, liver; {view}, slice" in words
    assert out.read_text().count("data:image/png") == 6 + 2 + 3


def test_the_planes_go_through_the_largest_value() -> None:
    image, map_ = np.ones((30, 40, 15)), np.zeros((30, 40, 15), np.float32)
    image[0, 0, 0] = 2
    map_[25, 33, 11], map_[2, 2, 2] = -8, 2
    axial, coronal, sagittal = Drawing(image, [], np.zeros(image.shape), np.diag([1.0, 1, 2, 1])).explained(
        [map_], ["evidence"]
    )
    assert [plane.words for plane in (axial, coronal, sagittal)] == [
        "evidence; axial, slice 12 of 15", "evidence; coronal, slice 34 of 40", "evidence; sagittal, slice 26 of 30",
    ]  # fmt: skip
    for plane, centre in ((axial, (6.5, 4.5)), (coronal, (7, 4.5)), (sagittal, (7, 6.5))):
        red, _, blue = pixels(plane.png).transpose(2, 0, 1)
        hot = np.argwhere(red > blue + 100)
        np.testing.assert_allclose((hot.min(axis=0) + hot.max(axis=0) + 1) / 2 / 8, centre, atol=0.7)


def test_a_classified_picture_is_shown_with_its_evidence(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / "p.png"
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(image)
    known = facts("p", image, probabilities={"well": 0.25, "ill": 0.75})
    del known["structures"]
    (tmp_path / "predictions" / "uncertainty").mkdir(parents=True)
    (tmp_path / "predictions" / "uncertainty" / "p.json").write_text(json.dumps(known))
    map_ = np.zeros((40, 30, 1, 1))
    map_[35, 5] = 1
    made = explain(tmp_path / "p.nii.gz", image, map_, np.eye(4), kind="activation", titles=("gradcam: class 1, ill",))
    write_report(tmp_path / "predictions", tmp_path / "images", tmp_path / "report.html", explanation=[made])
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/png") == 1
    assert "<figcaption>gradcam: class 1, ill</figcaption>" in text


def test_maps_of_another_image_or_grid_are_refused(case: Path) -> None:
    image = case / "images" / "a_0000.nii.gz"
    maps = np.ones((*SHAPE, 1))
    other = explain(case / "other.nii", image, maps, image_sha256="ab" * 32)
    moved = explain(case / "moved.nii", image, maps, np.diag([2.0, 2, 3, 1]))
    cut = explain(case / "cut.nii", image, maps[1:])
    unknown = explain(case / "unknown.nii", image, maps, kind="guess")
    (case / "empty").mkdir()
    for given, error, message in (
        (other, InputError, r"other\.nii explains another image than those of the predictions"),
        (moved, InputError, r"moved\.nii does not lie on its image"),
        (cut, InputError, r"cut\.nii does not lie on its image"),
        (
            unknown,
            InputError,
            r"unknown\.nii cannot be read as a NIfTI file of medmixers explain: unknown kind 'guess'",
        ),
        (image, InputError, r"a_0000\.nii\.gz does not say what it shows: make it by medmixers explain"),
        (case / "a.png", MissingFileError, "there is no file"),
        (case / "empty", MissingFileError, "holds no NIfTI file of medmixers explain"),
    ):
        with pytest.raises(error, match=message):
            write_report(case / "predictions", case / "images", case / "report.html", explanation=[given])
    assert not (case / "report.html").exists()


def test_what_a_file_says_of_itself_is_read_again(case: Path) -> None:
    image = case / "images" / "a_0000.nii.gz"
    for name in ("long.nii.gz", "short.nii"):
        titles = tuple(f"token {n} \u00e9" for n in range(60 if "long" in name else 1))
        file = explain(case / name, image, np.ones((*SHAPE, len(titles))), titles=titles)
        stored, stated = read_explanation(file)
        assert stated == Explanation("tokens", titles, ("whole case",), image_digest(image))
        assert stored.shape == (*SHAPE, len(titles))
