"""What `medmixers bundle open` refuses: every zip that is not what a bundle's zip has to be."""

from __future__ import annotations

import hashlib
import io
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
import torch

from medmixers.bundles.share.archive import MANIFEST, manifest_text, open_archive, write_archive

Entries = dict[str, bytes]


def tensors(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


FILES = {
    "LICENSE": b"Apache License",
    "configs/metadata.json": b"{}",
    "models/model.pt": tensors({"weight": torch.arange(3)}),
}


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
    "not TorchScript": (with_manifest({**FILES, "models/model.ts": pickle.dumps(Evil())}), "'model.ts' is not Torch"),
}


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
