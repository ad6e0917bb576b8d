"""A bundle and its weights to one zip that needs MONAI and nothing of this project. No torch here at import."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, NamedTuple

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.new import write_bundle
from medmixers.bundles.share.archive import write_archive
from medmixers.bundles.share.card import metrics_table, model_card, read_metrics
from medmixers.bundles.share.export import MODELS, export_models
from medmixers.bundles.share.vendoring import foreign_imports, vendored_files
from medmixers.checkpoints import read_weights
from medmixers.errors import InputError

PACKAGE = "medmixers"
NEEDED = "`monai[fire,ignite,nibabel,tqdm]`, what `configs/metadata.json` requires, and `tensorboard` to train"
PACKED = " Packed with weights."


class Packed(NamedTuple):
    """What :func:`pack_bundle` wrote.

    Args:
        path: the zip.
        digest: its SHA-256.
        missing: "model.ts" or "model.onnx" -> why the zip has none.
    """

    path: Path
    digest: str
    missing: Mapping[str, str]

    def __str__(self) -> str:
        absent = [f"without {name}: {reason}" for name, reason in self.missing.items()]
        return "\n".join([f"{self.path}", f"SHA-256 {self.digest}", *absent])


def pack_bundle(
    name: str | Path, *, weights: str | Path, out: str | Path = ".", metrics: str | Path | None = None
) -> Packed:
    """Write NAME_vX.Y.Z.zip: configs, weights in three forms, the network's code, a model card, a manifest.

    Args:
        name: of a bundle in the catalog, or a bundle's folder.
        weights: a flat state dict, or a training checkpoint with one under "model".
        out: folder of the zip.
        metrics: CSV of an evaluation, for the model card and the metadata.

    Raises:
        FileNotFoundError: no such weights or metrics.
        ValueError: an unknown name, weights that are not this network's, or metrics that are none.
    """
    measured = read_metrics(metrics) if metrics else None
    with tempfile.TemporaryDirectory() as scratch:
        bundle = copy_bundle(name, Path(scratch))
        _write_weights(bundle, weights)
        _mark_as_trained(bundle, measured.means() if measured else {})
        vendored = vendor(bundle)
        missing = export_models(bundle)
        metadata = read_metadata(bundle)
        card = model_card(
            bundle.name,
            metadata,
            models=["models/model.pt: a flat state dict", *(_model_line(each, missing) for each in MODELS)],
            metrics=metrics_table(measured, Path(metrics).name)
            if metrics and measured
            else "None were given: these are unknown.",
            package_version=version(PACKAGE),
        )
        (bundle / "docs").mkdir(exist_ok=True)
        (bundle / "docs" / "model_card.md").write_text(card, encoding="utf-8")
        files = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in _files(bundle)}
        target = Path(out) / f"{bundle.name}_v{metadata['version']}.zip"
        write_archive(target, bundle.name, {**files, **vendored})
    return Packed(target, hashlib.sha256(target.read_bytes()).hexdigest(), missing)


def copy_bundle(name: str | Path, folder: Path) -> Path:
    """The bundle as it is committed, without what its runs left, as a folder below ``folder``."""
    source = Path(name).resolve()
    if (source / "configs" / "metadata.json").is_file():
        bundle = folder / source.name
        for part in ("LICENSE", "configs", "docs", "models/model.pt", PACKAGE):
            _copy(source / part, bundle / part)
        return bundle
    if str(name) not in BUNDLES:
        valid = ", ".join(sorted(BUNDLES))
        raise InputError(f"{str(name)!r} is no bundle's folder (with configs/metadata.json) and not one of: {valid}")
    return write_bundle(BUNDLES[str(name)], folder)


def read_metadata(bundle: Path) -> dict[str, Any]:
    """Content of configs/metadata.json."""
    metadata: dict[str, Any] = json.loads((bundle / "configs" / "metadata.json").read_text("utf-8"))
    return metadata


def vendor(bundle: Path) -> dict[str, bytes]:
    """The modules that the bundle's configs need, by path below its root.

    Raises:
        ValueError: one of them imports a package that the metadata does not require.
    """
    files = vendored_files(path.read_text("utf-8") for path in sorted((bundle / "configs").glob("*.json")))
    required = {name.lower() for name in read_metadata(bundle)["required_packages_version"]}
    owners = packages_distributions()  # the package pillow is imported as PIL
    unstated = {
        name for name in foreign_imports(files.values()) if not required & set(map(str.lower, owners.get(name, [name])))
    }
    if unstated:
        raise InputError(f"required_packages_version of {bundle.name} lacks {', '.join(sorted(unstated))}")
    return {name: path.read_bytes() for name, path in files.items()}


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _files(bundle: Path) -> list[Path]:
    return [path for path in bundle.rglob("*") if path.is_file() and path.relative_to(bundle).parts[0] != PACKAGE]


def _write_weights(bundle: Path, weights: str | Path) -> None:
    """models/model.pt: nothing but the network's tensors, each with memory of its own."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    read = read_weights(str(weights), network, option="weights")
    tensors = {key: value.detach().clone() for key, value in read.items()}
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(tensors, bundle / "models" / "model.pt")


def _mark_as_trained(bundle: Path, metrics: Mapping[str, float]) -> None:
    """Metadata and README say what the zip holds: weights, their metrics, and the package."""
    metadata = read_metadata(bundle)
    metadata["description"] = metadata["description"].replace(" Ships without weights.", "")
    changes = metadata["changelog"]
    changes[metadata["version"]] = changes[metadata["version"]].removesuffix(PACKED) + PACKED
    metadata["required_packages_version"].pop(PACKAGE, None)
    metadata["eval_metrics"] = dict(metrics)
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")
    readme = bundle / "docs" / "README.md"
    if readme.is_file():
        paragraphs = readme.read_text("utf-8").split("\n\n")
        for index, paragraph in enumerate(paragraphs):
            if "ships without weights" in " ".join(paragraph.split()):
                stated = f"Bundle `{bundle.name}`, version {metadata['version']}, with weights: see `model_card.md`."
                paragraphs[index] = stated
            elif paragraph.startswith("## Commands\nInstall medmixers, set"):
                paragraphs[index] = paragraph.replace("Install medmixers, set", f"Install {NEEDED}; set")
        readme.write_text("\n\n".join(paragraphs), encoding="utf-8")


def _model_line(name: str, missing: Mapping[str, str]) -> str:
    if name in missing:
        return f"no models/{name}: {missing[name]}"
    return f"models/{name}: {MODELS[name]}, for images of the window's size"
