"""Write a bundle's zip with reproducible bytes and a manifest; open one after every entry is checked.

The manifest finds damage and changes by hand, but it is not a signature. A bundle holds Python code and configs that
run: open zips of people you trust, and compare the SHA-256 digest with the one that they state.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from medmixers.checkpoints import read_checkpoint
from medmixers.errors import ExistingFileError, InputError, MissingFileError
from medmixers.files import PIECE, file_digest, written_whole

MANIFEST = "SHA256SUMS"  # in the format of the command sha256sum, which checks it too
SUFFIXES = (".json", ".md", ".py", ".pt", ".ts", ".onnx", ".png", ".jpg")
NAMES = ("LICENSE", MANIFEST)
ROOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # name of a bundle: never a hidden folder such as .ipython
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state
# Limits of a zip bomb. Bundles are packed uncompressed; other tools shrink configs and code to a tenth at most.
RATIO, MOST_BYTES, MOST_FILES = 100, 2**35, 10_000


class Contents(NamedTuple):
    """What the zips of one kind hold.

    Args:
        holder: what such a zip is, in the plural.
        suffixes: of the files.
        names: of other files.
    """

    holder: str
    suffixes: tuple[str, ...]
    names: tuple[str, ...]


BUNDLE = Contents("bundles", SUFFIXES, NAMES)


def manifest_text(files: Mapping[str, bytes | Path]) -> str:
    """Content of the manifest: digest and path of every file, sorted by path."""
    return "".join(f"{_digest(data)}  {path}\n" for path, data in sorted(files.items()))


def _digest(data: bytes | Path) -> str:
    return file_digest(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()


def write_archive(target: Path, root: str, files: Mapping[str, bytes | Path], *, contents: Contents = BUNDLE) -> None:
    """Write a zip of ``files`` and their manifest below the folder ``root``.

    The same files give the same bytes everywhere: sorted, with one date and one permission. Nothing is compressed:
    compressors differ, and weights hardly shrink.

    Args:
        target: the zip.
        root: name of the bundle.
        files: content, or the file that holds it, by path below ``root``.
        contents: kinds of files that the zip may hold.

    Raises:
        ValueError: a name or a kind of file that :func:`open_archive` refuses.
    """
    check_root(root)
    for path in files:
        check_kind(path, contents=contents)
    whole: dict[str, bytes | Path] = {**files, MANIFEST: manifest_text(files).encode()}
    with written_whole(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for path, data in sorted(whole.items()):
            entry = zipfile.ZipInfo(f"{root}/{path}", EPOCH)
            entry.create_system = 3  # Unix on every machine: other systems drop the permissions
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            if isinstance(data, Path):
                entry.file_size = data.stat().st_size
                with open(data, "rb") as file, archive.open(entry, "w") as packed:
                    shutil.copyfileobj(file, packed, PIECE)
            else:
                archive.writestr(entry, data)


def check_root(name: str) -> None:
    """Raise InputError unless ``name`` can be the folder of a bundle in a zip."""
    if not ROOT.fullmatch(name):
        raise InputError(
            f"{name!r} is not a bundle's name: it begins with a letter or digit and has letters, digits, '_', '.' and "
            "'-' only"
        )


def check_kind(path: str, root: str = "", *, contents: Contents = BUNDLE) -> None:
    """Raise InputError unless bundles, or zips with other contents, hold this kind of file.

    Args:
        path: of the file, below ``root`` where one is given.
        root: name of the bundle.
        contents: kinds of files.
    """
    below = path.removeprefix(f"{root}/") if root else path
    name = PurePosixPath(below).name
    is_hidden = any(part.startswith(".") for part in PurePosixPath(below).parts)
    if is_hidden or (PurePosixPath(name).suffix not in contents.suffixes and name not in contents.names):
        valid = ", ".join((*contents.suffixes, *contents.names))
        raise InputError(f"{path!r} is no kind of file that {contents.holder} hold; valid: {valid}")
    if below == "__init__.py":
        raise InputError(f"{path!r} would make the bundle's folder a Python package, which could hide another one")


def open_archive(source: str | Path, folder: str | Path = ".", *, contents: Contents = BUNDLE) -> Path:
    """Unpack a bundle's zip to ``folder``/NAME once everything in it is checked; the whole bundle or nothing.

    Refused are: a folder without a bundle's name, a path out of the bundle, a link, a kind of file that bundles do not
    hold, a file that the manifest lacks or has another digest of, a ``.pt`` file with more than tensors, a ``.ts`` file
    that is not TorchScript, and a zip that unpacks to more than RATIO times its size.

    Args:
        source: the zip.
        folder: that will hold the bundle's folder.
        contents: kinds of files that the zip may hold.

    Returns:
        The bundle's folder.

    Raises:
        FileNotFoundError: no such zip.
        FileExistsError: the folder is there already.
        ValueError: anything else; one line that names the file and its fault.
    """
    source = Path(source)
    if not source.is_file():
        raise MissingFileError(f"there is no zip {str(source)!r}")
    try:
        with zipfile.ZipFile(source) as archive:
            root = _check_entries(source, archive.infolist(), contents)
            _check_sizes(source, source.name, archive.infolist(), source.stat().st_size)
            target = Path(folder) / root
            if target.exists():
                raise ExistingFileError(f"{target} is there already: give another folder, or move it away")
            with written_whole(target) as partial:
                _unpack(archive, partial.parent)
                _check_manifest(source, partial)
                for path in sorted(partial.rglob("*.pt")):
                    _check_tensors(source, path)
                for path in sorted(partial.rglob("*.ts")):
                    _check_torchscript(source, path)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:  # or encrypted
        raise InputError(f"{source} cannot be read as a zip: {error}") from error
    return target


def _check_entries(source: Path, entries: list[zipfile.ZipInfo], contents: Contents) -> str:
    """The one folder that every entry lies in."""
    roots: set[str] = set()
    seen: set[str] = set()
    kinds: list[str] = []
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        parts = name.removesuffix("/").split("/")
        if "\\" in name or ":" in name or not all(parts) or {".", ".."} & set(parts):
            raise InputError(f"{source} is refused: {name!r} would not lie inside the bundle's folder")
        roots.add(parts[0])
        if entry.is_dir():
            continue  # other tools store the folders too; the files make them here
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise InputError(f"{source} is refused: {name!r} is no plain file (a link, for example)")
        if name.casefold() in seen:
            raise InputError(f"{source} is refused: {name!r} is in it twice")
        seen.add(name.casefold())
        kinds.append(name)
    if len(roots) != 1:
        found = ", ".join(sorted(roots)) or "none"
        raise InputError(f"{source} is refused: a bundle's zip holds one folder, named after it; this one has {found}")
    root: str = roots.pop()
    try:
        check_root(root)
        for name in kinds:
            check_kind(name, root, contents=contents)
    except InputError as error:
        raise InputError(f"{source} is refused: {error}") from None
    return root


def _check_sizes(source: Path, name: str, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise InputError for a zip bomb; a zip's reader gives no entry more bytes than it states."""
    whole = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_FILES:
        raise InputError(f"{source} is refused: {name!r} holds {len(entries)} files, the limit is {MOST_FILES}")
    if whole > min(RATIO * size, MOST_BYTES):
        raise InputError(
            f"{source} is refused: {name!r} of {size} bytes would unpack to {whole}; the limits are {RATIO} times its "
            f"size and {MOST_BYTES} bytes"
        )


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    for entry in archive.infolist():
        if not entry.is_dir():
            target = folder / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as packed, open(target, "wb") as file:
                shutil.copyfileobj(packed, file, PIECE)


def _check_manifest(source: Path, bundle: Path) -> None:
    manifest = bundle / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{source} is refused: it has no manifest {MANIFEST}")
    lines = manifest.read_text("utf-8", errors="replace").splitlines()
    stated = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    found = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    del found[MANIFEST]
    if stated.keys() != found.keys():
        path = min(stated.keys() ^ found.keys())
        raise InputError(f"{source} is refused: {path!r} is in its {'manifest' if path in stated else 'zip'} only")
    for name, file in sorted(found.items()):
        if file_digest(file) != stated[name]:
            raise InputError(f"{source} is refused: {name!r} is not what the manifest says; it was changed")


def _check_tensors(source: Path, weights: Path) -> None:
    import torch  # only here: packing and opening need it for the weights alone

    if zipfile.is_zipfile(weights):
        with zipfile.ZipFile(weights) as archive:  # torch's format is a zip itself
            _check_sizes(source, weights.name, archive.infolist(), weights.stat().st_size)
    try:
        content = read_checkpoint(weights)
    except InputError as error:
        raise InputError(f"{source} is refused: {weights.name!r} is not only tensors and could run code") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{source} is refused: {weights.name!r} is no flat dict of tensors")


def _check_torchscript(source: Path, model: Path) -> None:
    """Raise InputError unless the file is TorchScript, which holds its code as text; a pickle could run code."""
    if zipfile.is_zipfile(model):
        with zipfile.ZipFile(model) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return
    raise InputError(f"{source} is refused: {model.name!r} is not TorchScript")
