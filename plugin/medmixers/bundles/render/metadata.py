"""configs/metadata.json: what a bundle is, for MONAI and its clients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from medmixers.bundles.catalog import (
    AUGMENTATION_PACKAGES,
    MONAI_VERSION,
    NUMPY_VERSION,
    OPTIONAL_PACKAGES,
    PACKAGE_VERSIONS,
    PICTURE_PACKAGES,
    PYTORCH_VERSION,
    BundleRow,
)
from medmixers.bundles.render.text import render
from medmixers.peers import packages_of
from medmixers.tasks.spec import TaskSpec
from medmixers.variants import NETWORKS

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def render_metadata(
    *,
    packages: Mapping[str, str],
    channels: list[str],
    outputs: list[str],
    of_pred: Mapping[str, Any],
    is_patch_data: bool,
    segments: Mapping[str, Any] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Content of configs/metadata.json from the template, for bundles of the catalog and of nnU-Net models.

    Args:
        packages: required packages and their versions, besides those that every bundle requires.
        channels: names of the image's channels.
        outputs: names of the prediction's channels.
        of_pred: "type", "format" and "spatial_shape" of the prediction.
        is_patch_data: whether the network sees patches.
        segments: what :func:`segments_of` gives; None leaves the key out.
        facts: what else the template names.
    """
    text = render(
        "metadata.json.j2",
        schema=SCHEMA,
        monai_version=MONAI_VERSION,
        pytorch_version=PYTORCH_VERSION,
        numpy_version=NUMPY_VERSION,
        packages={**PACKAGE_VERSIONS, **packages},
        channels=channels,
        outputs=outputs,
        of_pred=of_pred,
        is_patch_data=is_patch_data,
        segments=segments,
        **facts,
    )
    content: dict[str, Any] = json.loads(text)
    return content


def segments_of(task: TaskSpec) -> dict[str, dict[str, Any]]:
    """What each structure of a segmentation is for DICOM SEG, by its name.

    ``values`` are those of the predicted file that make it up (left out where each structure has its own file),
    ``colour`` is red, green, blue, and codes are [value, scheme, meaning] as the task has them.
    """
    colours = {label.name: list(label.colour) for label in task.labels.values()}
    codes = task.codes or {}
    return {
        name: {
            **({} if values is None else {"values": values}),
            "colour": colours[name],
            **({part: list(code) for part, code in vars(codes[name]).items() if code} if name in codes else {}),
        }
        for name, values in task.segment_values.items()
    }


def _packages(row: BundleRow) -> dict[str, str]:
    of_pictures = PICTURE_PACKAGES if row.task_spec.spatial_dims == 2 else {}
    of_recipe = AUGMENTATION_PACKAGES if row.training.pictures is not None else {}
    of_library = {name: version(name) for name in packages_of(row.network, row.network_options)}
    return {**of_pictures, **of_recipe, **of_library}


def metadata_config(row: BundleRow, *, package_version: str) -> dict[str, Any]:
    """configs/metadata.json of a row. ``package_version``: of medmixers, which the bundle needs."""
    task, classifies = row.task_spec, row.task_spec.task == "classification"
    names = ", ".join(f"{key} {name}" for key, name in task.label_names.items())
    return render_metadata(
        version=row.version,
        changelog=dict(row.changelog),
        packages={**_packages(row), "medmixers": package_version},
        optional_packages=OPTIONAL_PACKAGES,
        name=task.title,
        task=task.title,
        description=f"{NETWORKS[row.network].summary}. {task.intended_use}",
        authors="the medmixers contributors",
        copyright="Copyright (c) the medmixers contributors",
        data_source=task.data_source,
        data_licence=task.licence,
        data_type="nibabel" if task.spatial_dims == 3 else "png",
        image_classes=f"{', '.join(task.channels)}; intensity rule {task.intensity}",
        label_classes=names + ("" if task.ignore_label is None else f", {task.ignore_label} ignored"),
        pred_classes=names,
        intended_use=f"{task.intended_use} {task.limits}",
        references=[task.citation],
        modality=task.modality,
        mpp=task.mpp,
        channels=list(task.channels),
        outputs=list(task.label_names.values()),
        spatial_shape=list(row.size),
        value_range=[0, 1] if task.intensity in ("unit", "window") else [],
        is_patch_data=row.roi_size is not None,
        segments=None if classifies else segments_of(task),
        of_pred={
            "type": "probabilities" if classifies else "image",
            "format": "classes" if classifies else "segmentation",
            "spatial_shape": [1] if classifies else list(row.size),
        },
    )
