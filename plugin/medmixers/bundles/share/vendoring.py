"""The code that a packed bundle carries: which modules its configs need, in a package named by its content."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from medmixers.bundles.share.tables import TRIMMED

FOLDER = Path(__file__).resolve().parents[2]
PACKAGE = FOLDER.name
OWN_NAME = re.compile(rf"{PACKAGE}(_[0-9a-f]{{8}})?")  # of the installed package, or of a vendored one
DOTTED = re.compile(rf"\b{PACKAGE}\.[\w.]+")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
# MONAI's own requirements, what a bundle's metadata states under a key of its own, and what is used only if present.
GIVEN = {"torch", "numpy", "monai", "ignite", "nibabel", "triton"}


class Vendored(NamedTuple):
    """A package for one bundle.

    Args:
        name: of the package: ``medmixers_`` and eight hexadecimal digits of a digest of its content.
        files: path below the bundle's root -> text. Internal imports name the package by ``name``.
    """

    name: str
    files: Mapping[str, str]


def vendor_package(configs: Mapping[str, str]) -> Vendored:
    """The package of the modules that configs need.

    Equal code has an equal name and unequal code another one, so two bundles in one process share code or never meet.

    Args:
        configs: file name -> text of the bundle's JSON configs.
    """
    return named_by_content(vendored_sources(configs))


def named_by_content(sources: Mapping[str, str]) -> Vendored:
    """Modules as a package that is named after them.

    Args:
        sources: path within the package -> text, in which the package has the name of the installed one.
    """
    digest = hashlib.sha256()
    for path, text in sorted(sources.items()):
        digest.update(f"{path}\n{len(text)}\n{text}".encode())
    name = f"{PACKAGE}_{digest.hexdigest()[:8]}"
    return Vendored(name, {f"{name}/{path}": renamed(text, name) for path, text in sorted(sources.items())})


def renamed(text: str, name: str, *, old: str = PACKAGE) -> str:
    """Text with every module path of the package ``old`` under another package name, and torch's operators with it."""
    return re.sub(rf"\b{old}(?=\.[A-Za-z_]|::)", name, text)


def renamed_config(text: str, name: str) -> str:
    """:func:`renamed` of the installed package; what its ``__init__.py`` offers is named in the defining module."""
    for offered, module in _face().items():
        text = re.sub(rf"\b{PACKAGE}\.{offered}\b", f"{module}.{offered}", text)
    return renamed(text, name)


@cache
def _face() -> dict[str, str]:
    """Name that the package's __init__.py imports -> its module."""
    body = ast.parse((FOLDER / "__init__.py").read_text("utf-8")).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def vendored_sources(configs: Mapping[str, str]) -> dict[str, str]:
    """Modules that configs name, and what those import: path within the package -> text, sorted by path.

    A module is followed through its imports, those inside functions too, and through the dotted paths in its strings:
    the tables name classes so. Two kinds of code are left out. The tables of networks and token mixers keep only the
    rows that the configs name. An import that falls back (``try: ... except ImportError``) or that type checkers alone
    see is not followed.

    Nor is the package's own ``__init__.py`` carried, or one that holds a docstring only. Python finds the modules of
    such a namespace package in every folder of ``sys.path``: where two opened zips carry equal code, either folder may
    be removed while the process lives.
    """
    waiting = [name for text in configs.values() for name in DOTTED.findall(text)]
    tables = {path: render(configs, _reached) for path, render in TRIMMED.items()}
    found = _closure(waiting, tables)
    found.pop("__init__.py", None)
    return {path: text for path, text in sorted(found.items()) if not _is_empty(path, text)}


def _closure(names: Iterable[str], texts: Mapping[str, str]) -> dict[str, str]:
    """Modules that dotted names lead to: path within the package -> text, from ``texts`` or else from the file."""
    waiting, found = list(names), dict[str, str]()
    while waiting:
        for path in _files_of(waiting.pop()):
            key = path.relative_to(FOLDER).as_posix()
            if key not in found:
                found[key] = texts.get(key) or path.read_text("utf-8")
                waiting += [name for name in _names_in(found[key]) if name.split(".")[0] == PACKAGE]
    return found


def _reached(names: Iterable[str]) -> set[str]:
    """Files that dotted names lead to without the tables."""
    return set(_closure(names, dict.fromkeys(TRIMMED, "\n")))


def foreign_imports(texts: Iterable[str]) -> set[str]:
    """Top-level names of the packages that these modules import at their start, without MONAI's own and Python's."""
    names = {name.split(".")[0] for text in texts for name in _imports(ast.parse(text).body)}
    return {name for name in names if not OWN_NAME.fullmatch(name)} - GIVEN - set(sys.stdlib_module_names)


def _files_of(name: str) -> Iterator[Path]:
    """Files of a dotted name, the packages above it included."""
    place = FOLDER
    yield place / "__init__.py"
    for part in name.rstrip(".").split(".")[1:]:
        if (place / part).is_dir():
            place = place / part
            yield place / "__init__.py"
            continue
        if (place / f"{part}.py").is_file():
            yield place / f"{part}.py"
        return  # the rest names an object of the module


def _is_empty(path: str, text: str) -> bool:
    """Whether an __init__.py holds a docstring at most."""
    return path.endswith("__init__.py") and all(isinstance(node, ast.Expr) for node in ast.parse(text).body)


@cache
def _names_in(text: str) -> tuple[str, ...]:
    """Dotted names that a module imports, and those in its strings. A docstring uses nothing of what it names."""
    tree = ast.parse(text)
    optional = _optional_imports(tree)
    names = list(_imports(node for node in ast.walk(tree) if node not in optional))
    statements = [node.body[0] for node in ast.walk(tree) if isinstance(node, DOCUMENTED) and node.body]
    docstrings = {id(first.value) for first in statements if isinstance(first, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            names += DOTTED.findall(node.value)
    return tuple(names)


def _optional_imports(tree: ast.AST) -> set[ast.AST]:
    """Imports in the body of a ``try`` that catches ImportError, and those that type checkers alone see."""
    guarded: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_caught = isinstance(node, ast.Try) and any(_catches_import_error(each.type) for each in node.handlers)
        is_typing = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        if isinstance(node, ast.Try | ast.If) and (is_caught or is_typing):
            guarded |= {inner for statement in node.body for inner in ast.walk(statement)}
    return guarded


def _catches_import_error(caught: Any) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(name, ast.Name) and name.id in ("ImportError", "ModuleNotFoundError") for name in names)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from package import module` needs the module; `from package import name` needs __init__.py alone
            yield from names if node.module.split(".")[0] == PACKAGE else [node.module]
