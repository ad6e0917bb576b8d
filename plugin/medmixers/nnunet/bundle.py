"""``medmixers nnunet to_bundle``: a MONAI Bundle of a trained nnU-Net model, ours or a stock one.

The bundle predicts as ``nnUNetv2_predict`` does because it runs nnU-Net's own functions
(:mod:`medmixers.bundle_runtime.nnunet_inference`). It cannot train.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medmixers.bundles.render.metadata import render_metadata
from medmixers.bundles.render.overlays import openvino_config
from medmixers.bundles.render.parts import (
    CUDNN,
    EVALUATOR,
    FIND_PACKAGE,
    IMAGES,
    IMPORTS,
    ONE_BY_ONE,
    ONE_LINE_ERRORS,
    RUN_INFERENCE,
    STATS,
    cases,
    check_options,
    compose,
    device,
    function,
    ours,
    progress,
    weights_loader,
)
from medmixers.bundles.render.text import readable_json, render_markdown
from medmixers.checkpoints import compact_copies, matching_weights
from medmixers.errors import ExistingFileError, InputError, MissingFileError
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.nnunet.trained import (
    CHECKPOINT,
    TrainedModel,
    external_trainers,
    load_checkpoint,
    our_weights,
    read_trained_model,
)
from medmixers.progress import Announce, silent
from medmixers.tasks.texts import check_config_text

INFERENCE = "nnunet_inference"


def write_nnunet_bundle(
    folder: str | Path, *, out: str | Path, checkpoint: str = CHECKPOINT, announce: Announce = silent
) -> str:
    """Write the bundle of a trained model: configs, flat weights of all folds, LICENSE, docs/README.md.

    Args:
        folder: the model, ``.../TRAINER__PLANS__CONFIGURATION``.
        out: the bundle's folder, which must not exist; its last part is the bundle's name.
        checkpoint: file name of the weights in each fold.
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
    model = read_trained_model(folder, checkpoint=checkpoint, takes_released=True)
    _check_texts(model)
    network = _network_def(model)
    licence = distribution("medmixers").read_text("licenses/LICENSE")
    if licence is None:
        raise MissingFileError("this installation of medmixers has no LICENSE; install it again")
    metadata = _metadata(model)
    texts = {
        "LICENSE": licence,
        "configs/metadata.json": readable_json(metadata),
        "configs/inference.json": readable_json(_inference(model, network)),
        "configs/inference_openvino.json": readable_json(openvino_config(f"{INFERENCE}.openvino_compile_folds")),
        "configs/nnunet/plans.json": readable_json(model.plans),
        "configs/nnunet/dataset.json": readable_json(model.dataset),
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


def _check_texts(model: TrainedModel) -> None:
    """Refuse texts from plans.json and dataset.json that MONAI would evaluate in a config: they may be a stranger's."""
    for name, value in (("plans.json", model.plans), ("dataset.json", model.dataset)):
        for text in _texts(value):
            check_config_text(f"a text in {model.folder / name}", text)
            if text.startswith("_") and text.endswith("_"):
                raise InputError(f"a key in {model.folder / name} must not look like MONAI's {text!r}")


def _texts(value: Any) -> Iterator[str]:
    """All strings in parsed JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from (text for item in value.values() for text in _texts(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in _texts(item))


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
        f"folds.{fold}.{key}": value
        for fold in model.folds
        for key, value in compact_copies(
            our_weights(load_checkpoint(model.checkpoint_file(fold))["network_weights"])
        ).items()
    }
    options = {key: value for key, value in network.items() if not key.startswith("_")}
    with external_trainers(None):
        ensemble = FoldEnsemble(**options)
    return matching_weights(str(model.folder), weights, ensemble)


def _inference(model: TrainedModel, network: dict[str, Any]) -> dict[str, Any]:
    def with_plans(name: str, **arguments: Any) -> dict[str, Any]:
        return ours(f"{INFERENCE}.{name}", plans="@plans", **arguments)

    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        **FIND_PACKAGE,
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/predictions'",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "save_probabilities": False,
        "part": None,
        "continue_prediction": False,
        "keep_going": False,
        "tile_step_size": 0.5,
        "use_mirroring": True,
        "device": device(),
        "num_workers": 0,
        "image_key": "image",
        "plans": ours(
            f"{INFERENCE}.Plans", folder="$@bundle_root + '/configs/nnunet'", configuration=model.configuration
        ),
        "image_reader": ours("nnunet_images.NnUNetImages", plans="@plans"),
        "datalist": ours("nnunet_images.find_cases", dataset_dir="@dataset_dir", plans="@plans", missing_ok=True),
        **cases(continue_prediction="@continue_prediction"),
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
                with_plans(
                    "NnUNetSegmentationd",
                    keys="pred",
                    save_probabilities="@save_probabilities",
                    output_dir="@output_dir",
                ),
                with_plans("NnUNetSaved", keys="pred", output_dir="@output_dir"),
            ]
        ),
        "handlers": [ONE_LINE_ERRORS, weights_loader("@ckpt_path"), STATS, progress("predict")],
        "evaluator": EVALUATOR,
        "preflight": ours(
            "preflight.check_inference",
            dataset_dir="@dataset_dir",
            images="@datalist",
            cases="cases",
            network="network_def",
            load_pretrain=True,
            ckpt_path="@ckpt_path",
            image_reader="@image_reader",
            writes_images=True,
            find=function("nnunet_images.find_cases", plans="@plans"),
            folders=["@output_dir"],
        ),
        "initialize": [check_options(), CUDNN],
        **RUN_INFERENCE,
    }


def _metadata(model: TrainedModel) -> dict[str, Any]:
    channels = list((model.dataset.get("channel_names") or model.dataset["modality"]).values())
    outputs, patch_size = _output_names(model), _patch_size(model)
    title = f"{model.plans['dataset_name']} ({model.configuration})"
    return render_metadata(
        mpp=None,
        version="0.1.0",
        changelog={"0.1.0": "Made from an nnU-Net model."},
        packages={"nnunetv2": version("nnunetv2"), "medmixers": version("medmixers")},
        optional_packages=None,
        name=title,
        task=f"Segmentation with nnU-Net v2: {title}",
        description=f"nnU-Net v2 model of {model.trainer}, folds {', '.join(model.folds)}; nnU-Net's own inference.",
        authors="not stated: who trained the model",
        copyright="not stated: who trained the model",
        data_source=f"not stated: {model.plans['dataset_name']}",
        data_licence=None,
        data_type=model.dataset["file_ending"].lstrip("."),
        image_classes=", ".join(channels),
        label_classes=", ".join(f"{value} {label}" for label, value in model.dataset["labels"].items()),
        pred_classes=", ".join(outputs),
        intended_use="Research only. Not a medical device; not for clinical use.",
        references=["Isensee F. et al. (2021). nnU-Net: a self-configuring method. Nature Methods 18, 203-211."],
        modality=", ".join(channels),
        channels=channels,
        outputs=outputs,
        spatial_shape=patch_size,
        value_range=[],
        is_patch_data=True,
        of_pred={"type": "image", "format": "segmentation", "spatial_shape": patch_size},
    )


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
    return render_markdown(
        "nnunet_readme.md.j2",
        title=metadata["name"],
        dataset=model.plans["dataset_name"],
        configuration=model.configuration,
        folds=model.folds,
        nnunetv2=metadata["required_packages_version"]["nnunetv2"],
        files=[(f"CASE_{int(index):04d}{ending}", name) for index, name in channels.items()],
        outputs=metadata["pred_classes"],
    )
