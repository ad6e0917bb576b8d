"""What `medmixers bundle open` refuses: every zip that is not what a bundle's zip has to be."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from medmixers.bundles.share.archive import MANIFEST, manifest_text, open_archive, write_archive
from zipped_files import FILES, tensors

Entries = dict[str, bytes]


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    write_archive(tmp_path / "sound.zip", "demo", FILES)
    return tmp_path / "sound.zip"


def rewrite(path: Path, entries: Entries) -> Path:
    """A zip of exactly these entries, whatever they are called."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def with_manifest(files: Entries) -> Entries:
    """A zip's entries with a manifest that is true of them: what one who tampers would write too."""
    return {f"demo/{path}": data for path, data in {**files, MANIFEST: manifest_text(files).encode()}.items()}


def test_a_sound_zip_is_unpacked_whole(sound: Path, tmp_path: Path) -> None:
    bundle = open_archive(sound, tmp_path / "out")
    assert bundle == tmp_path / "out" / "demo"
    assert {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()} == {*FILES, MANIFEST}
    assert all((bundle / path).read_bytes() == data for path, data in FILES.items())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["demo"]
    if shutil.which("sha256sum"):
        checked = subprocess.run(["sha256sum", "-c", MANIFEST], cwd=bundle, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
    with pytest.raises(FileExistsError, match="demo is there already"):
        open_archive(sound, tmp_path / "out")


def test_bytes_do_not_depend_on_order_or_time(sound: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    write_archive(again, "demo", dict(reversed(FILES.items())))
    assert again.read_bytes() == sound.read_bytes()
    with zipfile.ZipFile(sound) as archive:
        assert {(e.date_time, e.external_attr >> 16) for e in archive.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), stat.S_IFREG | 0o644)
        }


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_archive(tmp_path / "out.zip", "demo", {**FILES, "configs/other.json": None})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


SOUND = with_manifest(FILES)
REFUSED: dict[str, tuple[Entries, str]] = {
    "changed": ({**SOUND, "demo/LICENSE": b"Apache license"}, "'LICENSE' is not what the manifest says"),
    "added": ({**SOUND, "demo/evil.py": b"1"}, "'evil.py' is in its zip only"),
    "removed": ({k: v for k, v in SOUND.items() if k != "demo/LICENSE"}, "'LICENSE' is in its manifest only"),
    "no manifest": ({f"demo/{k}": v for k, v in FILES.items()}, "it has no manifest SHA256SUMS"),
    "climbs": ({**SOUND, "demo/../../evil.py": b"1"}, "'demo/../../evil.py' would not lie inside"),
    "climbs at once": ({**SOUND, "../evil.py": b"1"}, "'../evil.py' would not lie inside"),
    "absolute": ({**SOUND, "/evil.py": b"1"}, "'/evil.py' would not lie inside"),
    "drive": ({**SOUND, "C:/evil.py": b"1"}, "'C:/evil.py' would not lie inside"),
    "backslash": ({**SOUND, "demo\\..\\evil.py": b"1"}, "would not lie inside"),
    "two roots": ({**SOUND, "other/evil.py": b"1"}, "this one has demo, other"),
    "no root": ({**SOUND, "evil.py": b"1"}, "this one has demo, evil.py"),
    "empty": ({}, "this one has none"),
    "kind": (with_manifest({**FILES, "models/m.pkl": b"1"}), "'demo/models/m.pkl' is no kind of file"),
    "pickle": (with_manifest({**FILES, "models/model.pt": pickle.dumps(Evil())}), "'model.pt' is not only tensors"),
    "object": (with_manifest({**FILES, "models/model.pt": tensors(Evil())}), "'model.pt' is not only tensors"),
    "nested": (with_manifest({**FILES, "models/model.pt": tensors({"model": {}})}), "'model.pt' is no flat dict"),
    "hidden root": (
        {name.replace("demo/", ".ipython/"): data for name, data in SOUND.items()}, "'.ipython' is not a bundle's name"
    ),
    "editor's root": (
        {name.replace("demo/", ".vscode/"): data for name, data in SOUND.items()}, "'.vscode' is not a bundle's name"
    ),
    "root of another kind": (
        {name.replace("demo/", "a b/"): data for name, data in SOUND.items()}, "'a b' is not a bundle's name"
    ),
    "hidden folder": (with_manifest({**FILES, ".git/x.py": b"1"}), "'demo/.git/x.py' is no kind of file"),
    "package": (with_manifest({**FILES, "__init__.py": b"1"}), "'demo/__init__.py' would make the bundle's folder"),
    "not TorchScript": (with_manifest({**FILES, "models/model.ts": pickle.dumps(Evil())}), "'model.ts' is not Torch"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entries, message = REFUSED[case]
    path = rewrite(tmp_path / "bad.zip", entries)
    with pytest.raises(ValueError, match=r"bad\.zip is refused: ") as error:
        open_archive(path, tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    left = [each for each in tmp_path.rglob("*") if each not in (path, tmp_path / "out")]
    assert left == []  # nothing half-unpacked, and no pickle has run


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "bad.zip", SOUND)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("demo/link.py")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"'demo/link\.py' is no plain file"):
        open_archive(path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "bad.zip", SOUND)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("demo/license.md", b"1")
        archive.writestr("demo/LICENSE.md", b"2")
    with pytest.raises(ValueError, match=r"'demo/LICENSE\.md' is in it twice"):
        open_archive(path, tmp_path / "out")


def test_damaged_zips_are_refused(sound: Path, tmp_path: Path) -> None:
    content = sound.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b"Apache License")] ^= 1
    (tmp_path / "none.zip").write_text("no zip")
    (tmp_path / "cut.zip").write_bytes(content[:-40])
    (tmp_path / "flipped.zip").write_bytes(flipped)
    for name in ("none", "cut", "flipped"):
        # Cut off, Python finds the zip that model.pt is in itself.
        with pytest.raises(ValueError, match=rf"{name}\.zip (cannot be read as a zip|is refused)"):
            open_archive(tmp_path / f"{name}.zip", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
    with pytest.raises(FileNotFoundError, match="there is no zip"):
        open_archive(tmp_path / "missing.zip")


def compressed(path: Path, entries: Entries) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def test_zip_bombs_are_refused_before_they_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = compressed(tmp_path / "bomb.zip", with_manifest({**FILES, "configs/a.json": bytes(2**24)}))
    with pytest.raises(ValueError, match=r"'bomb\.zip' of \d+ bytes would unpack to 167\d+; the limits are 100 times"):
        open_archive(bomb, tmp_path / "out")
    inner = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILES["models/model.pt"])) as whole, zipfile.ZipFile(inner, "w", 8) as archive:
        for entry in whole.infolist():
            archive.writestr(entry.filename, whole.read(entry))
        archive.writestr("archive/data/9", bytes(2**24))
    path = rewrite(tmp_path / "inner.zip", with_manifest({**FILES, "models/model.pt": inner.getvalue()}))
    with pytest.raises(ValueError, match=r"inner\.zip is refused: 'model\.pt' of \d+ bytes would unpack to 167"):
        open_archive(path, tmp_path / "out")
    monkeypatch.setattr("medmixers.bundles.share.archive.MOST_FILES", 3)
    with pytest.raises(ValueError, match=r"'many\.zip' holds 4 files, the limit is 3"):
        open_archive(rewrite(tmp_path / "many.zip", SOUND), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_zip_that_another_tool_compressed_is_opened(tmp_path: Path) -> None:
    text = json.dumps({f"key {index}": "value" for index in range(1000)}).encode()
    path = compressed(tmp_path / "sound.zip", with_manifest({**FILES, "configs/train.json": text}))
    assert (open_archive(path, tmp_path / "out") / "configs" / "train.json").read_bytes() == text


def test_large_files_are_hashed_and_written_in_pieces(tmp_path: Path) -> None:
    """Peak memory of packing, reading the manifest and opening: far below the file's 64 MiB."""
    import tracemalloc

    big = tmp_path / "big.onnx"
    big.write_bytes(os.urandom(2**26))
    tracemalloc.start()
    write_archive(tmp_path / "big.zip", "demo", {**FILES, "models/model.onnx": big})
    bundle = open_archive(tmp_path / "big.zip", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (bundle / "models" / "model.onnx").read_bytes() == big.read_bytes()
    assert peak < 2**24


@pytest.mark.parametrize(
    ("root", "file", "message"),
    [
        (".hidden", "docs/a.md", "'.hidden' is not a bundle's name"),
        ("demo", "docs/a.html", "'docs/a.html' is no kind of file"),
        ("demo", "docs/.DS_Store", "'docs/.DS_Store' is no kind of file"),
    ],
)
def test_nothing_is_written_that_open_refuses(root: str, file: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_archive(tmp_path / "out.zip", root, {**FILES, file: b"1"})
    assert list(tmp_path.iterdir()) == []


def test_command_ends_in_one_line(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "bad.zip", REFUSED["changed"][0])
    command = [sys.executable, "-m", "medmixers", "bundle", "open", str(path), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"medmixers: error: {path} is refused: 'LICENSE' is not what the manifest says; it was changed\n"
    )


def test_manifest_is_of_sha256sum() -> None:
    lines = manifest_text(FILES).splitlines()
    assert lines == sorted(lines, key=lambda line: line[66:])
    assert lines[0] == f"{hashlib.sha256(FILES['LICENSE']).hexdigest()}  LICENSE"
