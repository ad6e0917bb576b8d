"""Configs of a segmentation bundle, as dicts: training and its overlays. No torch here."""

from __future__ import annotations

import math
from typing import Any

from medmixers.bundling.catalog import BundleRow
from medmixers.bundling.configs import (
    AUTOCAST,
    DATALIST,
    IMPORTS,
    PREFLIGHT,
    Config,
    compose,
    deterministic_transforms,
    device,
    network_keys,
    ours,
    sliding_window,
    to_original_geometry,
    weights_loader,
)


def train_config(row: BundleRow) -> Config:
    """configs/train.json."""
    recipe = row.training
    if recipe.accumulate_batches != 1:
        raise ValueError(f"recipe {row.recipe!r} accumulates gradients, which the bundles' trainer does not")
    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "$@bundle_root + '/data'",
        "train_datalist": _split(row, "training"),
        "val_datalist": _split(row, "validation"),
        "seed": 0,
        "epochs": recipe.epochs,
        "warmup_epochs": recipe.warmup_epochs,
        "val_interval": "$min(10, max(1, @epochs // 3))",
        "batch_size": recipe.batch_size,
        "patches_per_image": recipe.patches_per_image,
        "learning_rate": recipe.learning_rate,
        "num_workers": 0,
        "cache_rate": 1.0,
        "roi_size": list(row.roi_size),
        "sw_batch_size": 2,
        "overlap": row.overlap,
        "amp": "$torch.cuda.is_available()",
        "early_stop": False,
        "patience": 10,
        "pretrained_ckpt": None,
        "resume_ckpt": None,
        "device": device(),
        **network_keys(row),
        "loss": {
            "_target_": "DiceCELoss",
            "to_onehot_y": True,
            "softmax": True,
            "include_background": False,
            "lambda_dice": recipe.dice_weight,
            "lambda_ce": recipe.cross_entropy_weight,
        },
        "optimizer": _optimizer(row),
        "lr_scheduler": {
            "_target_": "monai.optimizers.WarmupCosineSchedule",
            "optimizer": "@optimizer",
            "warmup_steps": "$min(@warmup_epochs, @epochs // 2) * len(@train::dataloader)",
            "t_total": "$@epochs * len(@train::dataloader)",
            "end_lr": recipe.min_learning_rate,
            "warmup_multiplier": 0.01,
        },
        "train": _train(row),
        "validate": _validate(row),
        "initialize": [
            _check_training(row),
            "$monai.utils.set_determinism(seed=@seed)",
        ],
        "run": [
            "$[h.set_trainer(@train::trainer) for h in @validate::handlers if hasattr(h, 'set_trainer')]",
            "$[h.attach(@train::trainer) for h in @train::state_handlers if h]",
            "$@train::trainer.run()",
        ],
        "finalize": ["$print('best weights: ' + os.path.join(@ckpt_dir, 'model.pt'))"],
    }


def evaluate_config(row: BundleRow) -> Config:
    """configs/evaluate.json, laid over train.json: the held-out cases, in the geometry of their images."""
    return {
        "ckpt_path": "$@ckpt_dir + '/model.pt'",
        "val_datalist": ours(f"{DATALIST}.nnunet_datalist", dataset_dir="@dataset_dir", held_out=True),
        "validate::handlers": [
            weights_loader("@ckpt_path"),
            {"_target_": "StatsHandler", "iteration_log": False},
            {
                "_target_": "MetricsSaver",
                "save_dir": "@output_dir",
                "metrics": ["val_mean_dice"],
                "metric_details": ["val_mean_dice"],
                "batch_transform": "$lambda batch: [item['image'].meta for item in batch]",
                "summary_ops": "*",
            },
        ],
        "initialize": [
            ours(
                f"{PREFLIGHT}.check_evaluation",
                dataset_dir="@dataset_dir",
                ckpt_path="@ckpt_path",
                network="@network_def",
                **_expected(row),
            ),
            "$monai.utils.set_determinism(seed=@seed)",
        ],
        "run": ["$@validate::evaluator.run()"],
        "finalize": ["$print('Dice of each case: ' + os.path.join(@output_dir, 'val_mean_dice_raw.csv'))"],
    }


def multi_gpu_config(row: BundleRow) -> Config:
    """configs/multi_gpu_train.json, laid over train.json, for torchrun; without a GPU it runs on gloo."""
    sampler = {"_target_": "DistributedSampler", "even_divisible": True}
    return {
        "local_rank": "$int(os.environ['LOCAL_RANK'])",
        "device": "$torch.device('cuda', @local_rank) if torch.cuda.is_available() else torch.device('cpu')",
        "network": {
            "_target_": "torch.nn.parallel.DistributedDataParallel",
            "module": "$@network_def.to(@device)",
            "device_ids": "$[@device] if @device.type == 'cuda' else None",
        },
        "train::sampler": {**sampler, "dataset": "@train::dataset", "shuffle": True},
        "train::dataloader::sampler": "@train::sampler",
        "train::dataloader::shuffle": False,
        "train::trainer::train_handlers": (
            f"$@train::handlers[:{-len(_rank_0_handlers())} if torch.distributed.get_rank() > 0 else None]"
        ),
        "validate::sampler": {**sampler, "dataset": "@validate::dataset", "shuffle": False},
        "validate::dataloader::sampler": "@validate::sampler",
        "validate::evaluator::val_handlers": ("$@validate::handlers if torch.distributed.get_rank() == 0 else None"),
        "initialize": [
            _check_training(row),
            "$torch.distributed.init_process_group('nccl' if torch.cuda.is_available() else 'gloo')",
            "$torch.cuda.set_device(@device) if torch.cuda.is_available() else None",
            "$monai.utils.set_determinism(seed=@seed + torch.distributed.get_rank())",
        ],
        "finalize": ["$torch.distributed.destroy_process_group()"],
    }


def _check_training(row: BundleRow) -> Config:
    return ours(
        f"{PREFLIGHT}.check_training",
        dataset_dir="@dataset_dir",
        validation_every=row.task_spec.validation_every,
        **_expected(row),
    )


def _expected(row: BundleRow) -> Config:
    """What the preflight compares a data set with."""
    task = row.task_spec
    return {
        "spatial_dims": task.spatial_dims,
        "in_channels": len(task.channels),
        "out_channels": task.out_channels,
    }


def _split(row: BundleRow, part: str) -> Config:
    return ours(
        f"{DATALIST}.nnunet_split",
        dataset_dir="@dataset_dir",
        part=part,
        validation_every=row.task_spec.validation_every,
    )


def _optimizer(row: BundleRow) -> Config:
    recipe = row.training
    momentum = {"momentum": recipe.momentum, "nesterov": True} if recipe.optimizer == "SGD" else {}
    return {
        "_target_": f"torch.optim.{recipe.optimizer}",
        "params": "$@network.parameters()",
        "lr": "@learning_rate",
        "weight_decay": recipe.weight_decay,
        **momentum,
    }


def _random_transforms(row: BundleRow) -> list[Config]:
    """Patches of both foreground and background, and the affine augmentation of the recipe."""
    both = ["image", "label"]
    transforms: list[Config] = [
        {"_target_": "SpatialPadd", "keys": both, "spatial_size": "@roi_size"},
        {
            "_target_": "RandCropByPosNegLabeld",
            "keys": both,
            "label_key": "label",
            "spatial_size": "@roi_size",
            "pos": 1,
            "neg": 1,
            "num_samples": "@patches_per_image",
        },
    ]
    if row.training.affine_std > 0:
        # A uniform number in [-r, r] has the standard deviation r / sqrt(3). Scales fill the diagonal of the
        # matrix and shears the rest, so every entry is the identity's plus noise of the recipe's deviation.
        dims, reach = row.task_spec.spatial_dims, round(math.sqrt(3) * row.training.affine_std, 4)
        transforms.append(
            {
                "_target_": "RandAffined",
                "keys": both,
                "prob": 1.0,
                "scale_range": [reach] * dims,
                "shear_range": [reach] * (dims * (dims - 1)),
                "mode": ["bilinear", "nearest"],
                "padding_mode": "border",
            }
        )
    return transforms


def _dataset(data: str, transform: str) -> Config:
    return {
        "_target_": "CacheDataset",
        "data": data,
        "transform": transform,
        "cache_rate": "@cache_rate",
        "num_workers": "@num_workers",
        "progress": False,
    }


def _loader(dataset: str, *, batch_size: Any, shuffle: bool) -> Config:
    return {
        "_target_": "DataLoader",
        "dataset": dataset,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "num_workers": "@num_workers",
    }


def _mean_dice(row: BundleRow) -> Config:
    return {
        "_target_": "MeanDice",
        "include_background": False,
        "num_classes": len(row.task_spec.labels),
        "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
    }


def _engine(**keys: Any) -> Config:
    """The keys that trainer and validator share."""
    return {"device": "@device", "network": "@network", **AUTOCAST, **keys}


def _train(row: BundleRow) -> Config:
    validation = {"_target_": "ValidationHandler", "validator": "@validate::evaluator", "epoch_level": True}
    handlers: list[Config] = [
        weights_loader("@pretrained_ckpt", _disabled_="$@pretrained_ckpt is None"),
        {
            "_target_": "LrScheduleHandler",
            "lr_scheduler": "@lr_scheduler",
            "print_lr": False,
            "epoch_level": False,
        },
        {**validation, "interval": "@val_interval"},
        # The last epoch validates too. "$" keeps MONAI's property check from taking this for val_interval.
        {**validation, "interval": "$@epochs", "_disabled_": "$@epochs % @val_interval == 0"},
        *_rank_0_handlers(),
    ]
    return {
        "deterministic_transforms": deterministic_transforms(row, with_label=True),
        "random_transforms": _random_transforms(row),
        "preprocessing": compose("$@train::deterministic_transforms + @train::random_transforms"),
        "dataset": _dataset("@train_datalist", "@train::preprocessing"),
        "dataloader": _loader("@train::dataset", batch_size="@batch_size", shuffle=True),
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": compose([{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]),
        "handlers": handlers,
        "key_metric": {"train_mean_dice": _mean_dice(row)},
        "trainer": _engine(
            _target_="SupervisedTrainer",
            max_epochs="@epochs",
            train_data_loader="@train::dataloader",
            loss_function="@loss",
            optimizer="@optimizer",
            inferer="@train::inferer",
            postprocessing="@train::postprocessing",
            key_train_metric="@train::key_metric",
            train_handlers="@train::handlers",
        ),
        "state_handlers": _state_handlers(),
    }


def _rank_0_handlers() -> list[Config]:
    """The last handlers of training: of several ranks only the first has them."""
    loss_of = "$monai.handlers.from_engine(['loss'], first=True)"
    return [
        {"_target_": "StatsHandler", "tag_name": "train_loss", "output_transform": loss_of},
        {
            "_target_": "TensorBoardStatsHandler",
            "log_dir": "@output_dir",
            "tag_name": "train_loss",
            "output_transform": loss_of,
        },
    ]


def _state_handlers() -> list[Config]:
    """Saving and restoring. ``run`` attaches them: they hold the trainer, so it cannot hold them."""
    state = {
        "model": "@network",
        "optimizer": "@optimizer",
        "lr_scheduler": "@lr_scheduler",
        "trainer": "@train::trainer",
    }
    return [
        {
            "_target_": "CheckpointLoader",
            "_disabled_": "$@resume_ckpt is None",
            "load_path": "@resume_ckpt",
            "load_dict": state,
            "map_location": "@device",
        },
        {
            "_target_": "CheckpointSaver",
            "save_dir": "@ckpt_dir",
            "save_dict": state,
            "file_prefix": "resume",
            "save_interval": "@val_interval",
            "n_saved": 1,
        },
    ]


def _validate(row: BundleRow) -> Config:
    """Validation in the geometry of the images on disk: the label is never resampled, the prediction is."""
    return {
        "deterministic_transforms": deterministic_transforms(row, with_label=False),
        "label_transforms": [{"_target_": "LoadImaged", "keys": "label", "ensure_channel_first": True}],
        "preprocessing": compose("$@validate::deterministic_transforms + @validate::label_transforms"),
        "dataset": _dataset("@val_datalist", "@validate::preprocessing"),
        "dataloader": _loader("@validate::dataset", batch_size=1, shuffle=False),
        "inferer": sliding_window(),
        "postprocessing": compose(to_original_geometry("@validate::preprocessing")),
        "handlers": [
            {"_target_": "StatsHandler", "iteration_log": False},
            {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir", "iteration_log": False},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@network"},
                "save_key_metric": True,
                "key_metric_filename": "model.pt",
            },
            {
                "_target_": "EarlyStopHandler",
                "_disabled_": "$not @early_stop",
                "trainer": None,
                "patience": "@patience",
                "score_function": "$lambda engine: engine.state.metrics['val_mean_dice']",
                "epoch_level": True,
            },
        ],
        "key_metric": {"val_mean_dice": _mean_dice(row)},
        "evaluator": _engine(
            _target_="SupervisedEvaluator",
            val_data_loader="@validate::dataloader",
            inferer="@validate::inferer",
            postprocessing="@validate::postprocessing",
            key_val_metric="@validate::key_metric",
            val_handlers="@validate::handlers",
        ),
    }
