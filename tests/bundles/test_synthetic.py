"""The checks' synthetic data, read by the readers of the formats that real data comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import ROOT
from monai.transforms import LoadImage

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.verify.subject import Subject
from medmixers.bundles.verify.synthetic import SHAPES
from medmixers.datasets.audit import audit_nnunet_dataset
from medmixers.datasets.datalist_format import read_datalist
from medmixers.tasks import TASKS


def write(task_name: str, folder: Path) -> Path:
    bundle = next(name for name, row in BUNDLES.items() if row.task_spec.name == task_name)
    return Subject(ROOT / "bundles" / bundle, folder).dataset


@pytest.mark.parametrize("name", [n for n, t in TASKS.items() if t.task == "segmentation" and not t.multi_label])
def test_exclusive_labels_are_nnunets_raw_format(name: str, tmp_path: Path) -> None:
    report = audit_nnunet_dataset(write(name, tmp_path))
    task = TASKS[name]
    assert report.channels == task.channels
    assert len(report.training) == 4
    assert len(report.test) == 2
    expected = {**task.label_names, **({} if task.ignore_label is None else {task.ignore_label: "ignore"})}
    assert dict(report.labels) == expected
    assert all(report.voxels.values())


def test_regions_are_unions_of_exclusive_ids(tmp_path: Path) -> None:
    report = audit_nnunet_dataset(write("brain_tumor_segmentation", tmp_path))
    regions = TASKS["brain_tumor_segmentation"].regions
    assert regions is not None
    assert set(report.labels) == {0, *(value for values in regions.values() for value in values)}
    assert all(report.voxels.values())


WITH_BUNDLE = {row.task_spec.name for row in BUNDLES.values()}
LISTED = [
    name
    for name, task in TASKS.items()
    if name in WITH_BUNDLE and (task.task == "classification" or (task.multi_label and task.regions is None))
]


@pytest.mark.parametrize("name", LISTED)
def test_classes_and_masks_are_a_datalist(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    items = read_datalist(write(name, tmp_path))
    load = LoadImage(image_only=True)
    for entries in items.values():
        assert entries
        image = np.asarray(load(entries[0]["image"]))
        assert image.size == np.prod(SHAPES[task.spatial_dims]) * len(task.channels)
        if task.task == "classification":
            assert {entry["label"] for entry in entries} == set(task.labels)
        else:
            masks = [np.asarray(load(file)) for file in entries[0]["label"]]
            assert len(masks) == len(task.labels)
            assert all(set(np.unique(mask)) == {0, 255} for mask in masks)
