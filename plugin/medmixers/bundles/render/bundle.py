"""A row of the catalog to the text of its bundle's files. Nothing is written, and only the templates are read."""

from __future__ import annotations

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.inference import inference_config
from medmixers.bundles.render.metadata import metadata_config
from medmixers.bundles.render.overlays import (
    dicom_config,
    evaluate_config,
    multi_gpu_config,
    openvino_config,
    writes_dicom,
)
from medmixers.bundles.render.readme import readme
from medmixers.bundles.render.text import readable_json
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
        "configs/metadata.json": readable_json(metadata_config(row, package_version=package_version)),
        "configs/train.json": readable_json(train_config(row)),
        "configs/evaluate.json": readable_json(evaluate_config(row)),
        "configs/multi_gpu_train.json": readable_json(multi_gpu_config(row)),
        "configs/inference.json": readable_json(inference_config(row)),
        "configs/inference_openvino.json": readable_json(openvino_config()),
        **({"configs/dicom.json": readable_json(dicom_config(row))} if writes_dicom(row) else {}),
        "docs/README.md": readme(row),
    }
