"""The benchmark's measuring and its table; the peers compute what ours computes."""

import json
import subprocess
from pathlib import Path
from statistics import median

import benchmark
import measure
import peers
import pytest
import torch
from comparisons import COMPARISONS, FORWARD, HALF, OURS, TRAINING, Comparison
from measure import as_json, compare, has_bfloat16
from torch import nn

import preloaded
from medmixers import create_network
from medmixers.results.tables import benchmark_table

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "benchmark.py"


def run_script(*arguments):
    return subprocess.run([preloaded.python(), SCRIPT, *arguments], capture_output=True, text=True)


def absent():
    raise ImportError("No module named 'absent'\nand more")


def test_a_peer_that_cannot_run_is_reported_and_the_rest_measured(monkeypatch):
    contenders = {OURS: lambda: nn.Linear(8, 8), "slow": lambda: nn.Linear(8, 20_000), "absent": absent}
    monkeypatch.setattr(measure, "COMPARISONS", {"tiny": Comparison((4, 8), contenders)})
    rows = measure.compare("tiny", memory=False)
    assert [(row.run, row.contender) for row in rows] == [(run, c) for run in (FORWARD, TRAINING) for c in contenders]
    for ours, slow, missing in (rows[:3], rows[3:]):
        assert min(*ours.milliseconds, *slow.milliseconds) > 0
        assert len(ours.milliseconds) == len(slow.milliseconds) > 1
        assert missing.error == "No module named 'absent'"
        assert missing.milliseconds == ()
    lines = benchmark_table(map(as_json, rows)).splitlines()
    assert len(lines) == 2 + 2 + 2
    ratio = median(rows[1].milliseconds) / median(rows[0].milliseconds)
    assert lines[2].endswith(f" | slow **{ratio:.2f}** |")
    assert lines[-1] == "Not run: absent: No module named 'absent'."


def test_what_torch_compile_wraps_is_the_reason():
    def no_backward():
        try:
            raise NotImplementedError("no backward on CPU")
        except NotImplementedError as error:
            raise torch._dynamo.exc.Unsupported("Observed exception\nHint: many lines") from error

    with pytest.raises(torch._dynamo.exc.Unsupported) as raised:
        no_backward()
    assert measure.reason(raised.value) == "no backward on CPU"


def test_bfloat16_is_a_pass_where_the_processor_has_it_and_says_what_it_changes(monkeypatch):
    pair = {OURS: lambda: nn.Linear(64, 64), "same": lambda: nn.Linear(64, 64)}
    monkeypatch.setattr(measure, "COMPARISONS", {"tiny": Comparison((4, 64), pair, passes=(FORWARD, HALF))})
    monkeypatch.setattr(measure, "has_bfloat16", lambda device: False)
    assert {row.run for row in measure.compare("tiny", memory=False)} == {FORWARD}
    monkeypatch.setattr(measure, "has_bfloat16", lambda device: True)
    *full, ours, same = measure.compare("tiny", memory=False)
    assert [row.change for row in full] == [None, None]
    assert 1e-4 < ours.change == same.change < 2e-2  # eight bits of mantissa
    flags = Path("/proc/cpuinfo")
    if flags.is_file() and "avx512_bf16" in flags.read_text():
        assert has_bfloat16("cpu")


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
    x = torch.randn(1, 1, *(64,) * dims)  # the last map is 2 voxels wide: smaller than the kernel
    assert any(isinstance(module, peers.AveragePooling) for module in naive.modules())
    torch.testing.assert_close(ours(x), naive(x), rtol=1e-5, atol=1e-5)


def test_comparisons_recorded_alone_leave_the_whole_run(tmp_path):
    path = tmp_path / "measured.json"
    rows = [{"comparison": name, "ms": 1} for name in ("a", "a", "b")]
    benchmark.store(rows, device="cpu", only="", run={"commit": "old"}, path=path)
    benchmark.store([{"comparison": "a", "ms": 2}], device="cpu", only="a", run={"commit": "new"}, path=path)
    assert json.loads(path.read_text()) == {
        "benchmark cpu": {"commit": "old", "figures": [{"comparison": "b", "ms": 1}]},
        "benchmark cpu a": {"commit": "new", "figures": [{"comparison": "a", "ms": 2}]},
    }
    benchmark.store(rows, device="cpu", only="", run={"commit": "newest"}, path=path)
    assert json.loads(path.read_text()) == {"benchmark cpu": {"commit": "newest", "figures": rows}}


def test_script_prints_the_table_and_refuses_what_it_cannot_do():
    out = run_script("--quick", "--only", "pooling 56x56")
    assert out.returncode == 0, out.stderr
    assert "| pooling 56x56 kernel 3 | forward | " in out.stdout
    unknown = run_script("--only", "poling")
    assert unknown.returncode == 2
    assert "no comparison has 'poling' in its name; valid: " in unknown.stderr
    assert "--record is for a whole run" in run_script("--record", "--quick").stderr
