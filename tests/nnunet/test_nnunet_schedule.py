"""The recipe's learning rate over a run, and that a resumed run continues it."""

import math

import pytest
import torch

from medmixers.nnunet.schedule import RecipeSchedule, build_optimizer, learning_rate_at
from medmixers.recipes import TrainingRecipe


def recipe(**changes):
    values = {
        "optimizer": "SGD", "learning_rate": 0.1, "min_learning_rate": 0.001, "weight_decay": 3e-5,
        "momentum": 0.9, "epochs": 100, "warmup_epochs": 10, "source": "test", "notes": "",
    }  # fmt: skip
    return TrainingRecipe(**{**values, **changes})


def test_cosine_without_warmup_starts_at_the_top():
    rates = [learning_rate_at(recipe(warmup_epochs=0), epoch, 4) for epoch in range(5)]
    cosine = [0.001 + 0.099 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert rates == pytest.approx(cosine)
    assert (rates[0], rates[4]) == pytest.approx((0.1, 0.001))


def test_warmup_keeps_its_share_of_a_shorter_run():
    rates = [learning_rate_at(recipe(), epoch, 20) for epoch in range(20)]
    assert rates[:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])  # 10 of 100 epochs are 2 of 20
    assert rates[2:] == sorted(set(rates[2:]), reverse=True)
    assert min(rates) > 0


def test_a_resumed_schedule_equals_an_uninterrupted_one():
    def run(epochs, state=None):
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = build_optimizer(recipe(), [weight])
        schedule = RecipeSchedule(optimizer, recipe(), 20)
        if state is not None:
            optimizer.load_state_dict(state)
        rates = []
        for epoch in epochs:
            schedule.step(epoch)
            rates.append(optimizer.param_groups[0]["lr"])
            assert schedule.get_last_lr() == [rates[-1]]
            optimizer.step()
        return rates, optimizer.state_dict()

    whole, _ = run(range(20))
    first, state = run(range(7))
    assert first + run(range(7, 20), state)[0] == whole


def test_optimizers():
    weight = torch.nn.Parameter(torch.ones(1))
    sgd = build_optimizer(recipe(), [weight])
    assert isinstance(sgd, torch.optim.SGD)
    assert {k: sgd.defaults[k] for k in ("lr", "momentum", "nesterov", "weight_decay")} == {
        "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 3e-5,
    }  # fmt: skip
    for name in ("AdamW", "Adam"):
        adaptive = build_optimizer(recipe(optimizer=name, momentum=0.0), [weight])
        assert type(adaptive) is getattr(torch.optim, name)
        assert (adaptive.defaults["lr"], adaptive.defaults["weight_decay"]) == (0.1, 3e-5)
        assert adaptive.defaults["fused"] is True
        plain = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))], lr=0.1, weight_decay=3e-5)
        for optimizer in (adaptive, plain):
            (updated,) = optimizer.param_groups[0]["params"]
            updated.grad = torch.full_like(updated, 0.3)
            optimizer.step()
        torch.testing.assert_close(adaptive.param_groups[0]["params"], plain.param_groups[0]["params"])
        weight.data.fill_(1)
    assert (
        build_optimizer(
            recipe(optimizer="Adam", momentum=0.0), [torch.nn.Parameter(torch.ones(1, device="meta"))]
        ).defaults["fused"]
        is None
    )
    with pytest.raises(ValueError, match="Adam cannot accumulate gradients here, got accumulate=4"):
        build_optimizer(recipe(optimizer="Adam", momentum=0.0), [weight], accumulate=4)
