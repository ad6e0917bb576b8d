"""``medmixers nnunet to_bundle``: a MONAI Bundle of a trained nnU-Net model, ours or a stock one.

The bundle predicts as ``nnUNetv2_predict`` does because it runs nnU-Net's own functions
(:mod:`medmixers.bundle_runtime.nnunet_inference`). It cannot train.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medmixers.bundles.catalog import MONAI_VERSION, NUMPY_VERSION, PACKAGE_VERSIONS, PYTORCH_VERSION
from medmixers.bundles.render.metadata import SCHEMA
from medmixers.bundles.render.parts import (
    CUDNN,
    EVALUATOR,
    IMAGES,
    IMPORTS,
    ONE_BY_ONE,
    STATS,
    compose,
    device,
    ours,
    weights_loader,
)
from medmixers.errors import ExistingFileError, InputError, MissingFileError, joined_lines
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.nnunet.trained import TrainedModel, external_trainers, load_checkpoint, read_trained_model
from medmixers.progress import Announce, silent

INFERENCE = "medmixers.bundle_runtime.nnunet_inference"
README = """\
# {title}

nnU-Net v2 model `{dataset}`, configuration `{configuration}`, folds {folds}, as a MONAI Bundle.
Research software: not a medical device, not for clinical use. Who trained the model states its data, licence, authors
and figures in `configs/metadata.json`; LICENSE is that of the configs and of the package medmixers.

## What runs
nnU-Net's own functions (nnunetv2 {nnunetv2}) read, crop, normalise, resample, tile, mirror and write, and the folds'
logits are averaged as there: the segmentation is that of `nnUNetv2_predict`.
`medmixers.bundle_runtime.nnunet_inference` is the thin layer between them and MONAI.
Other MONAI transforms cannot replace the preprocessing.

## Commands
Install medmixers, set `BUNDLE` to this folder and `IMAGES` to a folder with files named {files}:
```bash
cd "$BUNDLE"
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir "$IMAGES"
```
Segmentations are written to `predictions/`; `--output_dir` names another folder, `--device cpu` another device.
`--use_mirroring false` is nnU-Net's `--disable_tta`, `--tile_step_size 0.75` its `-step_size 0.75`. A list of cases
(`--datalist`, each a path or a list of its channels' paths) takes the place of the folder.

## Limits
Batches of one image. No training configs, and not for MONAI Label, whose writer asks for MONAI's image geometry.
Output channels: {outputs}.
"""


def write_nnunet_bundle(folder: str | Path, *, out: str | Path, announce: Announce = silent) -> str:
    """Write the bundle of a trained model: configs, flat weights of all folds, LICENSE, docs/README.md.

    Args:
        folder: the model, ``.../TRAINER__PLANS__CONFIGURATION``.
        out: the bundle's folder, which must not exist; its last part is the bundle's name.
        announce: called with the name of each step.

    Returns:
        What was written, in words.

    Raises:
        MissingFileError: no trained model is there.
        ExistingFileError: ``out`` exists.
        InputError: the errors of :func:`medmixers.nnunet.trained.read_trained_model`, an invalid name, a cascade.
    """
    target = Path(out)
    if not re.fullmatch(r"\w+", target.name):
        raise InputError(f"a bundle's name has letters, digits and '_' only, got {target.name!r}")
    if target.exists():
        raise ExistingFileError(f"{target} exists: give another folder with -o, or move it away")
    refuse_overwriting_inputs(target, [folder])
    announce("read the model")
    model = read_trained_model(folder)
    network = _network_def(model)
    licence = distribution("medmixers").read_text("licenses/LICENSE")
    if licence is None:
        raise MissingFileError("this installation of medmixers has no LICENSE; install it again")
    metadata = _metadata(model, network, target.name)
    texts = {
        "LICENSE": licence,
        "configs/metadata.json": _json(metadata),
        "configs/inference.json": _json(_inference(model, network)),
        "configs/nnunet/plans.json": _json(model.plans),
        "configs/nnunet/dataset.json": _json(model.dataset),
        "docs/README.md": _readme(model, metadata),
    }
    announce("read the weights of all folds")
    weights = _weights(model, network)
    announce("write the bundle")
    with written_whole(target) as partial:
        for path, text in texts.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_text(text, encoding="utf-8")
        (partial / "models").mkdir()
        torch.save(weights, partial / "models" / "model.pt")
    command = ["python", "-m", "monai.bundle", "run", "--config_file", f"{target}/configs/inference.json"]
    return (
        f"{target}: folds {', '.join(model.folds)} of {model.trainer}\n"
        f"{shlex.join([*command, '--bundle_root', str(target)])} --dataset_dir IMAGES"
    )


def _network_def(model: TrainedModel) -> dict[str, Any]:
    with external_trainers(None):
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        plans = PlansManager(model.plans)
        configuration = plans.get_configuration(model.configuration)
        if configuration.previous_stage_name is not None:
            raise InputError(
                f"{model.folder} is the second stage of a cascade, which needs the first stage's segmentation: bundles "
                "of those are not supported"
            )
        return ours(
            f"{INFERENCE}.FoldEnsemble",
            architecture=configuration.configuration["architecture"],
            in_channels=determine_num_input_channels(plans, configuration, model.dataset),
            out_channels=plans.get_label_manager(model.dataset).num_segmentation_heads,
            folds=list(model.folds),
        )


def _weights(model: TrainedModel, network: dict[str, Any]) -> dict[str, Tensor]:
    """A flat state dict of all folds, checked: the network of the config loads it."""
    from medmixers.bundle_runtime.nnunet_inference import FoldEnsemble

    weights = {
        f"folds.{fold}.{key}": value.detach().clone()
        for fold in model.folds
        for key, value in load_checkpoint(model.checkpoint_file(fold))["network_weights"].items()
    }
    options = {key: value for key, value in network.items() if not key.startswith("_")}
    with external_trainers(None):
        ensemble = FoldEnsemble(**options)
    try:
        ensemble.load_state_dict(weights)
    except RuntimeError as error:
        message = f"the weights of {model.folder} do not fit the network of its plans: {joined_lines(error)[:200]}"
        raise InputError(message) from error
    return weights


def _inference(model: TrainedModel, network: dict[str, Any]) -> dict[str, Any]:
    def with_plans(name: str, **arguments: Any) -> dict[str, Any]:
        return ours(f"{INFERENCE}.{name}", plans="@plans", **arguments)

    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        "image_key": "image",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/predictions'",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "device": device(),
        "tile_step_size": 0.5,
        "use_mirroring": True,
        "num_workers": 0,
        "plans": ours(
            f"{INFERENCE}.Plans", folder="$@bundle_root + '/configs/nnunet'", configuration=model.configuration
        ),
        "datalist": with_plans("find_cases", dataset_dir="@dataset_dir"),
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": compose([with_plans("NnUNetPreprocessd", keys="@image_key")]),
        "dataset": IMAGES,
        "dataloader": ONE_BY_ONE,
        "inferer": with_plans(
            "NnUNetInferer",
            mirror_axes=None if model.mirror_axes is None else list(model.mirror_axes),
            device="@device",
            tile_step_size="@tile_step_size",
            use_mirroring="@use_mirroring",
        ),
        "postprocessing": compose(
            [
                with_plans("NnUNetSegmentationd", keys="pred"),
                with_plans("NnUNetSaved", keys="pred", output_dir="@output_dir"),
            ]
        ),
        "handlers": [weights_loader("@ckpt_path"), STATS],
        "evaluator": EVALUATOR,
        "initialize": [CUDNN],
        "run": ["$@evaluator.run()"],
    }


def _metadata(model: TrainedModel, network: dict[str, Any], name: str) -> dict[str, Any]:
    channels = list((model.dataset.get("channel_names") or model.dataset["modality"]).values())
    outputs = _output_names(model)
    title = f"{model.plans['dataset_name']} ({model.configuration})"
    tile = {"spatial_shape": _patch_size(model), "dtype": "float32", "value_range": [], "is_patch_data": True}
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "Made of an nnU-Net model."},
        "monai_version": MONAI_VERSION,
        "pytorch_version": PYTORCH_VERSION,
        "numpy_version": NUMPY_VERSION,
        "required_packages_version": {
            **PACKAGE_VERSIONS,
            "nnunetv2": version("nnunetv2"),
            "medmixers": version("medmixers"),
        },
        "supported_apps": {},
        "name": title,
        "task": f"Segmentation with nnU-Net v2: {title}",
        "description": f"nnU-Net v2 model of {model.trainer}, folds {', '.join(model.folds)}; nnU-Net's own inference.",
        "authors": "not stated: who trained the model",
        "copyright": "not stated: who trained the model",
        "data_source": f"not stated: {model.plans['dataset_name']}",
        "data_type": model.dataset["file_ending"].lstrip("."),
        "image_classes": ", ".join(channels),
        "label_classes": ", ".join(f"{value} {label}" for label, value in model.dataset["labels"].items()),
        "pred_classes": ", ".join(outputs),
        "eval_metrics": {},
        "intended_use": "Research only. Not a medical device; not for clinical use.",
        "references": ["Isensee F. et al. (2021). nnU-Net: a self-configuring method. Nature Methods 18, 203-211."],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": ", ".join(channels),
                    "num_channels": network["in_channels"],
                    **tile,
                    "channel_def": {str(index): name for index, name in enumerate(channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": network["out_channels"],
                    **tile,
                    "channel_def": {str(index): name for index, name in enumerate(outputs)},
                }
            },
        },
    }


def _output_names(model: TrainedModel) -> list[str]:
    """Names of the logits' channels: labels in the order of their values, or regions in that of dataset.json."""
    labels = {name: value for name, value in model.dataset["labels"].items() if name != "ignore"}
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        return [name for name in labels if name != "background"]  # nnU-Net's sigmoid has no channel for it
    return sorted(labels, key=lambda name: int(labels[name]))


def _patch_size(model: TrainedModel) -> list[int]:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    return list(PlansManager(model.plans).get_configuration(model.configuration).patch_size)


def _readme(model: TrainedModel, metadata: dict[str, Any]) -> str:
    ending = model.dataset["file_ending"]
    channels = metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    return README.format(
        title=metadata["name"],
        dataset=model.plans["dataset_name"],
        configuration=model.configuration,
        folds=", ".join(model.folds),
        nnunetv2=metadata["required_packages_version"]["nnunetv2"],
        files=", ".join(f"`CASE_{int(index):04d}{ending}` ({name})" for index, name in channels.items()),
        outputs=metadata["pred_classes"],
    )


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=4) + "\n"
