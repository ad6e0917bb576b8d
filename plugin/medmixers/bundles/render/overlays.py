"""Small configs that are laid over train.json or inference.json, as dicts."""

from __future__ import annotations

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.kinds import kind_of
from medmixers.bundles.render.parts import Config, averaging_options, check_options, expected_data, ours
from medmixers.bundles.render.training import SEED, split_rule


def evaluate_config(row: BundleRow) -> Config:
    """configs/evaluate.json, laid over train.json: the test cases, in the geometry of their images."""
    part = {"dataset_dir": "@dataset_dir", "part": "@evaluated_part", **split_rule(row)}
    classes = list(row.task_spec.label_names.values())
    return {
        "ckpt_path": "$@ckpt_dir + '/model.pt'",
        "evaluated_part": row.evaluated_part,
        **averaging_options(row),
        "val_datalist": ours("cases.split", **part),
        **kind_of(row).evaluation_keys(),
        "preflight": ours(
            "preflight.check_evaluation",
            **part,
            **expected_data(row),
            **({"class_names": classes} if row.task_spec.task == "classification" else {}),
            network="network_def",
            ckpt_path="@ckpt_path",
            ensemble="@ensemble",
            folders=["@output_dir", "@cache_dir"],
        ),
        "built": ours("preflight.check_built", keys=["validate::evaluator"]),
        "run": ["@preflight", "@built", "@allocator", "$@validate::evaluator.run()"],
    }


def multi_gpu_config(row: BundleRow) -> Config:
    """configs/multi_gpu_train.json, laid over train.json, for torchrun; without a GPU it runs on gloo."""
    sampler = {"_target_": "DistributedSampler", "even_divisible": True}
    return {
        "rank": "$int(os.environ['RANK'])",
        "local_rank": "$int(os.environ['LOCAL_RANK'])",
        "device": "$torch.device('cuda', @local_rank) if torch.cuda.is_available() else torch.device('cpu')",
        "network": {
            "_target_": "torch.nn.parallel.DistributedDataParallel",
            "module": "$@network_def.to(@device)",
            "device_ids": "$[@device] if 'cuda' in str(@device) else None",
        },
        "train::sampler": {**sampler, "dataset": "@train::dataset", "shuffle": True},
        "train::dataloader::sampler": "@train::sampler",
        "train::dataloader::shuffle": False,
        "validate::sampler": {**sampler, "dataset": "@validate::dataset", "shuffle": False},
        "validate::dataloader::sampler": "@validate::sampler",
        "initialize": [
            check_options(),
            SEED,
            "@preflight",  # before the ranks wait for each other; ``run`` then finds it done
            "$torch.distributed.init_process_group('nccl' if torch.cuda.is_available() else 'gloo')",
            "$torch.cuda.set_device(@device) if torch.cuda.is_available() else None",
        ],
        "finalize": ["$torch.distributed.destroy_process_group()"],
    }


def openvino_config(function: str = "openvino_inference.openvino_compile") -> Config:
    """configs/inference_openvino.json, laid over inference.json, or over train.json and evaluate.json.

    Args:
        function: what compiles the network.
    """
    return {
        "device": "$torch.device('cpu')",
        "openvino_precision": "f32",
        "network": ours(
            function,
            network="$@network_def.to(@device)",
            precision="@openvino_precision",
        ),
    }


def writes_dicom(row: BundleRow) -> bool:
    """Whether a bundle has configs/dicom.json: it segments volumes."""
    return row.task_spec.task == "segmentation" and row.task_spec.spatial_dims == 3


def dicom_config(row: BundleRow) -> Config:
    """configs/dicom.json, laid over inference.json: DICOM SEG in place of NIfTI files."""
    last = len(kind_of(row).inference_postprocessing()) - 1  # the transform that saves
    return {
        f"postprocessing::transforms::{last}": ours(
            "dicom_saving.DicomSegmentationSaved",
            keys="pred",
            bundle_root="@bundle_root",
            output_dir="@output_dir",
            images="@datalist",
            weights="$list(@ensemble) or [@ckpt_path]",
            series_uid="@image_reader::series_uid",
        ),
    }
