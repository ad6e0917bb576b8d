"""configs/evaluate.json and multi_gpu_train.json, as dicts: small files laid over train.json. No torch here."""

from __future__ import annotations

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.kinds import kind_of
from medmixers.bundles.render.parts import DATALIST, PREFLIGHT, Config, expected_data, ours
from medmixers.bundles.render.training import RESEED, SEED, check_training, rank_0_handlers, split_rule


def evaluate_config(row: BundleRow) -> Config:
    """configs/evaluate.json, laid over train.json: the test cases, in the geometry of their images."""
    return {
        "ckpt_path": "$@ckpt_dir + '/model.pt'",
        "evaluated_part": row.evaluated_part,
        "val_datalist": ours(
            f"{DATALIST}.split", dataset_dir="@dataset_dir", part="@evaluated_part", **split_rule(row)
        ),
        **kind_of(row).evaluation_keys(row),
        "initialize": [
            SEED,
            ours(
                f"{PREFLIGHT}.check_evaluation",
                dataset_dir="@dataset_dir",
                part="@evaluated_part",
                **split_rule(row),
                ckpt_path="@ckpt_path",
                network="@network_def",
                folders=["@output_dir"],
                **expected_data(row),
                **(
                    {"class_names": list(row.task_spec.label_names.values())}
                    if row.task_spec.task == "classification"
                    else {}
                ),
            ),
        ],
        "run": ["$@validate::evaluator.run()"],
    }


def multi_gpu_config(row: BundleRow) -> Config:
    """configs/multi_gpu_train.json, laid over train.json, for torchrun; without a GPU it runs on gloo."""
    sampler = {"_target_": "DistributedSampler", "even_divisible": True}
    rank = "torch.distributed.get_rank()"
    reseed = RESEED.format(seed=f"@seed + {rank}").removesuffix(")")
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
        "train::trainer::train_handlers": f"$@train::handlers[:{-len(rank_0_handlers())} if {rank} > 0 else None]",
        "validate::sampler": {**sampler, "dataset": "@validate::dataset", "shuffle": False},
        "validate::dataloader::sampler": "@validate::sampler",
        # Metrics are gathered, the same on every rank: all stop at once, or those that go on wait for ever.
        "validate::evaluator::val_handlers": (
            f"$@validate::handlers if {rank} == 0 else [h for h in @validate::handlers if hasattr(h, 'set_trainer')]"
        ),
        "reseed": f"{reseed}, @train::sampler.set_epoch(engine.state.epoch))",
        "initialize": [
            # The same seed on every rank while the networks are built; the epochs' seeds then differ by the rank.
            SEED,
            check_training(row),
            "$torch.distributed.init_process_group('nccl' if torch.cuda.is_available() else 'gloo')",
            "$torch.cuda.set_device(@device) if torch.cuda.is_available() else None",
        ],
        "finalize": ["$torch.distributed.destroy_process_group()"],
    }
