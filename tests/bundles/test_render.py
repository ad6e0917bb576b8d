"""What people read of a bundle: JSON in the order of a training, no long expressions, texts without gaps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bundle_helpers import BRAIN, ONE_OF_EACH, ROOT
from jinja2 import UndefinedError

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.render.card import render_metrics, render_model_card
from medmixers.bundles.render.text import TEMPLATES, readable_json, render, render_markdown
from medmixers.bundles.verify.subject import walk

each_bundle = pytest.mark.parametrize("name", ONE_OF_EACH)
ORDER = {  # what you change, data, network, training, validation, what runs
    "train": ("dataset_dir", "epochs", "network_name", "device", "train_datalist", "network_def", "loss", "optimizer",
              "train", "validate", "preflight", "initialize", "run"),
    "inference": ("dataset_dir", "network_name", "device", "datalist", "network_def", "preprocessing", "inferer",
                  "postprocessing", "evaluator", "preflight", "initialize", "run"),
}  # fmt: skip
RUNS = {
    "train": ["@preflight", "@built", "@allocator", "$@train::trainer.run()"],
    "evaluate": ["@preflight", "@built", "@allocator", "$@validate::evaluator.run()"],
    "inference": ["@preflight", "@built", "@allocator", "$@cases.run(@evaluator)"],
}


def configs(name: str) -> dict[str, dict[str, Any]]:
    folder = ROOT / "bundles" / name / "configs"
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@each_bundle
def test_keys_are_in_reading_order(name: str) -> None:
    for config, expected in ORDER.items():
        keys = list(configs(name)[config])
        assert sorted(expected, key=keys.index) == list(expected)


@each_bundle
def test_run_is_read_aloud_and_no_expression_is_longer_than_a_line(name: str) -> None:
    for config, content in configs(name).items():
        assert content.get("run") == RUNS.get(config)
        for value in walk(content) if config != "metadata" else ():
            assert not (isinstance(value, str) and len(value) > 100), value
            # one lambda is left: the mask of an ignored label
            assert not (isinstance(value, str) and "lambda" in value and "label: label != " not in value), value


@each_bundle
def test_the_mixer_is_an_option(name: str) -> None:
    options = BUNDLES[name].network_options
    for config in ("train", "inference"):
        content = configs(name)[config]
        for key in ("mixer", "kernel_size"):
            assert content.get(key) == options.get(key)
            assert content["network_def"].get(key) == (f"@{key}" if key in options else None)


@each_bundle
def test_loading_and_channel_order_are_two_transforms(name: str) -> None:
    """MONAI Deploy replaces every transform that is named LoadImage by its own."""
    transforms = configs(name)["inference"]["preprocessing"]["transforms"]
    assert transforms[0] == {"_target_": "LoadImaged", "keys": "image", "reader": "@image_reader"}
    assert transforms[1] == {"_target_": "EnsureChannelFirstd", "keys": "image"}


@each_bundle
def test_metadata_keeps_what_is_required_in_monais_hands(name: str) -> None:
    from monai.bundle import ConfigParser

    required = configs(name)["metadata"]["required_packages_version"]
    parser = ConfigParser()
    parser.read_meta(str(ROOT / "bundles" / name / "configs" / "metadata.json"))
    assert parser["_meta_"]["required_packages_version"] == required
    assert "medmixers" in required


@each_bundle
def test_readme_has_no_gap(name: str) -> None:
    text = (ROOT / "bundles" / name / "docs" / "README.md").read_text()
    assert not re.search(r"\{\{|\}\}|\{%|None|  +[a-z]|\n\n\n| ,|\(\)", text.replace("\n  ", "\n"))
    assert "python -m monai.bundle run" in text
    options = set(re.findall(r"`--(\w+)", text[text.index("## Options") : text.index("## Training")]))
    known = {key for content in configs(name).values() for key in content}
    assert options <= known


def test_json_is_the_same_content_on_fewer_lines() -> None:
    content = configs(BRAIN)["train"]
    text = readable_json(content)
    assert json.loads(text) == content
    assert list(json.loads(text)) == list(content)
    assert max(map(len, text.splitlines())) <= 110
    assert readable_json({"a": [1, 2], "b": {"c": {"e": {}}, "d": [[1]]}}).splitlines() == [
        "{",
        '    "a": [1, 2],',
        '    "b": {',
        '        "c": {',
        '            "e": {}',
        "        },",
        '        "d": [[1]]',
        "    }",
        "}",
    ]


def test_a_fact_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("model_card.md.j2", name="x")


def test_every_template_is_packaged_and_used() -> None:
    from importlib.resources import files

    names = {path.name for path in TEMPLATES.glob("*.j2")}
    assert names == {path.name for path in files("medmixers.bundles.render").joinpath("templates").iterdir()}
    package = Path(TEMPLATES).parents[2]
    sources = "".join(path.read_text() for path in [*package.rglob("*.py"), *TEMPLATES.glob("*.j2")])
    assert all(f'"{name}"' in sources for name in names)


def test_model_card_has_the_facts_of_the_metadata() -> None:
    metadata = configs(BRAIN)["metadata"]
    table = render_metrics({"class0": [0.5, 0.7], "class1": []}, by_case=True, source="raw.csv")
    assert table.splitlines()[-2:] == [
        "| class0 | 2 | 0.6000 | 0.1414 | 0.6000 | 0.5000 | 0.7000 |",
        "| class1 | 0 | - | - | - | - | - |",
    ]
    lines = ["models/model.pt: a flat state dict", "no models/model.onnx: why"]
    card = render_model_card(
        metadata, name=BRAIN, code="`medmixers_01234567`, of medmixers 1.2.3", models=lines, metrics=table
    )
    for fact in (metadata["name"], metadata["intended_use"], *metadata["references"], "medmixers 1.2.3", table):
        assert fact in card
    assert "- no models/model.onnx: why\n" in card
    assert "Output: 0 background, 1 grey_matter, 2 white_matter." in card
    del metadata["data_licence"], metadata["references"]  # a user's bundle may state neither
    assert "the licence is not known" in render_model_card(metadata, name="x", code="", metrics="None.")


def test_long_lines_are_wrapped_and_tables_are_not() -> None:
    text = render_markdown("metrics.md.j2", rows=[["x" * 60, "y" * 60]], by_case=False, source="a.csv")
    assert max(map(len, text.splitlines())) > 120
