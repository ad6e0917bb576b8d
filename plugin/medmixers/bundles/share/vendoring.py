"""Which files of this package a bundle's configs need: what a packed bundle carries along. No torch here."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2]
DOTTED = re.compile(rf"\b{FOLDER.name}\.[\w.]+")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
# What MONAI itself needs, what a bundle's metadata states under a key of its own, what is used only where it is there.
GIVEN = {"torch", "numpy", "monai", "ignite", "nibabel", "triton"}


def vendored_files(configs: Iterable[str]) -> dict[str, Path]:
    """Modules that configs name, and what those import: path below the bundle's root -> file.

    A module is followed through its imports, those inside functions too, and through the dotted paths in its
    strings: the tables name classes so. A string that names a package stands for all modules in it.

    Args:
        configs: text of the bundle's config files.
    """
    waiting = [name for text in configs for name in DOTTED.findall(text)]
    found: dict[str, Path] = {}
    while waiting:
        for path in _files_of(waiting.pop()):
            key = f"{FOLDER.name}/{path.relative_to(FOLDER).as_posix()}"
            if key not in found:
                found[key] = path
                waiting += [name for name in _names_in(path) if name.split(".")[0] == FOLDER.name]
    return dict(sorted(found.items()))


def foreign_imports(files: Iterable[Path]) -> set[str]:
    """Top-level names of the packages that importing these modules needs, beside MONAI's own and Python's."""
    names = {name.split(".")[0] for path in files for name in _imports(ast.parse(path.read_text("utf-8")).body)}
    return names - GIVEN - {FOLDER.name} - set(sys.stdlib_module_names)


def _files_of(name: str) -> Iterator[Path]:
    """Files behind a dotted name, the packages above it included; a package that is the end of it, whole."""
    place = FOLDER
    yield place / "__init__.py"
    parts = name.rstrip(".").split(".")[1:]
    for part in parts:
        if (place / part).is_dir():
            place = place / part
            yield place / "__init__.py"
            continue
        if (place / f"{part}.py").is_file():
            yield place / f"{part}.py"
        return  # the rest names what the module holds
    if parts:
        yield from place.rglob("*.py")


def _names_in(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, and those in its strings; a docstring is no use of what it names."""
    tree = ast.parse(path.read_text("utf-8"))
    yield from _imports(ast.walk(tree))
    statements = [node.body[0] for node in ast.walk(tree) if isinstance(node, DOCUMENTED) and node.body]
    docstrings = {id(first.value) for first in statements if isinstance(first, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from DOTTED.findall(node.value)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from package import module` needs the module, and `from package import name` the package's face alone
            yield from names if node.module.split(".")[0] == FOLDER.name else [node.module]
