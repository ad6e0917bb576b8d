"""The fifteen checks: every committed bundle passes the static ones, and a fault fails the check that is for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_helpers import ROOT
from small_bundle import NAME, start_weights, write_small_bundle

import preloaded
from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.share.archive import write_archive
from medmixers.bundles.share.pack import pack_bundle, vendor, write_vendored
from medmixers.bundles.verify import run_checks, static_checks
from medmixers.bundles.verify.checks import CHECKS, verify_bundle
from medmixers.bundles.verify.run_checks import check_net_in_out, check_weights
from medmixers.bundles.verify.subject import Subject

STATIC = [check.number for check in CHECKS if check.static]
# MONAI builds every component of a bundle, which takes seconds: of the first bundle of each kind.
KINDS = {
    (row.network, len(row.size), row.task_spec.spatial_dims, row.recipe): name
    for name, row in reversed(list(BUNDLES.items()))
}


@pytest.mark.parametrize("name", sorted(KINDS.values()))
def test_committed_bundles_pass_the_static_checks(name: str) -> None:
    report = verify_bundle(ROOT / "bundles" / name, static=True)
    assert not report.failed, str(report)
    assert [result.check.number for result in report.results] == STATIC
    assert "schema not checked" in report.results[1].note  # nothing is downloaded


@pytest.mark.parametrize("name", sorted(KINDS.values()))
def test_monai_builds_their_properties(name: str, tmp_path: Path) -> None:
    run_checks.check_built_properties(Subject(ROOT / "bundles" / name, tmp_path, offline=True))


OTHERS = sorted(set(BUNDLES) - set(KINDS.values()))


# Rendered by the same templates: every fourth is quick.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if index % 4 else ()) for index, name in enumerate(OTHERS)]
)
def test_all_others_pass_those_that_build_nothing(name: str, tmp_path: Path) -> None:
    subject = Subject(ROOT / "bundles" / name, tmp_path, offline=True)
    for check in CHECKS:
        if check.static:
            check.function(subject)


def test_metadata_satisfies_monais_schema(tmp_path: Path) -> None:
    """The schema is no part of MONAI; it is downloaded, once."""
    subjects = [Subject(ROOT / "bundles" / name, tmp_path) for name in sorted(BUNDLES)]
    notes = {static_checks.check_metadata(subject).partition("; ")[2] for subject in subjects}
    if notes != {"schema satisfied"}:
        pytest.skip(", ".join(notes))


def test_numbers_are_the_fifteen() -> None:
    assert {check.number for check in CHECKS} == set(range(1, 16))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def carrying(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sound bundle with its code, as a zip has it."""
    root = tmp_path_factory.mktemp("carrying") / NAME
    shutil.copytree(sound, root)
    write_vendored(root, vendor(root))
    return root


def in_config(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / "configs" / f"{name}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def in_file(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return apply


def pred(content: dict[str, Any]) -> dict[str, Any]:
    return content["network_data_format"]["outputs"]["pred"]


FAULTS: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "no licence": (lambda root: (root / "LICENSE").unlink(), 1, "missing: LICENSE"),
    "other licence": (in_file("LICENSE", "Apache License", "Some License"), 1, "LICENSE is not the Apache"),
    "path": (in_file("configs/train.json", "@bundle_root + '/data'", "/home/me/data"), 1, "train.json names a machine"),
    "command": (in_file("docs/README.md", 'python -m', 'python "-m'), 1, "docs/README.md: bash: "),
    "version": (in_config("metadata", lambda c: c.update(version="banana")), 2, "'banana' is not semantic"),
    "changelog": (in_config("metadata", lambda c: c.update(version="0.2.0")), 2, "0.2.0 is not in the changelog"),
    "labels": (in_config("metadata", lambda c: pred(c)["channel_def"].pop("2")), 2, "channel_def is not of 3 channels"),
    "channels": (in_config("train", lambda c: c["network_def"].update(in_channels=2)), 2, "1 channels, network_def"),
    "kernel": (in_config("train", lambda c: c.update(kernel_size=5)), 3, "kernel_size differs: 5 and 3"),
    "preprocessing": (
        in_config("inference", lambda c: c["preprocessing"]["transforms"].pop()), 3, "is not the preprocessing of infer"
    ),
    "training": (
        in_config("train", lambda c: c["train"]["deterministic_transforms"][3].update(pixdim=[1.0, 1.0, 1.0])),
        3,
        "train::deterministic_transforms of the image",
    ),
    "outputs": (
        in_config("inference", lambda c: c["network_def"].update(out_channels=4)), 4, "gives (1, 4, 16, 16, 16)"
    ),
    "property": (in_config("inference", lambda c: c.pop("inferer")), 5, "inferer"),
    "hash": (in_config("inference", lambda c: c.update(note="a#b")), 13, "MONAI turns '#' into '::': 'a#b'"),
    "duplicate": (in_file("configs/inference.json", '"overlap"', '"roi_size": 1, "overlap"'), 13, "roi_size"),
    "target": (in_file("configs/train.json", "torch.optim.AdamW", "torch.optim.AdamX"), 13, "torch.optim.AdamX"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_fails_its_check(case: str, sound: Path, tmp_path: Path) -> None:
    spoil, number, message = FAULTS[case]
    root = tmp_path / NAME
    shutil.copytree(sound, root)
    spoil(root)
    report = verify_bundle(root, static=True)
    notes = {result.check.number: result.note for result in report.failed}
    assert number in notes, str(report)
    assert message in notes[number]


def test_command_exits_non_zero_and_prints_the_table(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / NAME
    shutil.copytree(sound, root)
    (root / "LICENSE").unlink()
    command = [preloaded.python(), "-m", "medmixers", "bundle", "verify", str(root), "--static"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert " 1  files, licence, paths, README  failed" in done.stdout
    assert "13  traps of the configs           passed" in done.stdout
    assert done.stderr.splitlines()[-1] == f"medmixers: error: {NAME}: 1 checks failed"


MARK = "__import__('pathlib').Path({place!r}).touch()"
# Places where a stranger's zip can hold code, each a change of inference.json.
STRANGERS: dict[str, Callable[[dict[str, Any], str], object]] = {
    "network": lambda c, code: c.update(network_def=f"${code}"),
    "option": lambda c, code: c["network_def"].update(stem_stride=f"${code}"),
    "option elsewhere": lambda c, code: c.update(kernel_size=f"${code}"),
    "requires": lambda c, code: c["network_def"].update(_requires_=f"${code}"),
    "path": lambda c, code: c.update(find_package=f"${code}"),
    "import": lambda c, code: c["imports"].append(f"${code}"),
    "initialize": lambda c, code: c.update(initialize=[f"${code}"]),
    "data": lambda c, code: c.update(datalist=f"${code}"),
    "target": lambda c, code: c.update(network_def={"_target_": "builtins.exec", "object": code}),
    "own module": lambda c, code: c["network_def"].update(_target_="OWN.trap.create"),
    "module elsewhere": lambda c, code: c["inferer"].update(_target_="trap.create"),
    "plans": lambda c, code: c.update(
        network_def={
            "_target_": "medmixers.bundle_runtime.nnunet_inference.FoldEnsemble",
            "architecture": {"network_class_name": "trap.create", "arch_kwargs": {}, "_kw_requires_import": []},
            "in_channels": 1,
            "out_channels": 3,
            "folds": ["0"],
        }
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_static_runs_no_code_of_a_strangers_zip(
    case: str, carrying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, place = tmp_path / NAME, tmp_path / "CODE_RAN"
    shutil.copytree(carrying, root)
    (package,) = root.glob("medmixers_*")
    code = MARK.format(place=str(place))
    for folder in (package, root):  # beside the configs, where a bundle on sys.path would be found
        (folder / "trap.py").write_text(f"{code}\ndef create(*args, **kwargs): pass\n")
    config = root / "configs" / "inference.json"
    content = json.loads(config.read_text())
    STRANGERS[case](content, code)
    config.write_text(json.dumps(content).replace("OWN.trap", f"{package.name}.trap"))
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    write_archive(tmp_path / "stranger.zip", NAME, files)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    report = verify_bundle(tmp_path / "stranger.zip", static=True)
    assert not place.exists(), str(report)
    assert not {name for name in set(sys.modules) - before if "trap" in name or name.startswith("medmixers_")}
    assert [result.check.number for result in report.results] == STATIC


def test_static_checks_of_a_packed_bundle_pass_but_for_its_weights(carrying: Path, tmp_path: Path) -> None:
    root = tmp_path / NAME
    shutil.copytree(carrying, root)
    report = verify_bundle(root, static=True)
    assert {result.outcome for result in report.results} == {"passed"}, str(report)
    (package,) = root.glob("medmixers_*")
    (package / "bundle_runtime" / "saving.py").write_text("")
    changed, failed = verify_bundle(root, static=True).failed
    assert (changed.check.number, failed.check.number) == (1, 13)
    assert changed.note == f"{package.name} was changed after it was packed: pack the folder again, which renames it"
    assert failed.note == f"{package.name}.bundle_runtime.saving.best_weights_saver is not found"


def test_deep_json_fails_its_check(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / NAME
    shutil.copytree(sound, root)
    (root / "configs" / "train.json").write_text("[" * 100_000)
    report = verify_bundle(root, static=True)
    assert "configs/train.json nests too deeply" in {result.note for result in report.failed}, str(report)


def test_unknown_names_and_files_end_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'nowhere' is no bundle's folder"):
        verify_bundle("nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no zip 'nowhere\.zip'"):
        verify_bundle("nowhere.zip")
    with pytest.raises(FileNotFoundError, match=r"there is no schema file 'nowhere\.json'"):
        verify_bundle(BUNDLES, schema="nowhere.json")  # type: ignore[arg-type]


def test_weights_of_another_seed_or_form_are_told(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / NAME
    shutil.copytree(sound, root)
    (root / "models").mkdir()
    subject = Subject(root, tmp_path)
    torch.save(start_weights(), root / "models" / "model.pt")
    assert check_weights(subject) == f"{len(start_weights())} tensors"
    torch.save({"model": start_weights()}, root / "models" / "model.pt")
    with pytest.raises(Exception, match=r"model\.pt is not flat"):
        check_weights(subject)


@pytest.mark.usefixtures("preload")
def test_monais_own_shape_check(sound: Path, tmp_path: Path) -> None:
    assert check_net_in_out(Subject(sound, tmp_path)) == "from a foreign working directory"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_bundle_passes_all_checks(form: str, sound: Path, tmp_path: Path) -> None:
    subject: Path = sound
    if form == "zip":
        torch.save(start_weights(), tmp_path / "model.pt")
        subject = pack_bundle(sound, weights=tmp_path / "model.pt", out=tmp_path).path
    report = verify_bundle(subject)
    assert not report.failed, str(report)
    assert [result.check.number for result in report.results if result.outcome == "skipped"] == [15]
