"""configs/train.json, as a dict: the engines around what a kind of bundle has of its own. No torch here."""

from __future__ import annotations

from typing import Any

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.kinds import kind_of
from medmixers.bundles.render.parts import (
    AUTOCAST,
    DATALIST,
    IMPORTS,
    PREFLIGHT,
    SAVING,
    STATS,
    WORKERS,
    Config,
    compose,
    device,
    expected_data,
    network_keys,
    ours,
    weights_loader,
)

SEED = "$monai.utils.set_determinism(seed=@seed)"
# Every epoch has its own seed, so that a resumed training draws what an uninterrupted one draws.
RESEED = (
    "$lambda engine: (torch.manual_seed({seed} + 1000 * engine.state.epoch), "
    "@train::preprocessing.set_random_state({seed} + 1000 * engine.state.epoch))"
)


def train_config(row: BundleRow) -> Config:
    """configs/train.json."""
    recipe, kind = row.training, kind_of(row)
    return {
        "imports": IMPORTS,
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "$@bundle_root + '/data'",
        **({"fold": 0} if row.task_spec.has_raw_format else {}),
        "train_datalist": _split(row, "training"),
        "val_datalist": _split(row, "validation"),
        "seed": 0,
        "epochs": row.epochs,
        "warmup_epochs": recipe.warmup_epochs,
        "val_interval": kind.VALIDATION_INTERVAL,
        "batch_size": recipe.batch_size,
        "accumulate_batches": recipe.accumulate_batches,
        **kind.sampling_keys(row),
        "learning_rate": recipe.learning_rate,
        "num_workers": WORKERS,
        "cache_rate": row.cache_rate,
        **kind.size_keys(row),
        "amp": "$torch.cuda.is_available()",
        "early_stop": False,
        "patience": 10,
        "pretrained_ckpt": None,
        "resume_ckpt": None,
        "device": device(),
        **network_keys(row),
        **kind.loss_keys(row),
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
        "reseed": RESEED.format(seed="@seed"),
        "check_loss": ours("medmixers.bundle_runtime.check_loss.check_loss", _mode_="callable"),
        "initialize": [SEED, check_training(row)],
        "run": [
            "$[h.set_trainer(@train::trainer) for h in @validate::handlers if hasattr(h, 'set_trainer')]",
            "$[h.attach(@train::trainer) for h in @train::state_handlers if h]",
            "$@train::trainer.add_event_handler(ignite.engine.Events.EPOCH_STARTED, @reseed)",
            "$@train::trainer.add_event_handler(monai.engines.IterationEvents.LOSS_COMPLETED, @check_loss)",
            "$@train::trainer.run()",
        ],
        "finalize": ["$print('best weights: ' + os.path.join(@ckpt_dir, 'model.pt'))"],
    }


def check_training(row: BundleRow) -> Config:
    """The check of the data and of the checkpoints before a training."""
    return ours(
        f"{PREFLIGHT}.check_training",
        dataset_dir="@dataset_dir",
        **split_rule(row),
        network="@network_def",
        pretrained_ckpt="@pretrained_ckpt",
        resume_ckpt="@resume_ckpt",
        epochs="@epochs",
        folders=["@ckpt_dir", "@output_dir"],
        **expected_data(row),
    )


def rank_0_handlers() -> list[Config]:
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


def _split(row: BundleRow, part: str) -> Config:
    return ours(f"{DATALIST}.split", dataset_dir="@dataset_dir", part=part, **split_rule(row))


def split_rule(row: BundleRow) -> Config:
    """What divides the training cases where the data set does not."""
    fold = {"fold": "@fold"} if row.task_spec.has_raw_format else {}
    return {"validation_every": row.task_spec.validation_every, **fold}


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


def _engine(**keys: Any) -> Config:
    """The keys that trainer and validator share."""
    return {"device": "@device", "network": "@network", **AUTOCAST, **keys}


def _train(row: BundleRow) -> Config:
    kind = kind_of(row)
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
        *rank_0_handlers(),
    ]
    fixed, random = kind.training_transforms(row)
    return {
        "deterministic_transforms": fixed,
        "random_transforms": random,
        "preprocessing": compose("$@train::deterministic_transforms + @train::random_transforms"),
        "dataset": _dataset("@train_datalist", "@train::preprocessing"),
        "dataloader": _loader("@train::dataset", batch_size="@batch_size", shuffle=True),
        "inferer": kind.train_inferer(row),
        "postprocessing": compose(kind.training_postprocessing(row)),
        "handlers": handlers,
        "key_metric": kind.training_metrics(row),
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
            accumulation_steps="@accumulate_batches",
        ),
        "state_handlers": _state_handlers(),
    }


def _state_handlers() -> list[Config]:
    """Saving and restoring. ``run`` attaches them: they hold the trainer, so it cannot hold them."""
    state = {
        "model": "@network",
        "optimizer": "@optimizer",
        "lr_scheduler": "@lr_scheduler",
        "trainer": "@train::trainer",
        "best_weights": "@validate::best_weights",
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
            "n_saved": 2,  # ignite removes an old state before it writes the new one
        },
    ]


def _validate(row: BundleRow) -> Config:
    """Validation in the geometry of the images on disk: the label is never resampled, the prediction is."""
    kind = kind_of(row)
    of_image, of_label = kind.validation_transforms(row)
    key_metric, additional_metrics = kind.validation_metrics(row)
    return {
        "deterministic_transforms": of_image,
        "label_transforms": of_label,
        "preprocessing": compose("$@validate::deterministic_transforms + @validate::label_transforms"),
        "dataset": _dataset("@val_datalist", "@validate::preprocessing"),
        "dataloader": _loader("@validate::dataset", batch_size=kind.VALIDATION_BATCH, shuffle=False),
        "inferer": kind.inferer(row),
        "postprocessing": compose(kind.validation_postprocessing(row)),
        "best_weights": ours(f"{SAVING}.best_weights_saver", save_dir="@ckpt_dir", save_dict={"model": "@network"}),
        "handlers": [
            STATS,
            {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir", "iteration_log": False},
            "@validate::best_weights",
            {
                "_target_": "EarlyStopHandler",
                "_disabled_": "$not @early_stop",
                "trainer": None,
                "patience": "@patience",
                "score_function": f"$lambda engine: engine.state.metrics['{kind.KEY_METRIC}']",
                "epoch_level": True,
            },
        ],
        "key_metric": key_metric,
        "additional_metrics": additional_metrics,
        "evaluator": _engine(
            _target_="SupervisedEvaluator",
            val_data_loader="@validate::dataloader",
            inferer="@validate::inferer",
            postprocessing="@validate::postprocessing",
            key_val_metric="@validate::key_metric",
            additional_metrics="@validate::additional_metrics",
            val_handlers="@validate::handlers",
        ),
    }
