"""What each network costs: every network that has a form is visited, between visits of its peer, and the table."""

from __future__ import annotations

from collections import Counter

import costs
import pytest
import torch

from medmixers.results.costs import PEERS, costs_tables

NAMES = ["metaformer_s12", "rad_dino_classifier", "token_unet"]


@pytest.fixture
def visits(monkeypatch):
    """The visits that are made, without measuring."""
    seen = []

    def measure(function, network, size, name):
        seen.append((network, len(size), name))
        return {"ms": [5000.0 if network == "token_unet" else 1.0], "peak_mib": 1.0}

    monkeypatch.setattr(costs, "in_fresh_process", measure)
    return seen


def test_every_form_is_visited_in_each_round_and_long_passes_once(visits):
    rows = costs.cost_figures(NAMES)
    counts = Counter((network, dims) for network, dims, name in visits if name == "inference")
    assert counts["metaformer_s12", 2] == counts["metaformer_s12", 3] == counts["rad_dino_classifier", 2] == 2
    assert counts["token_unet", 2] == counts["token_unet", 3] == 1
    assert counts["rad_dino_classifier", 3] == 0  # 2D alone
    assert counts["timm:resnet50", 2] == 4  # before and after
    assert [len(row["ms"]) for row in rows if row["network"] == "monai:resnet50"] == [4, 4]
    assert {(row["network"], row["task"]) for row in rows} == {
        ("timm:resnet50", "classification"), ("monai:resnet50", "classification"), ("metaformer_s12", "classification"),
        ("rad_dino_classifier", "classification"), ("nnunet:PlainConvUNet", "segmentation"),
        ("token_unet", "segmentation"),
    }  # fmt: skip


def test_the_peer_is_between_the_networks():
    order = costs.with_peer([str(number) for number in range(costs.BETWEEN + 1)], "peer")
    assert [index for index, name in enumerate(order) if name == "peer"] == [0, costs.BETWEEN + 1, costs.BETWEEN + 3]
    assert costs.with_peer([], "peer") == []


def test_a_pass_is_measured(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(costs, "keep_freed_memory", lambda: None)
    found = costs.measure("med_next", (32, 32), "training step")
    assert min(found["ms"]) > 0
    assert set(found) == {"ms", "peak_mib"}  # the peak is right in a fresh process only


@pytest.mark.parametrize(
    ("network", "dims"),
    [
        ("randformer_s12", 2),
        ("randformer_s12", 3),
        ("rad_dino_classifier", 2),
        ("timm:resnet50", 2),
        ("monai:resnet50", 3),
    ],
)
def test_what_needs_more_options_is_built(network, dims):
    """Networks that are bound to an image size or need an encoder, and peers."""
    with torch.device("meta"):
        module, x = costs.build(network, costs.SIZES["classification"][dims])
        assert module(x).shape == (1, 2)


def test_the_table_compares_with_the_peer():
    peer = PEERS["segmentation"][3]

    def row(network, name, ms, peak):
        key = {"network": network, "task": "segmentation", "dims": 3, "pass": name}
        return {**key, "ms": ms, "peak_mib": peak}

    rows = [
        row("token_unet", "inference", [40.0, 20.0, 30.0], 10.0),
        row(peer, "inference", [60.0], 25.0),
        row(peer, "training step", [2000.0], None),
    ]
    assert costs_tables(rows).splitlines() == [
        "| segmentation | 3D inference | 3D training step |",
        "|---|---|---|",
        f"| `{peer}` | 60 ms, 25 MiB | 2.0 s |",
        "| `token_unet` | 30 ms, 10 MiB: **2.00** (2.5) | - |",
    ]
