"""A study's folder keeps to what it was made from: data, tasks, tolerance, entries. Trainings are records only."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from both_worlds import write_both_worlds

from medmixers.errors import InputError
from medmixers.study.engine import contents, plan
from medmixers.study.engine.command import write_plan
from medmixers.study.engine.jobs import make_job, run_job, stages_of
from medmixers.study.engine.records import needs, read_plan, stage_file, write_record
from medmixers.study.engine.spec import read_spec

TASK = """\
name: toy_segmentation
title: Toy
task: segmentation
modality: CT
spatial_dims: 3
channels: [CT]
labels: [background, grey_matter, white_matter]
spacing: [1.0, 1.0, 1.5]
intensity: window
window: [100.0, 500.0]
validation_every: 3
licence: none
citation: none yet
data_source: simulated
intended_use: Research.
limits: Toy. Not for clinical use.
"""
STUDY = """\
study: tiny
question: {margin: 0.01, nsd_tolerance: 2}
data:
  - {task: task.yaml, folder: brain, name: brain, train: {patch_size: [16, 16, 16]}}
  - {nnunet: 900, name: cube}
entries:
  - {network: metaformer_segformer_s12, mixer: [identity, pooling], depths: [[1, 1, 1, 1]], dims: [[8, 8, 16, 16]]}
seeds: [0]
folds: test
train: {epochs: 2, recipe: keuth2025_segmentation_short}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_both_worlds(tmp_path, monkeypatch, training=4, held_out=2)
    monkeypatch.setattr(plan, "_build_all", lambda *_, **__: None)  # the networks are not the matter here
    monkeypatch.setattr(plan, "git_commit", lambda checkout: "a commit")  # another engineer may commit meanwhile
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "s.yaml").write_text(STUDY)
    return tmp_path


@pytest.fixture
def done(folder):
    """The folder of a study whose jobs are all on record."""
    run(folder)
    finish(folder)
    return folder


def run(folder: Path) -> dict:
    return write_plan(read_spec(folder / "s.yaml"), folder / "out", allow_underpowered=True)


def finish(folder: Path) -> None:
    study, made = folder / "out", read_plan(folder / "out")
    for name in needs(made):
        job = make_job(study, made, name)
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "predictions").mkdir(exist_ok=True)
        (job.folder / "scores.csv").write_text("old")
        for stage in stages_of(job):
            write_record(job.folder, stage, job.inputs(stage), "now")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


def roll(file: Path) -> None:
    """Another content of the same date."""
    before, image = file.stat(), nib.load(file)
    nib.save(nib.Nifti1Image(np.roll(np.asanyarray(image.dataobj), 1, axis=0), image.affine, image.header), file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(folder: Path, one: str, other: str) -> None:
    """Exchange a case of imagesTr and one of imagesTs."""
    for kind, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        (folder / f"{kind}Tr" / f"{one}{ending}").rename(folder / f"{kind}Ts" / f"{one}{ending}")
        (folder / f"{kind}Ts" / f"{other}{ending}").rename(folder / f"{kind}Tr" / f"{other}{ending}")


def cube(folder: Path) -> Path:
    return folder / "nnUNet_raw" / "Dataset900_Cube"


def test_a_digest_tells_files_of_one_size_and_date(tmp_path):
    file = tmp_path / "label.nii"
    file.write_bytes(b"one")
    first, status = contents.Contents(tmp_path), file.stat()
    before = first.digest([str(file)])
    first.save()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = contents.Contents(tmp_path)
    assert second.digest([str(file)]) != before
    file.write_bytes(b"one")
    assert second.digest([str(file)]) == before
    assert second.digest([str(tmp_path / "label.nii")] * 2) != before
    with pytest.raises(InputError, match=r"there is no file .*absent.nii"):
        second.digest([str(tmp_path / "absent.nii")])


def test_what_changes_nothing_is_accepted(done, monkeypatch):
    """Dates, copies, another place, free text of the task, and more seeds and entries. Files are read once."""
    for file in (done / "brain").rglob("*.nii.gz"):
        copy = file.with_name("copy")
        shutil.copyfile(file, copy)
        copy.replace(file)
        os.utime(file)
    (done / "brain").rename(done / "moved")
    edit(done / "s.yaml", "folder: brain", "folder: moved")
    edit(done / "task.yaml", "title: Toy", "title: Toys  # a toy")
    edit(done / "s.yaml", "seeds: [0]", "seeds: [0, 1]")
    text = (done / "s.yaml").read_text()
    assert len(run(done)["runs"]) == 2 * 2 * 2
    more = text.replace("\nentries:", "\nentries:\n  - {network: metaformer_s12_unet, name: more, data: brain}")
    (done / "s.yaml").write_text(more.replace("metaformer_s12_unet", "token_unet"))
    monkeypatch.setattr(contents, "file_digest", lambda path: pytest.fail(f"{path} is read again"))
    monkeypatch.setattr(contents, "read_label", lambda path, names: pytest.fail(f"{path} is read again"))
    assert len(run(done)["runs"]) == 2 * (3 + 2)
    assert all((done / "out" / "runs" / name / "score.json").is_file() for name in
               ("brain__identity__seed0", "cube__pooling__seed0"))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: edit(f / "task.yaml", "[100.0, 500.0]", "[-1000.0, 1000.0]"),
         r"brain__identity__seed0: train was made with other inputs: window \[100.0, 500.0\] -> \[-1000.0, 1000.0\]; "),
        (lambda f: edit(f / "task.yaml", "1.5]", "2.0]"), r"spacing \[1.0, 1.0, 1.5\] -> \[1.0, 1.0, 2.0\]; "),
        (lambda f: edit(f / "task.yaml", "grey_matter, white_matter", "white_matter, grey_matter"),
         r"labels \['0 background', '1 grey_matter', '2 white_matter'\] -> \["),
        (lambda f: edit(f / "task.yaml", "every: 3", "every: 4"),
         r"validation_every 3 -> 4.* \(data set brain: new in training: case_3; no longer in validation: case_3\)$"),
        (lambda f: exchange(f / "brain", "case_1", "case_4"),
         r"train was made with other inputs: training 2 cases .*new in test: case_1; no longer in test: case_4\)"),
        (lambda f: roll(f / "brain" / "imagesTr" / "case_1_0000.nii.gz"), r"train .*brain: other image of case_1\)"),
        (lambda f: roll(f / "brain" / "labelsTr" / "case_0.nii.gz"), r"train .*brain: other label of case_0\)"),
        (lambda f: roll(f / "brain" / "imagesTs" / "case_4_0000.nii.gz"), r"predict .*brain: other image of case_4\)"),
        (lambda f: exchange(cube(f), "cube_1", "cube_5"),
         r"prepare__cube: prepare was made with other inputs: training 5 cases .*no longer in test: cube_5\)"),
        (lambda f: edit(cube(f) / "dataset.json", '"T1"', '"CT"'), r"prepare__cube: .*: 0 T1 -> CT; "),
        (lambda f: edit(f / "s.yaml", "[identity, pooling]", "[identity, pooling, random_mixing]"),
         r"prepare__cube: prepare was made with other inputs: random_mixing None -> "),
    ],
)  # fmt: skip
def test_a_changed_input_is_refused_with_the_difference(done, change, said):
    before = (done / "out" / "plan.json").read_bytes()
    change(done)
    with pytest.raises(InputError, match=said) as caught:
        run(done)
    assert "\n" not in str(caught.value)
    assert (done / "out" / "plan.json").read_bytes() == before
    assert len(list(done.glob("out/runs/*/score.json"))) == 4


def test_another_split_of_the_folds_is_refused(folder):
    edit(folder / "s.yaml", "folds: test", "folds: [0]")
    splits = [{"train": [f"cube_{k}" for k in range(5) if k != fold], "val": [f"cube_{fold}"]} for fold in range(5)]
    (cube(folder) / "splits_final.json").write_text(json.dumps(splits))
    run(folder)
    finish(folder)
    run(folder)
    (cube(folder) / "splits_final.json").write_text(json.dumps(splits[::-1]))
    with pytest.raises(InputError, match=r"data set cube: .*new in test of fold 0: cube_4; no longer .*: cube_0\)"):
        run(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: edit(f / "s.yaml", "nsd_tolerance: 2", "nsd_tolerance: 12"),
         r"4 finished trainings are scored again: nsd_tolerance 2.0 -> 12.0$"),
        (lambda f: roll(f / "brain" / "labelsTs" / "case_5.nii.gz"),
         r"2 finished trainings are scored again: truth \w+ -> \w+ \(data set brain: other label of case_5\)$"),
    ],
)  # fmt: skip
def test_scores_of_other_truths_or_tolerance_are_made_again(done, change, said, capsys):
    change(done)
    kept = shutil.copytree(done / "out", done / "kept")
    shutil.rmtree(done / "out" / "runs" / "brain__pooling__seed0" / "predictions")
    with pytest.raises(
        InputError, match=r"brain__pooling__seed0: its scores must be made again: .* no predictions to score"
    ):
        run(done)
    assert len(list(done.glob("out/runs/*/scores.csv"))) == 4
    shutil.rmtree(done / "out")
    kept.rename(done / "out")
    made = run(done)
    assert re.search(said, capsys.readouterr().err.strip())
    for job in (make_job(done / "out", made, each["id"]) for each in made["runs"]):
        is_old = said.startswith("4") or job.name.startswith("brain")
        assert stage_file(job.folder, "predict").is_file()
        assert [(job.folder / name).is_file() for name in ("score.json", "scores.csv")] == [not is_old] * 2


def test_a_record_of_an_older_version_is_one_line(done):
    file = done / "out" / "runs" / "brain__identity__seed0" / "train.json"
    record = json.loads(file.read_text())
    del record["inputs"]["cases"]
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="train was recorded by an older version, which did not note its cases; give"):
        run(done)


def test_a_change_while_the_study_runs_ends_the_job(folder):
    """The plan says what the trainings are made from, so it must still be so when one starts."""
    run(folder)
    for change, said in (
        (
            lambda: edit(folder / "task.yaml", "500.0]", "600.0]"),
            r"task.yaml was changed .*: window .* -> \[100.0, 600",
        ),
        (lambda: roll(folder / "brain" / "labelsTr" / "case_2.nii.gz"), r"labelsTr/case_2.nii.gz was changed after"),
    ):
        change()
        with pytest.raises(InputError, match=said):
            run_job(folder / "out", "brain__identity__seed0", find_world=lambda name: pytest.fail("it trains"))
        (folder / "task.yaml").write_text(TASK)


@pytest.mark.parametrize("world", ["brain", "nnUNet_raw/Dataset900_Cube"])
def test_test_labels_that_are_no_label_are_refused_before_a_training(folder, world):
    file = next((folder / world / "labelsTs").iterdir())
    before, image = file.read_bytes(), nib.load(file)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj) * np.uint8(127), image.affine), file)
    for _ in range(2):  # the first run leaves the digests, and the folder is still free
        with pytest.raises(InputError, match=rf"{file} holds label 127.* no label of the data set; valid: 0 backgr"):
            run(folder)
    assert not (folder / "out" / "plan.json").exists()
    file.write_bytes(before)
    run(folder)


def faults(*changes: tuple[str, str]) -> Callable[[Path], None]:
    return lambda folder: [edit(folder / "s.yaml", *change) for change in changes]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (faults(("study: tiny", "study: other")), r"out is study 'tiny', .*s.yaml is study 'other'; give"),
        (faults(("[identity, pooling]", "[identity, random_mixing]")),
         r"s.yaml lacks finished trainings of .*out: brain__pooling__seed0, cube__pooling__seed0; keep"),
        (faults(("seeds: [0]", "seeds: [1]")), r"finished trainings of .*brain__identity__seed0, .* remove their f"),
    ],
)  # fmt: skip
def test_another_study_or_fewer_finished_trainings_are_refused(done, change, said):
    before = {name: (done / "out" / name).read_bytes() for name in ("plan.json", "study.yaml")}
    change(done)
    with pytest.raises(InputError, match=said):
        run(done)
    assert {name: (done / "out" / name).read_bytes() for name in before} == before


def test_an_entry_without_a_finished_training_may_go(folder):
    edit(folder / "s.yaml", "[identity, pooling]", "[identity, pooling, random_mixing]")
    run(folder)
    finish(folder)
    for run_of_it in folder.glob("out/runs/*random_mixing*"):
        shutil.rmtree(run_of_it)
    (folder / "s.yaml").write_text(STUDY)
    assert len(run(folder)["runs"]) == 4
