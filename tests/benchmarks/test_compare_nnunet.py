"""scripts/benchmarks/compare_nnunet.py: what it compares, how it goes on after an interruption, its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import compare_nnunet as compare
import pytest

from medmixers.mixers import TOKEN_MIXERS
from medmixers.nnunet.architecture import check_segmentation, network_option_names
from medmixers.nnunet.trainer_classes import TRAINERS
from medmixers.results.tables import RECIPES, TABLES, nnunet_table

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "compare_nnunet.py"
RUN = {
    "date": "2026-01-31", "commit": "0123456789", "dirty": False, "processor": "P", "cores": 2, "device": "cpu",
    "versions": {"torch": "2.8", "monai": "1.6", "nnunetv2": "2.8"}, "epochs": 4, "iterations": 20, "resolution": 2,
}  # fmt: skip


def row(name: str) -> dict:
    return {
        "name": name, "trainer": compare.STOCK_RECIPE, "seconds_per_iteration": 0.514, "parameters": 1234567,
        "dice": {"grey_matter": 0.5, "white_matter": 0.75}, "seconds_per_case": 3.0,
    }  # fmt: skip


def test_what_is_compared_can_be_built_and_trained() -> None:
    assert len(compare.CONTENDERS) == 12
    for contender in compare.CONTENDERS.values():
        assert contender.trainer in TRAINERS
        assert contender.trainer in RECIPES
        if contender.network is not None:
            check_segmentation(contender.network)
            assert set(contender.options) <= set(network_option_names(contender.network))
    assert list(compare.SEVEN) == list(TOKEN_MIXERS)[:7], "those of Keuth et al."


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    called = []

    def measure(name: str) -> dict:
        called.append(name)
        if called == ["a", "b, c"]:
            raise RuntimeError("killed")
        return row(name)

    comparison = SimpleNamespace(folder=tmp_path, measure=measure)
    with pytest.raises(RuntimeError, match="killed"):
        compare.run_all(comparison, ["a", "b, c"])
    assert compare.run_all(comparison, ["a", "b, c"]) == [row("a"), row("b, c")]
    assert called == ["a", "b, c", "b, c"]


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    assert compare.begin(folder, RUN) == RUN
    (folder / "more").mkdir()
    assert compare.begin(folder, {**RUN, "date": "2026-02-01"}) == RUN  # it began the day before
    with pytest.raises(ValueError, match="was begun with another commit, epochs; give a new folder"):
        compare.begin(folder, {**RUN, "commit": "9", "epochs": 5})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(ValueError, match="mine exists and is no run of this comparison"):
        compare.begin(tmp_path / "mine", RUN)


def test_table_of_known_figures() -> None:
    section = {**RUN, "patch_size": [48, 64, 48], "batch_size": 2, "figures": [row("one"), row("two")]}
    lines = nnunet_table(section).splitlines()
    assert lines[0].startswith("| network | recipe | parameters | Dice grey matter | Dice white matter | mean | ")
    assert lines[2] == "| one | nnU-Net's | 1,234,567 | 0.500 | 0.750 | 0.625 | 0.51 | 3.0 |"
    assert "80 steps" in lines[5]


def test_tables_of_all_devices_are_shown() -> None:
    section = {**RUN, "patch_size": [48, 64, 48], "batch_size": 2}
    sections = {f"nnunet {device}": {**section, "figures": [row(device)]} for device in ("cpu", "cuda")}
    shown = TABLES["nnunet"]({**sections, "demo": {}}, {})
    assert shown == "\n\n".join(map(nnunet_table, sections.values()))
    assert TABLES["nnunet"]({"demo": {}}, {}) == "Not measured yet."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "poling"], "no network has 'poling' in its name; valid: PlainConvUNet; unet_star_star; "),
        (["--only", "unet", "--record"], "--record is for a whole run, without --only"),
    ],
)
def test_what_it_cannot_do_ends_in_one_line(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_nnunet.py", str(tmp_path / "run"), *arguments])
    with pytest.raises(SystemExit, match="2"):
        compare.main()
    assert capsys.readouterr().err.startswith(f"compare_nnunet: error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_network_is_trained_measured_and_kept(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, tmp_path / "run", "--only", "8_attention", "--device", "cpu", "--epochs", "1"]
    command += ["--iterations", "2", "--resolution", "4"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr[-2000:]
    kept = tmp_path / "run" / "networks" / "token_unet_released_8_attention.json"
    figures = json.loads(kept.read_text())
    assert all(0 <= dice < 1 for dice in figures["dice"].values())
    assert min(figures["seconds_per_iteration"], figures["seconds_per_case"]) > 0
    assert f"| {figures['parameters']:,} |" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "token_unet_released_8_attention:" not in again.stderr
