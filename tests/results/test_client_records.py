"""What the tests of other software record, and the table of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clients import CLIENTS, outcome_of, said_of
from house import ROOT
from medmixers.errors import InputError
from medmixers.results import clients
from medmixers.results.clients import clients_table, record_clients, recorded_clients


def report(**changes: Any) -> pytest.TestReport:
    known = {"nodeid": "a", "location": ("a", 1, "a"), "keywords": {}, "outcome": "passed", "longrepr": None}
    return pytest.TestReport(**{**known, "when": "call", **changes})


def test_a_row_says_what_passed_and_why_the_rest_was_not_run() -> None:
    skipped = report(outcome="skipped", longrepr=("file", 3, "Skipped: no Orthanc: apt-get install orthanc"))
    expected = report(outcome="skipped", wasxfail="reason: it reads one channel")
    failed = report(outcome="failed", longrepr="Traceback\nAssertionError: 3 voxels differ")
    assert outcome_of(skipped) == ("not run", "no Orthanc: apt-get install orthanc")
    assert said_of(map(outcome_of, [report()])) == "passed, 1 test"
    assert said_of(map(outcome_of, [skipped])) == "not run: no Orthanc: apt-get install orthanc"
    assert said_of(map(outcome_of, [report(), skipped, expected, report(), skipped])) == (
        "passed, 2 tests; not supported: it reads one channel; not run: no Orthanc: apt-get install orthanc"
    )
    assert said_of(map(outcome_of, [report(), failed])) == "failed: AssertionError: 3 voxels differ; passed, 1 test"


def test_rows_are_replaced_by_client_and_only_of_committed_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"date": "2026-11-27", "commit": "abc", "code": "0123", "dirty": False}
    monkeypatch.setattr(clients, "describe_run", lambda *_, **__: dict(run))
    path = tmp_path / "clients.json"
    row = {"version": "1", "ran": "all", "result": "passed, 1 test"}
    record_clients({"b": row, "A": row}, checkout=ROOT, path=path)
    run["commit"] = "def"
    record_clients({"b": {**row, "version": None, "result": "x | y"}}, checkout=ROOT, path=path)
    rows = recorded_clients(path)
    assert list(rows) == ["A", "b"]
    assert (rows["A"]["commit"], rows["b"]["commit"], rows["b"]["result"]) == ("abc", "def", "x | y")
    assert (rows["A"]["code"], rows["A"]["date"]) == ("0123", "2026-11-27")
    assert clients_table(rows).splitlines()[2:] == [
        "| A | 1 | all | passed, 1 test | 2026-11-27 |",
        r"| b | - | all | x \| y | 2026-11-27 |",
    ]
    run["dirty"] = True
    with pytest.raises(InputError, match="the checkout is not clean"):
        record_clients({"A": row}, checkout=ROOT, path=path)
    assert json.loads(path.read_text()) == rows


def test_every_client_has_a_row_that_says_what_its_tests_do() -> None:
    assert {name: row["ran"] for name, row in recorded_clients().items()} == {
        name: client.ran for name, client in CLIENTS.items()
    }, "run: pytest -m client --record-clients"
