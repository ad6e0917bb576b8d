"""``medmixers study rank`` as a person runs it."""

from __future__ import annotations

import csv

import pytest
from test_comparison import write_table

from medmixers.cli.main import main


def run(capsys, *words):
    status = 0
    try:
        main([str(word) for word in words])
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    return status, out, err


def test_rank_prints_verdicts_and_writes_csv(tmp_path, capsys):
    table = write_table(tmp_path / "scores.csv")
    status, out, _ = run(capsys, "study", "rank", table, "--margin", 0.01, "--out", tmp_path / "report")
    assert status == 0
    assert "brain, dice: 20 groups; 3 seed(s) per entry" in out
    rows = list(csv.DictReader((tmp_path / "report" / "tests.csv").open()))
    assert {row["verdict"] for row in rows} == {"better", "worse", "equivalent"}
    again = run(capsys, "study", "rank", table, "--margin", 0.01)[1]
    assert again.strip() == out.rpartition("\n\n")[0].strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--margin", 0], "margin must be above 0, got 0"),
        (["--margin", 0.01, "--alpha", 2], "alpha must lie between 0 and 1, got 2"),
        (["--margin", 0.01, "--control", "poling"], "unknown control 'poling'; valid: pooling, bad"),
        ([], "missing argument MARGIN"),
    ],
)
def test_bad_options_end_in_one_line(words, message, tmp_path, capsys):
    table = write_table(tmp_path / "scores.csv")
    status, out, err = run(capsys, "study", "rank", table, *words)
    assert status == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_table_is_not_overwritten(tmp_path, capsys):
    table = write_table(tmp_path / "tests.csv")
    before = table.read_bytes()
    status, _, err = run(capsys, "study", "rank", table, "--margin", 0.01, "--out", tmp_path)
    assert status == 2
    assert "tests.csv" in err
    assert table.read_bytes() == before
