"""Lists of cases from a folder in nnU-Net raw format, with datalist.json, or of images alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.data.utils import create_file_basename

from medmixers.bundle_runtime.cases import case_name, find_images, split, split_datalist


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three training cases and one held-out, two channels, empty files: only names are read."""
    folder = tmp_path / "Dataset001_Tiny"
    for part, cases in (("Tr", ("b", "a", "c_2")), ("Ts", ("d",))):
        (folder / f"images{part}").mkdir(parents=True)
        (folder / f"labels{part}").mkdir()
        for case in cases:
            (folder / f"images{part}" / f"{case}_0000.nii.gz").touch()
            (folder / f"images{part}" / f"{case}_0001.nii.gz").touch()
            (folder / f"labels{part}" / f"{case}.nii.gz").touch()
    write_json(folder, ["T1", "T2"])
    return folder


def write_json(folder: Path, channels: list[str]) -> None:
    content = {
        "channel_names": dict(enumerate(channels)),
        "labels": {"background": 0},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def labelled(folder: Path) -> list[dict[str, Any]]:
    """All training cases, sorted as the split sorts them."""
    parts = [split(folder, part=part, validation_every=5) for part in ("training", "validation")]
    return sorted([*parts[0], *parts[1]], key=lambda case: case["label"])


def test_channels_of_a_case_stay_together(dataset: Path) -> None:
    cases = labelled(dataset)
    images = dataset / "imagesTr"
    assert [Path(case["label"]).name for case in cases] == ["a.nii.gz", "b.nii.gz", "c_2.nii.gz"]
    assert cases[2]["image"] == [str(images / "c_2_0000.nii.gz"), str(images / "c_2_0001.nii.gz")]
    assert find_images(dataset) == [
        [str(dataset / "imagesTs" / "d_0000.nii.gz"), str(dataset / "imagesTs" / "d_0001.nii.gz")]
    ]


def test_one_channel_is_a_path(dataset: Path) -> None:
    write_json(dataset, ["T1"])
    (dataset / "imagesTs" / "d_0001.nii.gz").unlink()
    assert find_images(dataset) == [str(dataset / "imagesTs" / "d_0000.nii.gz")]


def test_split_is_a_partition_by_the_rule() -> None:
    cases = [{"image": str(index)} for index in range(9)]
    validation = split_datalist(cases, part="validation", validation_every=5)
    training = split_datalist(cases, part="training", validation_every=5)
    assert [case["image"] for case in validation] == ["0", "5"]
    assert [case["image"] for case in training] == ["1", "2", "3", "4", "6", "7", "8"]


def test_split_refuses_what_it_cannot_split() -> None:
    with pytest.raises(ValueError, match="at least 2 training cases are needed"):
        split_datalist([{"image": "a"}], part="training", validation_every=5)
    with pytest.raises(ValueError, match="fold 3 of 2 training cases leaves none for validation"):
        split_datalist([{}, {}], part="validation", validation_every=5, fold=3)


def test_split_refuses_an_unknown_part_or_fold(dataset: Path) -> None:
    with pytest.raises(ValueError, match="part must be one of training, validation, test, got 'train'"):
        split(dataset, part="train", validation_every=5)
    with pytest.raises(ValueError, match="fold must be from 0 to 4, got 5"):
        split(dataset, part="training", validation_every=5, fold=5)


def test_folds_partition_the_cases(dataset: Path) -> None:
    names = [
        Path(case["label"]).name
        for fold in range(3)
        for case in split(dataset, part="validation", validation_every=3, fold=fold)
    ]
    assert names == ["a.nii.gz", "b.nii.gz", "c_2.nii.gz"]


def test_the_data_sets_own_folds_win(dataset: Path) -> None:
    (dataset / "splits_final.json").write_text(json.dumps([{"train": ["c_2"], "val": ["a", "b"]}]))
    validation = split(dataset, part="validation", validation_every=5)
    assert [Path(case["label"]).name for case in validation] == ["a.nii.gz", "b.nii.gz"]
    with pytest.raises(ValueError, match="fold must be from 0 to 0, got 1"):
        split(dataset, part="validation", validation_every=5, fold=1)
    (dataset / "splits_final.json").write_text(json.dumps([{"train": ["x"], "val": []}]))
    with pytest.raises(ValueError, match="names case 'x', which imagesTr does not hold"):
        split(dataset, part="training", validation_every=5)


def test_parts_of_a_datalist(tmp_path: Path) -> None:
    entries = []
    for index in range(4):
        (tmp_path / f"{index}.png").touch()
        entries.append({"image": f"{index}.png", "label": index % 2, "group": f"patient {index // 2}"})
    (tmp_path / "datalist.json").write_text(json.dumps({"training": entries, "validation": [], "test": []}))
    parts = {part: split(tmp_path, part=part, validation_every=5) for part in ("training", "validation")}
    groups = {part: {case["group"] for case in cases} for part, cases in parts.items()}
    assert groups == {"training": {"patient 1"}, "validation": {"patient 0"}}
    with pytest.raises(FileNotFoundError, match=r"the test part of .* is empty"):
        split(tmp_path, part="test", validation_every=5)


def test_images_of_a_folder_without_a_description(tmp_path: Path) -> None:
    (tmp_path / "b.png").touch()
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "1").write_bytes(bytes(200))
    assert find_images(tmp_path) == [str(tmp_path / name) for name in ("a.nii.gz", "b.png", "series")]


def test_channels_of_a_folder_without_a_description(tmp_path: Path) -> None:
    """The layout that nnUNetv2_predict takes, where the network has as many channels as every case has files."""
    names = [f"{case}_000{channel}.nii.gz" for case in ("a", "b_0001") for channel in range(2)]
    for name in names:
        (tmp_path / name).touch()
    files = [str(tmp_path / name) for name in names]
    assert find_images(tmp_path, channels=2) == [files[:2], files[2:]]
    assert find_images(tmp_path) == files  # a number may be of the case's own name
    assert find_images(tmp_path, channels=3) == files
    (tmp_path / "c.png").touch()
    assert find_images(tmp_path, channels=2) == [files[:2], files[2:], str(tmp_path / "c.png")]
    (tmp_path / "c.png").rename(tmp_path / "c.nii")
    assert find_images(tmp_path, channels=2) == [*files, str(tmp_path / "c.nii")]


def test_cases_that_dataset_json_lists(dataset: Path) -> None:
    rows = {
        name: {"images": [f"imagesTr/{name}_{c:04d}.nii.gz" for c in range(2)], "label": f"labelsTr/{name}.nii.gz"}
        for name in ("b", "a")
    }
    expected = labelled(dataset)[:2]
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps({**description, "dataset": rows}))
    assert labelled(dataset) == expected
    (dataset / "dataset.json").write_text(json.dumps({**description, "dataset": {"a": "a.nii.gz"}}))
    with pytest.raises(ValueError, match=r'dataset must look like \{"CASE"'):
        labelled(dataset)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=f"there is no data set folder {missing}"):
        labelled(missing)
    assert find_images(missing, missing_ok=True) == []


def test_missing_files_are_named(dataset: Path) -> None:
    (dataset / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"b_0000\.nii\.gz has no label: .*labelsTr/b\.nii\.gz"):
        labelled(dataset)
    (dataset / "labelsTs" / "d.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"d_0000\.nii\.gz has no label: none in labelsTs"):
        split(dataset, part="test", validation_every=5)
    (dataset / "imagesTs" / "d_0001.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"case 'd' has 1 files, dataset\.json names 2 channels"):
        find_images(dataset)
    (dataset / "imagesTs" / "d_0000.nii.gz").rename(dataset / "imagesTs" / "d_0001.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"case 'd' lacks .*d_0000\.nii\.gz"):
        find_images(dataset)
    (dataset / "imagesTs" / "d_0001.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"imagesTs holds no image; expected files named CASE_0000"):
        find_images(dataset)
    (dataset / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no dataset\.json"):
        labelled(dataset)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"dataset\.json is not valid JSON"),
        ('{"labels": {}}', "lacks channel_names, numTraining, file_ending"),
        ("[]", "lacks channel_names"),
        ('{"channel_names": {"0": "a"}, "labels": {}, "numTraining": 1, "file_ending": 1}', "file_ending must look"),
    ],
)
def test_broken_json_is_named(text: str, message: str, dataset: Path) -> None:
    (dataset / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        labelled(dataset)
    assert find_images(dataset, missing_ok=True) == []


@pytest.mark.parametrize(
    ("image", "prediction"),
    [
        ("brain_009_0000.nii.gz", "brain_009.nii.gz"),
        ("brain_009.nii.gz", "brain_009.nii.gz"),
        ("scan.nii", "scan.nii"),
        ("_0000.nii", "_0000.nii"),
        ("1.3.6.1.4_0000.nii.gz", "1.3.6.1.4.nii.gz"),
        ("1.3.6.1.4.nii.gz", "1.3.6.1.4.nii.gz"),
        ("v1.2_case_0000.mha", "v1.2_case.mha"),
        ("A_0000.NII.GZ", "A.nii.gz"),
        ("IXI_0001.nii.gz", "IXI_0001.nii.gz"),  # a number of the case, not of a channel
        ("1.2.840.5", "1.2.840.5.nii.gz"),  # the folder of a DICOM series
        ("patient", "patient.nii.gz"),
    ],
)
def test_prediction_is_named_after_its_case(image: str, prediction: str) -> None:
    subject = case_name({"filename_or_obj": f"/data/{image}"}, None)["subject"]
    assert subject == prediction
    stem = prediction.removesuffix(".gz").rpartition(".")[0]
    assert Path(create_file_basename("", subject, "out", separate_folder=False, makedirs=False)).name == stem
