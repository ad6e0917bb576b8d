"""configs/inference.json, as a dict."""

from __future__ import annotations

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.kinds import kind_of
from medmixers.bundles.render.parts import (
    AUTOCAST,
    CUDNN,
    EVALUATOR,
    FIND_PACKAGE,
    IMAGES,
    IMPORTS,
    ONE_BY_ONE,
    ONE_LINE_ERRORS,
    RUN_INFERENCE,
    STATS,
    WORKERS,
    Config,
    averaging,
    averaging_options,
    cases,
    check_options,
    compose,
    deterministic_transforms,
    device,
    image_reader,
    network_keys,
    network_options,
    ours,
    progress,
    weights_loader,
)


def inference_config(row: BundleRow) -> Config:
    """configs/inference.json: what a person changes, data, network, transforms, what runs."""
    kind, task = kind_of(row), row.task_spec
    segments = task.task == "segmentation"  # a table of classes is written at the end: nothing to continue
    window = {"window_device": "@device"} if segments else {}
    continued = {"continue_prediction": "@continue_prediction"} if segments else {}
    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        **FIND_PACKAGE,
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/predictions'",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        # Consumers know load_pretrain; a person who wants predictions of random weights says allow_untrained.
        "allow_untrained": False,
        "load_pretrain": "$not @allow_untrained",
        **averaging_options(row),
        "part": None,
        **dict.fromkeys(continued, False),
        "keep_going": False,
        **kind.output_options(),
        **kind.size_keys(),
        **network_options(row),
        "device": device(),
        **window,
        "amp": "$torch.cuda.is_available()",
        "num_workers": WORKERS,
        "image_key": "image",
        **image_reader(row),
        "datalist": ours("cases.find_images", dataset_dir="@dataset_dir", channels=len(task.channels), missing_ok=True),
        **cases(load_pretrain="@load_pretrain", **continued),
        **network_keys(row),
        "preprocessing": compose(deterministic_transforms(row, with_label=False)),
        "dataset": IMAGES,
        "dataloader": ONE_BY_ONE,
        "inferer": kind.inference_inferer(),
        "postprocessing": compose(kind.inference_postprocessing()),
        "handlers": [
            ONE_LINE_ERRORS,
            weights_loader("@ckpt_path", _disabled_="$not @load_pretrain or bool(@ensemble)"),
            averaging(row),
            STATS,
            *kind.inference_handlers(),
            progress("predict"),
        ],
        "evaluator": {**EVALUATOR, **AUTOCAST},
        "preflight": ours(
            "preflight.check_inference",
            dataset_dir="@dataset_dir",
            images="@datalist",
            cases="cases",
            network="network_def",
            load_pretrain="@load_pretrain",
            ckpt_path="@ckpt_path",
            ensemble="@ensemble",
            image_reader="@image_reader",
            writes_images=segments,
            folders=["@output_dir"],
        ),
        "initialize": [check_options(), CUDNN],
        **RUN_INFERENCE,
    }
