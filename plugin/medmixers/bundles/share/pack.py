"""Pack a bundle and its weights into one zip that needs MONAI and no installation of this project."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, NamedTuple

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.new import write_bundle
from medmixers.bundles.render.text import readable_json
from medmixers.bundles.share.archive import check_kind, check_root, write_archive
from medmixers.bundles.share.card import metrics_table, model_card, read_metrics
from medmixers.bundles.share.carried import absent_names, carried_package, vendored_name
from medmixers.bundles.share.export import MODELS, export_models
from medmixers.bundles.share.vendoring import (
    PACKAGE,
    Vendored,
    foreign_imports,
    renamed,
    renamed_config,
    vendor_package,
)
from medmixers.checkpoints import read_weights
from medmixers.errors import InputError, MissingFileError
from medmixers.files import file_digest, working_folder
from medmixers.progress import steps
from medmixers.registry import valid_names

CALIBRATION = "models/calibration.json"  # of medmixers clinic calibrate, which knows the weights by their tensors
PACKED = " Packed with weights."


class Packed(NamedTuple):
    """The zip that :func:`pack_bundle` wrote.

    Args:
        path: the zip.
        digest: its SHA-256.
        missing: "model.ts" or "model.onnx" -> why the zip has none.
        unknown: metrics of the evaluation that have no value.
    """

    path: Path
    digest: str
    missing: Mapping[str, str]
    unknown: Sequence[str] = ()

    def __str__(self) -> str:
        absent = [f"without {name}: {reason}" for name, reason in self.missing.items()]
        unknown = [f"without {name}: it has no value in the evaluation" for name in self.unknown]
        return "\n".join([f"{self.path}", f"SHA-256 {self.digest}", *absent, *unknown])


def pack_bundle(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    out: str | Path = ".",
    metrics: str | Path | None = None,
    exports: bool = True,
) -> Packed:
    """Write NAME_vX.Y.Z.zip: configs, weights in three forms, the network's code, a model card, a manifest.

    Args:
        name: of a bundle in the catalog, or a bundle's folder.
        weights: a flat state dict, or a training checkpoint with one under "model". None: the folder's models/model.pt.
        out: folder of the zip.
        metrics: CSV of an evaluation, for the model card and the metadata.
        exports: write TorchScript and ONNX too; without them the zip is smaller.

    Raises:
        FileNotFoundError: no such weights or metrics.
        ValueError: an unknown name, weights of another network, metrics that are none, or a file that no zip holds.
    """
    measured = read_metrics(metrics) if metrics else None
    with working_folder(Path(out) / Path(name).resolve().name) as scratch, steps("pack") as announce:
        bundle = copy_bundle(name, scratch)
        check_root(bundle.name)
        for path in _files(bundle):
            check_kind(path.relative_to(bundle).as_posix())
        _mark_as_trained(bundle, measured.means() if measured else {})
        announce("code")
        is_opened_zip = vendored_name(bundle) is not None
        vendored = vendor(bundle)
        write_vendored(bundle, vendored)
        announce("weights")
        _write_weights(bundle, weights)
        missing = dict.fromkeys(MODELS, "left out")
        if exports:
            announce("TorchScript and ONNX")
            missing = export_models(bundle)
        announce("zip")
        metadata = read_metadata(bundle)
        card = model_card(
            bundle.name,
            metadata,
            models=[
                "models/model.pt: a flat state dict",
                *(_model_line(each, missing) for each in MODELS),
                *([f"{CALIBRATION}: for medmixers clinic uncertainty"] if (bundle / CALIBRATION).is_file() else []),
            ],
            metrics=metrics_table(measured, Path(metrics).name)
            if metrics and measured
            else "None were given: these are unknown.",
            code=f"`{vendored.name}`, "
            + ("as it was in the opened zip" if is_opened_zip else f"of medmixers {version(PACKAGE)}"),
        )
        (bundle / "docs").mkdir(exist_ok=True)
        (bundle / "docs" / "model_card.md").write_text(card, encoding="utf-8")
        target = Path(out) / f"{bundle.name}_v{metadata['version']}.zip"
        write_archive(target, bundle.name, {path.relative_to(bundle).as_posix(): path for path in _files(bundle)})
    unknown = [name for name, values in measured.values.items() if not values] if measured else []
    return Packed(target, file_digest(target), missing, unknown)


def copy_bundle(name: str | Path, folder: Path) -> Path:
    """The bundle as it is committed, without the outputs of its runs, as a folder below ``folder``."""
    source = Path(name).resolve()
    if (source / "configs" / "metadata.json").is_file():
        bundle = folder / source.name
        for part in ("LICENSE", "configs", "docs", "models/model.pt", CALIBRATION, vendored_name(source) or PACKAGE):
            _copy(source / part, bundle / part)
        return bundle
    if str(name) not in BUNDLES:
        valid = valid_names(str(name), BUNDLES, listing="medmixers list bundles")
        raise InputError(f"{str(name)!r} is no bundle's folder (with configs/metadata.json) and not one of: {valid}")
    return write_bundle(BUNDLES[str(name)], folder)


def read_metadata(bundle: Path) -> dict[str, Any]:
    """Content of configs/metadata.json."""
    metadata: dict[str, Any] = json.loads((bundle / "configs" / "metadata.json").read_text("utf-8"))
    return metadata


def vendor(bundle: Path) -> Vendored:
    """The package of the modules that the bundle's configs need.

    A bundle of an opened zip keeps the code that it came with: its weights were trained with that code.

    Raises:
        ValueError: one of them imports a package that the metadata does not require.
    """
    own = vendored_name(bundle)
    vendored = carried_package(bundle, own) if own else vendor_package(read_configs(bundle))
    required = {name.lower() for name in read_metadata(bundle)["required_packages_version"]}
    owners = packages_distributions()  # the package pillow is imported as PIL
    unstated = {
        name
        for name in foreign_imports(vendored.files.values())
        if not required & set(map(str.lower, owners.get(name, [name])))
    }
    if unstated:
        raise InputError(f"required_packages_version of {bundle.name} lacks {', '.join(sorted(unstated))}")
    return vendored


def write_vendored(bundle: Path, vendored: Vendored) -> None:
    """Write the package into the bundle's folder in place of the one that is there, and its name into the configs.

    Raises:
        ValueError: the configs name something that the package does not define.
    """
    own = vendored_name(bundle)
    if own:
        shutil.rmtree(bundle / own)
    for name, text in vendored.files.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(text, encoding="utf-8")
    for name, text in read_configs(bundle).items():
        new = renamed(text, vendored.name, old=own) if own else renamed_config(text, vendored.name)
        (bundle / "configs" / name).write_text(new, encoding="utf-8")
    absent = absent_names(bundle, {name: json.loads(text) for name, text in read_configs(bundle).items()})
    if absent:
        place = "its own package" if own else f"medmixers {version(PACKAGE)}"
        wrong = renamed(absent[0], own or PACKAGE, old=vendored.name)
        raise InputError(f"the configs of {bundle.name} name {wrong}, which {place} does not define")


def read_configs(bundle: Path) -> dict[str, str]:
    """Texts of configs/*.json by file name."""
    return {path.name: path.read_text("utf-8") for path in sorted((bundle / "configs").glob("*.json"))}


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _files(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _write_weights(bundle: Path, weights: str | Path | None) -> None:
    """models/model.pt: nothing but the network's tensors, each with memory of its own."""
    import torch
    from monai.bundle import ConfigParser

    target = bundle / "models" / "model.pt"
    if weights is None and not target.is_file():
        raise MissingFileError(f"{bundle.name} has no models/model.pt: train it, or give --weights FILE")
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    paths = sys.path[:]
    try:
        with torch.device("meta"):
            network = parser.get_parsed_content("network_def")
    finally:
        sys.path[:] = paths  # the config has put the bundle's folder on the path
    read = read_weights(str(weights or target), network, option="weights")
    tensors = {key: value.detach().clone() for key, value in read.items()}
    target.parent.mkdir(exist_ok=True)
    torch.save(tensors, target)


def _mark_as_trained(bundle: Path, metrics: Mapping[str, float]) -> None:
    """Update the metadata: the bundle has weights, metrics, and its own copy of the package."""
    metadata = read_metadata(bundle)
    changes = metadata["changelog"]
    changes[metadata["version"]] = changes[metadata["version"]].removesuffix(PACKED) + PACKED
    metadata["required_packages_version"].pop(PACKAGE, None)
    metadata["eval_metrics"] = dict(metrics)
    (bundle / "configs" / "metadata.json").write_text(readable_json(metadata), encoding="utf-8")


def _model_line(name: str, missing: Mapping[str, str]) -> str:
    if name in missing:
        return f"no models/{name}: {missing[name]}"
    return f"models/{name}: {MODELS[name]}, for images of the window's size"
