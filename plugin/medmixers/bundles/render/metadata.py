"""configs/metadata.json of a bundle, as a dict. No torch here."""

from __future__ import annotations

from typing import Any

from medmixers.bundles.catalog import (
    MONAI_VERSION,
    NUMPY_VERSION,
    OPTIONAL_PACKAGES,
    PACKAGE_VERSIONS,
    PICTURE_PACKAGES,
    PYTORCH_VERSION,
    BundleRow,
)
from medmixers.variants import NETWORKS

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def metadata_config(row: BundleRow, *, package_version: str) -> dict[str, Any]:
    """configs/metadata.json. ``package_version``: of medmixers, which the bundle needs."""
    task = row.task_spec
    names = {str(key): name for key, name in task.label_names.items()}
    listed = ", ".join(f"{key} {name}" for key, name in names.items())
    pictures = PICTURE_PACKAGES if task.spatial_dims == 2 else {}
    ignored = "" if task.ignore_label is None else f", {task.ignore_label} ignored"
    return {
        "schema": SCHEMA,
        "version": row.version,
        "changelog": dict(row.changelog),
        "monai_version": MONAI_VERSION,
        "pytorch_version": PYTORCH_VERSION,
        "numpy_version": NUMPY_VERSION,
        "required_packages_version": {**PACKAGE_VERSIONS, **pictures, "medmixers": package_version},
        "optional_packages_version": OPTIONAL_PACKAGES,
        "supported_apps": {},
        "name": task.title,
        "task": task.title,
        "description": f"{NETWORKS[row.network].summary}. {task.intended_use} Ships without weights.",
        "authors": "the medmixers contributors",
        "copyright": "Copyright (c) the medmixers contributors",
        "data_source": task.data_source,
        "data_licence": task.licence,
        "data_type": "nibabel" if task.spatial_dims == 3 else "png",
        "image_classes": f"{', '.join(task.channels)}; intensity rule {task.intensity}",
        "label_classes": listed + ignored,
        "pred_classes": listed,
        "eval_metrics": {},
        "intended_use": f"{task.intended_use} {task.limits}",
        "references": [task.citation],
        "network_data_format": {
            "inputs": {"image": _image(row)},
            "outputs": {"pred": _prediction(row, names)},
        },
    }


def _image(row: BundleRow) -> dict[str, Any]:
    task = row.task_spec
    return {
        "type": "image",
        "format": "magnitude",
        "modality": task.modality,
        "num_channels": len(task.channels),
        "spatial_shape": list(row.size),
        "dtype": "float32",
        "value_range": [0, 1] if task.intensity in ("unit", "window") else [],
        "is_patch_data": row.roi_size is not None,
        "channel_def": {str(index): name for index, name in enumerate(task.channels)},
    }


def _prediction(row: BundleRow, names: dict[str, str]) -> dict[str, Any]:
    classifies = row.task_spec.task == "classification"
    return {
        "type": "probabilities" if classifies else "image",
        "format": "classes" if classifies else "segmentation",
        "num_channels": len(names),
        "spatial_shape": [1] if classifies else list(row.size),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": row.roi_size is not None,
        "channel_def": names,
    }
