"""Parts of a bundle's configs that every kind shares, as dicts."""

from __future__ import annotations

from typing import Any

from medmixers.bundles.catalog import BundleRow

Config = dict[str, Any]

# An unpacked bundle carries its own copy of the package; in the source tree the installed one is found.
FIND_PACKAGE = {"find_package": "$sys.path.insert(0, os.path.abspath(@bundle_root))"}
IMPORTS = ["$import os", "$import sys", "$import torch", "$import numpy as np", "$import ignite", "$import monai"]
RUNTIME = "medmixers.bundle_runtime"
AUTOCAST = {"amp": "@amp", "amp_kwargs": {"dtype": "$torch.bfloat16"}}
WORKERS = "$4 if torch.cuda.is_available() else 0"  # on a CPU, workers would compete with the network for cores
NONZERO = "$torch.Tensor.bool"  # a lambda could not be sent to workers that are spawned
# Autocast yields bfloat16: NumPy has no such type, and probabilities need more digits.
TO_FLOAT32: Config = {"_target_": "EnsureTyped", "keys": "pred", "dtype": "$torch.float32"}
PREDICTED_AND_TRUE = "$monai.handlers.from_engine(['pred', 'label'])"
# Parts of every inference.json, also of a bundle that is made of an nnU-Net model.
IMAGES: Config = {
    "_target_": "Dataset",
    "data": "$[{@image_key: path} for path in @cases.images]",
    "transform": "@preprocessing",
}
ONE_BY_ONE: Config = {
    "_target_": f"{RUNTIME}.loading.OneLineLoader",
    "_requires_": "@find_package",
    "dataset": "@dataset",
    "batch_size": 1,
    "shuffle": False,
    "num_workers": "@num_workers",
    "keep_going": "@keep_going",
}
ONE_LINE_ERRORS: Config = {"_target_": f"{RUNTIME}.loading.OneLineErrors", "_requires_": "@find_package"}
EVALUATOR: Config = {
    "_target_": "SupervisedEvaluator",
    "device": "@device",
    "val_data_loader": "@dataloader",
    "network": "@network",
    "inferer": "@inferer",
    "postprocessing": "@postprocessing",
    "val_handlers": "@handlers",
    "iteration_update": "$@cases.predict_case",
}
CUDNN = "$setattr(torch.backends.cudnn, 'benchmark', True)"


def ours(target: str, **arguments: Any) -> Config:
    """A component of ``bundle_runtime``, found in the bundle's copy of the package or in the installation."""
    return {"_target_": f"{RUNTIME}.{target}", "_requires_": "@find_package", **arguments}


# It runs in ``run`` and not in ``initialize``, which monai.bundle.load runs in its caller's process.
ALLOCATOR: Config = {"allocator": ours("allocator.keep_freed_memory", device="@device")}
RUN_INFERENCE: Config = {
    "built": ours("preflight.check_built", keys=["evaluator"]),
    **ALLOCATOR,
    "run": ["@preflight", "@built", "@allocator", "$@cases.run(@evaluator)"],
}


def cases(**options: Any) -> Config:
    """The key ``cases`` of inference: those of the folder that are predicted."""
    arguments = {name: f"@{name}" for name in ("output_dir", "image_reader", "ckpt_path", "part", "keep_going")}
    return {"cases": ours("many_cases.Cases", images="@datalist", **arguments, **options)}


STATS = ours("handlers.Stats", iteration_log=False)


def function(target: str, **arguments: Any) -> Config:
    """A function of ``bundle_runtime`` itself, or with some arguments given; not what it returns."""
    return ours(target, _mode_="callable", **arguments)


def check_options() -> Config:
    """The check of the options' names and values, first in ``initialize``."""
    return ours("options.check_options")


def progress(description: str) -> Config:
    """A handler that shows how many cases are done."""
    return ours("handlers.Progress", description=description)


def compose(transforms: list[Config] | str) -> Config:
    """Transforms in a row: a list, or an expression that gives one."""
    return {"_target_": "Compose", "transforms": transforms}


def device() -> str:
    """The first GPU where there is one."""
    return "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"


def size_key(row: BundleRow) -> str:
    """Name of the top-level key that holds the size that the network sees."""
    return "image_size" if row.roi_size is None else "roi_size"


def network_options(row: BundleRow) -> Config:
    """Top-level keys of the network that a person may change."""
    chosen = {key: value for key, value in row.network_options.items() if key in ("mixer", "kernel_size")}
    return {"network_name": row.network, **dict(sorted(chosen.items(), reverse=True))}


def network_keys(row: BundleRow) -> Config:
    """The keys that define the network, the same in training and inference."""
    options = {key: f"@{key}" if key in network_options(row) else value for key, value in row.network_options.items()}
    if row.is_bound_to_size:
        options["input_size"] = f"@{size_key(row)}"
    return {
        "network_def": {
            "_target_": "medmixers.create_network",
            "_requires_": "@find_package",
            "name": "@network_name",
            "spatial_dims": len(row.size),
            "in_channels": len(row.task_spec.channels),
            "out_channels": row.task_spec.out_channels,
            **options,
        },
        "network": "$@network_def.to(@device)",
    }


def image_reader(row: BundleRow) -> Config:
    """The reader of the images, the same in training and inference."""
    task = row.task_spec
    options = {"convert_colour": True, "voi_window": task.voi_window, "series_uid": None}
    arguments = {"spatial_dims": task.spatial_dims, "channels": len(task.channels), **options}
    return {"image_reader": ours("image_reader.BundleImageReader", **arguments)}


def label_reader(row: BundleRow) -> Config:
    """The reader of label files, in training; none where a label is a number."""
    task = row.task_spec
    if task.task == "classification":
        return {}
    return {
        "label_reader": ours("label_reader.BundleLabelReader", values=task.file_values if task.has_raw_format else [])
    }


def load_files(*keys: str) -> list[Config]:
    """Files to arrays with the channel first: two transforms, since MONAI Deploy replaces the first by its own."""
    loaders = [{"_target_": "LoadImaged", "keys": key, "reader": f"@{key}_reader"} for key in keys]
    return [*loaders, {"_target_": "EnsureChannelFirstd", "keys": keys[0] if len(keys) == 1 else list(keys)}]


def deterministic_transforms(row: BundleRow, *, with_label: bool, resize: bool = True) -> list[Config]:
    """Loading, orientation, grid and intensity; of the image alone, or of image and label file.

    ``resize`` False: whole images keep their size, since a random crop gives them the network's.
    """
    task = row.task_spec
    keys: Any = ["image", "label"] if with_label else "image"
    transforms = load_files("image", "label") if with_label else load_files("image")
    if task.spatial_dims == 3:
        transforms.append({"_target_": "Orientationd", "keys": keys, "axcodes": "RAS", "labels": None})
    if task.intensity == "zscore_nonzero":
        # Where 0 is "outside", the box around the rest is enough; the inverse pads with probabilities of 0. MONAI's own
        # rule, > 0, would cut off the negative values of an image that was normalised before.
        rule = {"select_fn": NONZERO, "allow_smaller": True}
        transforms.append({"_target_": "CropForegroundd", "keys": keys, "source_key": "image", **rule})
    if task.spacing is not None:
        mode: Any = ["bilinear", "nearest"] if with_label else "bilinear"
        transforms.append(ours("resampling.Spacingd", keys=keys, pixdim=list(task.spacing), mode=mode))
    if row.roi_size is None and resize:
        smooth = "bilinear" if task.spatial_dims == 2 else "trilinear"
        mode = [smooth, "nearest"] if with_label else smooth
        transforms.append({"_target_": "Resized", "keys": keys, "spatial_size": "@image_size", "mode": mode})
    return [*transforms, _intensity(row)]


def _intensity(row: BundleRow) -> Config:
    task = row.task_spec
    if task.intensity in ("zscore", "zscore_nonzero"):
        nonzero = task.intensity == "zscore_nonzero"
        return {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": nonzero, "channel_wise": True}
    low, high = task.window or (0.0, 255.0)  # "unit": the reader gives pictures of every depth as 0 to 255
    window = {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
    return {"_target_": "ScaleIntensityRanged", "keys": "image", **window}


def random_affine(row: BundleRow, keys: Any) -> list[Config]:
    """The recipe's affine augmentation of the image, and of a label by its nearest voxel."""
    deviation = row.training.affine_std
    if deviation == 0:
        return []
    mode = "bilinear" if keys == "image" else ["bilinear", "nearest"]
    return [ours("augmentation.RandNormalAffined", keys=keys, std=deviation, mode=mode)]


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


def picture_augmentation(row: BundleRow) -> list[Config]:
    """The recipe's augmentation of pictures, one by one."""
    pictures = row.training.pictures
    if pictures is None:
        return []
    names = ("smallest_crop", "rand_augment", "erasing_probability")
    return [
        ours(
            "picture_augmentation.RandPictured",
            keys="image",
            size="@image_size",
            **{name: getattr(pictures, name) for name in names},
        )
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


def evaluated_weights() -> Config:
    """The loader of an evaluation; an ensemble loads its own files."""
    return weights_loader("@ckpt_path", _disabled_="$bool(@ensemble)")


def flips(row: BundleRow) -> bool:
    """Whether the training flips images, which it does along axis 0."""
    return row.training.crop_and_flip or row.training.pictures is not None


def averaging_options(row: BundleRow) -> Config:
    """Options of inference and evaluation: averages over mirrored copies and over models."""
    axes = [0] if flips(row) else list(range(len(row.size)))
    return {"use_mirroring": False, "mirror_axes": axes, "ensemble": []}


def averaging(row: BundleRow) -> Config:
    """The handler of these options."""
    return ours(
        "averaging.AveragedPredictions",
        spatial_dims=len(row.size),
        sigmoid=row.task_spec.multi_label,
        **{name: f"@{name}" for name in averaging_options(row)},
        _disabled_="$not (@use_mirroring or @ensemble)",
    )


def expected_data(row: BundleRow) -> Config:
    """What the preflight compares a data set and its images with."""
    task = row.task_spec
    keys: Config = {"image_reader": "@image_reader"}
    if row.task_spec.has_raw_format:
        keys |= {"label_values": task.file_values, "raw": ours("preflight_raw.RawCases")}
    else:
        kind = "masks" if task.task == "segmentation" else "labels" if task.multi_label else "classes"
        keys[kind] = task.out_channels
    return keys
