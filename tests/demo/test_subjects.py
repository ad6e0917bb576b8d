"""The demo's data set: plausible, seeded, whole or absent."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medmixers.demo import subjects as brain_demo
from medmixers.demo.subjects import MARKER, write_brain_demo

pytest.importorskip("nilearn")

SMALL = {"cases": 3, "held_out": 1, "resolution": 6}  # 33 x 39 x 32 voxels


@pytest.fixture(scope="module")
def anatomy() -> brain_demo.Anatomy:
    return brain_demo.load_anatomy(4)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brain_demo(tmp_path_factory.mktemp("raw") / "Dataset900_BrainTissue", **SMALL)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys; import medmixers.datasets.audit, medmixers.demo.subjects; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layout_is_nnunet_raw(written: Path) -> None:
    assert set(digests(written)) == {
        "imagesTr/brain_000_0000.nii.gz",
        "imagesTr/brain_001_0000.nii.gz",
        "imagesTs/brain_002_0000.nii.gz",
        "labelsTr/brain_000.nii.gz",
        "labelsTr/brain_001.nii.gz",
        "labelsTs/brain_002.nii.gz",
        "dataset.json",
        MARKER,
    }
    described = json.loads((written / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "grey_matter": 1, "white_matter": 2}
    assert (described["numTraining"], described["file_ending"]) == (2, ".nii.gz")
    assert "3 simulated subjects" in described["description"]
    assert [path.name for path in written.parent.iterdir()] == [written.name]  # no temporary folder is left


def test_files_hold_float_images_and_integer_labels_in_one_geometry(written: Path) -> None:
    image = nib.load(written / "imagesTr/brain_000_0000.nii.gz")
    label = nib.load(written / "labelsTr/brain_000.nii.gz")
    assert image.get_data_dtype() == np.float32
    assert label.get_data_dtype() == np.uint8
    assert np.allclose(image.affine, label.affine)
    assert np.allclose(nib.affines.voxel_sizes(image.affine), 6)
    assert image.shape == label.shape


@pytest.mark.parametrize("index", [0, 7])
def test_a_case_is_a_plausible_brain(anatomy: brain_demo.Anatomy, index: int) -> None:
    image, label = brain_demo.simulate_case(anatomy, seed=0, index=index)
    millilitres = np.bincount(label.ravel(), minlength=3) * 4**3 / 1000
    assert 900 < millilitres[1] < 1600  # an adult's grey and white matter, cerebellum and stem included
    assert 450 < millilitres[2] < 900
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image[label == 2].mean() > 1.1 * image[label == 1].mean()  # T1: white matter is the brighter one
    assert (image[label > 0] > 0).all()  # tissue lies inside the brain mask
    assert (image == 0).mean() > 0.3


def test_labels_are_the_larger_probability_above_the_threshold() -> None:
    grey = np.array([0.0, 0.29, 0.31, 0.50, 0.30], dtype=np.float32)
    white = np.array([0.0, 0.20, 0.10, 0.51, 0.31], dtype=np.float32)
    assert brain_demo.tissue_labels(grey, white).tolist() == [0, 0, 1, 2, 2]


def test_deformations_do_not_fold_and_move_the_brain(anatomy: brain_demo.Anatomy) -> None:
    spacing = brain_demo.voxel_sizes(anatomy.affine)
    for index in range(12):
        displacement = brain_demo.random_displacement(anatomy.t1.shape, spacing, np.random.default_rng([0, index]))
        assert brain_demo.jacobian_determinant(displacement, spacing).min() >= brain_demo.SMALLEST_JACOBIAN
        assert 2 < np.linalg.norm(displacement, axis=0)[anatomy.mask > 0].mean() < 15  # mm


def test_jacobian_of_a_known_scaling() -> None:
    position = np.indices((5, 6, 7)) * np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
    scaled = position * np.array([0.1, 0.0, -0.5]).reshape(3, 1, 1, 1)
    determinant = brain_demo.jacobian_determinant(scaled, np.array([1.0, 2.0, 3.0]))
    assert np.allclose(determinant, 1.1 * 0.5)


def test_cases_differ_and_repeat(anatomy: brain_demo.Anatomy) -> None:
    first, again, other, reseeded = (
        brain_demo.simulate_case(anatomy, seed=seed, index=index) for seed, index in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    for different in (other, reseeded):
        assert 0.02 < (first.label != different.label).mean() < 0.4


def test_the_same_parameters_write_the_same_bytes(written: Path, tmp_path: Path) -> None:
    assert digests(write_brain_demo(tmp_path / "again", **SMALL)) == digests(written)


def test_a_finished_data_set_is_reused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain_demo, "load_anatomy", lambda resolution: pytest.fail("it was written again"))
    assert write_brain_demo(written, **SMALL) == written


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert (write_brain_demo(tmp_path, **SMALL) / "dataset.json").is_file()


def test_another_seed_is_refused(written: Path) -> None:
    before = digests(written)
    with pytest.raises(FileExistsError, match=r"holds a demo with seed=0 \(asked for 1\); delete it"):
        write_brain_demo(written, seed=1, **SMALL)
    assert digests(written) == before


def test_a_foreign_folder_or_file_is_refused_and_kept(tmp_path: Path) -> None:
    folder, file = tmp_path / "mine", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.txt").write_text("two years")
    (folder / MARKER).write_text("[]")
    file.write_text("data")
    for taken in (folder, file):
        with pytest.raises(FileExistsError, match="not written by medmixers; choose another folder"):
            write_brain_demo(taken, **SMALL)
    assert (folder / "thesis.txt").read_text() == "two years"
    assert file.read_text() == "data"


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    out = write_brain_demo(tmp_path / "data", **SMALL)
    (out / "labelsTr/brain_001.nii.gz").unlink()
    with pytest.raises(FileExistsError, match=r"incomplete, labelsTr/brain_001.nii.gz is missing"):
        write_brain_demo(out, **SMALL)


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(brain_demo, "simulate_case", fail)
    with pytest.raises(OSError, match="disk full"):
        write_brain_demo(tmp_path / "data", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"held_out": 3}, "held_out must be at least 1 and less than cases"),
        ({"held_out": 0}, "held_out must be at least 1"),
        ({"resolution": 0}, "resolution must be from 1 to 8 mm, got resolution=0"),
        ({"seed": -1}, "seed must not be negative, got seed=-1"),
    ],
)
def test_bad_parameters(tmp_path: Path, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_brain_demo(tmp_path / "data", **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_without_nilearn_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "medmixers\[demo\]"'):
        write_brain_demo(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
