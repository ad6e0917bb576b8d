"""The table of tasks, and what a TaskSpec refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from medmixers.registry import UnknownNameError
from medmixers.tasks import TASKS, Label
from medmixers.tasks.palette import BACKGROUND, PALETTE, coloured

BRAIN = TASKS["brain_tissue_segmentation"]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_is_whole(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert task.labels[0].name == "background" or task.task == "classification" or task.multi_label
    names, colours = zip(*((label.name, label.colour) for label in task.labels.values()), strict=True)
    assert len(set(names)) == len(names)
    assert len(set(colours)) == len(colours)
    assert all(len(colour) == 3 and all(0 <= part <= 255 for part in colour) for colour in colours)
    for text in (task.title, task.licence, task.citation, task.data_source, task.intended_use, task.limits):
        assert text.strip()
        assert "#" not in text  # a bundle's metadata holds it, and MONAI rewrites '#'


def to_linear(colours: np.ndarray) -> np.ndarray:
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def to_srgb(colours: np.ndarray) -> np.ndarray:
    colours = colours.clip(0, 1)
    return np.where(colours <= 0.0031308, 12.92 * colours, 1.055 * colours ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("eyes", ["normal", "protanopic", "deuteranopic"])
def test_colours_differ_to_all_eyes(eyes: str) -> None:
    # Vienot, Brettel, Mollon (1999): cone responses, and what is left of them without one kind of cone
    cones = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    kept = {
        "normal": np.eye(3),
        "protanopic": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "deuteranopic": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }[eyes]
    colours = np.array([BACKGROUND.colour, *PALETTE]) / 255
    seen = to_srgb(to_linear(colours) @ (np.linalg.inv(cones) @ kept @ cones).T)
    lab = rgb2lab(seen[None])[0]
    distances = [deltaE_ciede2000(lab[i], lab[j]) for i in range(len(lab)) for j in range(i)]
    assert min(distances) > 11


def test_any_number_of_labels_has_colours_of_its_own() -> None:
    colours = [label.colour for label in coloured(*map(str, range(255))).values()]
    assert colours[: len(PALETTE)] == list(PALETTE)
    assert len({BACKGROUND.colour, *colours}) == 256
    assert all(0 <= part <= 255 for colour in colours for part in colour)


def test_the_demo_data_has_the_labels_of_its_task() -> None:
    brain_demo = pytest.importorskip("medmixers.demo.subjects")
    assert {name: key for key, name in BRAIN.label_names.items()} == brain_demo.LABELS


@pytest.mark.parametrize(
    ("name", "channels", "logits", "size"),
    [  # in_channels, out_channels and image size or spacing as the papers and their code have them
        ("colon_pathology_classification", 3, 9, (224, 224)),
        ("skin_lesion_classification", 3, 7, (224, 224)),
        ("chest_xray_pneumonia_classification", 1, 2, (224, 224)),
        ("abdominal_organ_classification", 1, 11, (224, 224)),
        ("lung_nodule_classification", 1, 2, (64, 64, 64)),
        ("chest_xray_segmentation", 1, 5, (256, 256)),
        ("wrist_bone_segmentation", 1, 17, (224, 384)),
        ("breast_tissue_segmentation", 3, 8, None),
        ("abdomen_ct_segmentation", 1, 10, (1.5, 1.5, 1.5)),
        ("brain_tumor_segmentation", 4, 3, (1, 1, 1)),
        ("covid_ct_classification", 1, 2, (224, 224)),
        ("monkeypox_skin_classification", 3, 2, (224, 224)),
        ("covid_ct_slice_classification", 1, 2, (224, 224)),
        ("multi_organ_ct_segmentation", 1, 9, (1.5, 1.5, 3.0)),
        ("cardiac_mri_segmentation", 1, 4, (1.5625, 1.5625, 10)),
        ("brain_tissue_segmentation", 1, 3, (2, 2, 2)),
    ],
)
def test_published_sizes(name: str, channels: int, logits: int, size: tuple[float, ...] | None) -> None:
    task = TASKS[name]
    assert (len(task.channels), task.out_channels, task.image_size or task.spacing) == (channels, logits, size)


def test_unknown_task_lists_the_tasks() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown task 'brian'; valid: .*brain_tissue_segmentation"):
        TASKS["brian"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task", "detection", "segmentation, classification, got 'detection'"),
        ("intensity", "percentile", "zscore, zscore_nonzero, unit, window, got 'percentile'"),
        ("intensity", "window", 'window belongs to intensity "window", got .*window=None'),
        ("window", (0, 1), 'window belongs to intensity "window"'),
        ("spatial_dims", 4, "must be 2 or 3, got 4"),
        ("channels", (), "at least one image channel"),
        ("spacing", (1.0, 1.0), r"spacing=\(1.0, 1.0\), spatial_dims=3"),
        ("image_size", (8, 8, 8), "spacing or image_size, not both"),
        ("labels", {0: BACKGROUND, 2: Label("b", (1, 1, 1))}, r"0..K-1, at least two, got \[0, 2\]"),
        ("labels", {0: BACKGROUND, 1: BACKGROUND}, "different names, got background, background"),
        ("labels", coloured("a", "b"), "must be \"background\", got 'a'"),
        ("ignore_label", 0, "one above the labels, 3, got 0"),
        ("regions", {"whole": (1, 2)}, "with multi_label and must name its labels in order, background, .*got whole"),
        ("mpp", 0.5, "of 2D images without spacing and image_size, got mpp=0.5, spatial_dims=3"),
        ("validation_every", 1, "at least 2, got 1"),
    ],
)
def test_task_refuses_what_does_not_fit(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BRAIN, **{field: value})
