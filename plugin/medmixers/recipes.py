"""Training recipes as frozen rows: optimizer, schedule, loss, augmentation, and their source.

Bundles and nnU-Net trainers read the same rows. A value that the source does not state is named in ``notes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from medmixers.errors import InputError
from medmixers.registry import Registry

OPTIMIZERS = ("AdamW", "Adam", "SGD", "Lamb")
PATCH_SAMPLINGS = ("foreground", "random", "inverse_root_frequency")


@dataclass(frozen=True, kw_only=True)
class PictureAugmentation:
    """Augmentation of pictures with 1 or 3 channels, by the parts of timm that Yu et al. trained with.

    Args:
        smallest_crop: smallest area of the random crop, a fraction of the picture; it is resized to the whole size.
        rand_augment: timm's text for RandAugment; "" for none.
        erasing_probability: of one random rectangle of noise.
        mixup_alpha: of the Beta distribution by which two pictures are mixed; 0: no MixUp.
        cutmix_alpha: of the Beta distribution of the area that another picture fills; 0: no CutMix.
    """

    smallest_crop: float = 0.08
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    erasing_probability: float = 0.25
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0

    @property
    def mixes(self) -> bool:
        """Whether pictures of a batch are mixed: their labels are then shares of classes."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How one kind of network is trained.

    Args:
        optimizer: class name: "AdamW", "Adam" or "SGD" of ``torch.optim``, "Lamb" of ``timm.optim``.
        learning_rate: its highest value, reached after the warm-up.
        min_learning_rate: where the cosine cycle ends.
        weight_decay: of every parameter.
        momentum: Nesterov momentum of SGD; 0 for the others.
        warmup_epochs: epochs in which the learning rate climbs linearly to ``learning_rate``; 0: none.
        epochs: length of the run, warm-up included.
        epochs_of: task -> epochs, where the source gives another length for it.
        batch_size: images in one batch; the forward pass sees ``batch_size * patches_per_image`` patches.
        accumulate_batches: forward passes added up before one optimizer step.
        patches_per_image: random patches taken from each training image in one epoch.
        patch_sampling: where they lie: "foreground" (every other patch is centred on a labelled voxel), "random",
            or "inverse_root_frequency" (the centre's class is drawn by its frequency ** -0.5).
        dice_weight: weight of the soft Dice loss; 0 for classification.
        cross_entropy_weight: weight of the cross-entropy.
        ignore_background: whether the cross-entropy of an exclusive segmentation leaves the background's voxels
            out; soft Dice always does.
        label_smoothing: of the cross-entropy of a classification.
        class_weight_ceiling: a classification weights class c by min(ceiling, frequency_c ** -0.5); 0: no weights.
        affine_std: standard deviation of each entry of the random affine matrix around the identity, translation
            included; 0: none.
        clip_grad_norm: largest norm of the gradient of all parameters together; 0: not clipped.
        crop_and_flip: random crops (of at least 80 % of each axis, resized back) and horizontal flips.
        pictures: augmentation of pictures, of a classification in 2D; None: none.
        ema_decay: of the moving average of the weights that validation sees and saves; 0: the weights themselves.
        drop_path_of: network -> peak rate of stochastic depth, where the source gives one by size.
        network_options: options of ``create_network`` that belong to the recipe, not to the architecture.
        source: the paper, by its key in the references of plugin/docs/networks.md, or "medmixers".
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
    epochs_of: Mapping[str, int] = field(default_factory=dict)
    batch_size: int = 1
    accumulate_batches: int = 1
    patches_per_image: int = 1
    patch_sampling: str = "foreground"
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    ignore_background: bool = False
    label_smoothing: float = 0.0
    class_weight_ceiling: float = 0.0
    affine_std: float = 0.0
    clip_grad_norm: float = 0.0
    crop_and_flip: bool = False
    pictures: PictureAugmentation | None = None
    ema_decay: float = 0.0
    drop_path_of: Mapping[str, float] = field(default_factory=dict)
    network_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, valid in (("optimizer", OPTIMIZERS), ("patch_sampling", PATCH_SAMPLINGS)):
            if getattr(self, name) not in valid:
                raise InputError(f"{name} must be one of {', '.join(valid)}, got {getattr(self, name)!r}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(f"0 <= warmup_epochs < epochs, got {self.warmup_epochs=}, {self.epochs=}")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise InputError(
                f"0 <= min_learning_rate <= learning_rate, got {self.min_learning_rate=}, {self.learning_rate=}"
            )
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")
        for name in ("network_options", "epochs_of", "drop_path_of"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))


RECIPES: Registry[TrainingRecipe] = Registry("training recipe")
KEUTH2025_SEGMENTATION = TrainingRecipe(
    optimizer="AdamW",
    learning_rate=1e-3,
    min_learning_rate=1e-5,
    weight_decay=0.05,
    warmup_epochs=5,
    epochs=1000,
    batch_size=128,
    ignore_background=True,
    affine_std=0.1,
    source="keuth2025",
    notes="The paper prints weight decay 0.05; the authors' released code uses 0.01 for segmentation.",
)
RECIPES.register("keuth2025_segmentation", KEUTH2025_SEGMENTATION)
RECIPES.register(
    "keuth2025_segmentation_volumes",
    replace(
        KEUTH2025_SEGMENTATION,
        batch_size=2,
        accumulate_batches=4,
        patch_sampling="random",
        affine_std=0.06,
        notes=(
            f"{KEUTH2025_SEGMENTATION.notes} Batch, random patches and deviation of the affine matrix are those of the "
            "released code for AbdomenAtlas; the paper prints a batch of 128 and 0.1. The batch of 8 is accumulated "
            "from 4 of 2, to fit a GPU."
        ),
    ),
)
RECIPES.register(
    "keuth2025_segmentation_slides",
    replace(
        KEUTH2025_SEGMENTATION,
        batch_size=2,
        accumulate_batches=64,
        patch_sampling="inverse_root_frequency",
        notes=(
            f"{KEUTH2025_SEGMENTATION.notes} In Keuth et al. a batch is one patch of 128 images. It is accumulated "
            "from 64 of 2, to fit a GPU."
        ),
    ),
)
RECIPES.register(
    "keuth2025_classification",
    replace(
        KEUTH2025_SEGMENTATION,
        epochs=100,
        epochs_of={  # 35,000 iterations of 128 images each
            "colon_pathology_classification": 50,
            "skin_lesion_classification": 648,
            "chest_xray_pneumonia_classification": 972,
            "abdominal_organ_classification": 324,
            "lung_nodule_classification": 3888,
            "dog_breed_classification": 500,
        },
        dice_weight=0.0,
        ignore_background=False,
        label_smoothing=0.1,
        class_weight_ceiling=10.0,
        notes=(
            "Keuth et al. lowered the learning rate of local attention and doubled its epochs, because their compiled "
            "attention kernel was unstable. Ours is not compiled and keeps the recipe. For other tasks than "
            "theirs, 100 epochs is our choice."
        ),
    ),
)
_KEUTH2025_CLASSIFICATION = RECIPES["keuth2025_classification"]
RECIPES.register(
    "keuth2025_classification_starred",
    replace(
        _KEUTH2025_CLASSIFICATION,
        learning_rate=1e-4,
        epochs=2 * _KEUTH2025_CLASSIFICATION.epochs,
        epochs_of={task: 2 * epochs for task, epochs in _KEUTH2025_CLASSIFICATION.epochs_of.items()},
        notes=(
            "The trainings of local attention that Keuth et al. mark with a star: a reduced learning rate and twice "
            "the epochs, because their compiled attention kernel was unstable. The reduced value is lost in our copy "
            "of the text: ours is 1e-4. Those marked with a plus also accumulate 4 batches: --batch_size 32 "
            "--accumulate_batches 4."
        ),
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
        patch_sampling="random",
        source="tshimanga2026",
        notes="One random patch per subject and epoch. Not stated: momentum, weight decay (nnU-Net's), last rate (0).",
    ),
)
RECIPES.register(
    "tshimanga2026_swin_unetr",
    replace(
        RECIPES["tshimanga2026"],
        optimizer="AdamW",
        learning_rate=8e-4,
        momentum=0.0,
        notes="For SwinUNETR, which the paper trains by AdamW. Not stated: weight decay (nnU-Net's), last rate (0).",
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
            "branches start at full strength. In so few steps this reached a higher validation Dice than the value "
            "1e-5 of Keuth et al. Stochastic depth and affine augmentation are off, to fit the data sooner. "
            "Cross-entropy includes the background, Dice does not."
        ),
    ),
)
RECIPES.register(
    "short_run",
    replace(
        RECIPES["keuth2025_segmentation_short"],
        learning_rate=3e-3,
        min_learning_rate=0.0,
        warmup_epochs=1,
        epochs=10,
        network_options={},
        notes="For the nnU-Net trainers whose run is counted in minutes: some hundred steps on a CPU.",
    ),
)
_LOST = "The learning rate (a formula lost in our copy of the text) is not known to us"
RECIPES.register(
    "xue2026_classification",
    TrainingRecipe(
        optimizer="AdamW",
        learning_rate=1e-4,
        min_learning_rate=0.0,
        weight_decay=0.05,
        epochs=300,
        batch_size=32,
        dice_weight=0.0,
        crop_and_flip=True,
        source="xue2026",
        notes=f"{_LOST}, batch size, warm-up and the size of the crops are not stated: ours are 1e-4, 32, none, 80 %.",
    ),
)
RECIPES.register(
    "xue2026_segmentation",
    TrainingRecipe(
        optimizer="Adam",
        learning_rate=1e-4,
        min_learning_rate=0.0,
        weight_decay=0.0,
        epochs=100,
        epochs_of={"multi_organ_ct_segmentation": 1000},
        patches_per_image=12,
        source="xue2026",
        notes=(
            f"{_LOST}, schedule, loss and augmentation are not stated: "
            "ours are 1e-4, cosine, Dice + cross-entropy, none. Xue et al. take the 12 slices of a batch from one "
            "volume, and 12 slices of each volume per epoch. That is about all of a heart, but a tenth of an abdomen. "
            "The abdomen therefore gets ten times their 100 epochs."
        ),
    ),
)


def _by_size(family: str, sizes: str, *rates: float) -> dict[str, float]:
    """Network -> peak rate of stochastic depth, for sizes in one text: "s12 s24"."""
    return {f"{family}_{size}": rate for size, rate in zip(sizes.split(), rates, strict=True)}


METAFORMER_SIZES, CONVFORMER_SIZES = "s12 s24 s36 m36 m48", "s18 s36 m36 b36"
_YU = (
    "{paper} trains on ImageNet with a batch of 4096. Here it is 1024, accumulated from 8 of 128, and the learning "
    "rate is smaller in proportion, their rule. {more}"
)
YU2023 = TrainingRecipe(
    optimizer="AdamW",
    learning_rate=1e-3,
    min_learning_rate=1e-5,
    weight_decay=0.05,
    warmup_epochs=5,
    epochs=300,
    batch_size=128,
    accumulate_batches=8,
    dice_weight=0.0,
    label_smoothing=0.1,
    pictures=PictureAugmentation(),
    drop_path_of={
        **_by_size("identityformer", METAFORMER_SIZES, 0.1, 0.1, 0.2, 0.3, 0.4),
        **_by_size("randformer", METAFORMER_SIZES, 0.1, 0.1, 0.2, 0.3, 0.3),
        **_by_size("poolformerv2", METAFORMER_SIZES, 0.1, 0.1, 0.2, 0.3, 0.4),
    },
    source="yu2023",
    notes=_YU.format(
        paper="Table 13 of Yu et al. 2023",
        more="The end of the cosine cycle is not stated: ours is timm's value of that time, 1e-5. So is the smallest "
        "crop, 8 % of the area. Networks that the table does not name keep their own stochastic depth.",
    ),
)
RECIPES.register("yu2023", YU2023)
RECIPES.register(
    "yu2022",
    replace(
        YU2023,
        drop_path_of={},
        source="yu2022",
        notes=_YU.format(
            paper="Section 4.1 of Yu et al. 2022",
            more="The strengths of MixUp, CutMix, random erasing and RandAugment are not stated: ours are those of "
            "Yu et al. 2023, and so are the end of the cosine cycle and the crops. Rates of stochastic depth are not "
            "stated either: networks keep their own.",
        ),
    ),
)
RECIPES.register(
    "yu2023_convformer",
    replace(
        YU2023,
        warmup_epochs=20,
        drop_path_of=_by_size("convformer", CONVFORMER_SIZES, 0.2, 0.3, 0.4, 0.6),
        notes=YU2023.notes.replace("Table 13", "Table 14"),
    ),
)
RECIPES.register(
    "yu2023_caformer",
    replace(
        RECIPES["yu2023_convformer"],
        optimizer="Lamb",
        learning_rate=2e-3,
        drop_path_of=_by_size("caformer", CONVFORMER_SIZES, 0.15, 0.3, 0.4, 0.6),
        notes=f"{RECIPES['yu2023_convformer'].notes} The dropout in the head of the larger sizes is not set.",
    ),
)
_FINE_TUNING = (
    "Table 14 of Yu et al. 2023, its column for fine-tuning: weights of 224 x 224 pictures, 384 x 384 pictures, a "
    "constant learning rate, the mean of the weights (EMA). Give --pretrained_ckpt, and the size by --image_size. The "
    "batch of 1024 is accumulated from 16 of 64. The dropout in the head is not set."
)
RECIPES.register(
    "yu2023_convformer_fine_tuning",
    replace(
        YU2023,
        learning_rate=5e-5,
        min_learning_rate=5e-5,
        warmup_epochs=0,
        epochs=30,
        batch_size=64,
        accumulate_batches=16,
        pictures=PictureAugmentation(mixup_alpha=0.0, cutmix_alpha=0.0),
        ema_decay=0.9999,
        drop_path_of=_by_size("convformer", CONVFORMER_SIZES, 0.3, 0.5, 0.8, 0.8),
        notes=_FINE_TUNING,
    ),
)
RECIPES.register(
    "yu2023_caformer_fine_tuning",
    replace(
        RECIPES["yu2023_convformer_fine_tuning"],
        optimizer="Lamb",
        learning_rate=1e-4,
        min_learning_rate=1e-4,
        drop_path_of=_by_size("caformer", CONVFORMER_SIZES, 0.3, 0.5, 0.7, 0.8),
    ),
)
