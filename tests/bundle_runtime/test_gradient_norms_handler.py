"""Gradient norms and clipping against torch's own, in a plain loop and in MONAI's trainer."""

from __future__ import annotations

import csv

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from medmixers.bundle_runtime.epoch_table import NORM_COLUMNS, EpochTable, read_rows
from medmixers.bundle_runtime.gradient_norms import GradientNorms, GradientNormsHandler
from medmixers.bundle_runtime.handlers import GradientClipping


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def data(count):
    torch.manual_seed(1)
    return [{"image": torch.randn(5, 3), "label": torch.randint(0, 2, (5,))} for _ in range(count)]


def expected(layers, loss):
    """Norms of the layers with parameters, by autograd."""
    return [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)]).norm()
        for layer in layers
        if list(layer.parameters())
    ]


def test_norms_are_those_before_clipping_and_without_the_scale_of_the_loss():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    norms = GradientNorms(net, optimizer, scale=lambda: 64.0)
    true = []
    for batch in data(3):
        loss = nn.functional.cross_entropy(net(batch["image"]), batch["label"])
        true.append(torch.stack(expected(net, loss)))
        optimizer.zero_grad()
        (64 * loss).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        optimizer.step()
    rows, true = norms.take(), torch.stack(true)
    assert [(row["layer"], row["updates"], row["not_finite"]) for row in rows] == [("0", 3, 0), ("2", 3, 0)]
    assert [row["mean"] for row in rows] == pytest.approx(true.mean(dim=0).tolist(), rel=1e-5)
    assert [row["largest"] for row in rows] == pytest.approx(true.amax(dim=0).tolist(), rel=1e-5)
    assert norms.take() == []


def test_a_gradient_that_is_not_finite_is_counted():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    norms = GradientNorms(net, optimizer)
    for factor in (1.0, float("inf")):
        optimizer.zero_grad()
        (factor * net(torch.ones(1, 3)).sum()).backward()
        optimizer.step()
    last = norms.take()[-1]
    assert (last["updates"], last["not_finite"]) == (2, 1)
    assert last["mean"] == last["largest"] < float("inf")


def test_frozen_and_compiled_networks():
    net = network()
    net[0].requires_grad_(False)
    compiled = torch.compile(net, backend="eager")
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    norms = GradientNorms(compiled, optimizer)
    loss = compiled(torch.ones(1, 3)).square().sum()
    (true,) = expected([net[2]], loss)
    loss.backward()
    optimizer.step()
    (row,) = norms.take()
    assert row["layer"] == "2"
    assert row["mean"] == pytest.approx(float(true), rel=1e-5)


def test_monais_trainer_writes_a_row_per_epoch_and_layer(tmp_path):
    """With accumulation, an update's gradient is the mean over its batches."""
    net, batches, file = network(), data(4), tmp_path / "norms.csv"
    start = network()
    true = [
        torch.stack(expected(start, sum(nn.functional.cross_entropy(start(b["image"]), b["label"]) for b in two) / 2))
        for two in (batches[:2], batches[2:])
    ]
    SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=2, train_data_loader=batches, network=net, accumulation_steps=2,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.0), loss_function=nn.CrossEntropyLoss(),
        train_handlers=[GradientNormsHandler(path=str(file))],
    ).run()  # fmt: skip
    rows = read_rows(file, NORM_COLUMNS)
    assert [(row["epoch"], row["layer"], row["updates"]) for row in rows] == [
        ("1", "0", "2"), ("1", "2", "2"), ("2", "0", "2"), ("2", "2", "2"),
    ]  # fmt: skip
    assert [float(row["mean"]) for row in rows] == pytest.approx(torch.stack(true).mean(dim=0).tolist() * 2, rel=1e-5)


def test_a_resumed_training_replaces_the_epochs_that_it_repeats(tmp_path):
    file = tmp_path / "norms.csv"
    row = {"layer": "a", "mean": 1.0, "largest": 2.0, "updates": 3, "not_finite": 0}
    first = EpochTable(file, NORM_COLUMNS)
    for epoch in (1, 2, 3):
        first.begin(epoch)
        first.add(epoch, [row])
    with file.open("a") as content:
        content.write("4,a,1.0")  # killed while it wrote
    second = EpochTable(file, NORM_COLUMNS)
    for epoch in (3, 4):
        second.begin(epoch)
        second.add(epoch, [{**row, "mean": 5.0}])
    with file.open(newline="") as content:
        assert next(csv.reader(content)) == list(NORM_COLUMNS)
    assert [(each["epoch"], each["mean"]) for each in read_rows(file, NORM_COLUMNS)] == [
        ("1", "1.0"), ("2", "1.0"), ("3", "5.0"), ("4", "5.0"),
    ]  # fmt: skip


def test_clipping_is_torchs_and_comes_once_per_update():
    """With accumulation: two updates of two batches, against a plain loop."""
    net, plain, batches = network(), network(), data(4)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    for two in (batches[:2], batches[2:]):
        optimizer.zero_grad()
        (sum(nn.functional.cross_entropy(plain(b["image"]), b["label"]) for b in two) / 2).backward()
        assert nn.utils.clip_grad_norm_(plain.parameters(), 0.1) > 0.1
        optimizer.step()
    SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=batches, network=net, accumulation_steps=2,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.5), loss_function=nn.CrossEntropyLoss(),
        train_handlers=[GradientClipping(max_norm=0.1)],
    ).run()  # fmt: skip
    for found, expected in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
