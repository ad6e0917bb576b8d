"""What the configs of a segmentation bundle have of their own.

Exclusive labels are softmax channels of which 0 is the background; overlapping ones are sigmoid channels. Inside the
engines predictions and labels have one channel per label, so that one metric serves both.
"""

from __future__ import annotations

from medmixers.bundles.render.kind import BundleKind
from medmixers.bundles.render.parts import (
    ONE_LINE_ERRORS,
    PREDICTED_AND_TRUE,
    STATS,
    TO_FLOAT32,
    Config,
    averaging,
    deterministic_transforms,
    evaluated_weights,
    function,
    load_files,
    ours,
    progress,
    random_affine,
    random_crop_and_flip,
)

BOTH = ["image", "label"]
HD95 = "val_hd95_mm"


class SegmentationKind(BundleKind):
    """Labels of voxels: soft Dice + cross-entropy, windows over the image, files in the image's geometry."""

    key_metric, best_of = "val_mean_dice", "Dice"
    validation_batch = 1  # images differ in size
    validation_interval = "$min(10, max(1, @epochs // 3))"

    def size_keys(self) -> Config:
        size = "image_size" if self.row.roi_size is None else "roi_size"
        return {size: list(self.row.size), "sw_batch_size": 2, "overlap": self.row.overlap}

    def sampling_options(self) -> Config:
        return {} if self.row.roi_size is None else {"patches_per_image": self.row.training.patches_per_image}

    def data_keys(self) -> Config:
        if self.row.roi_size is None or self.row.training.patch_sampling != "inverse_root_frequency":
            return {}
        ratios = ours(
            "class_weights.label_weights",
            cases="@train::dataset::data",
            values=self._label_values(),
            ignored=self.task.ignore_label,
        )
        return {"sampling_ratios": ratios}

    def loss(self) -> Config:
        task, recipe = self.task, self.row.training
        dice, cross_entropy = recipe.dice_weight, recipe.cross_entropy_weight
        if task.multi_label:
            return ours("losses.DiceBCELoss", dice_weight=dice, ce_weight=cross_entropy)
        if task.ignore_label is None and not recipe.ignore_background:
            exclusive = {"to_onehot_y": True, "softmax": True, "include_background": False}
            return {"_target_": "DiceCELoss", **exclusive, "lambda_dice": dice, "lambda_ce": cross_entropy}
        return ours(
            "losses.MaskedDiceCELoss",
            classes=task.out_channels,
            dice_weight=dice,
            ce_weight=cross_entropy,
            ignored_label=task.ignore_label,
            ignore_background=recipe.ignore_background,
        )

    def training_transforms(self) -> tuple[list[Config], list[Config]]:
        row = self.row
        fixed = [*deterministic_transforms(row, with_label=True), *self._label_channels()]
        augmentation = [*random_crop_and_flip(row, BOTH), *random_affine(row, BOTH)]
        if row.roi_size is None:
            return fixed, augmentation
        patch = "$[*@roi_size, 1]" if row.sees_slices else "@roi_size"
        patches = [{"_target_": "SpatialPadd", "keys": BOTH, "spatial_size": patch}, self._sampler(patch)]
        if row.sees_slices:
            patches.append({"_target_": "SqueezeDimd", "keys": BOTH, "dim": -1})
        return fixed, [*patches, *augmentation]

    def _sampler(self, patch: str) -> Config:
        shared: Config = {"keys": BOTH, "num_samples": "@patches_per_image"}
        match self.row.training.patch_sampling:
            case "random":
                return {"_target_": "RandSpatialCropSamplesd", **shared, "roi_size": patch, "random_size": False}
            case "foreground":
                centres: Config = {"label_key": "label", "pos": 1, "neg": 1}
                return {"_target_": "RandCropByPosNegLabeld", **shared, "spatial_size": patch, **centres}
            case _:
                classes = {
                    "label_key": "label",
                    "num_classes": self._label_values(),
                    "ratios": "@sampling_ratios",
                    "warn": False,
                }
                return {"_target_": "RandCropByLabelClassesd", **shared, "spatial_size": patch, **classes}

    def _label_values(self) -> int:
        """Number of values of an exclusive label file, the ignored one among them."""
        return self.task.out_channels + (self.task.ignore_label is not None)

    def _label_channels(self) -> list[Config]:
        """From a label as it lies in its files to one channel per label, where labels overlap."""
        if self.task.regions is not None:
            return [self._regions("ids_to_regions", "label")]
        # Masks are 0 and 255, or 0 and 1.
        return [{"_target_": "AsDiscreted", "keys": "label", "threshold": 0.5}] if self.task.multi_label else []

    def _regions(self, name: str, key: str) -> Config:
        """A function of the module regions on one key."""
        ids = [list(values) for values in (self.task.regions or {}).values()]
        return {"_target_": "Lambdad", "keys": key, "func": function(f"regions.{name}", regions=ids)}

    def validation_transforms(self) -> tuple[list[Config], list[Config]]:
        """The label stays on its own grid."""
        return deterministic_transforms(self.row, with_label=False), [*load_files("label"), *self._label_channels()]

    def inferer(self) -> Config:
        """Windows over the image with Gaussian weights."""
        return {
            "_target_": "SliceInferer" if self.row.sees_slices else "SlidingWindowInferer",
            **({"spatial_dim": 2} if self.row.sees_slices else {}),
            "roi_size": "@image_size" if self.row.roi_size is None else "@roi_size",
            "sw_batch_size": "@sw_batch_size",
            "overlap": "@overlap",
            "mode": "gaussian",
        }

    def inference_inferer(self) -> Config:
        """Logits may be larger than memory where the windows are smaller than the image."""
        windows = {**self.inferer(), "sw_device": "@window_device"}
        if self.row.roi_size is None:
            return windows
        return ours(f"windows.{windows.pop('_target_')}", **windows, logits_memory_gb="@logits_memory_gb")

    def training_postprocessing(self) -> list[Config]:
        probabilities = [self._to_probabilities()] if self.task.multi_label else []  # argmax needs none
        return [*probabilities, self._to_labels(), *self._to_channels()]

    def validation_postprocessing(self) -> list[Config]:
        """In the geometry of the label's file."""
        # What inference writes is scored: the label map nests regions that the network did not nest.
        nested = [self._regions("ids_to_regions", "pred")] if self.task.regions is not None else []
        probabilities, labels = self._to_original_geometry("@validate::preprocessing")
        return [*probabilities, *labels, *nested, *self._to_channels()]

    def _to_probabilities(self) -> Config:
        activation = "sigmoid" if self.task.multi_label else "softmax"
        return {"_target_": "Activationsd", "keys": "pred", activation: True}

    def _to_labels(self) -> Config:
        decision: Config = {"threshold": 0.5} if self.task.multi_label else {"argmax": True}
        return {"_target_": "AsDiscreted", "keys": "pred", **decision}

    def _to_original_geometry(self, preprocessing: str) -> tuple[list[Config], list[Config]]:
        """Logits to probabilities on the voxel grid of the image as it was loaded, and those to labels.

        The probabilities are resampled, not the labels: their borders stay smooth.
        """
        invert = {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": preprocessing,
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        }
        as_written = [self._regions("regions_to_ids", "pred")] if self.task.regions is not None else []
        return [TO_FLOAT32, self._to_probabilities(), invert], [self._to_labels(), *as_written]

    def _to_channels(self) -> list[Config]:
        """Exclusive labels to one channel each; an ignored voxel counts as background in prediction and label."""
        transforms: list[Config] = []
        if self.task.multi_label:
            return []
        if self.task.ignore_label is not None:
            counted = f"$lambda label: label != {self.task.ignore_label}"
            mask = {"keys": ["pred", "label"], "mask_key": "label", "select_fn": counted}
            transforms.append({"_target_": "MaskIntensityd", **mask})
        one_hot = {"_target_": "AsDiscreted", "keys": ["pred", "label"], "to_onehot": self.task.out_channels}
        return [*transforms, one_hot]

    def _mean_dice(self) -> Config:
        overlapping = self.task.multi_label
        return ours("overlap.mean_dice", include_background=overlapping, output_transform=PREDICTED_AND_TRUE)

    def training_metrics(self) -> Config:
        return {"train_mean_dice": self._mean_dice()}

    def validation_metrics(self) -> tuple[Config, Config]:
        return {self.key_metric: self._mean_dice()}, {}

    def evaluation_keys(self) -> Config:
        """HD95 in addition to Dice, and a table of every case."""
        hausdorff = ours(
            "overlap.hausdorff95_mm",
            include_background=self.task.multi_label,
            output_transform=PREDICTED_AND_TRUE,
            say_counts=True,
        )
        tables = {
            "_target_": "MetricsSaver",
            "save_dir": "@output_dir",
            "metrics": [self.key_metric, HD95],
            "metric_details": [self.key_metric, HD95],
            "batch_transform": function("handlers.image_metadata"),
            "summary_ops": "*",
        }
        return {
            "validate::additional_metrics": {HD95: hausdorff},
            "validate::handlers": [
                ONE_LINE_ERRORS,
                evaluated_weights(),
                averaging(self.row),
                STATS,
                tables,
                progress("evaluate"),
            ],
            "finalize": [
                f"$print('Dice of each case: ' + os.path.join(@output_dir, '{self.key_metric}_raw.csv'))",
                f"$print('HD95 of each case: ' + os.path.join(@output_dir, '{HD95}_raw.csv'))",
            ],
        }

    def output_options(self) -> Config:
        memory = {} if self.row.roi_size is None else {"logits_memory_gb": None}
        return {**self._file_options(), "save_probabilities": False, **memory}

    def _file_options(self) -> Config:
        """Options of the files of labels, as MONAI's ``SaveImaged`` names them."""
        options: Config = {
            "output_ext": ".nii.gz" if self.task.spatial_dims == 3 else ".png",
            "output_dtype": "$np.uint8",
            "output_postfix": "",
            "separate_folder": False,
        }
        if self._writes_masks:
            del options["output_postfix"]  # the name of a file ends with its label
            options["label_names"] = list(self.task.label_names.values())
        return options

    @property
    def _writes_masks(self) -> bool:
        """Whether labels may overlap in the output: then each has its own file."""
        return self.task.multi_label and self.task.regions is None

    def inference_postprocessing(self) -> list[Config]:
        """Logits to files in the geometry of the input."""
        volumes = self.task.spatial_dims == 3
        options = {name: f"@{name}" for name in self._file_options()}
        shared: Config = {
            "keys": "pred",
            "output_dir": "@output_dir",
            **options,
            "output_name_formatter": function("cases.case_name"),
        }
        if self._writes_masks:
            save = ours("saving.mask_saver", volumes=volumes, **shared)
        else:
            writer = ours("saving.label_writer", output_ext="@output_ext")
            save = {"_target_": "SaveImaged", **shared, "writer": writer}
        if self.row.roi_size is not None:
            return [self._labels_by_pieces(), self._save_probabilities("probabilities"), save]
        probabilities, labels = self._to_original_geometry("@preprocessing")
        return [*probabilities, self._save_probabilities("pred"), *labels, save]

    def _labels_by_pieces(self) -> Config:
        """What :meth:`_to_original_geometry` does, for images of any size."""
        regions = {} if self.task.regions is None else {"regions": [list(ids) for ids in self.task.regions.values()]}
        return ours(
            "inverted_labels.InvertedLabelsd",
            keys="pred",
            transform="@preprocessing",
            orig_keys="image",
            sigmoid=self.task.multi_label,
            **regions,
            probabilities_key="$'probabilities' if @save_probabilities else None",
        )

    def _save_probabilities(self, key: str) -> Config:
        """Files of the probabilities, on request."""
        return ours(
            "saved_probabilities.ProbabilitiesSaved",
            keys=key,
            output_dir="@output_dir",
            exclusive=not self.task.multi_label,
            file_ending="@output_ext",
            labels=self._nnunet_labels(),
            _disabled_="$not @save_probabilities",
        )

    def _nnunet_labels(self) -> Config | None:
        """``labels`` of nnU-Net's dataset.json; None where masks overlap freely."""
        task = self.task
        if task.regions is not None:
            return {"background": 0, **{name: list(values) for name, values in task.regions.items()}}
        if task.multi_label:
            return None
        values = {name: value for value, name in task.label_names.items()}
        return values if task.ignore_label is None else {**values, "ignore": task.ignore_label}

    def inference_handlers(self) -> list[Config]:
        return []
