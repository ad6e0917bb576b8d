"""configs/inference.json, as a dict. No torch here."""

from __future__ import annotations

from medmixers.bundling.catalog import BundleRow
from medmixers.bundling.configs import (
    AUTOCAST,
    DATALIST,
    IMPORTS,
    PREFLIGHT,
    WORKERS,
    Config,
    compose,
    deterministic_transforms,
    device,
    network_keys,
    ours,
    weights_loader,
)
from medmixers.bundling.kinds import kind_of


def inference_config(row: BundleRow) -> Config:
    """configs/inference.json."""
    kind = kind_of(row)
    window = row.task_spec.task == "segmentation"
    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        "image_key": "image",
        "dataset_dir": "$@bundle_root + '/data'",
        "datalist": ours(f"{DATALIST}.find_images", dataset_dir="@dataset_dir", missing_ok=True),
        "output_dir": "$@bundle_root + '/predictions'",
        **kind.output_keys(row),
        # Consumers know load_pretrain; a person who wants predictions of random weights says allow_untrained.
        "allow_untrained": False,
        "load_pretrain": "$not @allow_untrained",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "device": device(),
        **({"window_device": "@device"} if window else {}),
        "amp": "$torch.cuda.is_available()",
        **kind.size_keys(row),
        "num_workers": WORKERS,
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
        "inferer": kind.inferer(row, sw_device="@window_device"),
        **kind.inference_postprocessing(row),
        "handlers": [
            weights_loader("@ckpt_path", _disabled_="$not @load_pretrain"),
            {"_target_": "StatsHandler", "iteration_log": False},
            *kind.inference_handlers(row),
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
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
        "run": [  # the check stands here: monai.bundle.load runs "initialize", and wants the network alone
            ours(
                f"{PREFLIGHT}.check_inference",
                dataset_dir="@dataset_dir",
                images="@datalist",
                ckpt_path="@ckpt_path",
                network="@network_def",
                load_pretrain="@load_pretrain",
                spatial_dims=row.task_spec.spatial_dims,
                in_channels=len(row.task_spec.channels),
                writes_images=window,
            ),
            "$@evaluator.run()",
        ],
    }
