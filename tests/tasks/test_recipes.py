"""The table of recipes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medmixers.recipes import RECIPES


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("keuth2025_segmentation", ("AdamW", 1e-3, 1e-5, 0.05, 5, 1000, 128, 0.1)),
        ("tshimanga2026", ("SGD", 1e-2, 0.0, 3e-5, 0, 60, 1, 0.0)),
    ],
)
def test_published_recipes_are_as_printed(name: str, printed: tuple[object, ...]) -> None:
    row = RECIPES[name]
    assert printed == (
        row.optimizer,
        row.learning_rate,
        row.min_learning_rate,
        row.weight_decay,
        row.warmup_epochs,
        row.epochs,
        row.batch_size,
        row.affine_std,
    )
    assert row.dice_weight == row.cross_entropy_weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "Adam"}, "'AdamW' or 'SGD', got 'Adam'"),
        ({"epochs": 3}, "self.warmup_epochs=5, self.epochs=3"),
        ({"min_learning_rate": 0.1}, "self.min_learning_rate=0.1, self.learning_rate=0.001"),
    ],
)
def test_recipe_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["keuth2025_segmentation"], **change)
