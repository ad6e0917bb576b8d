"""Lists of cases from a folder in nnU-Net raw format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medmixers.bundling.datalist import case_name, nnunet_datalist, nnunet_images, split_datalist


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
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def test_channels_of_a_case_stay_together(dataset: Path) -> None:
    cases = nnunet_datalist(dataset)
    images = dataset / "imagesTr"
    assert [Path(case["label"]).name for case in cases] == ["a.nii.gz", "b.nii.gz", "c_2.nii.gz"]
    assert cases[2]["image"] == [str(images / "c_2_0000.nii.gz"), str(images / "c_2_0001.nii.gz")]
    assert nnunet_images(dataset) == [
        [str(dataset / "imagesTs" / "d_0000.nii.gz"), str(dataset / "imagesTs" / "d_0001.nii.gz")]
    ]


def test_one_channel_is_a_path(dataset: Path) -> None:
    write_json(dataset, ["T1"])
    assert nnunet_images(dataset) == [str(dataset / "imagesTs" / "d_0000.nii.gz")]


def test_split_is_a_partition_by_the_rule() -> None:
    cases = [{"image": str(index)} for index in range(9)]
    validation = split_datalist(cases, part="validation", validation_every=5)
    training = split_datalist(cases, part="training", validation_every=5)
    assert [case["image"] for case in validation] == ["0", "5"]
    assert [case["image"] for case in training] == ["1", "2", "3", "4", "6", "7", "8"]


def test_split_refuses_what_it_cannot_split() -> None:
    with pytest.raises(ValueError, match="at least 2 training cases are needed"):
        split_datalist([{"image": "a"}], part="training", validation_every=5)
    with pytest.raises(ValueError, match="part must be one of training, validation, got 'test'"):
        split_datalist([{}, {}], part="test", validation_every=5)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=f"dataset_dir '{missing}' is not a folder"):
        nnunet_datalist(missing)
    assert nnunet_images(missing, missing_ok=True) == []


def test_missing_files_are_named(dataset: Path) -> None:
    (dataset / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"case 'b' of .* has no label .*b\.nii\.gz"):
        nnunet_datalist(dataset)
    (dataset / "imagesTs" / "d_0001.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"case 'd' lacks .*d_0001\.nii\.gz"):
        nnunet_images(dataset)
    (dataset / "imagesTs" / "d_0000.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"imagesTs' holds no image; expected files named CASE_0000"):
        nnunet_images(dataset)
    (dataset / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no dataset\.json"):
        nnunet_datalist(dataset)


def test_broken_json_is_named(dataset: Path) -> None:
    (dataset / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json' is not JSON"):
        nnunet_datalist(dataset)
    (dataset / "dataset.json").write_text('{"labels": {}}')
    with pytest.raises(ValueError, match="lacks channel_names, file_ending"):
        nnunet_datalist(dataset)


@pytest.mark.parametrize(
    ("image", "prediction"),
    [
        ("brain_009_0000.nii.gz", "brain_009.nii.gz"),
        ("brain_009.nii.gz", "brain_009.nii.gz"),
        ("scan.nii", "scan.nii"),
        ("_0000.nii", "_0000.nii"),
    ],
)
def test_prediction_is_named_after_its_case(image: str, prediction: str) -> None:
    assert case_name({"filename_or_obj": f"/data/{image}"}, None)["subject"] == prediction
