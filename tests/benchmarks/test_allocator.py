"""glibc's allocator settings: both figures where they matter, from processes that differ in them alone."""

from __future__ import annotations

import os

import allocator
import pytest

from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.errors import InputError
from medmixers.results.allocator import SETTINGS, allocator_table
from medmixers.results.tables import TABLES

# A worker that says its environment instead of measuring.
ECHO = """
import json, os, sys
for line in sys.stdin:
    slow = 1.0 if "MALLOC_MMAP_MAX_" in os.environ else 2.0
    rows = [{"run": "forward", "contender": "ours", "milliseconds": [slow, slow]}]
    rows += [{"run": "forward", "contender": "peer", "milliseconds": [4.0]}]
    rows += [{"run": "forward", "contender": "absent", "error": "no module"}]
    print(json.dumps(rows), flush=True)
"""


def test_two_processes_measure_with_and_without_the_settings(monkeypatch):
    monkeypatch.setattr(allocator, "WORKER", ECHO)
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    rows = allocator.allocator_figures(["a", "b"], rounds=2)
    assert [(row["comparison"], row["contender"]) for row in rows] == [
        (c, who) for c in "ab" for who in ("ours", "peer")
    ]
    assert rows[0] == {
        "comparison": "a", "run": "forward", "contender": "ours", "unset": [2.0] * 4, "set": [1.0] * 4
    }  # fmt: skip
    assert ALLOCATOR_VARIABLES.keys() >= {"MALLOC_MMAP_MAX_"}
    lines = allocator_table(rows).splitlines()
    assert lines[2] == "| a | forward | 2.0 ms | 1.0 ms | peer **2.00** / **4.00** |"
    assert lines[-1] == "0 of 2 passes change by at most 10%, ours and peers."


def test_passes_that_hardly_change_are_counted_only():
    row = {"comparison": "a", "run": "forward", "contender": "ours", "unset": [10.0], "set": [10.9]}
    assert allocator_table([row]).splitlines()[2:] == ["", "1 of 1 passes change by at most 10%, ours and peers."]
    assert allocator_table([{**row, "set": [11.2]}]).splitlines()[2].startswith("| a | forward | 10.0 ms | 11.2 ms |")
    assert TABLES["allocator"]({}, {}) == "Not measured yet."
    assert SETTINGS == ("unset", "set")


def test_a_worker_that_ends_is_an_error(monkeypatch):
    monkeypatch.setattr(allocator, "WORKER", "import sys; sys.stdin.readline()")
    with pytest.raises(RuntimeError, match="the process that measured a ended"):
        allocator.allocator_figures(["a"])


def test_what_cannot_be_asked_for_is_refused():
    with pytest.raises(InputError, match="no comparison has 'poling' in its name; valid: local attention"):
        allocator.chosen_comparisons("poling")
    with pytest.raises(InputError, match="those of glibc"):
        allocator.check_platform({})
    assert len(allocator.chosen_comparisons("pooling")) >= 4
    allocator.check_platform(os.confstr_names)
