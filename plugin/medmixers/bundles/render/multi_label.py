"""What the configs of a bundle have of their own that gives an image several labels."""

from __future__ import annotations

from typing import Any

from medmixers.bundles.render.classification import ClassificationKind
from medmixers.bundles.render.parts import TO_FLOAT32, Config, deterministic_transforms, function, ours


class MultiLabelKind(ClassificationKind):
    """Any labels for an image: a sigmoid each, binary cross-entropy, AUROC, a table of probabilities."""

    key_metric, best_of = "val_auc", "mean AUROC"
    of_each_case = "multi_label.probabilities_beside_truth"

    def data_keys(self) -> Config:
        ceiling = self.row.training.class_weight_ceiling
        if ceiling == 0:
            return {}
        classes = self.task.out_channels
        weights = ours("multi_label.positive_weights", cases="@train::dataset::data", classes=classes, ceiling=ceiling)
        return {"class_weights": weights}

    def loss(self) -> Config:
        weights = {"pos_weight": "$torch.tensor(@class_weights, device=@device)"} if self.data_keys() else {}
        return {"_target_": "torch.nn.BCEWithLogitsLoss", **weights}

    def _target(self) -> Config:
        """Ids of labels to 0 and 1 of every label."""
        ids = function("multi_label.multi_hot", classes=self.task.out_channels)
        return {"_target_": "Lambdad", "keys": "label", "func": ids, "track_meta": False}

    def training_transforms(self) -> tuple[list[Config], list[Config]]:
        fixed, random = super().training_transforms()
        return [*fixed, self._target()], random

    def validation_transforms(self) -> tuple[list[Config], list[Config]]:
        return deterministic_transforms(self.row, with_label=False), [self._target()]

    def validation_postprocessing(self) -> list[Config]:
        return self.inference_postprocessing()

    def training_metrics(self) -> Config:
        return {"train_accuracy": self._accuracy()}

    def validation_metrics(self) -> tuple[Config, Config]:
        """The mean of the labels' AUROC, and the share of right decisions over all labels and cases."""
        take = function("multi_label.probabilities_and_truth")
        labels = list(self.task.label_names.values())
        auroc = ours("multi_label.mean_auroc", labels=labels, output_transform=take)
        return {self.key_metric: auroc}, {"val_accuracy": self._accuracy()}

    def _accuracy(self) -> Config:
        take = function("multi_label.decisions_and_truth")
        return {"_target_": "ignite.metrics.Accuracy", "output_transform": take, "device": "@device"}

    def _table_options(self) -> dict[str, Any]:
        return {"multi_label": True}

    def inference_postprocessing(self) -> list[Config]:
        return [TO_FLOAT32, {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
