"""Outputs never replace inputs; they are written whole, by one process at a time."""

import errno
import os
import re
import socket
import subprocess
import sys

import pytest

from medmixers import files
from medmixers.errors import ExistingFileError, InputError, is_input_error
from medmixers.files import copy_file, held, refuse_overwriting_inputs, written_whole


@pytest.fixture
def images(tmp_path):
    """A folder with one image, and a raw data set."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").write_text("voxels")
    (tmp_path / "raw" / "imagesTr").mkdir(parents=True)
    (tmp_path / "raw" / "labelsTs").mkdir()
    return tmp_path


def refused(output, *inputs):
    with pytest.raises(InputError, match=r"^output ") as caught:
        refuse_overwriting_inputs(output, inputs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_output_elsewhere_is_allowed(images):
    image = images / "images" / "a.nii.gz"
    for output in ("out", "out.nii.gz", "images/b.nii.gz", "images/predictions", "."):
        refuse_overwriting_inputs(images / output, [image])
    refuse_overwriting_inputs(images / "out", [images / "images"])
    refuse_overwriting_inputs(images / "images" / "new", [images / "images"])
    (images / "images" / "predictions").mkdir()
    refuse_overwriting_inputs(images / "images" / "predictions", [images / "images", image])


def test_the_input_itself_in_every_spelling(images, monkeypatch):
    image = images / "images" / "a.nii.gz"
    assert "is the input" in refused(image, image)
    assert "is the input" in refused(images / "images" / ".." / "images" / "a.nii.gz", image)
    monkeypatch.chdir(images / "images")
    assert "is the input" in refused("a.nii.gz", image)
    (images / "link.nii.gz").symlink_to(image)
    os.link(image, images / "hard.nii.gz")
    assert "is the input" in refused(images / "link.nii.gz", image)
    assert "is the input" in refused(image, images / "link.nii.gz")
    assert "is the input" in refused(images / "hard.nii.gz", image)
    assert "is the input" in refused(images / "absent", images / "images" / ".." / "absent")


def test_the_folder_of_the_inputs(images):
    image, folder = images / "images" / "a.nii.gz", images / "images"
    assert "holds the input" in refused(folder, image)
    assert "is the input" in refused(folder, folder)
    (images / "other").symlink_to(folder)
    assert "holds the input" in refused(images / "other", image)
    (images / "linked").mkdir()
    (images / "linked" / "a.nii.gz").symlink_to(image)
    assert "holds the input" in refused(images / "linked", images / "linked" / "a.nii.gz")
    assert "holds the input" in refused(folder, images / "linked" / "a.nii.gz"), "where the link leads"


@pytest.mark.parametrize("name", ["imagesTr", "labelsTs", "IMAGESTR", "labelstr"])
def test_raw_data_of_nnunet(name, images, monkeypatch):
    for output in (f"raw/{name}", f"raw/{name}/new.nii.gz", f"raw/{name}/a/b"):
        assert f"lies in {name}, the raw data" in refused(images / output)
    (images / "shortcut").symlink_to(images / "raw" / "imagesTr")
    assert "lies in imagesTr" in refused(images / "shortcut" / "x.nii.gz")
    monkeypatch.chdir(images / "raw" / "labelsTs")
    assert "lies in labelsTs" in refused("x.nii.gz")


def test_a_copy_is_a_file_of_its_own_with_the_dates_of_the_original(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(bytes(range(256)) * 20_000)  # more than one piece
    os.utime(original, (1e9, 1e9))
    copy_file(original, copy)
    assert copy.read_bytes() == original.read_bytes()
    assert copy.stat().st_mtime == 1e9
    copy.write_bytes(b"other")
    assert original.stat().st_size == 256 * 20_000


def test_a_copy_shares_its_blocks_where_the_file_system_clones(tmp_path, monkeypatch):
    def clone(target, request, source):
        assert request == 0x40049409
        os.write(target.fileno(), os.read(source, 100))

    monkeypatch.setattr(files.fcntl, "ioctl", clone)
    (tmp_path / "original").write_text("voxels")
    copy_file(tmp_path / "original", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "voxels"


WRITER = """
import sys, time
from pathlib import Path
from medmixers.files import written_whole
with written_whole(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is in the middle of writing ``tmp_path / "out.txt"``."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_the_second_writer_is_told_who_writes(writer, tmp_path):
    message = f"out.txt is being written by process {writer.pid} on {socket.gethostname()}: wait for it"
    with pytest.raises(ExistingFileError, match=message), written_whole(tmp_path / "out.txt"):
        pass
    with written_whole(tmp_path / "other.txt") as partial:
        partial.write_text("another file")


def test_the_next_writer_deletes_what_a_killed_one_left(writer, tmp_path):
    (tmp_path / ".other.partial-x").mkdir()
    writer.kill()
    writer.wait()
    assert len(list(tmp_path.glob(".out.txt.*"))) == 2  # its folder and its lock
    with written_whole(tmp_path / "out.txt") as partial:
        partial.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.partial-x", "out.txt"]
    assert (tmp_path / "out.txt").read_text() == "whole"


def test_a_process_may_hold_twice_and_an_error_leaves_nothing(tmp_path):
    with held(tmp_path / ".lock", tmp_path) as outer, held(tmp_path / ".lock", tmp_path) as inner:
        assert (outer, inner) == (True, False)
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "new" / "deep" / "out.txt"):
        (tmp_path / "nothing").read_text()
    assert not list((tmp_path / "new").iterdir())


def test_a_file_system_without_locks_keeps_no_lock_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    (tmp_path / ".out.txt.partial-of_another_writer").mkdir()
    with written_whole(tmp_path / "out.txt") as partial:
        partial.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.txt.partial-of_another_writer", "out.txt"]


def test_without_locks_files_are_written_too(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with written_whole(tmp_path / "out.txt") as partial:
        partial.write_text("whole")
    copy_file(tmp_path / "out.txt", tmp_path / "copy.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.txt", "out.txt"]


def write_to_a_full_disk(is_wrapped):
    """The system names no file where a write fails, and pydicom wraps its error in one without a number."""
    try:
        with open("/dev/full", "w") as file:
            file.write("x")
    except OSError as error:
        if is_wrapped:
            raise OSError(f"With tag (0040,A730) got exception: {error}\nTraceback") from error
        raise


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_full_disk_ends_in_one_line_that_names_the_target(is_wrapped, tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device: .*a\.dcm") as caught,
        written_whole(tmp_path / "a.dcm"),
    ):
        write_to_a_full_disk(is_wrapped)
    assert is_input_error(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_a_full_disk_takes_is_deleted(tmp_path, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_this_process", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.txt"), written_whole(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "is_told"),
    [
        ("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534", True),
        ("PytorchStreamWriter failed writing file data/0: file write failed", True),
        ("[enforce fail at inline_container.cc:132] . PytorchStreamReader failed reading zip archive", False),
        ("CUDA out of memory", False),
    ],
)
def test_a_disk_that_torch_finds_full_is_told_with_the_target(message, is_told, tmp_path):
    error, words = (InputError, "a.pt' cannot be written, is the disk full") if is_told else (RuntimeError, message)
    with pytest.raises(error, match=re.escape(words)), written_whole(tmp_path / "a.pt"):
        raise RuntimeError(message)
    assert list(tmp_path.iterdir()) == []
