"""The day with a GPU, rehearsed on a CPU: what is kept is not measured again, and only a GPU's figures are recorded."""

import json
import subprocess
from pathlib import Path

import gpu_day
import pytest

from medmixers.errors import InputError
from medmixers.results.gpu import gpu_training_table, planner_memory_table

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
LOG = """\
2026-11-27 13:00:00,701 - INFO - Epoch: 1/60, Iter: 1/7 -- train_loss: 1.8633
2026-11-27 13:00:10,701 - INFO - Epoch[1] Metrics -- train_mean_dice: 0.9603
2026-11-27 13:00:30,000 - INFO - Epoch[3] Metrics -- val_mean_dice: 0.7100
2026-11-27 13:01:30,000 - INFO - Epoch[6] Metrics -- val_mean_dice: 0.8700
2026-11-27 13:03:00,000 - INFO - Epoch[9] Metrics -- val_mean_dice: 0.8650
"""


def test_what_the_folder_holds_is_not_measured_again(tmp_path):
    asked = []

    def measure(key):
        asked.append(key)
        return [{"network": key, "estimate": 1.0, "float32": 2.0, "float16": 0.5}]

    part = gpu_day.Part(tmp_path, "cpu")
    part.rows("planner memory cpu", ["a", "b"], measure)
    rows = part.rows("planner memory cpu", ["a", "b", "c"], measure)
    assert asked == ["a", "b", "c"] == [row["key"] for row in rows]
    assert planner_memory_table(rows).splitlines()[-1] == "| `c` | 1.00 GiB | 2.00 GiB | 0.50 GiB | **2.00** |"


def test_figures_of_other_code_are_refused(tmp_path, monkeypatch):
    gpu_day.Part(tmp_path, "cpu").rows("planner memory cpu", ["a"], lambda key: [{"network": key}])
    path = tmp_path / gpu_day.FIGURES
    sections = json.loads(path.read_text())
    sections["planner memory cpu"]["code"] = "0123456789abcdef"
    path.write_text(json.dumps(sections))
    with pytest.raises(InputError, match="of other code or of another device"):
        gpu_day.Part(tmp_path, "cpu").rows("planner memory cpu", ["b"], lambda key: [{"network": key}])
    sections["planner memory cpu"]["device"] = "NVIDIA H100"
    path.write_text(json.dumps(sections))
    monkeypatch.setattr(gpu_day, "check_committed", lambda run: run.pop("dirty"))
    with pytest.raises(InputError, match="is of other code than this checkout's"):
        gpu_day.take(tmp_path)


def test_a_cpus_figures_are_not_recorded(tmp_path, monkeypatch):
    gpu_day.Part(tmp_path, "cpu").rows("planner memory cpu", ["a"], lambda key: [{"network": key}])
    monkeypatch.setattr(gpu_day, "check_committed", lambda run: run.pop("dirty"))
    with pytest.raises(InputError, match="was measured on a CPU"):
        gpu_day.take(tmp_path)
    with pytest.raises(InputError, match="nothing was measured in"):
        gpu_day.take(tmp_path / "none")


def test_a_gpus_figures_are_recorded_with_its_name_and_the_commit(tmp_path, monkeypatch):
    part = gpu_day.Part(tmp_path, "cpu")
    part.card = "NVIDIA H100"  # the machine had no git
    row = {"network": "a", "estimate": 1.0, "float32": 2.0, "float16": 1.5}
    part.rows("planner memory cuda", ["a"], lambda key: [row])
    recorded = {}
    monkeypatch.setattr(gpu_day, "check_committed", lambda run: run.pop("dirty"))
    monkeypatch.setattr(gpu_day, "record", lambda name, figures, run: recorded.update({name: (figures, run)}))
    monkeypatch.setattr(gpu_day.documents, "write", lambda checkout: None)
    gpu_day.take(tmp_path)
    ((name, (figures, run)),) = recorded.items()
    assert (name, figures) == ("planner memory cuda", [{"key": "a", **row}])
    assert run["device"] == "NVIDIA H100"
    assert "dirty" not in run


def test_the_course_of_a_training_is_read_from_its_log():
    found = gpu_day.course(LOG)
    assert found == {"minutes_to_goal": 1.5, "minutes": 3.0, "dice": 0.87}
    assert gpu_day.course(LOG.replace("0.8", "0.7"))["minutes_to_goal"] is None
    line = gpu_training_table([{"precision": "float32", **found}]).splitlines()[-1]
    assert line == "| float32 | 1.5 | 3.0 | 0.870 |"
    with pytest.raises(InputError, match="has no validation"):
        gpu_day.course("stopped")


def test_the_script_names_its_parts(tmp_path):
    command = ["bash", SCRIPTS / "gpu_day.sh", tmp_path / "day", "pooling_"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no part is called pooling_; valid: correct grouped-conv local-attention-2d" in done.stderr
