"""What the configs of a segmentation bundle have of their own, as dicts. No torch here.

Exclusive labels are softmax channels of which 0 is the background; overlapping ones are sigmoid channels. Inside the
engines predictions and labels are one channel a label, so that one metric serves both.
"""

from __future__ import annotations

from typing import Any

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.parts import (
    DATALIST,
    METADATA_OF_BATCH,
    SAVING,
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

KEY_METRIC, BEST_OF = "val_mean_dice", "Dice"
VALIDATION_BATCH: int | str = 1  # images differ in size
VALIDATION_INTERVAL: int | str = "$min(10, max(1, @epochs // 3))"
BOTH = ["image", "label"]
PREDICTED_AND_TRUE = "$monai.handlers.from_engine(['pred', 'label'])"


def size_keys(row: BundleRow) -> Config:
    """Top-level keys of the size that the network sees, and of the windows."""
    window = {"sw_batch_size": 2, "overlap": row.overlap}
    if row.roi_size is None:
        return {"image_size": list(row.size), **window}
    return {"roi_size": list(row.size), **window}


def sampling_keys(row: BundleRow) -> Config:
    """Top-level keys of the random patches."""
    if row.roi_size is None:
        return {}
    keys: Config = {"patches_per_image": row.training.patches_per_image}
    if row.training.patch_sampling == "inverse_root_frequency":
        keys["sampling_ratios"] = ours(
            "medmixers.bundle_runtime.class_weights.label_weights",
            cases="@train_datalist",
            values=_label_values(row),
            ignored=row.task_spec.ignore_label,
        )
    return keys


def label_channels(row: BundleRow) -> list[Config]:
    """From a label as it lies in its files to one channel a label, where labels overlap."""
    if row.task_spec.regions is not None:
        return [_regions(row, "ids_to_regions", "label")]
    # Masks are 0 and 255, or 0 and 1.
    return [{"_target_": "AsDiscreted", "keys": "label", "threshold": 0.5}] if row.task_spec.multi_label else []


def _regions(row: BundleRow, function: str, key: str) -> Config:
    """A function of the module regions on one key."""
    ids = [list(values) for values in (row.task_spec.regions or {}).values()]
    call = ours(f"medmixers.bundle_runtime.regions.{function}", _mode_="callable", regions=ids)
    return {"_target_": "Lambdad", "keys": key, "func": call}


def training_transforms(row: BundleRow) -> tuple[list[Config], list[Config]]:
    """Deterministic ones, which are cached, and random ones."""
    fixed = [*deterministic_transforms(row, with_label=True), *label_channels(row)]
    augmentation = [*random_crop_and_flip(row, BOTH), *random_affine(row, BOTH)]
    if row.roi_size is None:
        return fixed, augmentation
    patch = "$[*@roi_size, 1]" if row.sees_slices else "@roi_size"
    patches = [{"_target_": "SpatialPadd", "keys": BOTH, "spatial_size": patch}, _sampler(row, patch)]
    if row.sees_slices:
        patches.append({"_target_": "SqueezeDimd", "keys": BOTH, "dim": -1})
    return fixed, [*patches, *augmentation]


def _sampler(row: BundleRow, patch: str) -> Config:
    shared: Config = {"keys": BOTH, "num_samples": "@patches_per_image"}
    match row.training.patch_sampling:
        case "random":
            return {"_target_": "RandSpatialCropSamplesd", **shared, "roi_size": patch, "random_size": False}
        case "foreground":
            centres: Config = {"label_key": "label", "pos": 1, "neg": 1}
            return {"_target_": "RandCropByPosNegLabeld", **shared, "spatial_size": patch, **centres}
        case _:
            classes = {
                "label_key": "label",
                "num_classes": _label_values(row),
                "ratios": "@sampling_ratios",
                "warn": False,
            }
            return {"_target_": "RandCropByLabelClassesd", **shared, "spatial_size": patch, **classes}


def _label_values(row: BundleRow) -> int:
    """Number of values of an exclusive label file, the ignored one among them."""
    return row.task_spec.out_channels + (row.task_spec.ignore_label is not None)


def validation_transforms(row: BundleRow) -> tuple[list[Config], list[Config]]:
    """Of the image, and of the label, which stays on its own grid."""
    loaded = {"_target_": "LoadImaged", "keys": "label", "ensure_channel_first": True}
    return deterministic_transforms(row, with_label=False), [loaded, *label_channels(row)]


def loss_keys(row: BundleRow) -> Config:
    """Soft Dice + cross-entropy, as the key ``loss``."""
    task, recipe = row.task_spec, row.training
    weights = {"lambda_dice": recipe.dice_weight, "lambda_ce": recipe.cross_entropy_weight}
    exclusive = {"to_onehot_y": True, "softmax": True, "include_background": False}
    weighted = f"$lambda pred, label: {recipe.dice_weight} * @dice_loss({{}}) + {recipe.cross_entropy_weight} * "
    if task.multi_label:
        return {
            "dice_loss": {"_target_": "DiceLoss", "sigmoid": True},
            "cross_entropy": {"_target_": "torch.nn.BCEWithLogitsLoss"},
            "loss": weighted.format("pred, label") + "@cross_entropy(pred, label)",
        }
    if task.ignore_label is None and not recipe.ignore_background:
        return {"loss": {"_target_": "DiceCELoss", **exclusive, **weights}}
    keys: Config = {"dice_loss": {"_target_": "DiceLoss", **exclusive}}
    pair, counted = "pred, label", []
    left_out: Config = {}
    if task.ignore_label is not None:
        # Where the label is ignored, Dice sees a certain vote for the background, which it does not count.
        shape = [1, -1, *[1] * len(row.size)]
        vote = f"$torch.tensor([0.0, *[-1e4] * {task.out_channels - 1}], device=@device).view({shape})"
        keys["background_vote"] = vote
        ignored = f"label == {task.ignore_label}"
        pair = f"torch.where({ignored}, @background_vote, pred), torch.where({ignored}, 0, label)"
        counted, left_out = [f"(label != {task.ignore_label})"], {"ignore_index": task.ignore_label}
    if recipe.ignore_background:
        counted = ["(label > 0)", *counted]
        left_out["weight"] = f"$torch.tensor([0.0, *[1.0] * {task.out_channels - 1}], device=@device)"
    # The mean by hand: torch's own is NaN for a patch in which nothing counts.
    keys["cross_entropy"] = {"_target_": "torch.nn.CrossEntropyLoss", **left_out, "reduction": "sum"}
    keys["counted"] = f"$lambda label: ({' & '.join(counted)}).sum().clamp(min=1)"
    keys["loss"] = weighted.format(pair) + "@cross_entropy(pred, label[:, 0].long()) / @counted(label)"
    return keys


def train_inferer(row: BundleRow) -> Config:
    """One forward pass."""
    return {"_target_": "SimpleInferer"}


def inferer(row: BundleRow, **extra: Any) -> Config:
    """Windows over the image with Gaussian weights, of validation and inference."""
    slices = {"_target_": "SliceInferer", "spatial_dim": 2}
    return {
        **(slices if row.sees_slices else {"_target_": "SlidingWindowInferer"}),
        "roi_size": "@image_size" if row.roi_size is None else "@roi_size",
        "sw_batch_size": "@sw_batch_size",
        "overlap": "@overlap",
        "mode": "gaussian",
        **extra,
    }


def _to_probabilities(row: BundleRow) -> Config:
    return {"_target_": "Activationsd", "keys": "pred", "sigmoid" if row.task_spec.multi_label else "softmax": True}


def _to_original_geometry(row: BundleRow, preprocessing: str) -> list[Config]:
    """Logits to labels on the voxel grid of the image as it was loaded.

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
    as_written = [_regions(row, "regions_to_ids", "pred")] if row.task_spec.regions is not None else []
    return [TO_FLOAT32, _to_probabilities(row), invert, _to_labels(row), *as_written]


def _to_labels(row: BundleRow) -> Config:
    decision: Config = {"threshold": 0.5} if row.task_spec.multi_label else {"argmax": True}
    return {"_target_": "AsDiscreted", "keys": "pred", **decision}


def _to_channels(row: BundleRow) -> list[Config]:
    """Exclusive labels to one channel each; what the label file ignores counts as background in both."""
    task, transforms = row.task_spec, []
    if task.multi_label:
        return []
    if task.ignore_label is not None:
        counted = f"$lambda label: label != {task.ignore_label}"
        mask = {"keys": ["pred", "label"], "mask_key": "label", "select_fn": counted}
        transforms.append({"_target_": "MaskIntensityd", **mask})
    return [*transforms, {"_target_": "AsDiscreted", "keys": ["pred", "label"], "to_onehot": task.out_channels}]


def training_postprocessing(row: BundleRow) -> list[Config]:
    """Logits and label of a patch to what the metric takes."""
    probabilities = [_to_probabilities(row)] if row.task_spec.multi_label else []  # argmax needs none
    return [*probabilities, _to_labels(row), *_to_channels(row)]


def validation_postprocessing(row: BundleRow) -> list[Config]:
    """Logits and label of an image to what the metric takes, in the geometry of the label's file."""
    # What is scored is what inference writes: regions that the network does not nest, the label map nests.
    nested = [_regions(row, "ids_to_regions", "pred")] if row.task_spec.regions is not None else []
    return [*_to_original_geometry(row, "@validate::preprocessing"), *nested, *_to_channels(row)]


def _mean_dice(row: BundleRow) -> Config:
    overlapping = row.task_spec.multi_label
    return {"_target_": "MeanDice", "include_background": overlapping, "output_transform": PREDICTED_AND_TRUE}


def training_metrics(row: BundleRow) -> Config:
    """The metric of the training patches."""
    return {"train_mean_dice": _mean_dice(row)}


def validation_metrics(row: BundleRow) -> tuple[Config, Config]:
    """The one that chooses the checkpoint, and further ones."""
    return {KEY_METRIC: _mean_dice(row)}, {}


def evaluation_keys(row: BundleRow) -> Config:
    """What evaluate.json changes: HD95 beside Dice, and a table of every case."""
    metrics = [KEY_METRIC, "val_hd95_mm"]
    hausdorff = ours(
        "medmixers.bundle_runtime.metrics.hausdorff95_mm",
        include_background=row.task_spec.multi_label,
        output_transform=PREDICTED_AND_TRUE,
    )
    return {
        "validate::additional_metrics": {metrics[1]: hausdorff},
        "validate::handlers": [
            weights_loader("@ckpt_path"),
            STATS,
            {
                "_target_": "MetricsSaver",
                "save_dir": "@output_dir",
                "metrics": metrics,
                "metric_details": metrics,
                "batch_transform": METADATA_OF_BATCH,
                "summary_ops": "*",
            },
        ],
        "finalize": [
            f"$print('Dice and HD95 of each case: ' + os.path.join(@output_dir, '{KEY_METRIC}_raw.csv') + ', ' + "
            f"os.path.join(@output_dir, '{metrics[1]}_raw.csv'))"
        ],
    }


def output_keys(row: BundleRow) -> Config:
    """Top-level keys of inference.json that say what is written."""
    keys: Config = {
        "output_ext": ".nii.gz" if row.task_spec.spatial_dims == 3 else ".png",
        "output_dtype": "$np.uint8",
        "output_postfix": "",
        "separate_folder": False,
    }
    if _writes_masks(row):
        keys["label_names"] = list(row.task_spec.label_names.values())
    return keys


def _writes_masks(row: BundleRow) -> bool:
    """Whether labels may overlap in the output: then each has its own file."""
    return row.task_spec.multi_label and row.task_spec.regions is None


def inference_postprocessing(row: BundleRow) -> Config:
    """Logits to files in the geometry of the input."""
    task, transforms = row.task_spec, _to_original_geometry(row, "@preprocessing")
    named = {"output_name_formatter": ours(f"{DATALIST}.case_name", _mode_="callable")}
    keys = ("output_dir", "output_ext", "output_dtype", "output_postfix", "separate_folder")
    volumes = task.spatial_dims == 3
    writer = ours(f"{SAVING}.volume_writer", output_ext="@output_ext")
    if not _writes_masks(row):
        save: Config = {"_target_": "SaveImaged", "keys": "pred", **{key: f"@{key}" for key in keys}, **named}
        return {"postprocessing": compose([*transforms, {**save, **({"writer": writer} if volumes else {})}])}
    split = {"_target_": "SplitDimd", "keys": "pred", "output_postfixes": "@label_names"}
    options = ", ".join(f"{key}=@{key}" for key in keys if key != "output_postfix")
    # Masks of pictures are 0 and 255, as those of the data sets: they show.
    options += ", writer=@volume_writer" if volumes else ", scale=255"
    return {
        "case_name": named["output_name_formatter"],
        **({"volume_writer": writer} if volumes else {}),
        "label_savers": (
            f"$[monai.transforms.SaveImaged(keys='pred_' + name, output_postfix=name, {options}, "
            "output_name_formatter=@case_name) for name in @label_names]"
        ),
        "to_masks": [*transforms, split],
        "postprocessing": compose("$@to_masks + @label_savers"),
    }


def inference_handlers(row: BundleRow) -> list[Config]:
    """Further handlers of inference."""
    return []
