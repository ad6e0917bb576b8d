"""``medmixers study pack`` and ``merge``: what leaves a site, and random effects over sites against statsmodels."""

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest
from made_study import make_study
from scipy.stats import t
from statsmodels.stats.meta_analysis import combine_effects
from test_study_command import run

from medmixers.bundles.share.archive import write_archive
from medmixers.study.comparison import compare
from medmixers.study.report.folder import read_folder
from medmixers.study.sharing.effects import random_effects
from medmixers.study.sharing.merge import merge_packs
from medmixers.study.sharing.pack import CONTENTS, ROOT, SALT, pack_study
from medmixers.study.sharing.read import differences, read_pack
from medmixers.study.statistics import Difference

ENTRIES = ("identity", "pooling k3")
SPEC = """
study: mixers
question: {metric: dice, margin: 0.02}
data:
  - {nnunet: NUMBER, name: brain, groups: SITE/patients.csv}
  - {task: colon_pathology_classification, name: colon, folder: SITE/colon}
entries: [{network: metaformer_s12, mixer: [identity, pooling]}]
run: {devices: [cuda:NUMBER]}
"""
SITES = ("north", "south", "west")


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """One study on three sites with other scores; their YAMLs differ only in what a site may choose."""
    folder = tmp_path_factory.mktemp("sites")
    made = make_study(folder / "made", entries=ENTRIES, cases=4)
    for number, site in enumerate(SITES):
        shutil.copytree(folder / "made", folder / site, ignore=shutil.ignore_patterns("data", "predictions"))
        plan = json.loads(json.dumps(made))
        for dataset in plan["datasets"]:
            dataset["task"] = None
        plan["versions"] = {"medmixers": "0.1", "torch": f"2.12.0+cu{number}"}
        (folder / site / "plan.json").write_text(json.dumps(plan))
        (folder / site / "study.yaml").write_text(SPEC.replace("SITE", f"/data/{site}").replace("NUMBER", str(number)))
        for file in (folder / site / "runs").glob("brain*/scores.csv"):
            change_values(file, 0.01 * number * (1 if "e1" in file.parent.name else -1))
        pack_study(folder / site, folder / f"{site}.zip")
    return folder


def change_values(file, by):
    with file.open() as content:
        rows = list(csv.DictReader(content))
    with file.open("w", newline="") as content:
        writer = csv.DictWriter(content, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"value": float(row["value"]) + by * float(row["value"])} for row in rows)


def rows_of(file):
    with file.open() as content:
        return list(csv.DictReader(content))


def mean_and_error(expected):
    """Of statsmodels' result. Where tau squared is negative, it is 0: the weights are those of fixed effects."""
    kind = "re" if expected.tau2 > 0 else "fe"
    mean, error, factor = (getattr(expected, f"{name}_{kind}") for name in ("mean_effect", "sd_eff_w", "scale_hksj"))
    return mean, error * np.sqrt(max(1, factor))


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.05])
def test_random_effects_are_those_of_statsmodels(spread):
    rng = np.random.default_rng(3)
    errors = rng.uniform(0.005, 0.02, 6)
    effects = 0.03 + rng.normal(0, spread, 6)
    found = random_effects(
        [Difference(mean, error, 9, 20, (3, 4)) for mean, error in zip(effects, errors, strict=True)]
    )
    expected = combine_effects(effects, errors**2, method_re="chi2")
    mean, error = mean_and_error(expected)
    assert found.difference.mean == pytest.approx(mean)
    assert found.difference.error == pytest.approx(error)
    assert found.difference.interval()[0] == pytest.approx(mean - t.ppf(0.975, 5) * error)
    assert found.tau**2 == pytest.approx(max(expected.tau2, 0))
    assert found.i2 == pytest.approx(max(expected.i2, 0))
    assert found.q_pvalue == pytest.approx(expected.test_homogeneity().pvalue)
    assert (found.difference.cases, found.difference.seeds, found.difference.df) == (120, (18, 24), 5)


def test_a_pack_holds_no_name_and_no_path(studies):
    with zipfile.ZipFile(studies / "north.zip") as archive:
        text = "".join(archive.read(name).decode() for name in archive.namelist())
        names = archive.namelist()
    plan = json.loads((studies / "north" / "plan.json").read_text())
    secrets = [case for data in plan["datasets"] for case in data["cases"]]
    secrets += [str(studies), "/data/north", "patients.csv", "nii.gz", (studies / "north" / SALT).read_text().strip()]
    assert [secret for secret in secrets if secret in text] == []
    assert {name.rpartition(".")[2] for name in names} == {"json", "csv", f"{ROOT}/SHA256SUMS"}
    assert (studies / "north" / SALT).stat().st_mode & 0o077 == 0
    provenance = json.loads(zipfile.ZipFile(studies / "north.zip").read(f"{ROOT}/provenance.json"))
    assert provenance["counts"] == {
        "brain": {"cases": 4, "groups": 4, "planned": 4},
        "colon": {"cases": 24, "groups": 24, "planned": 24},
    }
    assert provenance["runs"]["brain__e1__seed2"]["entry"] == "pooling k3"
    assert provenance["spec"]["data"][0] == {"nnunet": "any", "name": "brain"}
    before = (studies / "north.zip").read_bytes()
    pack_study(studies / "north", studies / "north.zip")
    assert (studies / "north.zip").read_bytes() == before


def test_a_site_gives_the_same_verdicts_from_its_pack(studies, tmp_path):
    site, own = read_pack(studies / "north.zip", tmp_path), read_folder(studies / "north")
    for packed, dataset in zip(site.study.plan["datasets"], own.plan["datasets"], strict=True):
        one, other = (
            compare(study.scores(data), margin=0.02).pairs[0].retrained
            for study, data in ((site.study, packed), (own, dataset))
        )
        assert one.mean == pytest.approx(other.mean)
        assert one.cases == other.cases
        assert one.error == pytest.approx(other.error, rel=1e-9 if packed["name"] == "brain" else 0.1)


def test_merge_joins_the_sites(studies, tmp_path, capsys):
    zips = [studies / f"{site}.zip" for site in SITES]
    status, out, _ = run(capsys, "study", "merge", *zips, "-o", tmp_path / "merged")
    assert status == 0
    sites, across = rows_of(tmp_path / "merged" / "sites.csv"), rows_of(tmp_path / "merged" / "across.csv")
    assert [row["dataset"] for row in across] == ["brain", "colon"]
    own = [row for row in sites if row["dataset"] == "brain"]
    assert [row["site"] for row in own] == list(SITES)
    effects = np.array([float(row["difference"]) for row in own])
    half = [(float(row["high"]) - float(row["low"])) / 2 for row in own]
    errors = np.array([width / t.ppf(0.975, float(row["df"])) for width, row in zip(half, own, strict=True)])
    expected = combine_effects(effects, errors**2, method_re="chi2")
    mean, error = mean_and_error(expected)
    assert float(across[0]["difference"]) == pytest.approx(mean)
    assert float(across[0]["high"]) == pytest.approx(mean + t.ppf(0.975, 2) * error)
    assert float(across[0]["tau"]) == pytest.approx(np.sqrt(max(expected.tau2, 0)))
    assert (across[0]["sites"], across[0]["cases"], across[0]["df"]) == ("3", "12", "2")
    assert "I2" in out
    assert f"{mean:+.4f}" in out
    joined = rows_of(tmp_path / "merged" / "scores.csv")
    assert {row["dataset"] for row in joined} == {f"{site}/{data}" for site in SITES for data in ("brain", "colon")}
    files = [file for site in SITES for file in (studies / site).glob("runs/*/scores.csv")]
    assert len(joined) == sum(len(rows_of(file)) for file in files)


def changed(studies, folder, file, old, new):
    """A pack of the site west with another text in a file of its study."""
    shutil.copytree(studies / "west", folder / "west", ignore=shutil.ignore_patterns("data", "predictions"))
    path = folder / "west" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return pack_study(folder / "west", folder / "west.zip").path


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("study.yaml", "margin: 0.02", "margin: 0.03", "YAML.question.margin: 0.02 and 0.03"),
        ("plan.json", '"medmixers": "0.1"', '"medmixers": "0.2"', "versions.medmixers: 0.1 and 0.2"),
        ("plan.json", '"alpha": 0.05', '"alpha": 0.1', "question.alpha: 0.05 and 0.1"),
        ("plan.json", '"kernel_size": 3', '"kernel_size": 5', None),  # kernel_size is a label of the report
    ],
)
def test_packs_that_differ_are_refused_with_the_difference(studies, tmp_path, file, old, new, message):
    zips = [studies / "north.zip", changed(studies, tmp_path, file, old, new)]
    if message is None:
        assert merge_packs(zips, tmp_path / "out").across
        return
    with pytest.raises(ValueError, match=message):
        merge_packs(zips, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scorer_of_other_code_is_refused(studies, tmp_path, monkeypatch):
    monkeypatch.setattr("medmixers.study.sharing.pack.SCORER_VERSIONS", ("numpy",))
    pack_study(studies / "west", tmp_path / "west.zip")
    with pytest.raises(ValueError, match=r"scorer\.versions\.monai: .* and \(none\)"):
        merge_packs([studies / "north.zip", tmp_path / "west.zip"], tmp_path / "out")


def rewritten(studies, target, **files):
    """The pack of north with other files."""
    with zipfile.ZipFile(studies / "north.zip") as archive:
        content = {name.removeprefix(f"{ROOT}/"): archive.read(name) for name in archive.namelist()}
    del content["SHA256SUMS"]
    write_archive(target, ROOT, content | files, contents=CONTENTS)
    return target


def test_bad_packs_end_in_one_line(studies, tmp_path, capsys):
    north = studies / "north.zip"
    shutil.copyfile(north, tmp_path / "copy.zip")
    plan = json.loads(zipfile.ZipFile(north).read(f"{ROOT}/plan.json"))
    plan["runs"][0]["id"] = "../../secret"
    outside = rewritten(studies, tmp_path / "outside.zip", **{"plan.json": json.dumps(plan).encode()})
    empty = rewritten(studies, tmp_path / "empty.zip", **{"plan.json": b"{}"})
    write_archive(tmp_path / "bundle.zip", "bundle", {"configs/train.json": b"{}", "code.py": b"raise"})
    (tmp_path / "text.zip").write_text("no zip")
    faults = {
        (north,): "a merge needs at least 2 packs, got 1",
        (north, tmp_path / "copy.zip"): "north and copy are packs of one study's folder",
        (north, north): "two packs have the name north.zip",
        (north, outside): "outside.zip is no pack of scores: its plan is wrong at runs: '../../secret'",
        (north, empty): "empty.zip is no pack of scores: its plan is wrong at study",
        (north, tmp_path / "bundle.zip"): "'bundle/code.py' is no kind of file that packs of scores hold",
        (north, tmp_path / "text.zip"): "cannot be read as a zip",
        (north, tmp_path / "none.zip"): "there is no zip",
    }
    for zips, message in faults.items():
        status, _, err = run(capsys, "study", "merge", *zips, "-o", tmp_path / "out")
        assert status == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert run(capsys, "study", "merge", north, "--outt", "x")[0] == 2
    assert "out must be a zip" in run(capsys, "study", "pack", studies / "north", "-o", tmp_path / "pack")[2]
    assert "is not the folder of a study" in run(capsys, "study", "pack", tmp_path, "-o", tmp_path / "a.zip")[2]


def test_differences_name_nested_keys():
    assert list(differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3, "c": 4}]})) == [
        ("a[1].b", "2", "3"),
        ("a[1].c", "(none)", "4"),
    ]
