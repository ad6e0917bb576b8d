"""published.json: its form, and the figures that follow from other figures of the same paper."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from statistics import geometric_mean, mean

import pytest
from scipy.stats import rankdata

from medmixers.results.published import PUBLISHED, published, quantities
from medmixers.variants import NETWORKS

FIGURES = published()
TABLE_KEYS = {"paper", "where", "protocol", "build", "not_built", "note", "columns", "rows"}
COLUMN_KEYS = {"quantity", "unit", "task", "size", "note"}
CELL_KEYS = {"value", "spread", "rederived", "note"}
COUNTS = ("parameters", "frozen_parameters", "macs", "parameters_change", "macs_change")
DATA_SETS = {
    "[T,T,T,T]": ("PathMNIST", "DermaMNIST", "PneumoniaMNIST", "OrganSMNIST"),
    "[P,P,T,T]": ("PathMNIST", "DermaMNIST", "PneumoniaMNIST", "OrganSMNIST"),
    "segmentation": ("JSRT", "GRAZPEDWRI-DX", "TIGER at 768 x 768"),
}


def select(where, quantity, protocol=""):
    """(name, task) -> figure of one of Keuth et al.'s tables."""
    chosen = (f for f in FIGURES if (f.paper, f.where, f.quantity) == ("keuth2025", where, quantity))
    return {(f.name, f.task): f for f in chosen if (f.protocol or "").startswith(protocol)}


def test_tables_hold_known_keys_and_quantities():
    for table in json.loads(PUBLISHED.read_text())["tables"]:
        assert set(table) <= TABLE_KEYS
        assert all(set(column) <= COLUMN_KEYS for column in table["columns"])
        for row in table["rows"]:
            assert all(set(cell) <= CELL_KEYS for cell in row[2:] if isinstance(cell, dict)), row
    assert {f.quantity for f in FIGURES} == set(quantities())
    assert {f.paper for f in FIGURES} == {row.source for row in NETWORKS.values()}


def test_every_figure_is_there_once_and_says_what_it_is_of():
    keys = Counter((f.paper, f.where, f.protocol, f.name, f.quantity, f.task, f.size) for f in FIGURES)
    assert [key for key, times in keys.items() if times > 1] == []
    for figure in FIGURES:
        assert (figure.build is None) != (figure.not_built is None), figure
        assert figure.build is None or figure.build["network"] in NETWORKS, figure
        assert figure.rederived is None or (figure.note and figure.rederived != figure.value), figure


def test_printed_digits_are_kept():
    assert str(select("Table 2", "parameters", "[T,T,T,T]")["conv 3", None].value) == "22.0"


def test_scores_agree_where_a_paper_prints_them_twice():
    """The same network, training, data set and size; a slip of print has the other value as ``rederived``."""
    same = defaultdict(set)
    for f in FIGURES:
        if f.quantity not in COUNTS:
            value = f.value if f.rederived is None else f.rederived
            same[f.paper, f.protocol, f.name, f.quantity, f.task, f.size].add(value)
    assert {key: values for key, values in same.items() if len(values) > 1} == {}


@pytest.mark.parametrize(
    ("setting", "where", "entries"),
    [("[T,T,T,T]", "Table 9", 15), ("[P,P,T,T]", "Table 9", 19), ("segmentation", "Table 10", 15)],
)
def test_rank_scores_follow_from_the_points(setting, where, entries):
    """Keuth et al., section 4.3: ascending ranks with ties shared, 0.1 to 1, geometric mean over the data sets."""
    protocol = "" if setting == "segmentation" else setting
    points, scores = select(where, "points", protocol), select(where, "rank_score", protocol)
    exact = defaultdict(list)
    for task in DATA_SETS[setting]:
        names = [name for name, of in points if of == task]
        assert len(names) == (18 if task.startswith("TIGER") else entries)
        ranks = rankdata([points[name, task].value for name in names])
        for name, rank in zip(names, ranks, strict=True):
            score = 0.1 + 0.9 * (rank - 1) / (len(names) - 1)
            assert float(scores[name, task].value) == pytest.approx(score, abs=0.005001), (name, task)
            exact[name].append(score)
    means = {name: figure for (name, task), figure in scores.items() if task.startswith("geometric")}
    assert len(means) == entries
    for name, figure in means.items():
        assert float(figure.value) == pytest.approx(geometric_mean(exact[name]), abs=0.000501), name


@pytest.mark.parametrize(
    ("where", "table", "protocol"),
    [
        ("section 5.1.2", "Table 9", "[T,T,T,T]"),
        ("section 5.1.3", "Table 9", "[P,P,T,T]"),
        ("section 5.2.2", "Table 10", "[T,T,T,T]"),
    ],
)
def test_means_in_the_text_follow_from_the_table(where, table, protocol):
    scores = {
        name: float(figure.value)
        for (name, task), figure in select(table, "rank_score", protocol).items()
        if task.startswith("geometric")
    }
    for (name, _), figure in select(where, "rank_score").items():
        what = name.partition(",")[0]
        if what.startswith("kernel"):
            parts = [score for entry, score in scores.items() if entry.endswith(what.removeprefix("kernel"))]
            parts = parts[:4]  # pooling, conv, grouped conv, local attn
        else:
            parts = [score for entry, score in scores.items() if entry.rpartition(" ")[0] == what]
        assert len(parts) == (4 if what.startswith("kernel") else 3), name
        printed = figure.value if figure.rederived is None else figure.rederived
        last = 10.0 ** printed.as_tuple().exponent
        assert float(printed) == pytest.approx(mean(parts), abs=0.51 * last), name


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    scores = defaultdict(dict)
    for f in FIGURES:
        if f.paper == "xue2026" and f.name == "MedNeXt":
            scores[f.task][f.quantity] = float(f.value)
    complete = [s for s in scores.values() if {"precision", "recall", "f1"} <= set(s)]
    assert len(complete) == 2
    for s in complete:
        assert s["f1"] == pytest.approx(2 * s["precision"] * s["recall"] / (s["precision"] + s["recall"]), abs=0.005)


def test_differences_and_ratios_in_the_text_follow_from_the_numbers_beside_them():
    """Xue et al.: what is printed twice; Tshimanga et al.: what is saved, from what is left."""
    of = {(f.where, f.name, f.quantity, f.task): f.value for f in FIGURES if f.paper == "xue2026"}
    for task in ("SARS-COV2 Ct-Scan", "Large COVID-19 CT scan slice"):
        key = ("Swin-Transformer v2", "accuracy_below", task)
        assert of[("abstract", *key)] == of[(f"classification, {task}", *key)]
    cost = {name: value for (_, name, quantity, _), value in of.items() if quantity == "macs"}
    assert round(100 * cost["MedNeXt"] / cost["Swin-Transformer v2"]) == 59  # percent, says the abstract
    ours = {
        (f.quantity, f.where): f for f in FIGURES if f.paper == "tshimanga2026" and f.name.endswith("(w/ Transformer)")
    }
    for quantity, number in (("memory", "rederived"), ("time", "value")):
        left = ours[f"inference_{quantity}_ratio", "abstract"].value
        assert getattr(ours[f"inference_{quantity}_reduction", "author summary"], number) == 100 - left


def test_reading_imports_no_torch():
    code = (
        "import sys; from medmixers.results.published import published; assert published();"
        "assert not {'torch', 'monai', 'nnunetv2', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
