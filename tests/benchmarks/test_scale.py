"""Scale: exponents and tables of the figures, what is left out, and that each part measures what it says."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from statistics import median

import numpy as np
import pytest
import scale
import scale_bundles
import scale_loading
import scale_networks
import scale_ranks
import torch
from scale_networks import Point

from medmixers.bundle_runtime.cases import find_images, split
from medmixers.datasets.raw_checks import check_raw_dataset
from medmixers.results.scale import bundle_exponents, bundle_scale_table, exponent, loading_table, scale_table
from medmixers.results.tables import SCALE_TABLES, TABLES


def made_figures(power: float = 1.0, mixer: str = "pooling") -> list[dict]:
    """Rows of three sizes whose time is size ** power, the last of them left out."""
    rows = [
        {"mixer": mixer, "size": [edge] * 3, "pass": name, "ms": [edge ** (3 * power)] * 3, "peak_mib": float(edge**3)}
        for edge in (2, 4, 8)
        for name in scale_networks.PASSES
    ]
    return [*rows, *({"mixer": mixer, "size": [16] * 3, "pass": n, "left_out": "time"} for n in scale_networks.PASSES)]


def test_the_exponent_is_that_of_least_squares_over_the_largest_sizes():
    rng = np.random.default_rng(0)
    sizes = np.array([8.0, 27, 64, 1000, 8000])
    values = 3 * sizes**1.7 * rng.uniform(0.8, 1.2, 5)
    expected = np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0]
    assert exponent(list(sizes), list(values)) == pytest.approx(expected)
    assert exponent([1, 10], [5, 500]) == pytest.approx(2)
    assert exponent([10], [5]) is None
    assert exponent([1, 2, 3], [1, 0, 3]) is None


def test_table_states_what_is_found_expected_and_left_out():
    text = scale_table([*made_figures(), *made_figures(2.0, "global_attention")])
    lines = text.splitlines()
    assert lines[0].startswith("| 3D, inference | 2x2x2 | 4x4x4 | 8x8x8 | 16x16x16 | time grows by (expected) |")
    assert lines[2].startswith("| `pooling` | 8 ms, 8 MiB | 64 ms, 64 MiB | 512 ms, 512 MiB | left out: time |")
    assert lines[2].endswith("| 1.00 (1) | 1.00 (1) |")
    assert lines[3].endswith("| 2.00 (2) | 1.00 (1) |")
    assert "| 3D, training step | " in text
    assert set(SCALE_TABLES) == {f"scale {part}" for part in scale.PARTS}
    assert all(callable(scale.figures_of(part)) for part in scale.PARTS)
    assert {TABLES[name]({}, {}) for name in SCALE_TABLES} == {"Not measured yet."}


def test_what_is_above_the_start_is_fitted():
    row = {"command": "prediction", "over": "cases", "counts": [1, 11, 21], "note": "time 1, memory 0"}
    row |= {"seconds": [5.0, 6.0, 7.0], "peak_bytes": [2**30] * 3}
    assert bundle_exponents(row) == (pytest.approx(1), None)
    assert "| prediction | cases | 1: 5.0 s, 1024 MiB; " in bundle_scale_table([row])


@pytest.mark.parametrize(
    ("mixer", "before", "reason"),
    [
        ("pooling", {"ms": [1000.0], "peak_mib": 1.0}, None),
        ("global_attention", {"ms": [1000.0], "peak_mib": 1.0}, "time"),  # 64 s
        ("pooling", {"ms": [1.0], "peak_mib": 1e9}, "memory"),
        ("pooling", {"left_out": "memory"}, "memory"),
        ("pooling", None, None),
    ],
)
def test_sizes_that_do_not_fit_are_predicted(mixer, before, reason):
    before = before and {"size": [8] * 3, **before}
    assert scale_networks.predicted_excess({"mixer": mixer, "size": [16] * 3}, before) == reason


@pytest.mark.parametrize("kind", ["networks", "mixers"])
def test_a_point_is_measured(kind, monkeypatch):
    monkeypatch.setattr(scale_networks, "in_fresh_process", lambda function, *words: function(*words))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(scale_networks, "QUICK", 1e-6)  # one pass each
    size = (32, 32) if kind == "networks" else (4, 4, 4)
    rows = scale_networks.scale_figures(kind, sizes=[size], mixers=["random_mixing"])
    assert [(row["pass"], row["size"], len(row["ms"])) for row in rows] == [
        (name, list(size), 1) for name in scale_networks.PASSES
    ]
    assert all(median(row["ms"]) > 0 for row in rows)


def test_a_training_step_gives_every_parameter_a_gradient():
    module, x = scale_networks.build(Point("mixers", "grouped_conv", (4, 4)))
    step = scale_networks.training_step(module, x)
    step()
    once = [p.grad.clone() for p in module.parameters()]
    step()
    for parameter, grad in zip(module.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)


def test_each_rank_hands_over_its_gradients_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    scale_ranks.rank_steps(0, 1, str(tmp_path), "token_unet_released_8", 32, 1, 1)
    figures = torch.load(tmp_path / "figures.pt", weights_only=True)
    assert figures["bytes"] == figures["gradient_bytes"] > 10**6
    assert len(figures["ms"]) == len(figures["no_sync_ms"]) == 1


def test_the_data_of_the_parts_are_what_bundles_read(tmp_path):
    scale_loading.write_pictures(tmp_path / "pictures", 20)
    parts = {part: split(tmp_path / "pictures", part=part, validation_every=5) for part in ("training", "validation")}
    assert {part: len(items) for part, items in parts.items()} == {"training": 18, "validation": 2}
    scale_loading.write_volumes(tmp_path / "volumes", 10)
    assert check_raw_dataset(tmp_path / "volumes", parts=("training",)) == 3
    scale_bundles.write_cases(tmp_path / "held_out", 3, 5, 8)
    assert len(find_images(tmp_path / "held_out")) == 3
    assert check_raw_dataset(tmp_path / "held_out", parts=("test",)) == 3
    row = {
        "data": "volumes",
        "cases": 10000,
        "start_s": 9.5,
        "steps_per_s": 20.0,
        "opens_start": 5,
        "peak_bytes": 2**20,
    }
    assert loading_table([{**row, "opens_per_step": 2.0}]).endswith(
        "| volumes | 10,000 | 9.5 s | 20.0 | 5 | 2.0 | 1 MiB |"
    )


def test_figures_are_drawn_alike_each_time(tmp_path):
    figures = [*made_figures(), *made_figures(2.0, "random_mixing")]
    for name in ("one.svg", "two.svg"):
        scale.draw("mixers", figures, tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    shown = {"".join(each.itertext()) for each in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")}
    assert {"pooling", "random_mixing", "3D: time of a training step, ms", "tokens"} <= shown


@pytest.mark.slow
def test_small_runs_of_bundles_and_loading():
    rows = scale_bundles.scale_figures(cases=(1, 2), classes=(2, 3), large=24, repeats=1)
    assert [(row["command"], row["over"]) for row in rows] == list(scale_bundles.NOTES)
    assert all(min(row["seconds"]) > 0 for row in rows)
    few, more = scale_loading.scale_figures(cases=(20, 40), steps=5)[:2]
    assert few["opens_per_step"] == more["opens_per_step"]
    assert few["opens_start"] < more["opens_start"] < 3 * few["opens_start"]
