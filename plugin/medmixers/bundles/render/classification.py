"""What the configs of a classification bundle have of their own."""

from __future__ import annotations

from typing import Any

from medmixers.bundles.render.kind import BundleKind
from medmixers.bundles.render.parts import (
    ONE_LINE_ERRORS,
    STATS,
    TO_FLOAT32,
    Config,
    averaging,
    deterministic_transforms,
    evaluated_weights,
    function,
    ours,
    picture_augmentation,
    progress,
    random_affine,
    random_crop_and_flip,
)

TO_PROBABILITIES: list[Config] = [TO_FLOAT32, {"_target_": "Activationsd", "keys": "pred", "softmax": True, "dim": 0}]

PROBABILITIES = "$os.path.join(@output_dir, 'probabilities.csv')"


class ClassificationKind(BundleKind):
    """One class for an image: softmax over the classes, cross-entropy, a table of probabilities."""

    key_metric, best_of = "val_f1", "F1"
    of_each_case = "metrics.probabilities_with_truth"  # what the table of an evaluation holds
    validation_batch = "@batch_size"
    validation_interval = 1  # Keuth et al. 2025: the best of all epochs

    def size_keys(self) -> Config:
        return {"image_size": list(self.row.size)}

    def sampling_options(self) -> Config:
        return {}

    def data_keys(self) -> Config:
        ceiling = self.row.training.class_weight_ceiling
        if ceiling == 0:
            return {}
        weights = ours(
            "class_weights.class_weights",
            cases="@train::dataset::data",
            classes=self.task.out_channels,
            ceiling=ceiling,
        )
        return {"class_weights": weights}

    def loss(self) -> Config:
        smoothing = self.row.training.label_smoothing
        weights = {"weight": "$torch.tensor(@class_weights, device=@device)"} if self.data_keys() else {}
        return {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": smoothing, **weights}

    def training_transforms(self) -> tuple[list[Config], list[Config]]:
        row = self.row
        augmentation = [
            *random_crop_and_flip(row, "image"),
            *random_affine(row, "image"),
            *picture_augmentation(row),
        ]
        return deterministic_transforms(row, with_label=False, resize=row.training.pictures is None), augmentation

    def validation_transforms(self) -> tuple[list[Config], list[Config]]:
        return deterministic_transforms(self.row, with_label=False), []  # the label is a number

    def inferer(self) -> Config:
        return {"_target_": "SimpleInferer"}

    def batch_augmentation(self) -> Config:
        pictures = self.row.training.pictures
        if pictures is None or not pictures.mixes:
            return {}
        mixed = ours(
            "picture_augmentation.MixedBatch",
            classes=self.task.out_channels,
            mixup_alpha=pictures.mixup_alpha,
            cutmix_alpha=pictures.cutmix_alpha,
        )
        return {"prepare_batch": mixed}

    def training_postprocessing(self) -> list[Config]:
        if self.batch_augmentation():
            return []  # labels are shares of classes: no metric of single classes is right
        return self.validation_postprocessing()

    def validation_postprocessing(self) -> list[Config]:
        one_hot = {"_target_": "AsDiscreted", "keys": "label", "to_onehot": self.task.out_channels}
        return [*TO_PROBABILITIES, one_hot]

    def training_metrics(self) -> Config:
        return {} if self.batch_augmentation() else {"train_accuracy": self._accuracy()}

    def validation_metrics(self) -> tuple[Config, Config]:
        """Accuracy, and means over the classes that have a case, each with the same weight."""
        means = {f"val_{of}": ours("metrics.class_mean", of=of) for of in ("f1", "precision", "recall", "auc")}
        return {self.key_metric: means.pop(self.key_metric)}, {"val_accuracy": self._accuracy(), **means}

    def _accuracy(self) -> Config:
        take = function("metrics.probabilities_and_ids")
        return {"_target_": "ignite.metrics.Accuracy", "output_transform": take, "device": "@device"}

    def evaluation_keys(self) -> Config:
        """The metrics in a table, and the probabilities of every case."""
        return {
            "validate::handlers": [
                ONE_LINE_ERRORS,
                evaluated_weights(),
                averaging(self.row),
                STATS,
                {"_target_": "MetricsSaver", "save_dir": "@output_dir", "metrics": "*"},
                self._table(PROBABILITIES, function(self.of_each_case)),
                progress("evaluate"),
            ],
            "finalize": [
                "$print('metrics: ' + os.path.join(@output_dir, 'metrics.csv'))",
                f"$print('each case: ' + {PROBABILITIES[1:]})",
            ],
        }

    def _table(self, path: str, output: Config | str) -> Config:
        classes = list(self.task.label_names.values())
        return {
            "_target_": "ClassificationSaver",
            "saver": ours("probabilities.ProbabilityTable", path=path, classes=classes, **self._table_options()),
            "batch_transform": function("handlers.image_metadata"),
            "output_transform": output,
        }

    def _table_options(self) -> dict[str, Any]:
        return {}

    def output_options(self) -> Config:
        return {}

    def inference_postprocessing(self) -> list[Config]:
        return TO_PROBABILITIES

    def inference_handlers(self) -> list[Config]:
        return [self._table("$@cases.table('predictions.csv')", "$monai.handlers.from_engine('pred')")]
