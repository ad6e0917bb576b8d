"""A user's task from YAML: whole tasks survive, every fault is one line that names the field."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmixers.bundles.new import new_bundle
from medmixers.tasks import TASKS, TaskSpec
from medmixers.tasks.from_yaml import load_task
from medmixers.tasks.palette import PALETTE


def plain(task: TaskSpec) -> dict[str, Any]:
    """The task as YAML can hold it."""
    content = {field.name: getattr(task, field.name) for field in fields(task)}
    content["labels"] = {key: {"name": label.name, "colour": list(label.colour)} for key, label in task.labels.items()}
    for name in ("channels", "spacing", "image_size", "window"):
        content[name] = content[name] and list(content[name])
    content["regions"] = task.regions and {name: list(ids) for name, ids in task.regions.items()}
    content["codes"] = task.codes and {
        name: {part: list(code) for part, code in vars(codes).items() if code} for name, codes in task.codes.items()
    }
    return content


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_survives_yaml(name: str, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(plain(TASKS[name]), sort_keys=False))
    loaded = load_task(tmp_path / "task.yaml")
    assert loaded == TASKS[name]


def codes(**parts: Any) -> dict[str, Any]:
    return {"codes": {"grey_matter": parts}}


REGIONS = {"multi_label": True, "labels": ["all", "core"]}


def write(folder: Path, **changes: Any) -> Path:
    content = plain(TASKS["brain_tissue_segmentation"]) | {"codes": None} | changes
    text = yaml.safe_dump({key: value for key, value in content.items() if value != "absent"})
    (folder / "task.yaml").write_text(text)
    return folder / "task.yaml"


def test_names_alone_get_the_palette(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, task="classification", labels=["benign", "malignant"]))
    assert task.label_names == {0: "benign", 1: "malignant"}
    assert [label.colour for label in task.labels.values()] == list(PALETTE[:2])
    task = load_task(write(tmp_path, labels=["background", "vessel"]))
    assert [label.colour for label in task.labels.values()] == [(0, 0, 0), PALETTE[0]]


def test_numbers_in_exponent_notation(tmp_path: Path) -> None:
    path = write(tmp_path, spacing="absent")
    path.write_text(path.read_text() + "spacing: [1e-1, 2, 1.5e0]\n")
    assert yaml.safe_load(path.read_text())["spacing"][0] == "1e-1"  # the trap: text
    assert load_task(path).spacing == (0.1, 2.0, 1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacings": [1, 1, 1]}, r"unknown field 'spacings'; valid: name, title, .*spacing"),
        ({"title": "absent", "limits": "absent"}, r"missing field title, limits$"),
        ({"title": 7}, r"title must be text, got 7; put it in quotes"),
        ({"citation": "issue #4"}, r"citation must not hold '#'"),
        ({"title": "$__import__('os').system('touch executed')"}, r"title must not hold '#' or begin with '\$'"),
        ({"labels": ["background", "  $1 + 1"]}, r"each of labels must not hold .*got '\$1 \+ 1'"),
        ({"labels": {0: {"name": "@device", "colour": [0, 0, 0]}}}, r"name of label 0 must not hold .*got '@device'"),
        ({"channels": ["%train.json"]}, r"each of channels must not hold .*got '%train\.json'"),
        ({"regions": {"$x": [1]}}, r"a name in regions must not hold .*got '\$x'"),
        ({"limits": "see @::network"}, r"limits must not hold .*got 'see @::network'"),
        ({"title": [["x"] * 50 for _ in range(50)]}, r"title must be text, got \[\[.{0,400}$"),
        ({"spatial_dims": "3"}, r"spatial_dims must be a whole number, got '3'"),
        ({"spatial_dims": True}, r"spatial_dims must be a whole number, got True"),
        ({"multi_label": "yes please"}, r"multi_label must be true or false, got 'yes please'"),
        ({"channels": "T1"}, r"channels must be a list, as \[a, b\], got 'T1'"),
        ({"spacing": [1, 1, "wide"]}, r"each of spacing must be a number, got 'wide'"),
        ({"spacing": [1, 1]}, r"spacing must have spatial_dims values above 0"),
        ({"spacing": [1, 1, float("nan")]}, r"spacing must be from 1e-05 to 1000 mm per axis, got \(1\.0, 1\.0, nan\)"),
        ({"spacing": [1, 1, float("inf")]}, r"spacing must be from 1e-05 to 1000 mm per axis"),
        ({"spacing": [1, 1, 1e-9]}, r"spacing must be from 1e-05 to 1000 mm per axis"),
        ({"intensity": "window", "window": [0, 1e300]}, r"window must be .* within 1e\+30 of 0, got"),
        (REGIONS | {"regions": {"all": [1, 300], "core": [300]}}, r"ids of regions must be .* got \[1, 300\]"),
        (REGIONS | {"regions": {"all": [-1, 2], "core": [2]}}, r"ids of regions must be whole numbers from 1"),
        (REGIONS | {"regions": {"all": [0, 1], "core": [1]}}, r"ids of regions must be whole numbers from 1"),
        ({"labels": ["background", "left\\lobe"]}, r"a label must not hold \\: .*; got 'left.*lobe'"),
        ({"multi_label": True, "labels": ["lung/left", "heart"]}, r"a label must not hold \\ or /: .*'lung/left'"),
        ({"labels": {0: "background"}}, r"label 0 must be \{name: \.\.\., colour: .*got 'background'"),
        ({"labels": {"a": {"name": "a", "colour": [0, 0, 0]}}}, r"an id of labels must be a whole number, got 'a'"),
        ({"labels": {0: {"name": "a", "colour": [0, 0, 256]}}}, r"colour of label 0 .* from 0 to 255"),
        ({"labels": "grey"}, r"labels must be a list of names, or"),
        ({"regions": [1, 2]}, r"regions must be 'label: \[ids\]' lines"),
        ({"codes": ["grey_matter"]}, r"codes must be 'label: \{type: \[value, scheme, meaning\]\}' lines"),
        (codes(type=["X", "99MINE"]), r"type in codes of grey_matter must be \[value, scheme, meaning\], got \['X'"),
        (codes(type=[10200004, "SCT", "Liver"]), r"must be text, got 10200004; put it in quotes"),
        (codes(types=["X", "99MINE", "X"]), r"codes of grey_matter must have type, and may have category and modifier"),
        (
            codes(type=["X" * 17, "99MINE", "X"]),
            r"the value of a code must have 1 to 16 characters without a backslash",
        ),
        (codes(type=["X", "99MINE", "$x"]), r"must not hold .*got '\$x'"),
        ({"codes": {"bone": {"type": ["X", "99MINE", "X"]}}}, r"codes name no label 'bone'; valid: grey_matter, white"),
        ({"intensity": "log"}, r"intensity must be one of zscore, zscore_nonzero, unit, window, got 'log'"),
    ],
)
def test_a_fault_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_task(write(tmp_path, **changes))
    assert str(caught.value).startswith(str(tmp_path / "task.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("a: [1", "is not valid YAML: .*line 1"), ("- a", "a task is 'field")])
def test_not_a_task_at_all(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_task(tmp_path / "task.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"no task file .*other\.yaml"):
        load_task(tmp_path / "other.yaml")


def test_aliases_and_deep_nesting_are_refused(tmp_path: Path) -> None:
    """Eight lines of nested aliases stand for 10^8 words; none of them is expanded."""
    lines = ["- &b0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"- &b{level} [{', '.join([f'*b{level - 1}'] * 10)}]" for level in range(1, 8)]
    (tmp_path / "task.yaml").write_text("title:\n" + "\n".join(lines) + "\n")
    with pytest.raises(
        ValueError, match=r"task\.yaml is not valid YAML: line 3 has the alias \*b0; write its value out$"
    ):
        load_task(tmp_path / "task.yaml")
    (tmp_path / "task.yaml").write_text("[" * 5000)
    with pytest.raises(ValueError, match=r"task\.yaml is not valid YAML"):
        load_task(tmp_path / "task.yaml")
    (tmp_path / "task.yaml").write_text("title: " + "x" * 2**20)
    with pytest.raises(ValueError, match=r"task\.yaml has 10485\d\d bytes; a task file has at most 1048576"):
        load_task(tmp_path / "task.yaml")


@pytest.mark.parametrize("text", ["costs 5 $", "write to me@there.org", "50 % of cases", "a: b::c"])
def test_signs_within_a_text_stay(text: str, tmp_path: Path) -> None:
    assert load_task(write(tmp_path, limits=text)).limits == text


def test_the_guides_example_makes_a_bundle(tmp_path: Path) -> None:
    guide = (Path(__file__).resolve().parents[2] / "plugin" / "docs" / "bundles.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", guide, re.S)
    (tmp_path / "task.yaml").write_text(example)
    bundle = new_bundle(
        str(tmp_path / "task.yaml"), network="metaformer_segformer_s12", mixer="grouped_conv", out=tmp_path
    )
    assert bundle.name == "liver_ct_segmentation_grouped_conv"
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["2"] == "tumour"
