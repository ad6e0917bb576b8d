"""Prediction of many cases: continued after a kill, never with stale outputs, on after a bad case, in parts."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import ROOT, run_here, small_options
from small_bundle import start_weights, write_small_bundle_with_weights

import preloaded
from medmixers.bundle_runtime import prediction_record
from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.verify.synthetic import oblique_affine

SHAPE, COUNT = (18, 16, 17), 6
NAMES = [f"case_{index}.nii.gz" for index in range(COUNT)]
# Ends itself with SIGKILL as the fourth label map is about to get its name.
KILLED = """\
import os, runpy, signal, sys
rename, counted = os.replace, []
def replace(source, target):
    counted.extend([target] * str(target).endswith(".nii.gz"))
    if len(counted) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.replace = replace
sys.argv[0] = "monai.bundle"
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle_with_weights(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_image(folder / name, rng.normal(100, 20, SHAPE))
    return folder


def write_image(path: Path, voxels: np.ndarray) -> None:
    """A NIfTI file in an oblique geometry, of a size that the voxels do not change."""
    image = nib.Nifti1Image(voxels.astype(np.float32), oblique_affine())
    path.write_bytes(gzip.compress(image.to_bytes(), 0, mtime=0))


@pytest.fixture(scope="module")
def expected(bundle: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of an uninterrupted prediction without options. It leaves nothing but label maps."""
    folder = tmp_path_factory.mktemp("expected")
    predict(bundle, images, folder)
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    return contents(folder)


def predict(bundle: Path, images: Path, out: Path, **options: Any) -> None:
    paths = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(out)}
    monai.bundle.run(config_file=str(bundle / "configs" / "inference.json"), **{"num_workers": 0, **paths, **options})


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> content of each label map."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.nii.gz"))}


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1]


def test_a_killed_prediction_is_continued(
    bundle: Path, images: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["run", "--config_file", str(bundle / "configs" / "inference.json"), "--bundle_root", str(bundle)]
    command += ["--dataset_dir", str(images), "--output_dir", str(out)]
    done = subprocess.run([preloaded.python(), "-c", KILLED, *command], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    assert list(contents(out)) == NAMES[:3]
    (record,) = out.glob(".predicted_*.jsonl")
    with open(record, "a") as file:
        file.write('{"setup": "cut o')  # a line that another kill did not finish
    written = {name: (out / name).stat().st_mtime_ns for name in NAMES[:3]}
    predict(bundle, images, out, continue_prediction=True)
    assert last_line(capsys) == "3 cases predicted, 3 were done before"
    assert contents(out) == expected
    assert {name: (out / name).stat().st_mtime_ns for name in NAMES[:3]} == written
    assert not list(out.glob(".case_*"))  # what the kill left of the fourth
    predict(bundle, images, out, continue_prediction=True)
    assert last_line(capsys) == "0 cases predicted, 6 were done before"


@pytest.fixture
def place(bundle: Path, images: Path, tmp_path: Path) -> Path:
    """A folder with its own bundle and images, and a finished prediction of three of them, which can be continued."""
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "images").mkdir()
    for name in NAMES[:3]:
        shutil.copy2(images / name, tmp_path / "images" / name)
    predict(tmp_path / "bundle", tmp_path / "images", tmp_path / "out", continue_prediction=True)
    return tmp_path


def other_weights(place: Path) -> None:
    changed = {key: value + 0.01 for key, value in start_weights().items()}
    torch.save(changed, place / "bundle" / "models" / "model.pt")


def same_weights_elsewhere(place: Path) -> None:
    model = place / "bundle" / "models" / "model.pt"
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(content)


def other_image(place: Path) -> None:
    """Another image of the same size on disk and with the old date, as copies keep it."""
    path = place / "images" / NAMES[1]
    before = path.stat()
    write_image(path, np.asarray(nib.load(path).dataobj)[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def touched_image(place: Path) -> None:
    os.utime(place / "images" / NAMES[1])


def edited_output(place: Path) -> None:
    with open(place / "out" / NAMES[0], "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\7")


def deleted_output(place: Path) -> None:
    (place / "out" / NAMES[2]).unlink()


def other_default(place: Path) -> None:
    config = place / "bundle" / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"overlap": 0.25', '"overlap": 0.5'))


@pytest.mark.parametrize(
    ("change", "options", "again"),
    [
        (other_weights, {}, [0, 1, 2]),
        (same_weights_elsewhere, {}, []),
        (other_image, {}, [1]),
        (touched_image, {}, []),
        (edited_output, {}, [0]),
        (deleted_output, {}, [2]),
        (other_default, {}, [0, 1, 2]),
        (None, {"overlap": 0.5}, [0, 1, 2]),
        (None, {"inferer#mode": "constant"}, [0, 1, 2]),
        (None, {"num_workers": 1, "logits_memory_gb": 0}, []),
    ],
)
def test_only_what_is_proved_done_is_left_out(
    change: Callable[[Path], None] | None, options: dict[str, Any], again: list[int], place: Path
) -> None:
    before = {name: (place / "out" / name).stat().st_mtime_ns for name in NAMES[:3]}
    if change is not None:
        change(place)
    predict(place / "bundle", place / "images", place / "out", continue_prediction=True, **options)
    after = {name: (place / "out" / name).stat().st_mtime_ns for name in NAMES[:3]}
    assert [index for index, name in enumerate(NAMES[:3]) if after[name] != before[name]] == again
    predict(place / "bundle", place / "images", place / "fresh", **options)
    assert contents(place / "out") == contents(place / "fresh")


def test_other_code_predicts_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "package").mkdir()
    monkeypatch.setattr(prediction_record, "PACKAGE", place / "package")
    predict(place / "bundle", place / "images", place / "out", continue_prediction=True)
    assert last_line(capsys) == "3 cases predicted, 0 were done before"


def test_files_that_options_name_count_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.pt").write_text("a")
    config = {"bundle_root": str(tmp_path), "ensemble": "models/a.pt, models/b.pt", "part": "1/2"}
    digests = [prediction_record.setup_digest(config, tmp_path / "model.pt")]
    for file in ("models/b.pt", "models/a.pt", "configs/nnunet/plans.json", "model.pt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("b")
        digests.append(prediction_record.setup_digest(config, tmp_path / "model.pt"))
    assert len(set(digests)) == len(digests)
    assert prediction_record.setup_digest({**config, "part": "2/2"}, tmp_path / "model.pt") == digests[-1]


def test_an_image_that_changes_during_its_prediction_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "image").write_text("1")
    (tmp_path / "output").write_text("x")
    before = prediction_record.input_states([tmp_path / "image"])
    record = prediction_record.PredictionRecord(tmp_path, "setup")
    record.add(before, [tmp_path / "output"])
    assert list(record.done([before])) == [True]
    record.delete()
    (tmp_path / "image").write_text("2")
    record.add(before, [tmp_path / "output"])
    assert list(record.done([prediction_record.input_states([tmp_path / "image"])])) == [False]


def test_a_dicom_series_is_all_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_text("1")
    (tmp_path / "output").write_text("x")
    record = prediction_record.PredictionRecord(tmp_path, "setup")
    record.add(prediction_record.input_states([tmp_path / "series"]), [tmp_path / "output"])
    assert list(record.done([prediction_record.input_states([tmp_path / "series"])])) == [True]
    (tmp_path / "series" / "2.dcm").write_text("2")
    assert list(record.done([prediction_record.input_states([tmp_path / "series"])])) == [False]


def test_bad_cases_are_named_at_the_end(
    bundle: Path, images: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "images")
    cut, broken = tmp_path / "images" / NAMES[1], tmp_path / "images" / NAMES[4]
    cut.write_bytes(cut.read_bytes()[:2000])
    write_image(broken, np.full(SHAPE, np.nan))
    options = {"keep_going": True, "continue_prediction": True}
    with pytest.raises(SystemExit) as stopped:
        predict(bundle, tmp_path / "images", tmp_path / "out", **options)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()[-3:]
    where = f"a file of theirs in {tmp_path / 'out'} is incomplete or older"
    assert lines[0] == f"medmixers: error: 2 of 6 cases failed; {where}:"
    assert str(cut) in lines[1]
    assert str(broken) in lines[2]
    assert "Traceback" not in printed.err
    good = {name: content for name, content in expected.items() if name not in (cut.name, broken.name)}
    assert contents(tmp_path / "out") == good
    for path in (cut, broken):
        shutil.copy2(images / path.name, path)
    predict(bundle, tmp_path / "images", tmp_path / "out", **options)
    assert last_line(capsys) == "2 cases predicted, 4 were done before"
    assert contents(tmp_path / "out") == expected


def test_bad_cases_of_workers_and_bugs_are_named_too(
    bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / NAMES[0]).write_bytes(b"no image")
    # a fault in the network: any exception
    options = {"keep_going": True, "num_workers": 1, "inferer": {"_target_": "SimpleInferer"}, "part": "1/3"}
    with pytest.raises(SystemExit):
        predict(bundle, tmp_path / "images", tmp_path / "out", **options)
    lines = capsys.readouterr().err.strip().splitlines()
    (head,) = (index for index, line in enumerate(lines) if "cases failed" in line)
    assert lines[head].startswith("medmixers: error: 1 of 2 cases failed; ")
    assert len(lines) == head + 2
    assert list(contents(tmp_path / "out")) == [NAMES[3]]


def test_parts_are_the_whole(bundle: Path, images: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    counts = []
    for number in (1, 2, 3, 4):
        predict(bundle, images, tmp_path / "out", part=f"{number}/4")
        counts.append(len(contents(tmp_path / "out")))
    assert counts == [2, 4, 5, 6]
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "0/8"}, "--part must be K/N with K from 1 to N, 3/8 for example; got '0/8'"),
        ({"part": "9/8"}, "--part must be K/N with K from 1 to N, 3/8 for example; got '9/8'"),
        ({"part": 3}, "--part must be K/N with K from 1 to N, 3/8 for example; got 3"),
        ({"keep_going": "yes"}, "--keep_going must be True or False, got 'yes'"),
        ({"continue_prediction": 1}, "--continue_prediction must be True or False, got 1"),
        (
            {"continue_prediction": True, "allow_untrained": True},
            "--continue_prediction needs trained weights: random ones differ in each start",
        ),
        ({"part": "1/2", "dataloader#batch_size": 2}, "one by one: set neither dataset#data nor the options of the"),
    ],
)
def test_options_that_cannot_be(
    options: dict[str, Any],
    message: str,
    bundle: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        predict(bundle, images, tmp_path / "out", **options)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lists_of_clients_have_no_parts(
    bundle: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"dataset#data": [{"image": str(images / NAMES[0])}]}
    with pytest.raises(SystemExit):
        predict(bundle, images, tmp_path / "out", part="1/2", **given)
    assert "take the images of --dataset_dir or --datalist" in capsys.readouterr().err
    predict(bundle, images, tmp_path / "out", **given)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == NAMES[:1]


def test_tables_of_classes_are_written_by_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    name = "skin_lesion_classification_pooling"
    (tmp_path / "images").mkdir()
    for index in range(4):
        Image.new("RGB", (40, 40), (60 * index, 90, 30)).save(tmp_path / "images" / f"{index}.png")
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    options = {**small_options(BUNDLES[name]), "allow_untrained": True, "output_dir": str(tmp_path / "out")}
    options |= {"dataset_dir": str(tmp_path / "images"), "keep_going": True, "num_workers": 0}
    for number, code in ((1, 2), (2, None)):
        if code is None:
            run_here("inference", bundle=name, part=f"{number}/2", **options)
        else:
            with pytest.raises(SystemExit):
                run_here("inference", bundle=name, part=f"{number}/2", **options)
    tables = {path.name: [row[0] for row in rows(path)] for path in (tmp_path / "out").iterdir()}
    file = {index: str(tmp_path / "images" / f"{index}.png") for index in range(4)}
    assert tables == {"predictions_1_of_2.csv": [file[0]], "predictions_2_of_2.csv": [file[1], file[3]]}
    with pytest.raises(SystemExit):  # every case is bad: no table, one line each
        run_here("inference", bundle=name, datalist=[file[2]], **{**options, "output_dir": str(tmp_path / "none")})
    assert "1 of 1 cases failed" in capsys.readouterr().err
    config = json.loads((ROOT / "bundles" / name / "configs" / "inference.json").read_text())
    assert "continue_prediction" not in config  # its table is written at the end


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]
