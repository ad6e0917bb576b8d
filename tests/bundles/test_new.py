"""A bundle of a user's own task, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from bundle_helpers import USER_TASK as TASK
from monai.bundle import ConfigParser

import preloaded
from medmixers import create_network
from medmixers.bundle_runtime.preflight import check_training
from medmixers.bundles.new import new_bundle
from medmixers.bundles.share.pack import vendor, write_vendored
from medmixers.bundles.verify.checks import verify_bundle
from medmixers.bundles.verify.subject import Subject

REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
PICTURES = {
    "spatial_dims": 2,
    "channels": ["red", "green", "blue"],
    "spacing": None,
    "intensity": "unit",
    "window": None,
}
KINDS = {
    "exclusive labels": {},
    "an ignored value": {"labels": ["background", "organ", "tumour"], "ignore_label": 3},
    "regions": {"labels": list(REGIONS), "multi_label": True, "regions": REGIONS},
    "overlapping masks": {**PICTURES, "labels": ["left", "right"], "multi_label": True, "image_size": [32, 32]},
    "classes": {**PICTURES, "labels": ["well", "ill"], "task": "classification", "image_size": [32, 32]},
    "several classes": {
        **{**PICTURES, "labels": ["mass", "edema", "hernia"], "task": "classification", "image_size": [32, 32]},
        "multi_label": True,
    },
}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "my_task.yaml").write_text(yaml.safe_dump(TASK))
    return tmp_path / "my_task.yaml"


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [preloaded.python(), "-m", "medmixers", "bundle", "new", *words]
    return subprocess.run(line, cwd=cwd, env={**os.environ}, capture_output=True, text=True, timeout=60)


def test_command_writes_a_bundle_of_the_users_task(task: Path, tmp_path: Path) -> None:
    words = ("--task", task.name, "--network", "metaformer_segformer_s12", "--mixer", "grouped_conv", "--out", "b")
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    bundle = tmp_path / "b" / "my_organ_segmentation_grouped_conv"
    assert "Apache License" in (bundle / "LICENSE").read_text()
    assert len([path for path in bundle.rglob("*") if path.is_file()]) == 9
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
        assert network(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)
    (intensity,) = (t for t in parser["preprocessing"]["transforms"] if t["_target_"] == "ScaleIntensityRanged")
    assert (intensity["a_min"], intensity["a_max"]) == (-100.0, 300.0)
    again = command(*words, cwd=tmp_path)
    assert again.returncode == 2
    assert (
        again.stderr
        == "medmixers: error: b/my_organ_segmentation_grouped_conv exists; remove it, or give another --out\n"
    )


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"network": "metaformer_s12"}, "network 'metaformer_s12' is not for segmentation"),
        ({}, {"network": "rad_dino_segformer"}, "network 'rad_dino_segformer' is 2D and loads an encoder from a hub"),
        ({}, {"network": "token_unet", "mixer": "conv"}, "network 'token_unet' has no token mixer to choose"),
        ({}, {"mixer": "grouped_con"}, "unknown token mixer 'grouped_con'; valid: conv, "),
        ({}, {"recipe": "x"}, "unknown training recipe 'x'; valid: keuth2025_classification"),
        ({}, {"stem_stride": 0}, "stem_stride must be"),
        ({}, {"network": "token_unet", "stem_stride": 2}, "network 'token_unet' has no option 'stem_stride'"),
        ({}, {"mixer": "conv", "kernel_size": 4}, "kernel_size must be an odd integer >= 1, got 4"),
        ({}, {"roi_size": (0, 16, 16)}, r"roi_size must have 3 values above 0, or 2 for slices, got \(0, 16, 16\)"),
        ({}, {"roi_size": (16,)}, r"roi_size must have 3 values above 0, or 2 for slices, got \(16,\)"),
        ({}, {"recipe": "short", "weights": "x.pt", "network": None, "stem_stride": 2}, "leave --stem_stride out"),
        ({"name": "../my_task"}, {}, "of a-z, 0-9 and '_' only, got '../my_task'"),
        ({"spacing": [1.0]}, {}, r"spacing must have spatial_dims values"),
    ],
)
def test_bad_input_is_named(
    change: dict[str, object], options: dict[str, str], message: str, task: Path, tmp_path: Path
) -> None:
    task.write_text(yaml.safe_dump({**TASK, **change}))
    with pytest.raises(ValueError, match=message):
        new_bundle(str(task), out=tmp_path / "out", **{"network": "metaformer_segformer_s12", **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "network", "mixer", "size"),
    [
        ("chest_xray_segmentation", "metaformer_segformer_s12", "spatial_fc", "image_size"),
        ("brain_tumor_segmentation", "metaformer_segformer_s24", "random_mixing", "roi_size"),
        ("skin_lesion_classification", "metaformer_s24", "sep_conv", None),
        ("skin_lesion_classification", "caformer_s18", None, None),
    ],
)
def test_networks_bound_to_a_size_follow_it(
    task: str, network: str, mixer: str | None, size: str | None, tmp_path: Path
) -> None:
    bundle = new_bundle(task, network=network, mixer=mixer, out=tmp_path)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    assert parser["network_def"].get("input_size") == (size and f"@{size}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_bundle_passes_the_static_checks(kind: str, tmp_path: Path) -> None:
    """Among them its synthetic data, which its own preflight must find sound."""
    task = {**TASK, "name": "my_task", **KINDS[kind]}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    network = "metaformer_s12" if KINDS[kind].get("task") == "classification" else "unet_star_star"
    bundle = new_bundle(str(tmp_path / "task.yaml"), network=network, out=tmp_path)
    report = verify_bundle(bundle, static=True)
    assert not report.failed, str(report)
    subject = Subject(bundle, tmp_path)
    train = subject.config("train")
    options = {key: value for key, value in train["preflight"].items() if key not in ("_target_", "_requires_")}
    none = {"network": None, "pretrained_ckpt": None, "resume_ckpt": None, "fold": 0}
    parser = ConfigParser(train)
    built = {"image_reader": parser.get_parsed_content("image_reader")}
    if "raw" in options:
        built["raw"] = parser.get_parsed_content("preflight::raw")
    check_training(**{**options, **none, **built, "dataset_dir": str(subject.dataset)})


@pytest.mark.parametrize(
    ("name", "task", "package", "options"),
    [
        ("nnunet:PlainConvUNet", TASK, "dynamic_network_architectures", {"strides": (1, 2), "kernel_sizes": 1}),
        ("monai:SwinUNETR", TASK, "einops", {"feature_size": 12}),
        ("timm:resnet10t", {**TASK, **KINDS["classes"]}, "timm", {"drop_rate": 0.1}),
    ],
)
def test_a_network_of_another_library_has_its_bundle_and_its_zip(
    name: str, task: dict[str, object], package: str, options: dict[str, object], tmp_path: Path
) -> None:
    """The name is safe in a folder's, the metadata requires the library, and the zip's own code builds the network."""
    file = tmp_path / "my_task.yaml"
    file.write_text(yaml.safe_dump(task))
    bundle = new_bundle(str(file), network=name, out=tmp_path, **options)
    assert bundle.name == f"{task['name']}_{name.lower().replace(':', '_')}"
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["required_packages_version"][package] == version(package)
    vendored = vendor(bundle)
    write_vendored(bundle, vendored)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
        size = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
        given = {"spatial_dims": len(size), "in_channels": len(task["channels"]), "out_channels": 2}
        expected = create_network(name, **given, **options)
    assert type(network).__module__.startswith(vendored.name)
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (network, expected)]
    assert shapes[0] == shapes[1]


def test_one_mixer_per_stage(task: Path, tmp_path: Path) -> None:
    mixers = ("pooling", "identity", "grouped_conv", "local_attention")
    bundle = new_bundle(str(task), network="metaformer_segformer_s12", mixer=",".join(mixers), out=tmp_path / "b")
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def")
    found = [stage.blocks[0].token_mixer for stage in network.encoder.stages]
    assert [type(each).__name__.lower() for each in found] == [name.replace("_", "") for name in mixers]
    for wrong, message in (("pooling,identity", "one per stage; got"), ("pooling,poolng", "token mixer 'poolng'")):
        with pytest.raises(ValueError, match=message):
            new_bundle(str(task), network="metaformer_segformer_s12", mixer=wrong, out=tmp_path / "c")
