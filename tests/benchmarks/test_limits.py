"""Limits: operations and bytes counted as the mixers have them, and goals answered by the least time."""

from __future__ import annotations

import limits
import pytest
import torch
from comparisons import COMPARISONS

from medmixers.layers.macs import count_macs
from medmixers.results.limits import answer, least_ms, limits_table, rates_table
from medmixers.results.tables import TABLES


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Rates of 10^9 per second, and products of 10^9 multiply-adds per second."""
    names = (
        "copy beyond the cache",
        "additions",
        "integer products",
        "exponentials",
        "multiply-adds of a large product",
    )
    monkeypatch.setattr(limits, "rates", lambda: dict.fromkeys(names, 1e9))
    monkeypatch.setattr(limits, "product_ms", lambda m, k, n: m * k * n / 1e6)
    monkeypatch.setattr(limits, "copy_ms", lambda numbers: 8 * numbers / 1e6)


def test_every_target_is_a_comparison_of_the_benchmark():
    for target in limits.TARGETS:
        assert target.peer in COMPARISONS[target.comparison].contenders


def test_the_products_of_poolformer_are_its_multiply_adds():
    x = torch.randn(1, 3, 224, 224)
    with torch.device("meta"):
        network = COMPARISONS["poolformer_s12 1x224x224"].contenders["ours"]()
        macs = count_macs(network, torch.empty(1, 3, 224, 224))
    assert limits.poolformer(x)["products"] == pytest.approx(macs / 1e6)


def test_operations_of_mixers():
    x = torch.randn(1, 2, 8, 16)
    assert limits.pooling(x) == {"bytes": pytest.approx(8 * 256 / 1e6), "additions": pytest.approx(6 * 256 / 1e6)}
    assert limits.grouped_conv(x)["multiply-adds"] == pytest.approx(49 * 256 / 1e6)
    assert limits.random_mixing(x)["operations"] == pytest.approx((4 + 2) * 128**2 / 1e6)


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        (1.0, "met"),
        (4.0, "not met: the goal needs 1.00 ms"),
        (4.0, "out of reach of torch's operators: the goal needs 1.00 ms"),
        (1.25, "not met: the goal needs 1.00 ms; ours is faster than the measured rate"),
    ],
)
def test_goals_are_answered_by_the_least_time(ours, text):
    row = {"comparison": "c", "peer": "p", "goal": 2, "ours_ms": ours, "peer_ms": 2.0, "counts": "n"}
    row["least_ms"] = {"bytes": 0.5, "operations": 1.5 if "out" in text or "rate" in text else 0.75}
    assert answer(row) == text
    assert least_ms(row) == row["least_ms"]["operations"]
    assert limits_table([row]).endswith(f"| {least_ms(row) / ours:.0%} | {text} |")


def test_rates_have_their_units_and_are_measured():
    lines = rates_table({"copy in the cache": 2e10, "additions": 3e9}).splitlines()
    assert lines[2:] == ["| copy in the cache | 20.0 GB |", "| additions | 3.0 billion |"]
    assert limits.best(lambda: None, seconds=0.001) >= 0
    assert TABLES["limits"]({}, {}) == "Not measured yet."


def test_a_target_is_measured(monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 0.0)
    row = limits.figures_of((limits.TARGETS[2],))["targets"][0]
    assert min(row["ours_ms"], row["peer_ms"]) > 0
