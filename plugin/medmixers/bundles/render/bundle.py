"""A row of the catalog to the text of its bundle's files. Pure: nothing is read or written. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.inference import inference_config
from medmixers.bundles.render.metadata import metadata_config
from medmixers.bundles.render.overlays import evaluate_config, multi_gpu_config
from medmixers.bundles.render.readme import readme
from medmixers.bundles.render.training import train_config


def render_bundle(row: BundleRow, *, package_version: str, licence: str) -> dict[str, str]:
    """Text of every file of a bundle, by its path inside the bundle.

    Args:
        row: what to render.
        package_version: of medmixers, named in the metadata.
        licence: text of LICENSE.
    """
    return {
        "LICENSE": licence,
        "configs/metadata.json": _json(metadata_config(row, package_version=package_version)),
        "configs/train.json": _json(train_config(row)),
        "configs/evaluate.json": _json(evaluate_config(row)),
        "configs/multi_gpu_train.json": _json(multi_gpu_config(row)),
        "configs/inference.json": _json(inference_config(row)),
        "docs/README.md": readme(row),
    }


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=4) + "\n"
