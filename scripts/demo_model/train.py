"""Train the demo's model: grey and white matter of brains that it never saw, from simulated heads of one anatomy.

python scripts/train_demo_model.py OUT                 # 4,500 steps, an hour or two on 2 cores; resumes if stopped
python scripts/train_demo_model.py OUT --steps 20      # a try

OUT gets state.pt, log.csv and, at the end, model.pt: the exponential moving average of the weights.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from medmixers.demo.random_domains import Maps, load_maps, random_patch
from medmixers.demo.subjects import load_anatomy
from medmixers.errors import InputError, one_line_errors
from medmixers.factory import create_network
from medmixers.files import written_whole

NETWORK = "token_unet_no_transformer"
OPTIONS: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": (24, 48, 96, 160)}
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP, EMA = 2, 2e-3, 1e-4, 100, 0.999
EVERY = 100  # steps between states


class Patches(IterableDataset[tuple[Tensor, Tensor]]):
    """Random patches from step ``first`` on. Patch i depends on the seed and on i."""

    def __init__(self, maps: Maps, *, seed: int, first: int) -> None:
        self.maps, self.seed, self.first = maps, seed, first

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)
        index = self.first * BATCH
        while True:
            yield random_patch(self.maps, torch.Generator().manual_seed(self.seed * 10**9 + index))
            index += 1


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then one half cosine to 0; relative to LEARNING_RATE."""
    warm_up = min(WARM_UP, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train(out: Path, *, steps: int, seed: int) -> None:
    """Train, or go on where a training in ``out`` stopped."""
    torch.manual_seed(seed)
    network = create_network(NETWORK, **OPTIONS).to(memory_format=torch.channels_last_3d)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(EMA))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    parts: dict[str, Any] = {"network": network, "average": average, "optimizer": optimizer, "scheduler": scheduler}
    first = 0
    if (out / "state.pt").is_file():
        state = torch.load(out / "state.pt", weights_only=True)
        if (state["steps"], state["seed"]) != (steps, seed):
            raise InputError(f"{out} holds a training with steps={state['steps']}, seed={state['seed']}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["done"]
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    maps = load_maps(load_anatomy(1))
    loader = iter(DataLoader(Patches(maps, seed=seed, first=first), batch_size=BATCH, num_workers=1, prefetch_factor=4))
    losses: list[float] = []
    start = time.perf_counter()
    for step in range(first, steps):
        images, labels = next(loader)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):  # half the memory traffic
            logits = network(images.to(memory_format=torch.channels_last_3d))
        loss = loss_of(logits.float(), labels[:, None])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        average.update_parameters(network)
        losses.append(loss.item())
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            seconds, mean = time.perf_counter() - start, sum(losses) / len(losses)
            state = {name: part.state_dict() for name, part in parts.items()}
            with written_whole(out / "state.pt") as partial:
                torch.save({**state, "done": step + 1, "steps": steps, "seed": seed}, partial)
            with open(out / "log.csv", "a", newline="") as file:
                csv.writer(file).writerow([step + 1, f"{mean:.4f}", f"{seconds / len(losses):.2f}"])
            print(f"step {step + 1}/{steps}: loss {mean:.4f}, {seconds / len(losses):.2f} s per step", flush=True)
            losses, start = [], time.perf_counter()
    with written_whole(out / "model.pt") as partial:
        torch.save(average.module.state_dict(), partial)


@one_line_errors("train_demo_model")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.steps < 1:
        raise InputError(f"--steps must be at least 1, got {arguments.steps}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.out, steps=arguments.steps, seed=arguments.seed)


if __name__ == "__main__":
    main()
