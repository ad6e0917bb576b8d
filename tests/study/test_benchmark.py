"""The benchmark's measuring and its table; the peers compute what ours computes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from medmixers import create_network
from medmixers.study import benchmark, peers
from medmixers.study.benchmark import COMPARISONS, FORWARD, OURS, TRAINING, Comparison, compare, table

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"


def run_script(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def absent():
    raise ImportError("No module named 'absent'\nand more")


def test_a_peer_that_cannot_run_is_reported_and_the_rest_measured(monkeypatch):
    contenders = {OURS: lambda: nn.Linear(8, 8), "slow": lambda: nn.Linear(8, 20_000), "absent": absent}
    monkeypatch.setattr(benchmark, "COMPARISONS", {"tiny": Comparison((4, 8), contenders)})
    rows = benchmark.compare("tiny", memory=False)
    assert [(row.run, row.contender) for row in rows] == [(run, c) for run in (FORWARD, TRAINING) for c in contenders]
    for ours, slow, missing in (rows[:3], rows[3:]):
        assert 0 < ours.low <= ours.milliseconds <= ours.high
        assert slow.milliseconds > 2 * ours.milliseconds
        assert missing.error == "No module named 'absent'"
        assert missing.milliseconds is None
    lines = table(rows).splitlines()
    assert len(lines) == 2 + 4
    assert "not run: No module named 'absent'" in lines[3]
    assert f"**{rows[1].milliseconds / rows[0].milliseconds:.2f}**" in lines[2]


def test_peaks_are_measured_in_processes_of_their_own():
    name = next(name for name in COMPARISONS if name.startswith("pooling 32x32x32"))
    ours, peer = compare(name)[:2]
    for row in (ours, peer):
        assert 8 < row.peak_mib < 200  # the output alone takes 8 MiB


def test_every_comparison_starts_with_ours_and_builds():
    for comparison in COMPARISONS.values():
        assert next(iter(comparison.contenders)) == OURS
        assert len(comparison.contenders) > 1
        with torch.device("meta"):
            x = torch.empty(comparison.size)
            assert comparison.contenders[OURS]().eval()(x).shape[0] == comparison.size[0]


@pytest.mark.parametrize("dims", [2, 3])
def test_naive_metaformer_computes_the_same(dims):
    options = {"spatial_dims": dims, "in_channels": 1, "out_channels": 2, "depths": (1,) * 4, "dims": (8, 8, 16, 16)}
    naive = peers.naive_metaformer("metaformer_s12", kernel_size=3, **options).eval()
    ours = create_network("metaformer_s12", mixer="pooling", kernel_size=3, **options).eval()
    ours.load_state_dict(naive.state_dict())
    x = torch.randn(1, 1, *(96,) * dims)  # nn.AvgPool3d refuses maps smaller than its kernel
    assert any(isinstance(module, peers.AveragePooling) for module in naive.modules())
    torch.testing.assert_close(ours(x), naive(x), rtol=1e-5, atol=1e-5)


def test_script_prints_the_table_and_refuses_what_it_cannot_do():
    out = run_script("--quick", "--only", "pooling 56x56")
    assert out.returncode == 0, out.stderr
    assert "| pooling 56x56 kernel 3 | forward | " in out.stdout
    unknown = run_script("--only", "poling")
    assert unknown.returncode == 1
    assert "no comparison has 'poling' in its name; valid: " in unknown.stderr
    assert "--record is for a whole run" in run_script("--record", "--quick").stderr
