"""datalist.json: what it says is read back, the split obeys groups, and every fault names its entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medmixers.datasets.datalist_format import datalist_part, read_datalist


def write(folder: Path, **parts: list[dict[str, Any]]) -> Path:
    for name in ("a", "b", "c", "d"):
        (folder / f"{name}.png").touch()
    (folder / "datalist.json").write_text(json.dumps({"training": [], "validation": [], "test": []} | parts))
    return folder


def test_entries_come_back_with_their_paths(tmp_path: Path) -> None:
    training = [
        {"image": "a.png", "label": 3, "group": "patient 7"},
        {"image": "b.png", "label": [0, 2]},
        {"image": "c.png", "label": ["a.png", "b.png"]},
    ]
    read = read_datalist(write(tmp_path, training=training))
    assert read["training"] == [
        {"image": f"{tmp_path}/a.png", "label": 3, "group": "patient 7"},
        {"image": f"{tmp_path}/b.png", "label": [0, 2], "group": "b.png"},
        {"image": f"{tmp_path}/c.png", "label": [f"{tmp_path}/a.png", f"{tmp_path}/b.png"], "group": "c.png"},
    ]
    assert read["validation"] == read["test"] == []


def test_an_empty_validation_part_is_taken_from_training_by_group(tmp_path: Path) -> None:
    training = [
        {"image": f"{name}.png", "label": 0, "group": group} for name, group in zip("abcd", "yxyz", strict=True)
    ]
    folder = write(tmp_path, training=training)
    names = {
        part: [Path(item["image"]).stem for item in datalist_part(folder, part=part, validation_every=2)]
        for part in ("training", "validation", "test")
    }
    assert names == {"validation": ["b", "d"], "training": ["a", "c"], "test": []}  # groups x, z and y
    write(tmp_path, training=training[:1], validation=training[1:2])
    assert len(datalist_part(folder, part="training", validation_every=2)) == 1
    write(tmp_path, training=training[:1])
    with pytest.raises(ValueError, match=r"at least 2 groups are needed, .* got 1"):
        datalist_part(folder, part="training", validation_every=2)
    with pytest.raises(ValueError, match="part must be one of training, validation, test, got 'train'"):
        datalist_part(folder, part="train", validation_every=2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"training": [{"image": "a.png"}]}, r'training\[0\] must look like \{"image": FILE, "label": \.\.\.\}'),
        ({"test": [{"image": "x.png", "label": 1}]}, r"test\[0\]: there is no file .*x\.png"),
        ({"test": [{"image": "a.png", "label": ["y.png"]}]}, r"test\[0\]: there is no file .*y\.png"),
        ({"training": [{"image": "a.png", "label": "b"}]}, r"training\[0\]: label must be a class id, .* got 'b'"),
        ({"training": [{"image": "a.png", "label": True}]}, r"label must be a class id, .* got True"),
        ({"training": [{"image": "a.png", "label": 1, "group": 7}]}, r"training\[0\]: group must be text, got 7"),
        (
            {"training": [{"image": "a.png", "label": 1}], "test": [{"image": "./b/../a.png", "label": 1}]},
            r"training\[0\] and test\[0\] are one image",
        ),
        ({"training": [{"image": "a.png", "label": 1}] * 2}, r"training\[0\] and training\[1\] are one image"),
        ({"training": {}}, r"must hold the lists training, validation, test"),
        (
            {p: [{"image": f"{i}.png", "label": 1, "group": "g"}] for p, i in (("training", "a"), ("test", "b"))},
            r"group 'g' lies in training and in test",
        ),
    ],
)
def test_a_fault_names_its_entry(parts: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_datalist(write(tmp_path, **parts))
    assert "\n" not in str(caught.value)


def test_no_datalist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no data set folder"):
        read_datalist(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match=r"has no datalist\.json; medmixers dataset convert writes one"):
        read_datalist(tmp_path)
    (tmp_path / "datalist.json").write_text("{")
    with pytest.raises(ValueError, match=r"datalist\.json is not valid JSON"):
        read_datalist(tmp_path)
