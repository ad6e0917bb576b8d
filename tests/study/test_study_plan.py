"""The plan: what it holds, what it refuses, and its numbers against numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from both_worlds import write_both_worlds
from faults_of_lines import assert_fault
from scipy.stats import norm

from medmixers.cli.main import main
from medmixers.errors import InputError
from medmixers.study.engine.design import Design, Spread, cases_needed, comparisons, pilot_spread
from medmixers.study.engine.plan import make_plan
from medmixers.study.engine.spec import read_spec

SMALL = "depths: [[1, 1, 1, 1]], dims: [[8, 8, 16, 16]]"
STUDY = f"""\
study: tiny
question: {{margin: 0.01}}
data:
  - {{task: brain_tissue_segmentation, folder: brain, name: brain, train: {{patch_size: [16, 16, 16]}}}}
  - {{nnunet: 900}}
entries:
  - {{network: metaformer_segformer_s12, mixer: [identity, pooling], kernel_size: 3, {SMALL}}}
  - {{nnunet: nnUNetTrainer, name: nnunet, plans: ResEncM, data: Dataset900}}
train: {{epochs: 2, recipe: keuth2025_segmentation_short}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_both_worlds(tmp_path, monkeypatch, training=6, held_out=3)
    return tmp_path


def spec_of(folder: Path, text: str = STUDY):
    file = folder / "s.yaml"
    file.write_text(text)
    return read_spec(file)


def test_a_plan_holds_cases_entries_and_runs(folder):
    plan = make_plan(spec_of(folder), allow_underpowered=True)
    json.dumps(plan)
    brain, cube = plan["datasets"]
    assert (brain["world"], brain["kind"], brain["metric"]) == ("bundle", "segmentation", "dice")
    assert brain["classes"] == {"grey_matter": 1, "white_matter": 2}
    assert brain["test"] == ["case_6", "case_7", "case_8"]
    parts = brain["parts"]["test"]
    assert sorted(parts["training"] + parts["validation"]) == [f"case_{index}" for index in range(6)]
    assert brain["cases"]["case_6"]["truth"] == str(folder / "brain" / "labelsTs" / "case_6.nii.gz")
    assert (cube["world"], cube["classes"], cube["test"]) == ("nnunet", {"cube": 1}, ["cube_5"])
    assert (brain["entries"], cube["entries"]) == (["identity", "pooling"], ["identity", "pooling", "nnunet"])
    assert len(plan["runs"]) == 3 * (2 + 3)
    assert plan["runs"][0] == {
        "id": "brain__identity__seed0", "dataset": "brain", "entry": "identity", "seed": 0, "fold": None,
        "cases": brain["test"],
    }  # fmt: skip
    assert any("own planner ResEncM" in note for note in plan["notes"])
    assert any("nnunet trains with the recipe of nnUNetTrainer" in note for note in plan["notes"])
    assert plan["question"]["allow_underpowered"] is True
    assert any("3 independent test cases are too few" in reason for reason in plan["refusals"])


def test_the_command_refuses_and_writes_nothing(folder, capsys):
    spec_of(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main(["study", "plan", str(folder / "s.yaml")])
    assert caught.value.code == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].endswith("study tiny cannot answer its question (--allow_underpowered runs it all the same):")
    assert err[1].startswith(
        "  brain: 3 independent test cases are too few: with Holm's correction for 1 comparison(s)"
    )
    main(["study", "plan", str(folder / "s.yaml"), "--allow_underpowered"])
    out = capsys.readouterr().out
    assert "study tiny: 15 trainings" in out
    assert "overridden: brain: 3 independent test cases" in out
    assert "--measure times a training step" in out
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("kernel_size: 3", "kernel: 3", 7, "has no option 'kernel'; valid: kernel_size"),
        ("network: metaformer_segformer_s12, mixer: [identity, pooling], kernel_size: 3, " + SMALL,
         "network: 'timm:convnext_tiny'", 7, "'timm:convnext_tiny' is for classification, data set 'brain' is for s"),
        (", data: Dataset900", "", 8, "nnU-Net's nnUNetTrainer cannot train 'brain', a MONAI Bundle's data"),
        ("folder: brain", "folder: brian", 4, "there is no data set folder"),
        ("nnunet: 900", "nnunet: 901, name: Dataset900", 5, "has no data set '901'; valid: Dataset900_Cube"),
        ("margin: 0.01", "margin: 0.01, metric: auroc", 4, "metric 'auroc' is not for segmentation"),
        ("epochs: 2, recipe: keuth2025_segmentation_short", "recipe: keuth2025_classification", 9,
         "recipe 'keuth2025_classification' is not for segmentation"),
        ("epochs: 2,", "patch_size: [16, 16, 16],", 9, "in nnU-Net all entries take the patch that its planner finds"),
        ("mixer: [identity, pooling]", "mixer: identity", 4, "data set 'brain' has 1 entries; a comparison needs 2"),
        ("kernel_size: 3", "kernel_size: 4", 7, "kernel_size"),
    ],
)  # fmt: skip
def test_faults_that_the_data_or_a_network_shows(folder, old, new, line, message):
    assert STUDY.count(old) == 1
    with pytest.raises(InputError) as caught:
        make_plan(spec_of(folder, STUDY.replace(old, new)), allow_underpowered=True)
    assert_fault(caught.value, line, message)


def test_folds_test_each_case_once_and_choose_weights_on_others(folder):
    """No case that is predicted took part in the training or chose the weights."""
    plan = make_plan(spec_of(folder, STUDY + "folds: [0, 1, 2, 3, 4]\n"), allow_underpowered=True)
    for row, count in zip(plan["datasets"], (6, 5), strict=True):
        tested = [case for part in row["parts"].values() for case in part["test"]]
        assert sorted(tested) == sorted(set(tested))
        assert len(tested) == count
        for part in row["parts"].values():
            assert not set(part["test"]) & {*part["training"], *part["validation"]}
    assert plan["runs"][0]["id"].endswith("__seed0__fold0")
    assert len(plan["runs"]) == 3 * 5 * (2 + 3)


def test_nnunet_folds_are_those_of_nnunet(folder):
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    plan = make_plan(spec_of(folder, STUDY + "folds: [0, 3]\n"), allow_underpowered=True)
    expected = generate_crossval_split([f"cube_{index}" for index in range(5)], seed=12345, n_splits=5)
    for fold, part in plan["datasets"][1]["parts"].items():
        assert part["test"] == sorted(map(str, expected[int(fold)]["val"]))
        assert part["training"] == list(map(str, expected[int(fold)]["train"]))


def test_a_group_counts_once(folder):
    rows = "\n".join(f"case_{index},patient_{index // 2}" for index in range(9))
    (folder / "groups.csv").write_text(f"case,group\n{rows}\n")
    text = STUDY.replace("name: brain,", "name: brain, groups: groups.csv,")
    plan = make_plan(spec_of(folder, text), allow_underpowered=True)
    assert plan["datasets"][0]["cases"]["case_7"]["group"] == "patient_3"
    assert any(reason.startswith("brain: 2 independent test cases") for reason in plan["refusals"])
    (folder / "groups.csv").write_text(f"case,group\n{rows}\ncase_7,patient_5\n")
    with pytest.raises(InputError, match=r"line 11: case case_7 is in the groups patient_3 and patient_5"):
        make_plan(spec_of(folder, text), allow_underpowered=True)


@pytest.mark.parametrize(("pairs", "cases"), [(105, 13), (14, 10), (3, 7), (1, 6), (171, 13)])
def test_cases_needed(pairs, cases):
    """By hand: 2 / 2^13 = .000244 <= .05 / 105 = .000476 < 2 / 2^12; study.md, section 0.3."""
    assert cases_needed(0.05, pairs) == cases
    assert 2 / 2**cases <= 0.05 / pairs < 2 / 2 ** (cases - 1)


def test_comparisons():
    assert comparisons(15, control=False) == 105
    assert comparisons(15, control=True) == 14
    assert comparisons(2, control=True) == comparisons(2, control=False) == 1


def design(**changes) -> Design:
    given = {"cases": 50, "seeds": 3, "comparisons": 1, "margin": 0.01, "alpha": 0.05}
    return Design(**{**given, "spread": Spread(0.01, 0.03, "declared"), **changes})


def test_the_detectable_difference_by_hand():
    """var = 2 x .03^2 / (50 S) + 2 x .01^2 / S; with many seeds t is z: (1.960 + .842) x sqrt(var)."""
    error = (2 * 0.03**2 / (50 * 900) + 2 * 0.01**2 / 900) ** 0.5
    assert design(seeds=900).detectable() == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * error, rel=2e-3)
    corrected = design(seeds=900, comparisons=105).detectable()
    assert corrected == pytest.approx((norm.ppf(1 - 0.025 / 105) + norm.ppf(0.8)) * error, rel=1e-2)


def test_the_seeds_needed_are_the_fewest():
    """By hand with z: S = (2 x .03^2 / 50 + 2 x .01^2) x (2.80 / .01)^2 = 18.5; t needs one more than 19."""
    seeds = design().seeds_needed()
    assert seeds == 20
    assert design().detectable(seeds) <= 0.01 < design().detectable(seeds - 1)
    assert design(margin=1e-6).seeds_needed() is None
    assert design(margin=1.0).seeds_needed() == 3


def test_reasons_to_refuse():
    assert design(margin=0.05).refusals() == []
    assert "above the margin 0.01; 20 seeds would do" in design().refusals()[0]
    assert "at least 3 are needed" in design(seeds=1, margin=0.05).refusals()[0]
    assert "not even 1000 seeds would do" in design(margin=1e-6).refusals()[0]
    assert design(spread=None).refusals() == []
    assert design(spread=None).detectable() is None


@pytest.mark.parametrize(
    ("values", "seed", "residual"),
    [
        # seed means .70 and .74 (variance .0008), no residual
        ([[0.8, 0.6], [0.84, 0.64]], 0.0008**0.5, 0.0),
        # equal seed means; residuals of .05 each, one degree of freedom: variance .01
        ([[0.8, 0.6], [0.9, 0.5]], 0.0, 0.1),
    ],
)
def test_a_pilot_gives_the_spread(tmp_path, values, seed, residual):
    rows = [
        f"{entry},{s},case{c},{value}"
        for entry in ("a", "b")
        for s, row in enumerate(values)
        for c, value in enumerate(row)
    ]
    file = tmp_path / "pilot.csv"
    file.write_text("\n".join(["entry,seed,case,value", *rows]))
    spread = pilot_spread(file, dataset="any", metric="dice")
    assert (spread.seed, spread.residual) == (pytest.approx(seed, abs=1e-9), pytest.approx(residual, abs=1e-9))
    file.write_text("\n".join(["entry,seed,case,value", *rows, "a,0,case9,0.1", "b,1,case9,0.9"]))
    assert pilot_spread(file, dataset="any", metric="dice") == spread, "a case that a training lacks does not count"
    file.write_text("entry,seed,case,value\na,0,x,1\na,0,y,1\n")
    with pytest.raises(InputError, match="no entry with 2 seeds"):
        pilot_spread(file, dataset="any", metric="dice")
