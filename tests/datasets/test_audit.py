"""Every fault that the auditor names, on a data set that is sound but for it."""

from __future__ import annotations

import gzip
import itertools
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medmixers.bundle_runtime.cases import split
from medmixers.datasets.audit import audit_nnunet_dataset
from medmixers.datasets.image_files import has_shear, read_image
from medmixers.datasets.raw_format import label_names

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (6, 7, 5)
FEW = (
    "the training cases, 2, are fewer than nnU-Net's 5 folds: nnUNetv2_train takes only fold 'all' then, unless "
    "splits_final.json names the folds"
)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def image(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def label(top: int = 2) -> np.ndarray:
    return (np.indices(SHAPE).sum(0) % (top + 1)).astype(np.uint8)


def describe(folder: Path, **changes: Any) -> None:
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "organ": 1, "tumour": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, names in (("Tr", ("a", "b_1")), ("Ts", ("c",))):
        for name in names:
            for channel in range(2):
                save(tmp_path / f"images{part}/{name}_{channel:04d}.nii.gz", image())
            save(tmp_path / f"labels{part}/{name}.nii.gz", label())
    describe(tmp_path)
    return tmp_path


def test_a_sound_data_set(folder: Path) -> None:
    report = audit_nnunet_dataset(str(folder))
    assert (report.training, report.test) == (("a", "b_1"), ("c",))
    assert report.channels == ("T1", "T2")
    assert report.voxels == {value: 2 * int((label() == value).sum()) for value in range(3)}
    assert report.shapes == (SHAPE, SHAPE)
    assert report.notes == (FEW,)
    assert "cases: 2 training, 1 test" in str(report)
    assert "6 x 7 x 5" in str(report)


def test_without_a_test_folder(folder: Path) -> None:
    (folder / "imagesTs").rename(folder / "elsewhere")
    assert audit_nnunet_dataset(folder).test == ()


SECOND = ["imagesTr/b_1_0000.nii.gz", "imagesTr/b_1_0001.nii.gz", "labelsTr/b_1.nii.gz"]


def shear(path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 2] = 0.6
    save(path, np.asanyarray(nib.load(path).dataobj), sheared)


def zero_affine(path: Path) -> None:
    """sform_code 1 and three rows of zeros, which nibabel reads and does not write."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<2h", raw, 252, 0, 1)
    struct.pack_into("<12f", raw, 280, *[0.0] * 12)
    path.write_bytes(gzip.compress(bytes(raw)))


FAULTS: list[tuple[str, Callable[[Path], Any], type[Exception], str]] = [
    (
        "unknown label",
        lambda f: save(f / "labelsTr/b_1.nii.gz", label(4)),
        ValueError,
        r"labelsTr/b_1\.nii\.gz holds label 3, 4, which is no label of the data set; "
        r"valid: 0 background, 1 organ, 2 tumour",
    ),
    (
        "unknown label in a test case",
        lambda f: save(f / "labelsTs/c.nii.gz", label(3)),
        ValueError,
        r"labelsTs/c\.nii\.gz holds label 3, which",
    ),
    (
        "fractional label",
        lambda f: save(f / "labelsTr/a.nii.gz", image()),
        ValueError,
        r"holds label 0\.\d+, .* and \d+ more, which",
    ),
    (
        "NaN",
        lambda f: save(f / "imagesTr/a_0001.nii.gz", np.where(image() < 0.5, np.nan, image())),
        ValueError,
        r"imagesTr/a_0001\.nii\.gz holds NaN or infinity in \d+ of 210 voxels",
    ),
    (
        "infinity",
        lambda f: save(f / "imagesTs/c_0000.nii.gz", np.full(SHAPE, np.inf)),
        ValueError,
        r"imagesTs/c_0000\.nii\.gz holds NaN or infinity in 210 of 210",
    ),
    (
        "missing channel",
        lambda f: (f / "imagesTr/a_0001.nii.gz").unlink(),
        FileNotFoundError,
        r"case 'a' lacks channel 1 \(T2\): .*a_0001",
    ),
    (
        "missing first channel",
        lambda f: (f / "imagesTr/a_0000.nii.gz").unlink(),
        FileNotFoundError,
        r"case 'a' lacks channel 0 \(T1\): .*a_0000",
    ),
    (
        "too many channels",
        lambda f: save(f / "imagesTr/a_0002.nii.gz", image()),
        ValueError,
        r"case 'a' has 3 channels, dataset\.json names 2",
    ),
    (
        "missing label",
        lambda f: (f / "labelsTr/a.nii.gz").unlink(),
        FileNotFoundError,
        r"a_0000\.nii\.gz has no label: .*labelsTr/a\.nii\.gz",
    ),
    (
        "shape",
        lambda f: save(f / "labelsTr/a.nii.gz", label()[:-1]),
        ValueError,
        r"labelsTr/a\.nii\.gz has shape \(5, 7, 5\), a_0000\.nii\.gz has \(6, 7, 5\)",
    ),
    (
        "affine",
        lambda f: save(f / "labelsTr/a.nii.gz", label(), AFFINE @ nib.affines.from_matvec(np.eye(3), [1, 0, 0])),
        ValueError,
        r"labelsTr/a\.nii\.gz lies elsewhere than a_0000\.nii\.gz: a corner is 2 mm away",
    ),
    (
        "affine of a channel",
        lambda f: save(f / "imagesTr/a_0001.nii.gz", image(), np.diag([2.0, 2.0, 3.5, 1])),
        ValueError,
        r"a_0001\.nii\.gz lies elsewhere",
    ),
    (
        "four axes",
        lambda f: save(f / "imagesTr/a_0000.nii.gz", image((*SHAPE, 2))),
        ValueError,
        r"has 4 axes \(6, 7, 5, 2\); each file is one 2D or 3D channel",
    ),
    (
        "damaged file",
        lambda f: (f / "imagesTr/a_0000.nii.gz").write_bytes((f / "imagesTr/a_0000.nii.gz").read_bytes()[:400]),
        ValueError,
        r"imagesTr/a_0000\.nii\.gz cannot be read: ",
    ),
    (
        "file name",
        lambda f: save(f / "imagesTr/x.nii.gz", image()),
        ValueError,
        r"must be named CASE_CCCC\.nii\.gz",
    ),
    (
        "empty",
        lambda f: (describe(f, numTraining=0), [path.unlink() for path in (f / "imagesTr").iterdir()]),
        ValueError,
        r"has no training case; dataset.json says numTraining 0",
    ),
    ("count", lambda f: describe(f, numTraining=9), ValueError, r"numTraining 9, found 2 cases"),
    (
        "no dataset.json",
        lambda f: (f / "dataset.json").unlink(),
        FileNotFoundError,
        r"has no dataset\.json",
    ),
    (
        "broken dataset.json",
        lambda f: (f / "dataset.json").write_text('{"labels": '),
        ValueError,
        r"is not valid JSON: .*line 1",
    ),
    (
        "incomplete dataset.json",
        lambda f: (f / "dataset.json").write_text('{"labels": {}}'),
        ValueError,
        r"lacks channel_names, numTraining, file_ending",
    ),
    (
        "all zero",
        lambda f: save(f / "imagesTr/a_0001.nii.gz", np.zeros(SHAPE, np.float32)),
        ValueError,
        r"a_0001\.nii\.gz is 0 in all of its 210 voxels",
    ),
    (
        "single precision",
        lambda f: save(f / "imagesTr/a_0001.nii.gz", np.full(SHAPE, 1e300)),
        ValueError,
        r"a_0001\.nii\.gz holds 1e\+300, which is infinite in single precision",
    ),
    (
        "complex voxels",
        lambda f: save(f / "imagesTr/a_0000.nii.gz", image().astype(np.complex64)),
        ValueError,
        r"a_0000\.nii\.gz has voxels of type complex64; a channel holds real numbers",
    ),
    (
        "whole numbers that are not exact",
        lambda f: nib.save(
            nib.Nifti1Image(np.full(SHAPE, 2**53 + 1), AFFINE, dtype=np.int64), f / "imagesTr/a_0000.nii.gz"
        ),
        ValueError,
        r"a_0000\.nii\.gz holds whole numbers up to 9007199254740993; those beyond 2\^53",
    ),
    (
        "zero affine",
        lambda f: [zero_affine(f / f"imagesTr/a_000{c}.nii.gz") for c in range(2)],
        ValueError,
        r"a_0000\.nii\.gz has no valid affine: voxel edges of 0, 0, 0 mm",
    ),
    (
        "sheared axes",
        lambda f: [shear(f / name) for name in SECOND],
        ValueError,
        r"b_1_0000\.nii\.gz has axes that are not at right angles: SimpleITK, which nnU-Net chooses",
    ),
    (
        "hidden file",
        lambda f: (f / "imagesTr/._a_0000.nii.gz").write_bytes(b"\0\5\26\7"),
        ValueError,
        r"imagesTr holds 1 hidden files such as \._a_0000\.nii\.gz, which nnU-Net takes for cases; delete them",
    ),
    (
        "another file_ending",
        lambda f: save(f / "imagesTs/d_0000.nii", image()),
        ValueError,
        r"imagesTs holds 1 images of another file_ending than '\.nii\.gz', d_0000\.nii for example",
    ),
    (
        "channel_names the wrong way round",
        lambda f: describe(f, channel_names={"T1": 0, "T2": 1}),
        ValueError,
        r"channel_names must look like .* got \{'T1': 0, 'T2': 1\}",
    ),
    (
        "channel_names in another order than the files",
        lambda f: describe(f, channel_names={"1": "CT", "0": "MR"}),
        ValueError,
        r"channel_names must look like \{\"0\": \"T1\"",
    ),
    (
        "no images",
        lambda f: (f / "imagesTr").rename(f / "x"),
        FileNotFoundError,
        r"has no folder imagesTr",
    ),
]


@pytest.mark.parametrize(("spoil", "kind", "message"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_fault_is_one_clear_line(
    folder: Path, spoil: Callable[[Path], Any], kind: type[Exception], message: str
) -> None:
    spoil(folder)
    with pytest.raises(kind, match=message) as caught:
        audit_nnunet_dataset(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([], r"splits_final\.json has no fold"),
        ([{"train": ["a"], "val": []}], r"splits_final\.json: fold 0 has no case in 'val'"),
        ([{"train": [], "val": ["a"]}], r"splits_final\.json: fold 0 has no case in 'train'"),
        ([{"train": ["a", "b_1"], "val": ["a"]}], r"fold 0 has case 'a' in 'train' and 'val'"),
        ([{"train": ["b_1"], "val": ["a", "a"]}], r"fold 0 has case 'a' in one part twice"),
        (
            [{"train": ["b_1"], "val": ["a"]}, {"train": ["x"], "val": ["a"]}],
            r"splits_final\.json of .* names case 'x', which imagesTr does not hold",
        ),
    ],
)
def test_folds_are_checked_alike_by_the_auditor_and_a_training(folds: Any, message: str, folder: Path) -> None:
    (folder / "splits_final.json").write_text(json.dumps(folds))
    for read in (audit_nnunet_dataset, lambda data: split(data, part="training", validation_every=5)):
        with pytest.raises(ValueError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no data set folder .*nowhere"):
        audit_nnunet_dataset(tmp_path / "nowhere")


def test_header_rounding_is_no_fault(folder: Path) -> None:
    save(folder / "labelsTr/a.nii.gz", label(), AFFINE + 1e-4)
    assert audit_nnunet_dataset(folder).training == ("a", "b_1")


def test_ignore_label_and_regions(folder: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    describe(folder, labels=labels, regions_class_order=[1, 2])
    save(folder / "labelsTr/a.nii.gz", label(3))
    report = audit_nnunet_dataset(folder)
    assert report.labels == {0: "background", 1: "whole", 2: "core", 3: "ignore"}
    assert report.voxels[3] == int((label(3) == 3).sum())
    read = np.stack([label(3), label()])
    shares = {
        "background (0)": read == 0, "whole (1, 2)": (read == 1) | (read == 2), "core (2)": read == 2,
        "ignore (3)": read == 3,
    }  # fmt: skip
    line = "labels: " + ", ".join(f"{name}: {100 * voxels.mean():.2f} %" for name, voxels in shares.items())
    assert line in str(report).splitlines()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"organ": 1}, '"background" as 0'),
        ({"background": 0, "organ": 2}, r"consecutive from 0, got \[0, 2\]"),
        ({"background": 0, "organ": "1"}, r"'organ' must be an integer or a list of them, got '1'"),
        ({"background": 0, "organ": 2, "ignore": 1}, "ignore label must be the highest value, got 1"),
        (
            {"background": 0, "whole": [1, 2, 3, 4], "core": [1, 2, 3], "enhancing": 1},
            "does not give the labels back: a perfect network would write 1 as 3, 3 as 2, 4 as 1",
        ),
        ({"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order must have 2 values, got None"),
    ],
)
def test_labels_against_nnunets_rules(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_names({"labels": labels, **({"regions_class_order": [1, 2, 3]} if "enhancing" in labels else {})})


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_orders_of_regions_are_judged_by_nnunets_painting(order: tuple[int, ...]) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    manager = LabelManager(labels, regions_class_order=list(order))
    truth = np.arange(4)
    perfect = np.stack([np.isin(truth, region) for region in manager.foreground_regions]).astype(np.float32)
    gives_back = (manager.convert_probabilities_to_segmentation(perfect) == truth).all()
    if gives_back:
        assert list(label_names({"labels": labels, "regions_class_order": list(order)})) == [0, 1, 2, 3]
        return
    with pytest.raises(ValueError, match="does not give the labels back"):
        label_names({"labels": labels, "regions_class_order": list(order)})


@pytest.mark.parametrize("tilt", [1e-5, 1e-4, 1e-3, 0.3])
def test_shear_is_what_simpleitk_does_not_read(tilt: float, tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 2] += tilt * affine[:3, 0]
    save(tmp_path / "a.nii.gz", image(), affine)
    try:
        sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    except RuntimeError:  # ITK only supports orthonormal direction cosines
        assert has_shear(read_image(tmp_path / "a.nii.gz"))
    else:
        assert not has_shear(read_image(tmp_path / "a.nii.gz"))


def test_an_axis_of_length_1_behind_the_third_is_none(folder: Path) -> None:
    """As nnU-Net reads it."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    path = folder / "imagesTr/a_0000.nii.gz"
    save(path, image((*SHAPE, 1)))
    assert audit_nnunet_dataset(folder).shapes == (SHAPE, SHAPE)
    voxels, _ = SimpleITKIO().read_images([str(path)])
    np.testing.assert_array_equal(read_image(path).data, voxels[0].T)


def test_notes(folder: Path) -> None:
    save(folder / "labelsTr/a.nii.gz", np.zeros(SHAPE, np.uint8))
    save(folder / "labelsTr/b_1.nii.gz", label(1))
    save(folder / "labelsTr/extra.nii.gz", label())
    assert audit_nnunet_dataset(folder).notes == (
        "no training label holds 2 tumour",
        "only background in 1 training labels, a for example",
        FEW,
        "1 files in labelsTr have no image, extra.nii.gz for example",
    )


def test_qform_and_sform_that_differ_are_noted_where_simpleitk_and_nibabel_disagree(folder: Path) -> None:
    path = folder / "imagesTr/a_0000.nii.gz"
    for file in (path, folder / "labelsTr/a.nii.gz"):
        loaded = nib.load(file)
        both = nib.Nifti1Image(np.asanyarray(loaded.dataobj), AFFINE)
        both.set_qform(np.eye(4), 1)
        both.set_sform(AFFINE, 2)
        nib.save(both, file)
    assert sitk.ReadImage(str(path)).GetSpacing() == (1, 1, 1)
    assert nib.load(path).header.get_best_affine().diagonal()[:3].tolist() == [2, 2, 3]
    note = next(note for note in audit_nnunet_dataset(folder).notes if "qform" in note)
    assert "differ in 2 of " in note
    assert "(a_0000.nii.gz: voxels of 1 x 1 x 1 and 2 x 2 x 3 mm)" in note


def test_files_without_qform_and_sform_are_noted_where_simpleitk_and_nibabel_disagree(folder: Path) -> None:
    for path in (*folder.glob("imagesTr/a_*.nii.gz"), folder / "labelsTr/a.nii.gz"):
        loaded = nib.Nifti1Image(np.asanyarray(nib.load(path).dataobj), None)
        loaded.header.set_zooms((2, 2, 3))
        nib.save(loaded, path)
    direction = np.reshape(sitk.ReadImage(str(path)).GetDirection(), (3, 3)).diagonal() * [-1, -1, 1]  # to RAS
    assert np.sign(nib.load(path).affine.diagonal()[:3]).tolist() != direction.tolist()
    note = next(note for note in audit_nnunet_dataset(folder).notes if "qform" in note)
    assert "neither qform nor sform is set in 3 of " in note


def test_forms_that_agree_to_rounding_are_not_noted(folder: Path) -> None:
    path = folder / "imagesTr/a_0000.nii.gz"
    both = nib.load(path)
    both.set_qform(AFFINE + 1e-5 * np.eye(4)[:, :4], 1)
    nib.save(nib.Nifti1Image(both.get_fdata(dtype=np.float32), AFFINE, both.header), path)
    assert not [note for note in audit_nnunet_dataset(folder).notes if "form" in note.split("nnU-Net")[0]]


def test_files_named_in_dataset_json(folder: Path) -> None:
    (folder / "imagesTr").rename(folder / "scans")
    rows = {
        name: {
            "images": [f"scans/{name}_000{c}.nii.gz" for c in range(2)],
            "label": f"labelsTr/{name}.nii.gz",
        }
        for name in ("a", "b_1")
    }
    describe(folder, dataset=rows)
    assert audit_nnunet_dataset(folder).training == ("a", "b_1")


def test_colour_png_counts_its_components(tmp_path: Path) -> None:
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(tmp_path / "imagesTr/a_0000.png"))
    sitk.WriteImage(sitk.GetImageFromArray(pixels[..., 0] % 2), str(tmp_path / "labelsTr/a.png"))
    rgb = {"0": "R", "1": "G", "2": "B"}
    describe(tmp_path, channel_names=rgb, numTraining=1, file_ending=".png", labels={"background": 0, "cell": 1})
    assert audit_nnunet_dataset(tmp_path).shapes == ((9, 8), (9, 8))
    describe(tmp_path, numTraining=1, file_ending=".png", labels={"background": 0, "cell": 1})
    with pytest.raises(ValueError, match=r"has 3 channels, dataset\.json names 2"):
        audit_nnunet_dataset(tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_pictures_are_read_as_simpleitk_reads_them(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without it: a packed bundle of pictures requires Pillow alone."""
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    picture = Image.fromarray(pixels[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(pixels)
    (picture if mode == "I;16" else picture.convert(mode)).save(tmp_path / "a.png")
    oracle = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png")))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    volume = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(volume.data, oracle.swapaxes(0, 1))
    header = read_image(tmp_path / "a.png", whole=False)
    assert (header.shape, header.components) == (volume.shape, volume.components) == ((6, 4), picture_bands(oracle))


def picture_bands(pixels: np.ndarray) -> int:
    return pixels.shape[2] if pixels.ndim == 3 else 1
