"""A bundle of a user's own task, through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from medmixers.bundling.new import new_bundle

TASK = {
    "name": "my_organ_segmentation",
    "title": "My organ",
    "task": "segmentation",
    "modality": "CT",
    "spatial_dims": 3,
    "channels": ["CT"],
    "labels": ["background", "organ"],
    "spacing": [1.0, 1.0, 2.0],
    "intensity": "window",
    "window": [-100.0, 300.0],
    "licence": "ours",
    "citation": "none",
    "data_source": "one hospital",
    "intended_use": "Research.",
    "limits": "Not for clinical use.",
}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "my_task.yaml").write_text(yaml.safe_dump(TASK))
    return tmp_path / "my_task.yaml"


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "medmixers.cli", "bundle", "new", *words]
    return subprocess.run(line, cwd=cwd, env={**os.environ}, capture_output=True, text=True, timeout=60)


def test_command_writes_a_bundle_of_the_users_task(task: Path, tmp_path: Path) -> None:
    words = ("--task", task.name, "--network", "metaformer_segformer_s12", "--mixer", "grouped_conv", "--out", "b")
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    bundle = tmp_path / "b" / "my_organ_segmentation_grouped_conv"
    assert "Apache License" in (bundle / "LICENSE").read_text()
    assert len([path for path in bundle.rglob("*") if path.is_file()]) == 7
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
        ({}, {"network": "token_unet", "mixer": "conv"}, "network 'token_unet' has no token mixer to choose"),
        ({}, {"mixer": "grouped_con"}, "unknown token mixer 'grouped_con'; valid: conv, "),
        ({}, {"recipe": "x"}, "unknown training recipe 'x'; valid: keuth2025_classification"),
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
