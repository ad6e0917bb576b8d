"""configs/inference.json, as a dict. No torch here."""

from __future__ import annotations

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.kinds import kind_of
from medmixers.bundles.render.parts import (
    AUTOCAST,
    CUDNN,
    DATALIST,
    EVALUATOR,
    IMAGES,
    IMPORTS,
    ONE_BY_ONE,
    PREFLIGHT,
    STATS,
    WORKERS,
    Config,
    compose,
    deterministic_transforms,
    device,
    network_keys,
    ours,
    weights_loader,
)


def inference_config(row: BundleRow) -> Config:
    """configs/inference.json."""
    kind = kind_of(row)
    window = row.task_spec.task == "segmentation"
    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        "image_key": "image",
        "dataset_dir": "$@bundle_root + '/data'",
        "datalist": ours(
            f"{DATALIST}.find_images",
            dataset_dir="@dataset_dir",
            channels=len(row.task_spec.channels),
            missing_ok=True,
        ),
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
        "dataset": IMAGES,
        "dataloader": ONE_BY_ONE,
        "inferer": kind.inferer(row, sw_device="@window_device"),
        **kind.inference_postprocessing(row),
        "handlers": [
            weights_loader("@ckpt_path", _disabled_="$not @load_pretrain"),
            STATS,
            *kind.inference_handlers(row),
        ],
        "evaluator": {**EVALUATOR, **AUTOCAST},
        "initialize": [CUDNN],
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
                folders=["@output_dir"],
            ),
            "$@evaluator.run()",
        ],
    }
