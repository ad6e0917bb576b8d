"""Sources that differ a little from the download: other endings, folders, tables, and volumes of four axes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tiny_datasets import OBLIQUE, blobs, like, save, write_acdc, write_source

from medmixers.datasets.converters import convert
from medmixers.datasets.datalist_format import read_datalist
from medmixers.datasets.raw_format import read_folds
from medmixers.datasets.reading import read_label_file, read_table

Spoil = Callable[[Path], object]
ATLAS, ACDC, FETS = "abdomen_ct_segmentation", "cardiac_mri_segmentation", "brain_tumor_segmentation"
COVID, SLICES = "covid_ct_classification", "covid_ct_slice_classification"
A, B = "BDMAP_00000003", "BDMAP_00000007"


def names(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(ATLAS, tmp_path_factory.mktemp("atlas"))


LISTS = {
    "plain": f"{A}\n{B}\n",
    "byte order mark": f"\ufeff{A}\n{B}\n",
    "quoted": f'"{A}"\n"{B}"\n',
    "index and header of pandas": f",0\n0,{A}\n1,{B}\n",
    "header and more columns": f"BDMAP ID,site\r\n{A} ,x\r\n\r\n{B},y\r\n",
    "files": f"{A}/ct.nii.gz\n/data/{B}/ct.nii.gz,{B}\n",
    "Latin-1": f"{A},M\xe1laga\n{B},\n".encode("latin-1"),
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_every_form_of_the_list_tests_with_its_cases(text: str | bytes, atlas: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_bytes(text if isinstance(text, bytes) else text.encode())
    convert(ATLAS, atlas, tmp_path / "out", test_list=str(listed))
    assert names(tmp_path / "out/labelsTs") == {A, B}
    assert len(names(tmp_path / "out/labelsTr")) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no case BDMAP_XXXXXXXX"),
        ("case\n", "lists no case BDMAP_XXXXXXXX"),
        (f"case 3\n{B}\n", "per row, got 'case 3'"),
        (f"{A}\n00000007\n", "must name one case BDMAP_XXXXXXXX per row, got '00000007'"),
        (f"bdmap_00000003\n{B}\n", "per row, got 'bdmap_00000003'"),
        (f"{A}\nnone\n", "per row, got 'none'"),
        (f"{A},{B}\n", f"per row, got '{A},{B}'"),
        (f'"{A}\n{B}\n', "per row, got"),
        ('"' + "x" * 200_000, "cannot be read: field larger"),
        ("BDMAP_00009999\nBDMAP_00009998\n", "holds none of the 2 cases of .*, BDMAP_00009998 for example"),
    ],
)
def test_a_list_that_is_not_understood_is_refused(text: str, message: str, atlas: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        convert(ATLAS, atlas, tmp_path / "out", test_list=str(tmp_path / "list.csv"))
    assert "\n" not in str(caught.value)


def test_acdc_frames_of_one_heart_stay_together_without_folders(tmp_path: Path) -> None:
    source = write_source(ACDC, tmp_path / "source")
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in source.rglob("*_frame*"):
        path.rename(flat / path.name)
    convert(ACDC, flat, tmp_path / "out")
    assert {name[:10] for name in names(tmp_path / "out/labelsTs")} == {"patient005"}
    assert len(names(tmp_path / "out/labelsTs")) == 2
    folds = read_folds(tmp_path / "out", names(tmp_path / "out/labelsTr"))
    assert folds is not None
    for fold in folds:
        assert not {case[:10] for case in fold["train"]} & {case[:10] for case in fold["val"]}


def test_one_group_has_no_folds_and_the_command_says_so(tmp_path: Path) -> None:
    write_acdc(tmp_path / "source", patients=1)
    said = convert(ACDC, tmp_path / "source", tmp_path / "out")
    assert "note: all 2 training cases belong to patient001, so there is no splits_final.json" in said
    assert not (tmp_path / "out/splits_final.json").exists()


@pytest.mark.parametrize(
    ("task", "pattern", "note"),
    [
        (
            ACDC,
            "patient002_frame01_gt.nii.gz",
            "1 frames without a label were left out, patient002_frame01 for example",
        ),
        (
            FETS,
            "FeTS2022_00003_seg.nii.gz",
            "1 subjects without a segmentation were left out, FeTS2022_00003 for example",
        ),
        (
            "multi_organ_ct_segmentation",
            "label0007.nii.gz",
            "2 volumes without a label were left out, img0007 for example",
        ),
    ],
)
def test_images_without_a_label_are_named(task: str, pattern: str, note: str, tmp_path: Path) -> None:
    source = write_source(task, tmp_path / "source")
    next(source.rglob(pattern)).unlink()
    assert f"note: {note}" in convert(task, source, tmp_path / "out")


def test_images_without_polygons_are_named(tmp_path: Path) -> None:
    source = write_source("wrist_bone_segmentation", tmp_path / "source")
    shutil.copy(min(source.rglob("*.png")), source / "images/other.png")
    said = convert("wrist_bone_segmentation", source, tmp_path / "out")
    assert "note: 1 images without polygons were left out, other for example" in said


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".NII.GZ"])
@pytest.mark.parametrize("which", ["image", "label", "both"])
def test_volumes_of_four_axes_are_written_with_three(which: str, ending: str, tmp_path: Path) -> None:
    label = blobs((21, 20, 8), [1, 2, 3], 0)
    image = like(label, 0)
    for patient in ("patient001", "patient002"):
        stem = tmp_path / "source" / patient / f"{patient}_frame01"
        scaled = nib.Nifti1Image(image if which == "label" else image[..., None], OBLIQUE)
        scaled.header.set_slope_inter(0.3, -7)  # the voxels stay as they are stored
        stem.parent.mkdir(parents=True)
        nib.save(scaled, stem.with_name(stem.name + ending))
        save(stem.with_name(f"{stem.name}_gt{ending}"), label if which == "image" else label[..., None])
    convert(ACDC, tmp_path / "source", tmp_path / "out", link=True)
    for file, stored in (("imagesTr/patient001_frame01_0000", image * 0.3 - 7), ("labelsTr/patient001_frame01", label)):
        read = sitk.ReadImage(str(tmp_path / f"out/{file}.nii.gz"))
        assert read.GetDimension() == 3
        np.testing.assert_allclose(sitk.GetArrayFromImage(read).T, stored, atol=1e-4)
        np.testing.assert_allclose(read.GetOrigin(), (-11, 7, 5), atol=1e-4)  # LPS
        np.testing.assert_allclose(read.GetSpacing(), np.linalg.norm(OBLIQUE[:3, :3], axis=0), atol=1e-4)


def test_ids_of_a_label_with_four_axes_change_too(tmp_path: Path) -> None:
    source = write_source(FETS, tmp_path / "source")
    for path in source.rglob("*_seg.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[..., None], image.affine), path)
    convert(FETS, source, tmp_path / "out")
    assert {nib.load(path).shape for path in (tmp_path / "out/labelsTr").iterdir()} == {(24, 24, 20)}


def test_endings_in_upper_case_are_read(tmp_path: Path) -> None:
    endings = {COVID: ".png", "breast_tissue_segmentation": ".png", "wrist_bone_segmentation": ".png", ACDC: ".nii.gz"}
    for task, ending in endings.items():
        source = write_source(task, tmp_path / task)
        expected = convert(task, source, tmp_path / "out").splitlines()[0]
        shutil.rmtree(tmp_path / "out")
        for path in source.rglob(f"*{ending}"):
            path.rename(path.with_name(path.name.removesuffix(ending) + ending.upper()))
        assert convert(task, source, tmp_path / "out").splitlines()[0] == expected
        shutil.rmtree(tmp_path / "out")


def test_sars_cov_2_reads_jpeg_too(tmp_path: Path) -> None:
    source = write_source(COVID, tmp_path / "source")
    path = source / "COVID/Covid (1).png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()
    convert(COVID, source, tmp_path / "out")
    assert sum(len(items) for items in read_datalist(tmp_path / "out").values()) == 24


def copied(pattern: str, folder: str) -> Spoil:
    """Copy the first such file, or folder, to a folder of its own."""

    def spoil(source: Path) -> None:
        path = min(source.rglob(pattern))
        (source / folder).mkdir()
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / folder / path.name)

    return spoil


def appended(name: str, line: str) -> Spoil:
    def spoil(source: Path) -> None:
        with (source / name).open("ab") as file:
            file.write(line.encode())

    return spoil


def other_table(source: Path) -> None:
    (source / "old").mkdir()
    (source / "old/dataset.csv").write_text("filestem,patient_id,laterality\n")


TWICE = {
    "FeTS subject": (FETS, copied("FeTS2022_00001", "b"), "are both FeTS2022_00001; keep one of them"),
    "FeTS institution": (
        FETS,
        appended("partitioning_1.csv", "7,FeTS2022_00001\n"),
        "gives FeTS2022_00001 two values of Partition_ID: '2' and '7'",
    ),
    "slice": (
        SLICES,
        appended("meta_data_covid.csv", "2COVID_p0_0.png,4,x\n"),
        "meta_data_covid.csv gives 2COVID_p0_0.png two values of Patient ID: '0' and '4'",
    ),
    "X-ray": ("wrist_bone_segmentation", copied("0000_*.png", "b"), "are both 0000_0000000000_01_WRI-L1_F012"),
    "table": ("wrist_bone_segmentation", other_table, "holds different tables dataset.csv"),
    "outline": ("chest_xray_segmentation", copied("H", "b"), "are both JPCLN001; keep one of them"),
}


@pytest.mark.parametrize(("task", "spoil", "message"), TWICE.values(), ids=TWICE)
def test_what_is_there_twice_is_refused(task: str, spoil: Spoil, message: str, tmp_path: Path) -> None:
    source = write_source(task, tmp_path / "source")
    spoil(source)
    with pytest.raises(ValueError, match=message):
        convert(task, source, tmp_path / "out")


def test_rows_of_a_table_that_agree_are_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufefffile,patient,age\na.png,1,7\na.png,,8\n,3,\n\nb.png\na.png,1,\n", "utf-8")
    assert read_table(tmp_path / "t.csv", "file", "patient") == {
        "a.png": {"file": "a.png", "patient": "1"},
        "b.png": {"file": "b.png", "patient": ""},
    }
    (tmp_path / "t.csv").write_text("file,patient\n,3\n")
    with pytest.raises(ValueError, match="has no row with a value of file"):
        read_table(tmp_path / "t.csv", "file", "patient")


def test_a_label_next_to_a_whole_number_is_shown_as_such(tmp_path: Path) -> None:
    save(tmp_path / "label.nii.gz", np.full((3, 3, 3), 3.0000004, np.float32), np.eye(4))
    with pytest.raises(ValueError, match=r"holds label 3\.0000005; valid: 0, 1, 2, 3"):
        read_label_file(tmp_path / "label.nii.gz", valid=range(4))
