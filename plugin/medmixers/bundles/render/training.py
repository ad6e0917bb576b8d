"""configs/train.json, as a dict: the engines around what a kind of bundle has of its own."""

from __future__ import annotations

from typing import Any

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.kind import BundleKind
from medmixers.bundles.render.kinds import kind_of
from medmixers.bundles.render.parts import (
    ALLOCATOR,
    AUTOCAST,
    FIND_PACKAGE,
    IMPORTS,
    ONE_LINE_ERRORS,
    STATS,
    WORKERS,
    Config,
    check_options,
    compose,
    device,
    expected_data,
    image_reader,
    label_reader,
    network_keys,
    network_options,
    ours,
)

# Ranks build the same networks: what happens in an epoch has seeds of its own, which differ by the rank.
SEED = "$monai.utils.set_determinism(seed=@seed)"
FIRST_RANK_ONLY = {"_disabled_": "$@rank > 0"}
# The length that runs: MONAI Label sets it here, not by the option ``epochs``.
EPOCHS = "@train::trainer::max_epochs"
TRAIN_LOSS = "$monai.handlers.from_engine(['loss'], first=True)"


def train_config(row: BundleRow) -> Config:
    """configs/train.json: what a person changes, data, network, training, validation, what runs."""
    kind = kind_of(row)
    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        **FIND_PACKAGE,
        **_options(row, kind),
        "train_datalist": _split(row, "training"),
        "val_datalist": _split(row, "validation"),
        **kind.data_keys(),
        **image_reader(row),
        **label_reader(row),
        **network_keys(row),
        "loss": kind.loss(),
        "optimizer": _optimizer(row),
        "lr_scheduler": ours(
            "parameter_groups.WarmupCosine",
            optimizer="@optimizer",
            warmup_steps=f"$min(@warmup_epochs, {EPOCHS} // 2) * len(@train::dataloader)",
            t_total=f"${EPOCHS} * len(@train::dataloader)",
            end_lr=row.training.min_learning_rate,
            warmup_multiplier=0.01,
        ),
        "train": _train(kind),
        "validate": _validate(kind),
        "preflight": _preflight(row),
        "initialize": [check_options(), SEED],
        "built": ours("preflight.check_built", keys=["train::trainer"]),
        **ALLOCATOR,
        "run": ["@preflight", "@built", "@allocator", "$@train::trainer.run()"],
        "finalize": [ours("saving.say_best_weights", folder="@ckpt_dir")],
    }


def _options(row: BundleRow, kind: BundleKind) -> Config:
    """Top-level keys that a person changes: places, length, batches, size, network, machine."""
    recipe = row.training
    return {
        "dataset_dir": "$@bundle_root + '/data'",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        **({"fold": 0} if row.task_spec.has_raw_format else {}),
        "epochs": row.epochs,
        "learning_rate": recipe.learning_rate,
        "layer_decay": None,
        "warmup_epochs": recipe.warmup_epochs,
        "batch_size": recipe.batch_size,
        "accumulate_batches": recipe.accumulate_batches,
        "num_iterations_per_epoch": row.num_iterations_per_epoch,
        "clip_grad_norm": recipe.clip_grad_norm,
        "ema_decay": recipe.ema_decay,
        **kind.sampling_options(),
        **kind.size_keys(),
        **network_options(row),
        "val_interval": kind.validation_interval,
        "early_stop": False,
        "patience": 10,
        "pretrained_ckpt": None,
        "pretrained_adapt": False,
        "resume_ckpt": None,
        "seed": 0,
        "device": device(),
        "amp": "$torch.cuda.is_available()",
        "num_workers": WORKERS,
        "cache_rate": row.cache_rate,
        "cache_dir": None,
        "rank": 0,
    }


def _preflight(row: BundleRow) -> Config:
    """The check of the data and of the checkpoints before a training. It builds the network by its key."""
    return ours(
        "preflight.check_training",
        dataset_dir="@dataset_dir",
        **split_rule(row),
        **expected_data(row),
        network="network_def",
        pretrained_ckpt="@pretrained_ckpt",
        pretrained_adapt="@pretrained_adapt",
        resume_ckpt="@resume_ckpt",
        epochs=EPOCHS,
        folders=["@ckpt_dir", "@output_dir", "@cache_dir"],
    )


def _split(row: BundleRow, part: str) -> Config:
    return ours("cases.split", dataset_dir="@dataset_dir", part=part, **split_rule(row))


def split_rule(row: BundleRow) -> Config:
    """What divides the training cases where the data set does not."""
    fold = {"fold": "@fold"} if row.task_spec.has_raw_format else {}
    return {"validation_every": row.task_spec.validation_every, **fold}


def _optimizer(row: BundleRow) -> Config:
    recipe = row.training
    momentum = {"momentum": recipe.momentum, "nesterov": True} if recipe.optimizer == "SGD" else {}
    return {
        "_target_": f"{'timm' if recipe.optimizer == 'Lamb' else 'torch'}.optim.{recipe.optimizer}",
        "params": ours(
            "parameter_groups.parameter_groups",
            network="@network",
            learning_rate="@learning_rate",
            layer_decay="@layer_decay",
        ),
        "lr": "@learning_rate",
        "weight_decay": recipe.weight_decay,
        **momentum,
    }


def _dataset(data: str, transform: str) -> Config:
    cache = {"cache_rate": "@cache_rate", "cache_dir": "@cache_dir", "num_workers": "@num_workers"}
    return ours("caching.cached_dataset", data=data, transform=transform, **cache)


def _loader(dataset: str, *, batch_size: Any, shuffle: bool) -> Config:
    options = {"batch_size": batch_size, "shuffle": shuffle, "num_workers": "@num_workers"}
    return ours("loading.OneLineLoader", dataset=dataset, **options)


def _train(kind: BundleKind) -> Config:
    fixed, random = kind.training_transforms()
    metrics = kind.training_metrics()
    return {
        "deterministic_transforms": fixed,
        "random_transforms": random,
        "preprocessing": compose("$@train::deterministic_transforms + @train::random_transforms"),
        "dataset": _dataset("@train_datalist", "@train::preprocessing"),
        "dataloader": {
            **_loader("@train::dataset", batch_size="@batch_size", shuffle=True),
            "iterations": "@num_iterations_per_epoch",
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": compose(kind.training_postprocessing()),
        **({"key_metric": metrics} if metrics else {}),
        "average": ours(
            "handlers.WeightAverage", network="@network", validator="@validate::evaluator", decay="@ema_decay"
        ),
        "handlers": _train_handlers(kind),
        "trainer": {
            "_target_": "SupervisedTrainer",
            "device": "@device",
            "max_epochs": "@epochs",
            "train_data_loader": "@train::dataloader",
            "network": "@network",
            "optimizer": "@optimizer",
            "loss_function": "@loss",
            "inferer": "@train::inferer",
            "postprocessing": "@train::postprocessing",
            **({"key_train_metric": "@train::key_metric"} if metrics else {}),
            **kind.batch_augmentation(),
            "train_handlers": "@train::handlers",
            "accumulation_steps": "@accumulate_batches",
            **AUTOCAST,
        },
    }


def _train_handlers(kind: BundleKind) -> list[Config]:
    """In the order in which they act. The state is saved last: it holds what the validation found."""
    validation = {"_target_": "ValidationHandler", "validator": "@validate::evaluator", "epoch_level": True}
    logged = {"tag_name": "train_loss", "output_transform": TRAIN_LOSS}
    return [
        ONE_LINE_ERRORS,
        ours(
            "handlers.StartWeights",
            path="@pretrained_ckpt",
            network="@network",
            device="@device",
            adapt="@pretrained_adapt",
        ),
        ours("handlers.EpochSeeds", seed="$@seed + @rank", transforms="@train::preprocessing"),
        ours("handlers.LossCheck"),
        ours("handlers.GradientClipping", max_norm="@clip_grad_norm", _disabled_="$@clip_grad_norm == 0"),
        {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False, "epoch_level": False},
        {**validation, "interval": "@val_interval"},
        # The last epoch validates too. "$" keeps MONAI's property check from taking this for val_interval.
        {**validation, "interval": f"${EPOCHS}", "_disabled_": f"${EPOCHS} % @val_interval == 0"},
        ours(
            "handlers.EarlyStop",
            validator="@validate::evaluator",
            metric=kind.key_metric,
            patience="@patience",
            _disabled_="$not @early_stop",
        ),
        ours("handlers.Stats", **logged, **FIRST_RANK_ONLY),
        {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir", **logged, **FIRST_RANK_ONLY},
        ours(
            "handlers.TrainingState",
            save_dir="@ckpt_dir",
            interval="@val_interval",
            resume_ckpt="@resume_ckpt",
            device="@device",
            network="@network",
            optimizer="@optimizer",
            lr_scheduler="@lr_scheduler",
            best_weights="@validate::best_weights",
            average="@train::average",
        ),
    ]


def _validate(kind: BundleKind) -> Config:
    """Validation in the geometry of the images on disk: the label is never resampled, the prediction is."""
    of_image, of_label = kind.validation_transforms()
    key_metric, additional_metrics = kind.validation_metrics()
    tensorboard = {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir", "iteration_log": False}
    return {
        "deterministic_transforms": of_image,
        "label_transforms": of_label,
        "preprocessing": compose("$@validate::deterministic_transforms + @validate::label_transforms"),
        "dataset": _dataset("@val_datalist", "@validate::preprocessing"),
        "dataloader": _loader("@validate::dataset", batch_size=kind.validation_batch, shuffle=False),
        "inferer": kind.inferer(),
        "postprocessing": compose(kind.validation_postprocessing()),
        "key_metric": key_metric,
        "additional_metrics": additional_metrics,
        "best_weights": ours("saving.best_weights_saver", save_dir="@ckpt_dir", save_dict={"model": "@network"}),
        "handlers": [
            ONE_LINE_ERRORS,
            {**STATS, **FIRST_RANK_ONLY},
            {**tensorboard, **FIRST_RANK_ONLY},
            "@validate::best_weights",
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate::dataloader",
            "network": "@network",
            "inferer": "@validate::inferer",
            "postprocessing": "@validate::postprocessing",
            "key_val_metric": "@validate::key_metric",
            "additional_metrics": "@validate::additional_metrics",
            "val_handlers": "@validate::handlers",
            **AUTOCAST,
        },
    }
