"""Parts of a bundle's configs that every kind shares, as dicts. No torch here."""

from __future__ import annotations

from typing import Any

from medmixers.bundles.catalog import BundleRow

Config = dict[str, Any]

# An unpacked bundle carries its own copy of the package; in the source tree the installed one is found.
REQUIRES = "$sys.path.insert(0, os.path.abspath(@bundle_root))"
IMPORTS = ["$import os", "$import sys", "$import torch", "$import numpy as np", "$import ignite", "$import monai"]
AUTOCAST = {"amp": "@amp", "amp_kwargs": {"dtype": "$torch.bfloat16"}}
PREFLIGHT = "medmixers.bundle_runtime.preflight"
DATALIST = "medmixers.bundle_runtime.cases"
SAVING = "medmixers.bundle_runtime.saving"
WORKERS = "$4 if torch.cuda.is_available() else 0"  # beside a CPU's network they only take its cores
NONZERO = "$torch.Tensor.bool"  # which, unlike a lambda, workers that are spawned can take
# Autocast leaves bfloat16, which NumPy has not and probabilities need more digits than.
TO_FLOAT32: Config = {"_target_": "EnsureTyped", "keys": "pred", "dtype": "$torch.float32"}
METADATA_OF_BATCH = "$lambda batch: [item['image'].meta for item in batch]"
# Parts of every inference.json, also of a bundle that is made of an nnU-Net model.
IMAGES: Config = {
    "_target_": "Dataset",
    "data": "$[{@image_key: path} for path in @datalist]",
    "transform": "@preprocessing",
}
ONE_BY_ONE: Config = {
    "_target_": "DataLoader",
    "dataset": "@dataset",
    "batch_size": 1,
    "shuffle": False,
    "num_workers": "@num_workers",
}
STATS: Config = {"_target_": "StatsHandler", "iteration_log": False}
EVALUATOR: Config = {
    "_target_": "SupervisedEvaluator",
    "device": "@device",
    "val_data_loader": "@dataloader",
    "network": "@network",
    "inferer": "@inferer",
    "postprocessing": "@postprocessing",
    "val_handlers": "@handlers",
}
CUDNN = "$setattr(torch.backends.cudnn, 'benchmark', True)"


def ours(target: str, **arguments: Any) -> Config:
    """A component of this package, found in the bundle's copy or in the installation."""
    return {"_target_": target, "_requires_": REQUIRES, **arguments}


def compose(transforms: list[Config] | str) -> Config:
    """Transforms in a row: a list, or an expression that gives one."""
    return {"_target_": "Compose", "transforms": transforms}


def device() -> str:
    """The first GPU where there is one."""
    return "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"


def size_key(row: BundleRow) -> str:
    """Name of the top-level key that holds the size that the network sees."""
    return "image_size" if row.roi_size is None else "roi_size"


def network_keys(row: BundleRow) -> Config:
    """The keys that define the network, the same in training and inference."""
    options = dict(row.network_options)
    keys: Config = {"network_name": row.network}
    if "kernel_size" in options:
        keys["kernel_size"] = options["kernel_size"]
        options["kernel_size"] = "@kernel_size"
    if row.is_bound_to_size:
        options["input_size"] = f"@{size_key(row)}"
    keys["network_def"] = ours(
        "medmixers.create_network",
        name="@network_name",
        spatial_dims=len(row.size),
        in_channels=len(row.task_spec.channels),
        out_channels=row.task_spec.out_channels,
        **options,
    )
    keys["network"] = "$@network_def.to(@device)"
    return keys


def deterministic_transforms(row: BundleRow, *, with_label: bool) -> list[Config]:
    """Loading, orientation, grid and intensity; of the image alone, or of image and label file."""
    task = row.task_spec
    keys: Any = ["image", "label"] if with_label else "image"
    transforms: list[Config] = [{"_target_": "LoadImaged", "keys": keys, "ensure_channel_first": True}]
    if task.spatial_dims == 3:
        transforms.append({"_target_": "Orientationd", "keys": keys, "axcodes": "RAS", "labels": None})
    if task.intensity == "zscore_nonzero":
        # Where 0 is "outside", the box around the rest is enough; the inverse pads with probabilities of 0. MONAI's own
        # rule, > 0, would cut off what an image that has been normalized holds below 0.
        rule = {"select_fn": NONZERO, "allow_smaller": True}
        transforms.append({"_target_": "CropForegroundd", "keys": keys, "source_key": "image", **rule})
    if task.spacing is not None:
        mode: Any = ["bilinear", "nearest"] if with_label else "bilinear"
        transforms.append({"_target_": "Spacingd", "keys": keys, "pixdim": list(task.spacing), "mode": mode})
    if row.roi_size is None:
        smooth = "bilinear" if task.spatial_dims == 2 else "trilinear"
        mode = [smooth, "nearest"] if with_label else smooth
        transforms.append({"_target_": "Resized", "keys": keys, "spatial_size": "@image_size", "mode": mode})
    return [*transforms, _intensity(row)]


def _intensity(row: BundleRow) -> Config:
    task = row.task_spec
    if task.intensity in ("zscore", "zscore_nonzero"):
        nonzero = task.intensity == "zscore_nonzero"
        return {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": nonzero, "channel_wise": True}
    low, high = task.window or (0.0, 255.0)  # "unit" is the window of 8-bit images
    window = {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
    return {"_target_": "ScaleIntensityRanged", "keys": "image", **window}


def random_affine(row: BundleRow, keys: Any) -> list[Config]:
    """The recipe's affine augmentation of the image, and of a label by its nearest voxel."""
    deviation, dims = row.training.affine_std, len(row.size)
    if deviation == 0:
        return []
    # A uniform number in [-r, r] has the standard deviation r / sqrt(3). Scales fill the diagonal of the
    # matrix and shears the rest, so every entry is the identity's plus noise of the recipe's deviation.
    reach = round(3**0.5 * deviation, 4)
    affine = {
        "_target_": "RandAffined",
        "keys": keys,
        "prob": 1.0,
        "scale_range": [reach] * dims,
        "shear_range": [reach] * (dims * (dims - 1)),
        "mode": "bilinear" if keys == "image" else ["bilinear", "nearest"],
        "padding_mode": "border",
    }
    return [affine]


def random_crop_and_flip(row: BundleRow, keys: Any) -> list[Config]:
    """The recipe's random crops of whole images, resized back, and horizontal flips."""
    if not row.training.crop_and_flip:
        return []
    mode = "bilinear" if len(row.size) == 2 else "trilinear"
    size = {"roi_size": "$[int(0.8 * n) for n in @image_size]", "max_roi_size": "@image_size", "random_size": True}
    return [
        {"_target_": "RandSpatialCropd", "keys": keys, **size},
        {
            "_target_": "Resized",
            "keys": keys,
            "spatial_size": "@image_size",
            "mode": mode if keys == "image" else [mode, "nearest"],
        },
        {"_target_": "RandFlipd", "keys": keys, "prob": 0.5, "spatial_axis": 0},
    ]


def weights_loader(path: str, **extra: Any) -> Config:
    """A handler that loads a flat state dict before the engine starts."""
    return {
        "_target_": "CheckpointLoader",
        "load_path": path,
        "load_dict": {"model": "@network"},
        "map_location": "@device",
        **extra,
    }


def expected_data(row: BundleRow) -> Config:
    """What the preflight compares a data set and its images with."""
    task = row.task_spec
    keys: Config = {"spatial_dims": task.spatial_dims, "in_channels": len(task.channels)}
    if row.task_spec.has_raw_format:
        keys["label_values"] = task.file_values
    else:
        keys["classes" if task.task == "classification" else "masks"] = task.out_channels
    return keys
