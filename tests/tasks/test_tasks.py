"""The table of tasks, and what a TaskSpec refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medmixers.registry import UnknownNameError
from medmixers.tasks import TASKS, Label

BRAIN = TASKS["brain_tissue_segmentation"]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_is_whole(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert task.labels[0].name == "background" or task.task == "classification"
    names, colours = zip(*((label.name, label.colour) for label in task.labels.values()), strict=True)
    assert len(set(names)) == len(names)
    assert len(set(colours)) == len(colours)
    assert all(len(colour) == 3 and all(0 <= part <= 255 for part in colour) for colour in colours)
    for text in (task.title, task.licence, task.citation, task.data_source, task.intended_use, task.limits):
        assert text.strip()
        assert "#" not in text  # a bundle's metadata holds it, and MONAI rewrites '#'


def test_the_demo_data_has_the_labels_of_its_task() -> None:
    brain_demo = pytest.importorskip("medmixers.datasets.brain_demo")
    assert {name: key for key, name in BRAIN.label_names.items()} == brain_demo.LABELS


def test_unknown_task_lists_the_tasks() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown task 'brian'; valid: .*brain_tissue_segmentation"):
        TASKS["brian"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task", "detection", "segmentation, classification, got 'detection'"),
        ("intensity", "window", "zscore, zscore_nonzero, got 'window'"),
        ("spacing", (1.0, 1.0), r"self.spacing=\(1.0, 1.0\), self.spatial_dims=3"),
        ("labels", {0: Label("background", (0, 0, 0)), 2: Label("b", (1, 1, 1))}, r"0..K-1, got \[0, 2\]"),
        ("validation_every", 1, "at least 2, got 1"),
    ],
)
def test_task_refuses_what_does_not_fit(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BRAIN, **{field: value})
