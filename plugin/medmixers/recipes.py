"""Training recipes as frozen rows: optimizer, schedule, loss, augmentation, and their source. No torch here.

Bundles and nnU-Net trainers read the same rows. A value that the source does not state is named in ``notes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from medmixers.registry import Registry


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How one kind of network is trained.

    Args:
        optimizer: class name in ``torch.optim``: "AdamW" or "SGD".
        learning_rate: its highest value, reached after the warm-up.
        min_learning_rate: where the cosine cycle ends.
        weight_decay: of every parameter.
        momentum: Nesterov momentum of SGD; 0 for AdamW.
        warmup_epochs: epochs in which the learning rate climbs linearly to ``learning_rate``; 0: none.
        epochs: length of the run, warm-up included.
        batch_size: images in one batch; the forward pass sees ``batch_size * patches_per_image`` patches.
        accumulate_batches: forward passes added up before one optimizer step.
        patches_per_image: random patches taken from each training image in one epoch.
        dice_weight: weight of the soft Dice loss; 0 for classification.
        cross_entropy_weight: weight of the cross-entropy.
        affine_std: standard deviation of each entry of the random affine matrix around the identity; 0: none.
        network_options: options of ``create_network`` that belong to the recipe, not to the architecture.
        source: the paper, by its key in the README's references, or "medmixers".
        notes: what departs from the source or is not stated there.
    """

    optimizer: str
    learning_rate: float
    min_learning_rate: float
    weight_decay: float
    epochs: int
    source: str
    notes: str
    momentum: float = 0.0
    warmup_epochs: int = 0
    batch_size: int = 1
    accumulate_batches: int = 1
    patches_per_image: int = 1
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    affine_std: float = 0.0
    network_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.optimizer not in ("AdamW", "SGD"):
            raise ValueError(f"optimizer must be 'AdamW' or 'SGD', got {self.optimizer!r}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"0 <= warmup_epochs < epochs, got {self.warmup_epochs=}, {self.epochs=}")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(
                f"0 <= min_learning_rate <= learning_rate, got {self.min_learning_rate=}, {self.learning_rate=}"
            )
        object.__setattr__(self, "network_options", MappingProxyType(dict(self.network_options)))


RECIPES: Registry[TrainingRecipe] = Registry("training recipe")

RECIPES.register(
    "keuth2025_segmentation",
    TrainingRecipe(
        optimizer="AdamW",
        learning_rate=1e-3,
        min_learning_rate=1e-5,
        weight_decay=0.05,
        warmup_epochs=5,
        epochs=1000,
        batch_size=128,
        affine_std=0.1,
        source="keuth2025",
        notes="The paper prints weight decay 0.05; the authors' released code uses 0.01 for segmentation.",
    ),
)

RECIPES.register(
    "tshimanga2026",
    TrainingRecipe(
        optimizer="SGD",
        learning_rate=1e-2,
        min_learning_rate=0.0,
        weight_decay=3e-5,
        momentum=0.99,
        epochs=60,
        batch_size=1,
        accumulate_batches=16,
        source="tshimanga2026",
        notes=(
            "One random patch per subject and epoch. Momentum, weight decay and the end of the cosine cycle "
            "are not stated: momentum and weight decay are nnU-Net's, the cycle ends at 0."
        ),
    ),
)

RECIPES.register(
    "keuth2025_segmentation_short",
    TrainingRecipe(
        optimizer="AdamW",
        learning_rate=1e-3,
        min_learning_rate=1e-5,
        weight_decay=0.01,
        warmup_epochs=2,
        epochs=30,
        network_options={"layer_scale_init": 1.0, "drop_path_rate": 0.0},
        source="medmixers",
        notes=(
            "keuth2025_segmentation cut down to minutes on a CPU: some hundred steps of one patch. Residual "
            "branches start at full strength, which in so few steps reached a higher validation Dice than the "
            "study's 1e-5; stochastic depth and affine augmentation are off, to fit the data sooner. Cross-entropy "
            "includes the background, Dice does not."
        ),
    ),
)
