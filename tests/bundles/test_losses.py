"""The losses of the configs against plain tensor algebra, and the parts that MONAI does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import ROOT
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image

from medmixers.bundle_runtime.class_weights import class_weights, label_weights
from medmixers.bundle_runtime.overlap import hausdorff95_mm
from medmixers.bundle_runtime.probabilities import ProbabilityTable
from medmixers.bundle_runtime.regions import ids_to_regions, regions_to_ids

REGIONS = [(1, 2, 3), (1, 3), (3,)]


def loss_of(bundle: str, **overrides: Any) -> Any:
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs" / "train.json"))
    for key, value in {"device": "$torch.device('cpu')", **overrides}.items():
        parser[key] = value
    return parser.get_parsed_content("loss")


def soft_dice_loss(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Mean over cases and channels of 1 - Dice, for (B, K, positions)."""
    return (1 - (2 * (p * t).sum(-1) + 1e-5) / (p.sum(-1) + t.sum(-1) + 1e-5)).mean()


def test_ignored_pixels_count_in_neither_term() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 8, 6, 5), torch.randint(1, 9, (2, 1, 6, 5))
    loss = loss_of("breast_tissue_segmentation_identity")
    dice, counted = [], label[:, 0] != 8
    for case in range(2):
        p = torch.softmax(logits[case], 0)[1:, counted[case]]
        t = torch.nn.functional.one_hot(label[case, 0], 9).movedim(-1, 0)[1:8, counted[case]]
        dice.append(soft_dice_loss(p, t.float()))
    log_p = torch.log_softmax(logits, 1).gather(1, label.clamp(max=7))[:, 0]
    expected = torch.stack(dice).mean() - log_p[counted].mean()
    torch.testing.assert_close(loss(logits, label.float()), expected)
    changed = torch.where(counted[:, None], logits, 100 * torch.randn_like(logits))
    torch.testing.assert_close(loss(changed, label.float()), expected)


def test_overlapping_labels_are_binary() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 5, 6, 5), torch.randint(0, 2, (2, 5, 6, 5)).float()
    p = torch.sigmoid(logits)
    cross_entropy = -(label * p.log() + (1 - label) * (1 - p).log()).mean()
    expected = soft_dice_loss(p.flatten(2), label.flatten(2)) + cross_entropy
    torch.testing.assert_close(loss_of("chest_xray_segmentation_identity")(logits, label), expected)


@pytest.mark.parametrize(
    ("bundle", "classes", "counts_background"),
    [("abdomen_ct_segmentation_identity", 10, False), ("brain_tissue_segmentation_identity", 3, True)],
)
def test_background_in_the_cross_entropy_is_the_recipes(bundle: str, classes: int, counts_background: bool) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, classes, 4, 5, 3), torch.randint(0, classes, (2, 1, 4, 5, 3))
    t = torch.nn.functional.one_hot(label[:, 0], classes).movedim(-1, 1).float()
    dice = soft_dice_loss(torch.softmax(logits, 1)[:, 1:].flatten(2), t[:, 1:].flatten(2))
    log_p = torch.log_softmax(logits, 1).gather(1, label)
    cross_entropy = -(log_p if counts_background else log_p[label > 0]).mean()
    torch.testing.assert_close(loss_of(bundle)(logits, label.float()), dice + cross_entropy)


@pytest.mark.parametrize(
    ("bundle", "shape", "value"),
    [("abdomen_ct_segmentation_identity", (10, 4, 5, 3), 0), ("breast_tissue_segmentation_identity", (8, 6, 5), 8)],
)
def test_a_patch_in_which_nothing_counts_has_a_loss(bundle: str, shape: tuple[int, ...], value: int) -> None:
    logits = torch.randn(1, *shape, requires_grad=True)
    loss = loss_of(bundle)(logits, torch.full((1, 1, *shape[1:]), float(value)))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_classes_are_weighted_by_their_inverse_root_frequency() -> None:
    cases = [{"label": 0}] * 399 + [{"label": 1}]
    weights = class_weights(cases=cases, classes=3, ceiling=10.0)
    assert weights == pytest.approx([(400 / 399) ** 0.5, 10.0, 10.0])  # 400 ** 0.5 = 20, and the absent class
    loss = loss_of("chest_xray_pneumonia_classification_identity", train_datalist=cases)
    logits, label = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1])
    smooth = torch.tensor([[0.95, 0.05], [0.05, 0.95]])
    weighted = -(torch.log_softmax(logits, 1) * smooth * torch.tensor(weights[:2])).sum()
    torch.testing.assert_close(loss(logits, label), weighted / sum(weights[:2]))


def test_patches_are_drawn_by_the_inverse_root_frequency_of_their_class(tmp_path: Path) -> None:
    values = np.zeros((10, 10), np.uint8)
    values[0, :4], values[1, :1], values[2, :5] = 1, 3, 4
    Image.fromarray(values).save(tmp_path / "a.png")
    weights = label_weights(cases=[{"label": str(tmp_path / "a.png")}], values=5, ignored=0)
    assert weights == pytest.approx([0, (4 / 10) ** -0.5, 0, (1 / 10) ** -0.5, (5 / 10) ** -0.5])


def test_regions_and_values() -> None:
    values = torch.tensor([[0, 1, 2, 3]])
    masks = ids_to_regions(values, REGIONS)
    assert masks.tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert regions_to_ids(masks, REGIONS).tolist() == [[0, 1, 2, 3]]
    alone = torch.tensor([[0, 1], [0, 0], [1, 0]])  # the innermost region without the others paints all the same
    assert regions_to_ids(alone, REGIONS).tolist() == [[3, 2]]
    with pytest.raises(
        ValueError, match=r"region \(1,\) must add one label value to the regions after it, it adds \[\]"
    ):
        regions_to_ids(masks[:2], [(1,), (1, 2)])


def test_hausdorff_takes_the_spacing_of_the_label() -> None:
    pred, label = torch.zeros(2, 8, 8, 10), torch.zeros(2, 8, 8, 10)
    pred[1, 2, 3, 4] = label[1, 5, 3, 8] = 1
    affine = torch.diag(torch.tensor([-1.5, 2.0, 3.0, 1.0]))
    metric = hausdorff95_mm(include_background=False, output_transform=lambda output: output)
    metric.metric_fn([pred], [MetaTensor(label, affine=affine)])
    assert float(metric.metric_fn.aggregate()) == pytest.approx(((3 * 1.5) ** 2 + (4 * 3.0) ** 2) ** 0.5)


def test_table_of_probabilities(tmp_path: Path) -> None:
    table = ProbabilityTable(tmp_path / "out" / "p.csv", ["cat", "dog"])
    table.save_batch(torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.5, 1.0]]), {"filename_or_obj": ["a.png", "b, c.png"]})
    table.finalize()
    assert (tmp_path / "out" / "p.csv").read_text().splitlines() == [
        "file,cat,dog,prediction,truth",
        "a.png,0.25,0.75,dog,cat",
        '"b, c.png",0.5,0.5,cat,dog',
    ]
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_probabilities_are_read_back_exactly(tmp_path: Path) -> None:
    """Rounded, those of a sure network would tie, and its AUROC would change."""
    exact = torch.tensor([[-17.3, 0.1], [-17.2, 0.3], [9.1, 2.0]]).sigmoid()
    table = ProbabilityTable(tmp_path / "p.csv", ["a", "b"], multi_label=True)
    table.save_batch(exact, {"filename_or_obj": ["1.png", "2.png", "3.png"]})
    table.finalize()
    rows = [line.split(",")[1:] for line in (tmp_path / "p.csv").read_text().splitlines()[1:]]
    assert torch.equal(torch.tensor([[float(value) for value in row] for row in rows]), exact)
