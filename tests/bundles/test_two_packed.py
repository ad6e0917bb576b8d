"""Two packed bundles in one process: neither runs the other's code, and none shadows the installed package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_helpers import ROOT
from small_bundle import NAME, write_small_bundle

import preloaded
from medmixers import create_network
from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.render.bundle import render_bundle
from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.carried import vendored_name
from medmixers.bundles.verify.hidden import environment_without_package
from medmixers.bundles.verify.subject import Subject

OPTIONS = {"mixer": "pooling", "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
# Packs without the TorchScript and ONNX files, which take most of the time and hold no code of ours.
PACK = """\
import sys
from medmixers.bundles.share import pack
pack.export_models = lambda bundle: dict.fromkeys(pack.MODELS, "not asked for")
print(pack.pack_bundle(sys.argv[1], weights=f"{sys.argv[1]}.pt", out=sys.argv[2]).path)
"""
# Trains, evaluates and predicts with each bundle in turn, then says which code ran and a digest of all results.
SCRIPT = """\
import hashlib, json, sys
from pathlib import Path
import monai.bundle, torch
out, hidden, jobs = Path(sys.argv[1]), sys.argv[2] == "hidden", json.loads(sys.argv[3])
if not hidden:
    import medmixers
for root, data in jobs:
    place = out / Path(root).name
    shared = dict(bundle_root=root, dataset_dir=data, ckpt_dir=str(place), num_workers=0)
    files = {name: f"{root}/configs/{name}.json" for name in ("train", "evaluate", "inference")}
    monai.bundle.run(config_file=files["train"], epochs=1, val_interval=1, output_dir=str(place / "log"), **shared)
    scored = [files["train"], files["evaluate"]]
    monai.bundle.run(config_file=scored, ckpt_path=str(place / "model.pt"), output_dir=str(place / "scores"), **shared)
    shared.pop("ckpt_dir")
    found = dict(ckpt_path=str(place / "model.pt"), output_dir=str(place / "found"))
    monai.bundle.run(config_file=files["inference"], **found, **shared)
    (place / "root.json").write_text(json.dumps({"bundle_root": root}))
    loaded = monai.bundle.load(
        Path(root).name, bundle_dir=Path(root).parent, source="github", workflow_type="inference",
        args_file=str(place / "root.json"), device="cpu", model_file="../" * 20 + str(place / "model.pt"),
    )
    tops = {type(module).__module__.partition(".")[0] for module in loaded.modules()} - {"torch", "monai"}
    assert tops == {path.name for path in Path(root).glob("medmixers_*")}, tops
    for name, value in torch.load(place / "model.pt", weights_only=True).items():
        assert torch.equal(loaded.state_dict()[name], value), name
digests = {}
for root, _ in jobs:
    place, digest = out / Path(root).name, hashlib.sha256()
    for name, value in torch.load(place / "model.pt", weights_only=True).items():
        digest.update(name.encode() + value.numpy().tobytes())
    for path in sorted([*(place / "scores").glob("*.csv"), *(place / "found").rglob("*.*")]):
        digest.update(path.name.encode() + path.read_bytes().replace(str(out.parent).encode(), b""))
    digests[Path(root).name] = digest.hexdigest()
tops = {name: module for name, module in sys.modules.items() if name.startswith("medmixers") and "." not in name}
for name in set(tops) - {"medmixers"}:  # else the operators of one copy would run the code of another
    assert any(hasattr(getattr(torch.ops, name), operator) for operator in ("pool", "depthwise_conv")), name
versions = {name: getattr(sys.modules[f"{name}.errors"], "VERSION", 1) for name in tops}
files = {name: sys.modules[f"{name}.errors"].__file__ for name in tops}
print(json.dumps({"digests": digests, "versions": versions, "files": files}))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A segmentation zip of this version and a classification zip of another one, both opened."""
    folder = tmp_path_factory.mktemp("opened")
    other = folder / "other"
    shutil.copytree(ROOT / "plugin" / "medmixers", other / "medmixers", ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "medmixers" / "errors.py", "a") as file:
        file.write("\n\nVERSION = 2\n")
    sources = {write_small_bundle(folder): ROOT / "plugin", write_classification(folder): other}
    roots = {}
    for source, code in sources.items():
        environment = {**os.environ, "PYTHONPATH": str(code)}
        torch.save(start_weights(source), f"{source}.pt")
        command = [preloaded.python(), "-c", PACK, str(source), str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        roots[source.name] = open_archive(done.stdout.splitlines()[0], folder / "zips")
    return roots


def write_classification(folder: Path) -> Path:
    """A small bundle of a task with classes."""
    task = replace(BUNDLES["skin_lesion_classification_pooling"].task_spec, image_size=(32, 32))
    row = replace(BUNDLES["skin_lesion_classification_pooling"], task_spec=task, network_options=OPTIONS, label="small")
    licence = (ROOT / "LICENSE").read_text()
    for path, text in render_bundle(row, package_version=version("medmixers"), licence=licence).items():
        target = folder / row.name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder / row.name


def start_weights(bundle: Path) -> dict[str, Any]:
    from monai.bundle import ConfigParser

    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    arguments = parser.get_parsed_content("network_def", instantiate=False).resolve_args()  # type: ignore[union-attr]
    weights: dict[str, Any] = create_network(arguments.pop("name"), **arguments).state_dict()
    return weights


def test_each_carries_its_own_version(opened: dict[str, Path]) -> None:
    names = {name: str(vendored_name(root)) for name, root in opened.items()}
    assert len(set(names.values())) == 2
    for name, root in opened.items():
        text = (root / names[name] / "errors.py").read_text()
        assert ("VERSION = 2" in text) == (name != NAME)


def run_in_one_process(opened: dict[str, Path], folder: Path, *, backwards: bool, hidden: bool) -> dict[str, Any]:
    """What SCRIPT prints, after what it says about the code that ran is found right."""
    # MONAI's logs of a training need tensorboard, its surface distances scipy
    jobs, metadata = [], {"required_packages_version": {"tensorboard": "", "scipy": ""}}
    for name, root in sorted(opened.items(), reverse=backwards):
        (folder / name).mkdir(parents=True)
        subject = Subject(root, folder / name)
        jobs.append((str(root), str(subject.dataset)))
        metadata["required_packages_version"] |= subject.metadata["required_packages_version"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugin")}
    if hidden:
        environment = environment_without_package(folder / "hidden", root, metadata)
    where, python = ("hidden", sys.executable) if hidden else ("installed", preloaded.python())
    command = [python, "-c", SCRIPT, str(folder / "out"), where, json.dumps(jobs)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    names = {str(vendored_name(root)): 1 if name == NAME else 2 for name, root in opened.items()}
    assert said["versions"] == {**names, **({} if hidden else {"medmixers": 1})}
    for name, root in opened.items():
        assert said["files"][str(vendored_name(root))].startswith(str(root)), name
    if not hidden:
        assert said["files"]["medmixers"] == str(ROOT / "plugin" / "medmixers" / "errors.py")
    return said


def test_two_versions_in_one_process(opened: dict[str, Path], tmp_path: Path) -> None:
    """Training, evaluation and prediction of both, beside the installed package: each runs its own code."""
    run_in_one_process(opened, tmp_path, backwards=False, hidden=False)


@pytest.mark.slow
def test_the_results_are_the_same_in_any_order_and_without_the_package(opened: dict[str, Path], tmp_path: Path) -> None:
    runs = {
        (backwards, hidden): run_in_one_process(
            opened, tmp_path / f"{backwards}_{hidden}", backwards=backwards, hidden=hidden
        )["digests"]
        for backwards in (False, True)
        for hidden in (False, True)
    }
    assert all(digests == runs[False, False] for digests in runs.values()), runs
