"""Atomic writes by one process at a time, copies, and the check that an output does not overwrite an input."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from medmixers.errors import ExistingFileError, InputError, first_line

try:
    import fcntl
except ImportError:  # Windows, where 3D Slicer runs bundles
    fcntl = None  # type: ignore[assignment]

CLONE = 0x40049409  # FICLONE of Linux: a copy that shares the blocks until one of both is changed
PIECE = 2**20  # bytes that are read at a time
PARTIAL = ".partial-"  # in the name of a working folder: .NAME.partial-xxxx
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # writers raise them without the name of a file
TORCHS_WRITER = "PytorchStreamWriter|inline_container(?!.*PytorchStreamReader)"  # in its errors
RAW_FOLDERS = ("imagesTr", "imagesTs", "labelsTr", "labelsTs")  # nnU-Net's raw data

_WRITTEN: ContextVar[list[Path] | None] = ContextVar("_WRITTEN", default=None)


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A path for a file or a folder that takes the name ``target`` at the end; nothing is left after an error.

    The path has the target's own name, in a :func:`working_folder`: some writers choose the format by the ending.
    """
    with working_folder(target) as folder:
        yield folder / target.name
        os.replace(folder / target.name, target)
    if (written := _WRITTEN.get()) is not None:
        written.append(target)


@contextmanager
def written_files() -> Iterator[list[Path]]:
    """A list that :func:`written_whole` adds its targets to, inside the ``with`` block."""
    files: list[Path] = []
    token = _WRITTEN.set(files)
    try:
        yield files
    finally:
        _WRITTEN.reset(token)


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """A temporary folder next to ``target``, for what it is made of; deleted at the end.

    One process at a time may write a target. What a killed one left is deleted first.

    Raises:
        ExistingFileError: another process writes it.
        OSError: the disk is full; it names the target.
        InputError: ``torch.save`` could not write all bytes.
    """
    is_new = not target.parent.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with held(target.parent / f".{target.name}.lock", target) as is_alone:
            if is_alone:
                delete_leftovers(target.parent, target.name)
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}{PARTIAL}", dir=target.parent))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if error.filename is None and (number := _no_space(error)) is not None:
            raise OSError(number, os.strerror(number), str(target)) from error
        raise
    except RuntimeError as error:
        if not re.search(TORCHS_WRITER, str(error)):
            raise
        raise InputError(f"{str(target)!r} cannot be written, is the disk full? {first_line(error)}") from error
    finally:
        if is_new:
            with suppress(OSError):  # not empty
                target.parent.rmdir()


def _no_space(error: BaseException | None) -> int | None:
    """The number of the system's error of a full disk, which pydicom wraps in another."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return error.errno
        error = error.__cause__
    return None


def delete_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete the working folders that killed processes left in ``folder``; of one target, or of all."""
    for leftover in folder.glob(f".{'*' if name is None else glob.escape(name)}{PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def held(lock: Path, what: Path) -> Iterator[bool]:
    """Hold ``what`` for this process, by a lock file that names the process and its machine.

    The lock ends with the process, however it ends. Yields whether this holder is the only one: False where the process
    holds it already, and on a system without locks.

    Raises:
        ExistingFileError: another process holds it; the message names the process and its machine.
    """
    if fcntl is None:
        yield False
        return
    with open(lock, "a+", encoding="utf-8") as file:
        is_alone = _lock(file, what)
        if is_alone and not _is_at(file, lock):  # the holder before has just deleted it
            with held(lock, what) as again:
                yield again
            return
        try:
            if is_alone:
                file.truncate(0)
                file.write(_this_process())
                file.flush()
            yield bool(is_alone)
        finally:
            if is_alone is not False:
                lock.unlink(missing_ok=True)


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _lock(file: IO[str], what: Path) -> bool | None:
    """True: locked now. False: this process holds it already. None: this file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read()
        if holder == _this_process():
            return False
        raise ExistingFileError(f"{what} is being written by {holder or 'another process'}: wait for it") from None
    except OSError:
        return None
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def file_digest(path: Path) -> str:
    """SHA-256 of a file, which is read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def code_digest(folder: Path, rooms: Iterable[str] = (".",)) -> str:
    """SHA-256 of the paths and contents of Python files of a package: those in some folders, and single ones."""
    digest = hashlib.sha256()
    places = [folder / room for room in rooms]
    single = [place for place in places if place.is_file()]
    for path in sorted([*single, *(path for place in places for path in place.rglob("*.py"))]):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def file_state(path: Path) -> list[int]:
    """What tells a changed file without reading it: size, time of the content, time of the entry, number of the entry.

    The time of the entry (ctime) tells a replaced file even where its date was kept.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its dates and permissions; it shares the blocks on disk where the file system can clone."""
    with open(source, "rb") as original, open(target, "wb") as copy:
        try:
            fcntl.ioctl(copy, CLONE, original.fileno())
        except (OSError, AttributeError):  # no such file system, no such system
            shutil.copyfileobj(original, copy, PIECE)
    shutil.copystat(source, target)


def refuse_overwriting_inputs(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output that could replace an input or nnU-Net's raw data. Nothing is written or read here.

    Refused: an output that is an input (also through a link, or in other capitals on a file system that ignores them),
    a folder that directly holds an input file, and any place inside imagesTr, imagesTs, labelsTr or labelsTs.

    Args:
        output: the file or folder that will be written.
        inputs: the files and folders that are read.

    Raises:
        InputError: one line that names both.
    """
    output = Path(output)
    raw = {name.casefold(): name for name in RAW_FOLDERS}
    for part in (*Path(os.path.abspath(output)).parts, *output.resolve().parts):
        if part.casefold() in raw:
            raise InputError(f"output {str(output)!r} lies in {part}, the raw data; give another place")
    for path in map(Path, inputs):
        if _same(output, path):
            raise InputError(f"output {str(output)!r} is the input {str(path)!r}; give another place")
        folders = (path.parent, path.resolve().parent) if path.is_file() and output.is_dir() else ()
        if any(_same(output, folder) for folder in folders):
            raise InputError(f"output folder {str(output)!r} holds the input {str(path)!r}; give another folder")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist
        return one.resolve() == other.resolve()
