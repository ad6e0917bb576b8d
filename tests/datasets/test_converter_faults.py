"""What converters refuse: each fault is one line, and nothing is left of the data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny_datasets import OBLIQUE, OPTIONS, write_jsrt, write_source

from medmixers.datasets.converters import convert

Spoil = Callable[[Path], object]


def first(source: Path, pattern: str) -> Path:
    return min(source.rglob(pattern))


def remove(pattern: str) -> Spoil:
    return lambda source: first(source, pattern).rename(source.parent / "removed")


def cut(pattern: str) -> Spoil:
    """The file without its last 100 bytes."""
    return lambda source: (path := first(source, pattern)).write_bytes(path.read_bytes()[:-100])


def edit(pattern: str, old: str, new: str) -> Spoil:
    def spoil(source: Path) -> None:
        path = first(source, pattern)
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))

    return spoil


def nifti(pattern: str, value: int, affine: np.ndarray | None = None) -> Spoil:
    """The same grid full of one value, elsewhere if an affine is given."""

    def spoil(source: Path) -> None:
        path = first(source, pattern)
        image = nib.load(path)
        data = np.full(image.shape, value, np.uint8)
        nib.save(nib.Nifti1Image(data, image.affine if affine is None else affine), path)

    return spoil


def cut_plain(source: Path) -> None:
    path = first(source, "ct.nii.gz")
    nib.save(nib.load(path), path.with_suffix(""))
    cut("ct.nii")(source)


def little_endian(source: Path) -> None:
    path = first(source, "*.IMG")
    np.fromfile(path, ">u2").astype("<u2").tofile(path)


def ninth_class(source: Path) -> None:
    arrays = dict(np.load(source / "pathmnist.npz"))
    np.savez_compressed(source / "pathmnist.npz", **arrays | {"val_labels": np.full((9, 1), 9)})


def many_labels(source: Path) -> None:
    arrays = dict(np.load(source / "pathmnist.npz"))
    np.savez_compressed(source / "pathmnist.npz", **arrays | {"train_labels": np.ones((18, 14))})


def three_columns(source: Path) -> None:
    np.save(first(source, "RL/*.npy"), np.ones((5, 3)))


FAULTS: list[tuple[str, Spoil, str]] = [
    ("colon_pathology_classification", remove("*.npz"), r"at 28 pixels is missing: .*pathmnist\.npz"),
    ("colon_pathology_classification", cut("*.npz"), r"pathmnist\.npz: .*not a zip"),
    ("colon_pathology_classification", ninth_class, r"validation_000000 has class 9; valid: 0, 1"),
    ("colon_pathology_classification", many_labels, r"one class, got 14: is it a multi-label set\?"),
    ("chest_xray_segmentation", remove("H/JPCNN002.npy"), r"heart of JPCNN002 is missing"),
    ("chest_xray_segmentation", remove("RCLA"), r"has no RCLA/\*\.npy; give --landmarks FOLDER"),
    ("chest_xray_segmentation", little_endian, r"12-bit values, got \d+: is its byte order big-endian"),
    ("chest_xray_segmentation", cut("*.IMG"), r"JPCLN001\.IMG must hold 2048 x 2048 words"),
    ("chest_xray_segmentation", three_columns, r"points \(x, y\) from 0 to 1024, got shape \(5, 3\)"),
    ("wrist_bone_segmentation", edit("*.xml", "Ulna", "Elle"), r"polygon 'Elle'; valid: epiphyse_radius"),
    ("wrist_bone_segmentation", edit("*.xml", 'height="96"', 'height="9"'), r"has 96 x 56 pixels, .* for 9 x 56"),
    ("wrist_bone_segmentation", cut("*.xml"), r"annotations_train1\.xml is not valid XML"),
    ("wrist_bone_segmentation", remove("images/*"), r"which has polygons, is not in"),
    ("wrist_bone_segmentation", edit("*.csv", ",R,", ",?,"), r"laterality of .* must be L or R, got '\?'"),
    ("wrist_bone_segmentation", edit("*.csv", "patient_id", "id"), r"lacks the column patient_id; it has filestem, id"),
    ("breast_tissue_segmentation", remove("masks/*.png"), r"the mask of TCGA.* is missing"),
    ("breast_tissue_segmentation", cut("images/*.png"), r"\.png cannot be read"),
    ("abdomen_ct_segmentation", cut("ct.nii.gz"), r"ct\.nii\.gz cannot be read: Compressed file ended"),
    ("abdomen_ct_segmentation", cut_plain, r"ct\.nii cannot be read: Expected \d+ bytes"),
    ("abdomen_ct_segmentation", remove("ct.nii.gz"), r"a file of ct is missing"),
    ("abdomen_ct_segmentation", nifti("ct.nii.gz", 0, np.eye(4)), r"lies elsewhere than combined_labels"),
    ("abdomen_ct_segmentation", nifti("combined_labels.nii.gz", 12), r"holds label 12; valid: 0, 1, 2"),
    ("brain_tumor_segmentation", nifti("*_seg.nii.gz", 3), r"holds label 3; valid: 0, 1, 2, 4"),
    ("brain_tumor_segmentation", remove("*_t1ce.nii.gz"), r"_t1ce is missing"),
    ("covid_ct_classification", remove("COVID"), r"holds no PNG in a folder 'covid'"),
    ("monkeypox_skin_classification", remove("M01_01.jpg"), r"M01_01_00\.jpg must be named .* no original 'M01_01'"),
    ("covid_ct_slice_classification", remove("meta_data_covid.csv"), r"holds no meta_data_covid\.csv"),
    ("covid_ct_slice_classification", edit("meta_data_normal.csv", "1Non", "x"), r"names none of the 15 images"),
    ("multi_organ_ct_segmentation", remove("img0005.nii.gz"), r"img0005 is missing"),
    ("cardiac_mri_segmentation", remove("training"), r"holds no patient\*_frame\*_gt"),
    (
        "cardiac_mri_segmentation",
        nifti("*frame01.nii.gz", 0, OBLIQUE + 1),
        r"elsewhere than patient001_frame01_gt",
    ),
]


@pytest.mark.parametrize(("task", "spoil", "message"), FAULTS, ids=[f"{row[0]}-{row[2][:20]}" for row in FAULTS])
def test_a_fault_is_one_line_and_nothing_is_left(task: str, spoil: Spoil, message: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_jsrt(source, nodules=1, others=2) if task == "chest_xray_segmentation" else write_source(task, source)
    spoil(source)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        convert(task, source, tmp_path / "out/deep", **OPTIONS.get(task, {}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
