"""A folder of cases is read once per start, and again once it has changed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medmixers.bundle_runtime.cases import find_images, split
from medmixers.datasets import readings
from medmixers.datasets.readings import Files, kept, read_json

IMAGES = 2000
COUNTED: list[Counter[str]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if COUNTED and event in ("open", "os.scandir", "os.listdir"):
        COUNTED[-1][f"{event} {os.path.basename(str(arguments[0]))}"] += 1


sys.addaudithook(_hear)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Openings by the file's name, listings by the folder's, and all calls of stat together."""
    counts: Counter[str] = Counter()

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts["stat"] += 1
            return function(*args, **kwargs)

        return call

    COUNTED.append(counts)
    with monkeypatch.context() as patch:
        for module, name in ((os, "stat"), (os, "lstat"), (os.path, "isfile"), (os.path, "isdir"), (os.path, "exists")):
            patch.setattr(module, name, counting(getattr(module, name)))
        yield counts
    COUNTED.pop()


def aged(*paths: Path) -> None:
    """Let files and folders look an hour old."""
    for path in paths:
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """2,000 training cases and 20 held-out ones in nnU-Net raw format, of empty files."""
    for part, count in (("Tr", IMAGES), ("Ts", 20)):
        for kind in ("images", "labels"):
            (tmp_path / f"{kind}{part}").mkdir()
        for index in range(count):
            (tmp_path / f"images{part}" / f"c{index:04d}_0000.nii.gz").touch()
            (tmp_path / f"labels{part}" / f"c{index:04d}.nii.gz").touch()
    content = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0},
        "numTraining": IMAGES,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    aged(tmp_path / "dataset.json", *tmp_path.glob("*Tr"), *tmp_path.glob("*Ts"))
    return tmp_path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """2,000 images of a datalist.json."""
    (tmp_path / "images").mkdir()
    entries = []
    for index in range(IMAGES):
        (tmp_path / "images" / f"{index}.png").touch()
        entries.append({"image": f"images/{index}.png", "label": index % 3})
    content = {"training": entries[:-100], "validation": [], "test": entries[-100:]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    aged(tmp_path / "datalist.json", tmp_path / "images")
    return tmp_path


def lists_of_a_start(folder: Path) -> int:
    """The lists of one start: the config's, the preflight's, evaluation's and prediction's."""
    rule = {"validation_every": 5, "fold": 0}
    parts = ("training", "validation", "training", "validation", "validation", "test", "test")
    return sum(len(split(folder, part=part, **rule)) for part in parts) + 2 * len(find_images(folder))  # type: ignore[arg-type]


def test_a_raw_data_set_is_read_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as counts:
        assert lists_of_a_start(raw) == 2 * IMAGES + IMAGES // 5 + 4 * 20
    assert counts["open dataset.json"] == 1
    assert {name: counts[f"os.scandir {name}"] for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")} == {
        "imagesTr": 1, "labelsTr": 1, "imagesTs": 1, "labelsTs": 1,
    }  # fmt: skip
    assert sum(counts.values()) - counts["stat"] == 5  # and nothing else is opened or listed
    assert counts["stat"] <= 100


def test_a_datalist_is_read_once(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as counts:
        assert lists_of_a_start(listed) == 2 * 1900 + 380 + 4 * 100
    assert counts["open datalist.json"] == 1
    assert counts["os.scandir images"] == 1
    assert sum(counts.values()) - counts["stat"] == 2
    assert counts["stat"] <= 100


def test_a_change_is_seen_at_once(raw: Path) -> None:
    """Old or new, as fast as tests rewrite a folder: in each of the ways that a folder changes."""
    assert len(find_images(raw)) == 20
    (raw / "imagesTs" / "c9999_0000.nii.gz").touch()
    assert len(find_images(raw)) == 21
    (raw / "imagesTs" / "c9999_0000.nii.gz").unlink()
    assert len(find_images(raw)) == 20
    (raw / "labelsTr" / "c0007.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"c0007_0000\.nii\.gz has no label"):
        split(raw, part="training", validation_every=5)
    text = (raw / "dataset.json").read_text()
    for name in ("T2", "T3"):  # of the same length, within one tick of the clock
        (raw / "dataset.json").write_text(text.replace("T1", name))
        assert readings.read_json(str(raw / "dataset.json"))["channel_names"] == {"0": name}


def test_a_missing_file_of_a_datalist_is_seen_at_once(listed: Path) -> None:
    assert len(split(listed, part="test", validation_every=5)) == 100
    (listed / "images" / "1999.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"datalist\.json: test\[99\]: there is no file .*1999\.png"):
        split(listed, part="test", validation_every=5)


def test_lists_may_be_changed_by_who_takes_them(listed: Path) -> None:
    for item in split(listed, part="test", validation_every=5):
        item["label"] = "changed"
    assert {item["label"] for item in split(listed, part="test", validation_every=5)} == {0, 1, 2}


def test_errors_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    aged(path)
    for _ in range(2):
        with pytest.raises(ValueError, match="is not valid JSON"):
            read_json(str(path))
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="it nests too deeply"):
        read_json(str(path))


def test_only_a_file_at_rest_is_kept(tmp_path: Path) -> None:
    reads: list[str] = []
    path = tmp_path / "a"
    path.touch()
    read = kept(lambda name: reads.append(name))
    read(str(path))
    read(str(path))
    assert len(reads) == 2
    aged(path)
    read(str(path))
    read(str(path))
    assert len(reads) == 3


def test_files_knows_links_and_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    files = Files()
    found = {name: tmp_path / name in files for name in ("file", "folder", "link", "broken", "nothing", "no/where")}
    assert found == {"file": True, "folder": False, "link": True, "broken": False, "nothing": False, "no/where": False}
