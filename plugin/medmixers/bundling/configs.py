"""Configs of a segmentation bundle, as dicts: inference, and what training shares with it. No torch here."""

from __future__ import annotations

from typing import Any

from medmixers.bundling.catalog import BundleRow

Config = dict[str, Any]

# An unpacked bundle carries its own copy of the package; in the source tree the installed one is found.
REQUIRES = "$sys.path.insert(0, os.path.abspath(@bundle_root))"
IMPORTS = ["$import os", "$import sys", "$import torch", "$import numpy as np", "$import monai"]
AUTOCAST = {"amp": "@amp", "amp_kwargs": {"dtype": "$torch.bfloat16"}}
PREFLIGHT = "medmixers.bundling.preflight"
DATALIST = "medmixers.bundling.datalist"


def ours(target: str, **arguments: Any) -> Config:
    """A component of this package, found in the bundle's copy or in the installation."""
    return {"_target_": target, "_requires_": REQUIRES, **arguments}


def compose(transforms: list[Config] | str) -> Config:
    """Transforms in a row: a list, or an expression that gives one."""
    return {"_target_": "Compose", "transforms": transforms}


def device() -> str:
    """The first GPU where there is one."""
    return "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"


def network_keys(row: BundleRow) -> Config:
    """The keys that define the network, the same in training and inference."""
    options = dict(row.network_options)
    keys: Config = {"network_name": row.network}
    if "kernel_size" in options:
        keys["kernel_size"] = options["kernel_size"]
        options["kernel_size"] = "@kernel_size"
    task = row.task_spec
    keys["network_def"] = ours(
        "medmixers.create_network",
        name="@network_name",
        spatial_dims=task.spatial_dims,
        in_channels=len(task.channels),
        out_channels=task.out_channels,
        **options,
    )
    keys["network"] = "$@network_def.to(@device)"
    return keys


def deterministic_transforms(row: BundleRow, *, with_label: bool) -> list[Config]:
    """Loading, orientation, spacing and intensity; of the image alone, or of image and label."""
    task = row.task_spec
    keys: Any = ["image", "label"] if with_label else "image"
    nonzero = task.intensity == "zscore_nonzero"
    # Where 0 is "outside", the box around the rest is enough; the inverse pads with probabilities of 0: background.
    crop = {"_target_": "CropForegroundd", "keys": keys, "source_key": "image", "allow_smaller": True}
    return [
        {"_target_": "LoadImaged", "keys": keys, "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": keys, "axcodes": "RAS", "labels": None},
        *([crop] if nonzero else []),
        {
            "_target_": "Spacingd",
            "keys": keys,
            "pixdim": list(task.spacing or ()),
            "mode": ["bilinear", "nearest"] if with_label else "bilinear",
        },
        {
            "_target_": "NormalizeIntensityd",
            "keys": "image",
            "nonzero": nonzero,
            "channel_wise": True,
        },
    ]


def to_original_geometry(preprocessing: str) -> list[Config]:
    """Logits to labels on the voxel grid of the image as it was loaded.

    The probabilities are resampled, not the labels: their borders stay smooth.
    """
    return [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": preprocessing,
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]


def sliding_window(**extra: Any) -> Config:
    """The inferer of validation and inference."""
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": "@roi_size",
        "sw_batch_size": "@sw_batch_size",
        "overlap": "@overlap",
        "mode": "gaussian",
        **extra,
    }


def weights_loader(path: str, **extra: Any) -> Config:
    """A handler that loads a flat state dict before the engine starts."""
    return {
        "_target_": "CheckpointLoader",
        "load_path": path,
        "load_dict": {"model": "@network"},
        "map_location": "@device",
        **extra,
    }


def inference_config(row: BundleRow) -> Config:
    """configs/inference.json."""
    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        "image_key": "image",
        "dataset_dir": "$@bundle_root + '/data'",
        "datalist": ours(f"{DATALIST}.nnunet_images", dataset_dir="@dataset_dir", missing_ok=True),
        "output_dir": "$@bundle_root + '/predictions'",
        "output_ext": ".nii.gz",
        "output_dtype": "$np.uint8",
        "output_postfix": "",
        "separate_folder": False,
        "load_pretrain": True,
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "device": device(),
        "window_device": "@device",
        "amp": "$torch.cuda.is_available()",
        "sw_batch_size": 2,
        "overlap": row.overlap,
        "roi_size": list(row.roi_size),
        "num_workers": 0,
        **network_keys(row),
        "preprocessing": compose(deterministic_transforms(row, with_label=False)),
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{@image_key: path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": "@num_workers",
        },
        "inferer": sliding_window(sw_device="@window_device"),
        "postprocessing": compose([*to_original_geometry("@preprocessing"), _saver()]),
        "handlers": [
            weights_loader("@ckpt_path", _disabled_="$not @load_pretrain"),
            {"_target_": "StatsHandler", "iteration_log": False},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            **AUTOCAST,
        },
        "initialize": [
            ours(
                f"{PREFLIGHT}.check_inference",
                dataset_dir="@dataset_dir",
                images="@datalist",
                ckpt_path="@ckpt_path",
                network="@network_def",
                load_pretrain="@load_pretrain",
                spatial_dims=row.task_spec.spatial_dims,
                in_channels=len(row.task_spec.channels),
            ),
            "$setattr(torch.backends.cudnn, 'benchmark', True)",
        ],
        "run": ["$@evaluator.run()"],
    }


def _saver() -> Config:
    return {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_ext": "@output_ext",
        "output_dtype": "@output_dtype",
        "output_postfix": "@output_postfix",
        "separate_folder": "@separate_folder",
        "output_name_formatter": ours(f"{DATALIST}.case_name", _mode_="callable"),
    }
