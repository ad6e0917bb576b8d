"""Outputs never replace inputs, whatever the path looks like."""

import os

import pytest

from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs


@pytest.fixture
def images(tmp_path):
    """A folder with one image, and a raw data set."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").write_text("voxels")
    (tmp_path / "raw" / "imagesTr").mkdir(parents=True)
    (tmp_path / "raw" / "labelsTs").mkdir()
    return tmp_path


def refused(output, *inputs):
    with pytest.raises(InputError, match=r"^output ") as caught:
        refuse_overwriting_inputs(output, inputs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_output_elsewhere_is_allowed(images):
    image = images / "images" / "a.nii.gz"
    for output in ("out", "out.nii.gz", "images/b.nii.gz", "images/predictions", "."):
        refuse_overwriting_inputs(images / output, [image])
    refuse_overwriting_inputs(images / "out", [images / "images"])
    refuse_overwriting_inputs(images / "images" / "new", [images / "images"])
    (images / "images" / "predictions").mkdir()
    refuse_overwriting_inputs(images / "images" / "predictions", [images / "images", image])


def test_the_input_itself_in_every_spelling(images, monkeypatch):
    image = images / "images" / "a.nii.gz"
    assert "is the input" in refused(image, image)
    assert "is the input" in refused(images / "images" / ".." / "images" / "a.nii.gz", image)
    monkeypatch.chdir(images / "images")
    assert "is the input" in refused("a.nii.gz", image)
    (images / "link.nii.gz").symlink_to(image)
    os.link(image, images / "hard.nii.gz")
    assert "is the input" in refused(images / "link.nii.gz", image)
    assert "is the input" in refused(image, images / "link.nii.gz")
    assert "is the input" in refused(images / "hard.nii.gz", image)
    assert "is the input" in refused(images / "absent", images / "images" / ".." / "absent")


def test_the_folder_of_the_inputs(images):
    image, folder = images / "images" / "a.nii.gz", images / "images"
    assert "holds the input" in refused(folder, image)
    assert "is the input" in refused(folder, folder)
    (images / "other").symlink_to(folder)
    assert "holds the input" in refused(images / "other", image)
    (images / "linked").mkdir()
    (images / "linked" / "a.nii.gz").symlink_to(image)
    assert "holds the input" in refused(images / "linked", images / "linked" / "a.nii.gz")
    assert "holds the input" in refused(folder, images / "linked" / "a.nii.gz"), "where the link leads"


@pytest.mark.parametrize("name", ["imagesTr", "labelsTs", "IMAGESTR", "labelstr"])
def test_raw_data_of_nnunet(name, images, monkeypatch):
    for output in (f"raw/{name}", f"raw/{name}/new.nii.gz", f"raw/{name}/a/b"):
        assert f"lies in {name}, the raw data" in refused(images / output)
    (images / "shortcut").symlink_to(images / "raw" / "imagesTr")
    assert "lies in imagesTr" in refused(images / "shortcut" / "x.nii.gz")
    monkeypatch.chdir(images / "raw" / "labelsTs")
    assert "lies in labelsTs" in refused("x.nii.gz")
