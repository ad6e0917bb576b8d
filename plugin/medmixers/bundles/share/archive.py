"""Bundle zips: written with reproducible bytes and a manifest, opened only where they are what it says.

The manifest finds damage and changes made by hand. It is no signature: a bundle holds Python code and configs that
run, so it is opened from people one trusts, and its digest compared with the one they state.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from medmixers.checkpoints import read_checkpoint
from medmixers.errors import ExistingFileError, InputError, MissingFileError
from medmixers.files import written_whole

MANIFEST = "SHA256SUMS"  # in the format of the command sha256sum, which checks it too
SUFFIXES = (".json", ".md", ".py", ".pt", ".ts", ".onnx")
NAMES = ("LICENSE", MANIFEST)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state


def manifest_text(files: Mapping[str, bytes]) -> str:
    """Content of the manifest: digest and path of every file, sorted by path."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(files.items()))


def write_archive(target: Path, root: str, files: Mapping[str, bytes]) -> None:
    """Write a zip of ``files`` and their manifest below the folder ``root``.

    The same files give the same bytes everywhere: sorted, of one date and permission, and not compressed, as
    compressors differ (weights hardly shrink).

    Args:
        target: the zip.
        root: name of the bundle.
        files: content by path below ``root``.
    """
    whole = {**files, MANIFEST: manifest_text(files).encode()}
    with written_whole(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for path, data in sorted(whole.items()):
            entry = zipfile.ZipInfo(f"{root}/{path}", EPOCH)
            entry.create_system = 3  # Unix, whatever the machine: else the permissions are not read
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)


def open_archive(source: str | Path, folder: str | Path = ".") -> Path:
    """Unpack a bundle's zip to ``folder``/NAME once everything in it is checked; the whole bundle or nothing.

    Refused: a path that leads out of the bundle, anything but plain files, a file that the manifest does not have or
    whose digest it does not have, a kind of file that bundles do not hold, ``.pt`` files that are more than tensors,
    and ``.ts`` files that are not TorchScript.

    Returns:
        The bundle's folder.

    Raises:
        FileNotFoundError: no such zip.
        FileExistsError: the folder is there already.
        ValueError: anything else; one line that names the file and what is wrong with it.
    """
    source = Path(source)
    if not source.is_file():
        raise MissingFileError(f"there is no zip {str(source)!r}")
    try:
        with zipfile.ZipFile(source) as archive:
            root = _check_entries(source, archive.infolist())
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


def _check_entries(source: Path, entries: list[zipfile.ZipInfo]) -> str:
    """The one folder that every entry lies in."""
    roots, seen = set(), set()
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
        if PurePosixPath(name).suffix not in SUFFIXES and parts[-1] not in NAMES:
            valid = ", ".join((*SUFFIXES, *NAMES))
            raise InputError(f"{source} is refused: {name!r} is no kind of file that bundles hold; valid: {valid}")
        if name.casefold() in seen:
            raise InputError(f"{source} is refused: {name!r} is in it twice")
        seen.add(name.casefold())
    if len(roots) != 1:
        found = ", ".join(sorted(roots)) or "none"
        raise InputError(f"{source} is refused: a bundle's zip holds one folder, named after it; this one has {found}")
    return roots.pop()


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    for entry in archive.infolist():
        if not entry.is_dir():
            target = folder / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as packed, open(target, "wb") as file:
                shutil.copyfileobj(packed, file)


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
        if hashlib.sha256(file.read_bytes()).hexdigest() != stated[name]:
            raise InputError(f"{source} is refused: {name!r} is not what the manifest says; it was changed")


def _check_tensors(source: Path, weights: Path) -> None:
    import torch  # only here: packing and opening need it for the weights alone

    try:
        content = read_checkpoint(weights)
    except InputError as error:
        raise InputError(f"{source} is refused: {weights.name!r} is not only tensors and could run code") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{source} is refused: {weights.name!r} is no flat dict of tensors")


def _check_torchscript(source: Path, model: Path) -> None:
    """It holds its code as text, which torch.jit reads; a pickle under this name could run code elsewhere."""
    if zipfile.is_zipfile(model):
        with zipfile.ZipFile(model) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return
    raise InputError(f"{source} is refused: {model.name!r} is not TorchScript")
