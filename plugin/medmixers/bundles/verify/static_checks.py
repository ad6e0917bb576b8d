"""Checks that run nothing of a bundle: files, metadata, agreement of its configs, shapes, properties, traps.

Each check takes a :class:`Subject`, returns a note, and raises FailedCheck with the fault. Configs are read as JSON: no
expression is evaluated, and no module of the bundle is imported. So the zip of a stranger can be checked.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from typing import Any
from urllib.request import urlopen

from medmixers.bundles.share.carried import carried_package, vendored_name
from medmixers.bundles.verify.plain_network import plain_network
from medmixers.bundles.verify.subject import FailedCheck, Subject, demand, walk
from medmixers.bundles.verify.targets import Targets
from medmixers.errors import first_line

CONFIGS = ("evaluate", "inference", "inference_openvino", "metadata", "multi_gpu_train", "train")
FILES = ("LICENSE", *(f"configs/{name}.json" for name in CONFIGS), "docs/README.md")
NNUNET_FILES = (
    *("LICENSE", "configs/inference.json", "configs/inference_openvino.json", "configs/metadata.json"),
    *("configs/nnunet/dataset.json", "configs/nnunet/plans.json", "docs/README.md", "models/model.pt"),
)
WORKFLOWS = ((("train",), "train"), (("train", "evaluate"), "train"), (("inference",), "inference"))
SHARED_KEYS = ("network_def", "network_name", "mixer", "kernel_size", "roi_size", "image_size", "overlap")
MACHINE_PATH = re.compile(r"(?<![\w}])(/(home|root|tmp|work|Users|mnt)/|[A-Z]:\\)")


def check_files(subject: Subject) -> str:
    """1: tree, licence, no machine's paths, commands of the README, the own package's name."""
    root, files = subject.root, NNUNET_FILES if subject.is_of_nnunet else FILES
    missing = [name for name in files if not (root / name).is_file()]
    demand(not missing, f"missing: {', '.join(missing)}")
    licence = (root / "LICENSE").read_text("utf-8").split()
    demand(licence[:4] == ["Apache", "License", "Version", "2.0,"], "LICENSE is not the Apache License 2.0")
    for path in [*(root / "configs").glob("*.json"), *(root / "docs").glob("*.md")]:
        found = MACHINE_PATH.search(path.read_text("utf-8"))
        demand(not found, f"{path.name} names a machine's path: {found and found.group()!r}")
    blocks = re.findall(r"```bash\n(.*?)```", (root / "docs" / "README.md").read_text("utf-8"), re.S)
    demand(blocks, "docs/README.md has no commands")
    parsed = subprocess.run(["bash", "-n"], input="\n".join(blocks), capture_output=True, text=True)
    demand(parsed.returncode == 0, f"docs/README.md: {parsed.stderr.strip()}")
    own = vendored_name(root)
    is_unchanged = own is None or carried_package(root, own).name == own
    demand(is_unchanged, f"{own} was changed after it was packed: pack the folder again, which renames it")
    return f"{len(files)} files, {sum(map(len, map(str.splitlines, blocks)))} lines of commands"


def check_metadata(subject: Subject) -> str:
    """2: the schema; semantic version, changelog, full channel_def, channels."""
    metadata, config = subject.metadata, subject.config("inference" if subject.is_of_nnunet else "train")
    network: Any = config.get("network_def")
    demand(isinstance(network, dict), f"network_def must be an object with a _target_, got {str(network)[:80]!r}")
    version = metadata["version"]
    demand(re.fullmatch(r"\d+\.\d+\.\d+", version), f"version {version!r} is not semantic (1.2.3)")
    demand(version in metadata["changelog"], f"version {version} is not in the changelog")
    for key in ("monai_version", "pytorch_version", "numpy_version", "required_packages_version"):
        demand(metadata.get(key), f"{key} is missing")
    formats = metadata["network_data_format"]
    for side, of_network in (("inputs", "in_channels"), ("outputs", "out_channels")):
        (entry,) = formats[side].values()
        channels = entry["num_channels"]
        keys = list(entry["channel_def"])
        demand(keys == [str(index) for index in range(channels)], f"{side}: channel_def is not of {channels} channels")
        demand(network[of_network] == channels, f"{side}: {channels} channels, network_def has {network[of_network]}")
    return f"version {version}; {_check_schema(subject)}"


def check_agreement(subject: Subject) -> str:
    """3: network, size and deterministic preprocessing are the same in training and inference."""
    subject.demand_training()
    train, inference = subject.config("train"), subject.config("inference")
    for key in SHARED_KEYS:
        demand(train.get(key) == inference.get(key), f"{key} differs: {train.get(key)} and {inference.get(key)}")
    expected = inference["preprocessing"]["transforms"]
    validated = train["validate"]["deterministic_transforms"]
    demand(validated == expected, "validate::deterministic_transforms is not the preprocessing of inference")
    trained = [
        _of_image(transform)
        for transform in train["train"]["deterministic_transforms"]
        if "image" in _listed(transform["keys"])
    ]
    demand(
        trained == [_of_image(transform) for transform in expected],
        "train::deterministic_transforms of the image is not the preprocessing of inference",
    )
    return f"{len(expected)} transforms"


def check_shapes(subject: Subject) -> str:
    """4: shape of the network's output, without computing it. The network is the installed package's."""
    import torch

    network = plain_network(subject.config("inference"))
    with torch.no_grad(), torch.device("meta"):
        given = tuple(network(torch.zeros(subject.example_shape)).shape)
    pred = subject.metadata["network_data_format"]["outputs"]["pred"]
    spatial = () if subject.is_classification else subject.example_shape[2:]
    expected = (1, pred["num_channels"], *spatial)
    demand(given == expected, f"the network gives {given}, the metadata says {expected}")
    return f"{subject.example_shape} -> {given}"


def check_properties(subject: Subject) -> str:
    """5: the configs have MONAI's properties of training, training + evaluation, and inference."""
    from monai.bundle.properties import InferProperties, TrainProperties

    for configs, workflow in workflows(subject):
        whole: dict[str, Any] = {}
        for name in configs:
            whole |= subject.config(name)
        properties: Any = InferProperties if workflow == "inference" else TrainProperties
        missing = [key for key, row in properties.items() if row["required"] and not _has(whole, row["id"])]
        demand(not missing, f"{' + '.join(configs)}: {missing}")
        for key, row in properties.items():
            used = _at(whole, row["refer_id"]) if row.get("refer_id") else None
            is_other = isinstance(used, str) and not used.startswith("$") and used != f"@{row['id']}"
            demand(not is_other, f"{' + '.join(configs)}: {key} is {used}, MONAI expects @{row['id']}")
    return ", ".join(" + ".join(configs) for configs, _ in workflows(subject))


def workflows(subject: Subject) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Names of the configs of each workflow, and MONAI's name of it."""
    return WORKFLOWS[-1:] if subject.is_of_nnunet else WORKFLOWS


def _at(config: Any, key: str) -> Any:
    """Value of an id such as "train::dataset"; None where there is none."""
    for part in key.split("::"):
        if not isinstance(config, dict) or part not in config:
            return None
        config = config[part]
    return config


def _has(config: dict[str, Any], key: str) -> bool:
    """Whether a config has an id, or takes a part above it from elsewhere by an expression."""
    parts = key.split("::")
    for end in range(1, len(parts)):
        above = _at(config, "::".join(parts[:end]))
        if isinstance(above, str) and above.startswith(("$", "@")):
            return True
    return _at(config, key) is not None


def check_traps(subject: Subject) -> str:
    """13: no '#' in strings, no duplicate keys; every target and import is found."""
    targets = set()
    for path in sorted((subject.root / "configs").glob("*.json")):
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_duplicates)
        for value in walk(content):
            for text in (*value, *value.values()) if isinstance(value, dict) else (value,):
                demand(
                    not isinstance(text, str) or "#" not in text, f"{path.name}: MONAI turns '#' into '::': {text!r}"
                )
            if isinstance(value, dict) and isinstance(value.get("_target_"), str):
                targets.add(value["_target_"])
            if isinstance(value, str) and value.startswith("$import "):
                targets.add(value.removeprefix("$import ").split(" as ")[0])
    known = Targets(subject.root)
    foreign = [target for target in sorted(targets) if not known.is_of_known_package(target)]
    for target in sorted(targets - set(foreign)):
        demand(known.is_found(target), f"{target} is not found")
    note = f"; of other packages, not looked up: {', '.join(foreign)}" if foreign else ""
    return f"{len(targets) - len(foreign)} targets{note}"


def _check_schema(subject: Subject) -> str:
    """MONAI's verify_metadata, with a schema file or a download; a static check downloads nothing."""
    from monai.bundle import verify_metadata

    schema = subject.schema
    if schema is None and subject.offline:
        return "schema not checked: give its file (--schema FILE)"
    if schema is None:
        content = _download(subject.metadata.get("schema", ""))
        if content is None:
            return "schema not checked: it is not at hand (--schema FILE) and cannot be downloaded"
        schema = subject.scratch / "schema.json"
        schema.write_bytes(content)
    try:
        verify_metadata(str(subject.root / "configs" / "metadata.json"), filepath=str(schema))
    except ValueError as error:
        raise FailedCheck(first_line(error)) from error
    except ImportError:
        return "schema not checked: the package jsonschema is not installed"
    return "schema satisfied"


@cache
def _download(url: str) -> bytes | None:
    """Content of a URL; None where it cannot be reached, which is tried once per process."""
    try:
        with urlopen(url, timeout=10) as answer:
            content: bytes = answer.read()
            return content
    except (OSError, ValueError):
        return None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    double = {key for key in keys if keys.count(key) > 1}
    demand(not double, f"duplicate keys, of which the last wins: {', '.join(sorted(double))}")
    return dict(pairs)


def _listed(keys: Any) -> list[str]:
    return keys if isinstance(keys, list) else [keys]


def _of_image(transform: dict[str, Any]) -> dict[str, Any]:
    """The options of a transform that concern the image: of a list with one value per key, the image's."""
    keys = _listed(transform["keys"])
    index = keys.index("image")
    per_key = {
        name: value[index] if isinstance(value, list) and len(value) == len(keys) and name == "mode" else value
        for name, value in transform.items()
    }
    return {**per_key, "keys": "image"}
