"""results/networks.json says what the code does."""

import signal

import pytest
import record_networks
from exports import time_limit
from samples import count_parameters

from medmixers.results import network_facts
from medmixers.results.tables import exports_table


def test_recorded_counts_and_names_are_current():
    assert record_networks.differences(network_facts()) == [], "run: python scripts/benchmarks/record_networks.py"


def test_differences_are_found(monkeypatch):
    facts = network_facts()
    counts = facts["parameters"]
    monkeypatch.setattr(record_networks, "count_all", lambda: counts)
    changed = {**facts, "parameters": {**counts, "token_unet": {"2D": 1, "3D": 2}, "fly": {"2D": 1, "3D": 1}}}
    changed["exports"] = {**facts["exports"], "walks": facts["exports"]["poolformer_*"]}
    del changed["exports"]["caformer_*"]
    assert record_networks.differences(changed) == [
        "parameters: token_unet",
        "parameters of no network: fly",
        "exports of no network: walks",
        "exports not measured yet: caformer_*",
    ]


def test_count_is_of_published_size_and_none_without_a_form():
    assert count_parameters("token_unet", 3) / 1e6 == pytest.approx(
        5.61, abs=0.005
    )  # Tshimanga et al.: 4 -> 3 channels
    assert count_parameters("token_unet", 4) is None


def test_table_joins_equal_outcomes_and_splits_dimensions():
    yes = {"torch.compile": "any size", "torch.export": "any size", "TorchScript": "any size", "ONNX": "any size"}
    exports = {
        "a": {"2D": yes, "3D": yes},
        "b": {"2D": yes, "3D": {**yes, "ONNX": "one size"}},
        "c": {"2D": yes, "3D": None},
    }
    assert exports_table(exports).splitlines()[2:] == [
        "| `a`, `c` | any size | any size | any size | any size |",
        "| `b` | any size | any size | any size | 2D any size, 3D one size |",
    ]


def test_the_time_limit_of_an_export_ends_it_and_keeps_an_earlier_alarm():
    before, length = signal.getitimer(signal.ITIMER_REAL)  # pytest-timeout's, of this test
    assert before > 0
    with pytest.raises(TimeoutError, match=r"not done in 0\.01 seconds"), time_limit(0.01):
        signal.pause()
    after = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < after[0] <= before
    assert after[1] == length
