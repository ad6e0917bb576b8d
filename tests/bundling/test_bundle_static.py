"""What every committed bundle satisfies without being run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from pydoc import locate
from typing import Any

import monai
import pytest
import torch
from bundle_helpers import BRAIN, ROOT, SHAPE, save, small_options, write_dataset
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from monai.bundle.config_item import ComponentLocator
from tiny_datasets import convert_tiny

from medmixers.bundling.catalog import BUNDLES, BundleRow
from medmixers.bundling.render import render_bundle
from medmixers.tasks import TASKS

FILES = [
    "LICENSE",
    "configs/evaluate.json",
    "configs/inference.json",
    "configs/metadata.json",
    "configs/multi_gpu_train.json",
    "configs/train.json",
    "docs/README.md",
]
SCHEMA = ROOT.parent / "shared" / "monai" / "meta_schema_20240725.json"
each_bundle = pytest.mark.parametrize("name", sorted(BUNDLES))
# What depends on the task alone is checked on one bundle of each.
each_task = pytest.mark.parametrize(
    "name", {row.task_spec.name: name for name, row in sorted(BUNDLES.items())}.values()
)


@pytest.fixture(scope="module")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Task -> its tiny data set."""

    @cache
    def make(task: str) -> Path:
        folder = tmp_path_factory.mktemp(task)
        if task == "brain_tissue_segmentation":
            return write_dataset(folder / "Dataset001_Tiny")
        return convert_tiny(task, folder)

    return make


def load(name: str, config: str) -> dict[str, Any]:
    return json.loads((ROOT / "bundles" / name / "configs" / f"{config}.json").read_text())


def walk(value: Any) -> Iterator[Any]:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


def configs_of(name: str) -> Iterator[Path]:
    return (ROOT / "bundles" / name / "configs").glob("*.json")


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "generate_bundles.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_committed_bundles_are_the_catalogs() -> None:
    assert sorted(p.name for p in (ROOT / "bundles").iterdir() if p.is_dir()) == sorted(BUNDLES)
    done = generate("--check")
    assert (done.returncode, done.stdout) == (0, "")


def test_check_names_what_differs_and_changes_nothing(tmp_path: Path) -> None:
    assert generate("--folder", str(tmp_path)).returncode == 0
    changed, removed, stray = (tmp_path / BRAIN / path for path in (FILES[0], FILES[1], "configs/other.json"))
    changed.write_text("changed")
    removed.unlink()
    stray.write_text("{}")
    (tmp_path / BRAIN / "models").mkdir()
    (tmp_path / BRAIN / "models" / "model.pt").write_text("left by a training")
    done = generate("--check", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.splitlines()[:3] == [
        f"missing: {BRAIN}/{FILES[1]}",
        f"stray: {BRAIN}/configs/other.json",
        f"differs: {BRAIN}/{FILES[0]}",
    ]
    assert changed.read_text() == "changed"


@each_bundle
def test_files(name: str) -> None:
    rendered = render_bundle(BUNDLES[name], package_version="0", licence="Apache")
    assert sorted(rendered) == FILES
    licence = (ROOT / "bundles" / name / "LICENSE").read_text()
    assert "Apache License" in licence


@each_bundle
def test_metadata_satisfies_the_schema(name: str) -> None:
    if not SCHEMA.is_file():
        pytest.skip(f"the model zoo's metadata schema is not at {SCHEMA}")
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(load(name, "metadata"), json.loads(SCHEMA.read_text()))


@each_bundle
def test_metadata_says_what_the_schema_leaves_open(name: str) -> None:
    metadata, task = load(name, "metadata"), BUNDLES[name].task_spec
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["medmixers"] == version("medmixers")
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert image["num_channels"] == len(image["channel_def"]) == len(task.channels)
    assert pred["num_channels"] == len(pred["channel_def"]) == task.out_channels
    assert pred["channel_def"] == {str(key): label.name for key, label in task.labels.items()}
    network = load(name, "train")["network_def"]
    assert (network["in_channels"], network["out_channels"]) == (image["num_channels"], pred["num_channels"])


@each_bundle
def test_training_and_inference_agree(name: str) -> None:
    train, inference = load(name, "train"), load(name, "inference")
    for key in ("network_def", "network_name", "kernel_size", "roi_size", "image_size", "overlap"):
        assert train.get(key) == inference.get(key), key
    assert train["validate"]["deterministic_transforms"] == inference["preprocessing"]["transforms"]
    of_both = train["train"]["deterministic_transforms"]
    of_image = [
        {**t, "keys": "image", **({"mode": t["mode"][0]} if isinstance(t.get("mode"), list) else {})}
        for t in of_both
        if t["keys"] != "label"
    ]
    assert of_image == inference["preprocessing"]["transforms"]


@each_bundle
def test_configs_hold_no_trap(name: str) -> None:
    def no_duplicate(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), keys
        return dict(pairs)

    for path in configs_of(name):
        content = json.loads(path.read_text(), object_pairs_hook=no_duplicate)
        for value in walk(content):
            if isinstance(value, dict):
                assert not [key for key in value if "#" in key], path  # MONAI turns '#' into '::'
            if isinstance(value, str):
                assert "#" not in value, (path, value)
                assert not re.match(r"/|[A-Za-z]:\\|~", value), (path, value)  # a machine's path
    assert not re.search(
        r"(?<![\w.$\"])/(home|tmp|work|Users)/", (ROOT / "bundles" / name / "docs" / "README.md").read_text()
    )


@each_bundle
def test_every_target_and_import_resolves(name: str) -> None:
    monai_names = ComponentLocator()
    for path in configs_of(name):
        for value in walk(json.loads(path.read_text())):
            if isinstance(value, dict) and "_target_" in value:
                target = value["_target_"]
                found = monai_names.get_component_module_name(target) or locate(target)
                assert found, (path, target)
            if isinstance(value, str) and value.startswith("$import "):
                assert locate(value.removeprefix("$import ").split(" as ")[0]), (path, value)


@each_task
@pytest.mark.parametrize(
    ("configs", "workflow"),
    [(("train",), "train"), (("train", "evaluate"), "train"), (("inference",), "inference")],
)
def test_properties(
    name: str,
    configs: tuple[str, ...],
    workflow: str,
    data_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle, row = ROOT / "bundles" / name, BUNDLES[name]
    part = {"evaluated_part": "validation"} if "evaluate" in configs else {}
    flow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / f"{config}.json") for config in configs],
        workflow_type=workflow,
        bundle_root=str(bundle),
        dataset_dir=str(data_of(row.task_spec.name)),
        output_dir=str(tmp_path / "out"),
        ckpt_dir=str(tmp_path / "models"),
        allow_untrained=True,
        **small_options(row),
        **part,
    )
    flow.parser.parse(reset=True)  # what ``initialize`` does before it runs the config's own expressions
    flow._is_initialized = True
    assert flow.check_properties() == []


@each_bundle
def test_network_takes_and_gives_what_the_metadata_says(name: str) -> None:
    """On the meta device, which counts shapes alone, at the size of the metadata."""
    formats = load(name, "metadata")["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / name / "configs" / "inference.json"))
    parser["bundle_root"] = str(ROOT / "bundles" / name)
    with torch.device("meta"), torch.no_grad():
        network = parser.get_parsed_content("network_def").eval()
        given = network(torch.zeros(1, image["num_channels"], *image["spatial_shape"])).shape
    spatial = () if pred["format"] == "classes" else tuple(pred["spatial_shape"])
    assert given == (1, pred["num_channels"], *spatial)


@pytest.mark.parametrize("name", [BRAIN, "chest_xray_pneumonia_classification_pooling"])
def test_monais_own_check_of_the_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = ROOT / "bundles" / name
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(bundle),
    )


def test_postprocessing_undoes_preprocessing(tmp_path: Path) -> None:
    """An oracle: where the network is a threshold, the prediction is the thresholded file, voxel by voxel."""
    field = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, 4), SHAPE, mode="trilinear")[0, 0].numpy()
    field[:4] = field[:, -3:] = 0  # the box around the rest is cropped, and padded again
    save(tmp_path / "case_0000.nii.gz", field)
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / BRAIN / "configs" / "inference.json"))
    parser["bundle_root"] = str(ROOT / "bundles" / BRAIN)
    parser["preprocessing"]["transforms"].pop()  # keep the grey values
    parser["postprocessing"]["transforms"].pop()  # do not save
    item = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "case_0000.nii.gz")})
    assert tuple(item["image"].shape[1:]) != SHAPE
    image = item["image"]
    item["pred"] = torch.cat([torch.full_like(image, 5), image * 10, torch.full_like(image, -50)])
    pred = parser.get_parsed_content("postprocessing")(item)["pred"]
    assert tuple(pred.shape) == (1, *SHAPE)
    inner = (slice(2, -2),) * 3  # the trilinear borders of a resampled box are not compared
    agreement = (pred[0].numpy() == (field > 0.5))[inner].mean()
    assert agreement > 0.98


def test_bundle_row_refuses_what_does_not_fit() -> None:
    brain, slides = TASKS["brain_tissue_segmentation"], TASKS["breast_tissue_segmentation"]
    shared = {"recipe": "keuth2025_segmentation_short", "label": "x", "network": "metaformer_segformer_s12"}
    row = {**shared, "task_spec": brain, "roi_size": (48, 48, 48)}
    for change, message in (
        ({"network": "metaformer_s12"}, "is not for segmentation"),
        ({"recipe": "keuth2025_classification"}, "recipe 'keuth2025_classification' is not for segmentation"),
        ({"roi_size": (48,)}, r"roi_size must have 3 values, or 2 for slices, got \(48,\)"),
        ({"roi_size": None}, "has no image_size, so its bundles need a roi_size of 3 values"),
        ({"task_spec": slides}, r"roi_size must have 2 values, or 2 for slices, got \(48, 48, 48\)"),
        ({"task_spec": TASKS["chest_xray_segmentation"]}, "is of whole images: no roi_size"),
        ({"task_spec": TASKS["brain_tumor_segmentation"]}, "samples patches by exclusive labels"),
        ({"version": "0.2.0"}, "version '0.2.0' is not in the changelog: 0.1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            BundleRow(**{**row, **change})


def test_generating_needs_neither_torch_nor_monai() -> None:
    code = (
        "import sys, medmixers.bundling.render, medmixers.bundling.catalog, medmixers.bundling.datalist, "
        "medmixers.bundling.preflight, medmixers.tasks, medmixers.recipes; "
        "print([name for name in ('torch', 'monai', 'nnunetv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "[]", done.stderr


def test_stated_monai_version_is_the_tested_one() -> None:
    assert load(BRAIN, "metadata")["monai_version"].split(".")[:2] == monai.__version__.split(".")[:2]
