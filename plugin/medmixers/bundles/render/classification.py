"""What the configs of a classification bundle have of their own, as dicts. No torch here."""

from __future__ import annotations

from typing import Any

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.parts import (
    METADATA_OF_BATCH,
    STATS,
    TO_FLOAT32,
    Config,
    compose,
    deterministic_transforms,
    ours,
    random_affine,
    random_crop_and_flip,
    weights_loader,
)

KEY_METRIC, BEST_OF = "val_f1", "F1"
VALIDATION_BATCH: int | str = "@batch_size"
VALIDATION_INTERVAL: int | str = 1  # Keuth et al. 2025: the best of all epochs
TABLE = "medmixers.bundle_runtime.probabilities.ProbabilityTable"
TO_PROBABILITIES: list[Config] = [TO_FLOAT32, {"_target_": "Activationsd", "keys": "pred", "softmax": True, "dim": 0}]
# ignite's metrics take probabilities (B, K) and class ids (B,).
IDS = (
    "$lambda output: (torch.stack([item['pred'] for item in output]), "
    "torch.stack([item['label'] for item in output]).argmax(dim=1))"
)


def size_keys(row: BundleRow) -> Config:
    """Top-level keys of the size that the network sees."""
    return {"image_size": list(row.size)}


def sampling_keys(row: BundleRow) -> Config:
    """Whole images are not sampled."""
    return {}


def training_transforms(row: BundleRow) -> tuple[list[Config], list[Config]]:
    """Deterministic ones, which are cached, and random ones."""
    augmentation = [*random_crop_and_flip(row, "image"), *random_affine(row, "image")]
    return deterministic_transforms(row, with_label=False), augmentation


def validation_transforms(row: BundleRow) -> tuple[list[Config], list[Config]]:
    """Of the image; the label is a number."""
    return deterministic_transforms(row, with_label=False), []


def loss_keys(row: BundleRow) -> Config:
    """Cross-entropy with the recipe's label smoothing and class weights, as the key ``loss``."""
    recipe = row.training
    loss: Config = {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": recipe.label_smoothing}
    if recipe.class_weight_ceiling == 0:
        return {"loss": loss}
    weights = ours(
        "medmixers.bundle_runtime.class_weights.class_weights",
        cases="@train_datalist",
        classes=row.task_spec.out_channels,
        ceiling=recipe.class_weight_ceiling,
    )
    return {"class_weights": weights, "loss": {**loss, "weight": "$torch.tensor(@class_weights, device=@device)"}}


def train_inferer(row: BundleRow) -> Config:
    """One forward pass."""
    return {"_target_": "SimpleInferer"}


def inferer(row: BundleRow, **extra: Any) -> Config:
    """One forward pass, of validation and inference."""
    return {"_target_": "SimpleInferer"}


def _postprocessing(row: BundleRow) -> list[Config]:
    """Logits to probabilities, and the class id to one channel a class."""
    return [
        *TO_PROBABILITIES,
        {"_target_": "AsDiscreted", "keys": "label", "to_onehot": row.task_spec.out_channels},
    ]


training_postprocessing = validation_postprocessing = _postprocessing


def training_metrics(row: BundleRow) -> Config:
    """The metric of the training images."""
    return {"train_accuracy": {"_target_": "ignite.metrics.Accuracy", "output_transform": IDS, "device": "@device"}}


def validation_metrics(row: BundleRow) -> tuple[Config, Config]:
    """The one that chooses the checkpoint, and further ones; means over the classes, each counting alike."""
    shared = {"output_transform": IDS, "device": "@device"}
    f1 = {"_target_": "ignite.metrics.Fbeta", "beta": 1.0, **shared}
    pairs = "$monai.handlers.from_engine(['pred', 'label'])"
    return {KEY_METRIC: f1}, {
        "val_accuracy": {"_target_": "ignite.metrics.Accuracy", **shared},
        "val_precision": {"_target_": "ignite.metrics.Precision", "average": "macro", **shared},
        "val_recall": {"_target_": "ignite.metrics.Recall", "average": "macro", **shared},
        "val_auc": {"_target_": "ROCAUC", "average": "macro", "output_transform": pairs},
    }


def _probability_table(row: BundleRow, output: str, *, name: str) -> Config:
    classes = list(row.task_spec.label_names.values())
    return {
        "_target_": "ClassificationSaver",
        "saver": ours(TABLE, path=f"$os.path.join(@output_dir, '{name}')", classes=classes),
        "batch_transform": METADATA_OF_BATCH,
        "output_transform": output,
    }


def evaluation_keys(row: BundleRow) -> Config:
    """What evaluate.json changes: the metrics in a table, and one of every case."""
    with_truth = "$lambda output: [torch.cat((i['pred'], i['label'].argmax(0, keepdim=True))) for i in output]"
    return {
        "validate::handlers": [
            weights_loader("@ckpt_path"),
            STATS,
            {"_target_": "MetricsSaver", "save_dir": "@output_dir", "metrics": "*"},
            _probability_table(row, with_truth, name="probabilities.csv"),
        ],
        "finalize": [
            "$print('metrics: ' + os.path.join(@output_dir, 'metrics.csv') + ', of each case: ' + "
            "os.path.join(@output_dir, 'probabilities.csv'))"
        ],
    }


def output_keys(row: BundleRow) -> Config:
    """The table is written to ``output_dir``; nothing else to choose."""
    return {}


def inference_postprocessing(row: BundleRow) -> Config:
    """Logits to probabilities."""
    return {"postprocessing": compose(TO_PROBABILITIES)}


def inference_handlers(row: BundleRow) -> list[Config]:
    """The table of probabilities."""
    return [_probability_table(row, "$monai.handlers.from_engine('pred')", name="predictions.csv")]
