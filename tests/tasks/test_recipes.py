"""The table of recipes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medmixers.recipes import RECIPES
from medmixers.tasks import TASKS


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("keuth2025_segmentation", ("AdamW", 1e-3, 1e-5, 0.05, 5, 1000, 128, 0.1, 1.0)),
        ("keuth2025_segmentation_volumes", ("AdamW", 1e-3, 1e-5, 0.05, 5, 1000, 8, 0.06, 1.0)),  # as released
        ("keuth2025_segmentation_slides", ("AdamW", 1e-3, 1e-5, 0.05, 5, 1000, 128, 0.1, 1.0)),
        ("keuth2025_classification", ("AdamW", 1e-3, 1e-5, 0.05, 5, 100, 128, 0.1, 0.0)),
        ("keuth2025_classification_starred", ("AdamW", 1e-4, 1e-5, 0.05, 5, 200, 128, 0.1, 0.0)),
        ("tshimanga2026_swin_unetr", ("AdamW", 8e-4, 0.0, 3e-5, 0, 60, 16, 0.0, 1.0)),
        ("tshimanga2026", ("SGD", 1e-2, 0.0, 3e-5, 0, 60, 16, 0.0, 1.0)),
        ("xue2026_classification", ("AdamW", 1e-4, 0.0, 0.05, 0, 300, 32, 0.0, 0.0)),
        ("xue2026_segmentation", ("Adam", 1e-4, 0.0, 0.0, 0, 100, 12, 0.0, 1.0)),
        ("yu2022", ("AdamW", 4e-3 / 4, 1e-5, 0.05, 5, 300, 4096 // 4, 0.0, 0.0)),
        ("yu2023", ("AdamW", 4e-3 / 4, 1e-5, 0.05, 5, 300, 4096 // 4, 0.0, 0.0)),
        ("yu2023_convformer", ("AdamW", 4e-3 / 4, 1e-5, 0.05, 20, 300, 4096 // 4, 0.0, 0.0)),
        ("yu2023_caformer", ("Lamb", 8e-3 / 4, 1e-5, 0.05, 20, 300, 4096 // 4, 0.0, 0.0)),
        ("yu2023_convformer_fine_tuning", ("AdamW", 5e-5, 5e-5, 0.05, 0, 30, 1024, 0.0, 0.0)),
        ("yu2023_caformer_fine_tuning", ("Lamb", 1e-4, 1e-4, 0.05, 0, 30, 1024, 0.0, 0.0)),
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
        row.batch_size * row.patches_per_image * row.accumulate_batches,
        row.affine_std,
        row.dice_weight,
    )
    assert row.cross_entropy_weight == 1


def test_epochs_of_the_study_are_its_iterations() -> None:
    """Keuth et al. 2025: 35,000 iterations of 128 images, whatever the size of the training part."""
    images = {  # of the training parts, as MedMNIST gives them
        "colon_pathology_classification": 89_996,
        "skin_lesion_classification": 7_007,
        "chest_xray_pneumonia_classification": 4_708,
        "abdominal_organ_classification": 13_932,
        "lung_nodule_classification": 1_158,
        "dog_breed_classification": 9_025,
    }
    epochs = RECIPES["keuth2025_classification"].epochs_of
    assert set(epochs) == set(images) <= set(TASKS)
    for task, count in images.items():
        assert epochs[task] * (count // 128) == pytest.approx(35_000, rel=0.005)  # full batches


def test_slices_of_a_volume_are_seen_a_hundred_times() -> None:
    """Xue et al. 2026: 100 epochs over all slices. TransUNet (2021) counts 2,212 in the 18 training abdomens."""
    recipe = RECIPES["xue2026_segmentation"]
    slices = 2_212 / 18
    seen = recipe.epochs_of["multi_organ_ct_segmentation"] * recipe.patches_per_image / slices
    assert seen == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "Lion"}, "AdamW, Adam, SGD, Lamb, got 'Lion'"),
        ({"patch_sampling": "grid"}, "foreground, random, inverse_root_frequency, got 'grid'"),
        ({"epochs": 3}, "self.warmup_epochs=5, self.epochs=3"),
        ({"min_learning_rate": 0.1}, "self.min_learning_rate=0.1, self.learning_rate=0.001"),
    ],
)
def test_recipe_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["keuth2025_segmentation"], **change)
