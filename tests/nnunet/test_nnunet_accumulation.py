"""Accumulated gradients against one large batch, under nnU-Net's own training step."""

from types import SimpleNamespace

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from medmixers.nnunet.accumulation import AccumulatingSGD
from medmixers.nnunet.trainer_classes import TRAINERS
from medmixers.recipes import RECIPES

OPTIONS = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
CPU = torch.device("cpu")


def train(batches, *, accumulate, scaler=None):
    """Weights after nnU-Net's training step on each batch."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))
    optimizer = AccumulatingSGD(network.parameters(), accumulate=accumulate, **OPTIONS)
    trainer = SimpleNamespace(
        network=network, optimizer=optimizer, loss=nn.MSELoss(), device=CPU, grad_scaler=scaler
    )  # fmt: skip
    for data, target in batches:
        nnUNetTrainer.train_step(trainer, {"data": data, "target": target})
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def parts(count, size):
    torch.manual_seed(1)
    return [(torch.randn(size, 3), torch.randn(size, 1)) for _ in range(count)]


@pytest.mark.parametrize("scaled", [False, True])
def test_accumulation_equals_one_large_batch(scaled):
    small = parts(8, 2)
    large = [(torch.cat([x for x, _ in small[i : i + 4]]), torch.cat([y for _, y in small[i : i + 4]])) for i in (0, 4)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None
    torch.testing.assert_close(train(small, accumulate=4, scaler=scaler), train(large, accumulate=1))
    start = train([], accumulate=4)
    assert not torch.equal(train(small[:4], accumulate=4), start)
    assert torch.equal(train(small[:3], accumulate=4), start)


def test_a_batch_that_overflows_does_not_count():
    small = parts(2, 2)
    broken = (small[0][0] * float("inf"), small[0][1])
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=1000)
    result = train([small[0], broken, small[1]], accumulate=2, scaler=scaler)
    torch.testing.assert_close(result, train(small, accumulate=2))


def test_one_step_at_a_time_is_plain_sgd():
    network = nn.Linear(3, 1)
    twin = nn.Linear(3, 1)
    twin.load_state_dict(network.state_dict())
    ours, theirs = (
        AccumulatingSGD(network.parameters(), accumulate=1, **OPTIONS), torch.optim.SGD(twin.parameters(), **OPTIONS)
    )  # fmt: skip
    for data, target in parts(3, 2):
        for module, optimizer in ((network, ours), (twin, theirs)):
            optimizer.zero_grad()
            nn.functional.mse_loss(module(data), target).backward()
            optimizer.step()
    assert torch.equal(network.weight, twin.weight)
    assert theirs.state_dict().keys() == ours.state_dict().keys()


def test_the_recipe_trainer_fills_the_recipes_batch(nnunet_folders, stock_plans, dataset_json):
    trainer = TRAINERS["nnUNetTrainerTshimanga2026"](stock_plans, "3d_fullres", "all", dataset_json, CPU)
    trainer.network = nn.Linear(2, 2)
    optimizer, _ = trainer.configure_optimizers()
    recipe = RECIPES[trainer.recipe]
    assert optimizer.accumulate * trainer.configuration_manager.batch_size == recipe.accumulate_batches == 16
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        AccumulatingSGD(trainer.network.parameters(), accumulate=0, lr=0.1)
