"""The package that an opened zip carries: its name, its content, and what it defines."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmixers.bundles.share.tables import strings_in
from medmixers.bundles.share.vendoring import OWN_NAME, PACKAGE, Vendored, named_by_content, renamed


def vendored_name(bundle: Path) -> str | None:
    """Name of the package that an opened zip carries; None for a bundle that uses the installed package.

    The first zips carried it under the name of the installed package. See :func:`carried_package` for them.
    """
    names = sorted(path.name for path in bundle.iterdir() if path.is_dir() and OWN_NAME.fullmatch(path.name))
    return names[0] if names else None


def carried_package(bundle: Path, name: str) -> Vendored:
    """The code below ``bundle``/``name``, under the name of its content.

    That is another name than ``name`` where the code was changed after it was packed, and for the first zips.
    """
    place = bundle / name
    files = {path.relative_to(place).as_posix(): path for path in place.rglob("*.py")}
    return named_by_content({path: renamed(file.read_text("utf-8"), PACKAGE, old=name) for path, file in files.items()})


def absent_names(bundle: Path, configs: Mapping[str, Any]) -> list[str]:
    """Dotted names that configs give their components and that the bundle's own package does not define, sorted.

    Args:
        bundle: the opened zip.
        configs: file name -> content.
    """
    own = vendored_name(bundle)
    dotted = re.compile(rf"{own}(\.\w+)+")
    names = {text for content in configs.values() for text in strings_in(content) if dotted.fullmatch(text)}
    return sorted(name for name in names if not is_carried(bundle, name))


def is_carried(bundle: Path, name: str) -> bool:
    """Whether the bundle's own package has a module of this name, or one that defines or imports its last part.

    Sources are parsed: no module of the bundle is imported.
    """
    own = vendored_name(bundle)
    top, *parts = name.split(".")
    place = bundle / str(own)
    if top != own:
        return False
    for index, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
        elif (place / f"{part}.py").is_file():
            rest = parts[index + 1 :]
            return not rest or (len(rest) == 1 and rest[0] in _defined_names(place / f"{part}.py"))
        else:
            face = place / "__init__.py"
            return index + 1 == len(parts) and face.is_file() and part in _defined_names(face)
    return True


def _defined_names(module: Path) -> set[str]:
    """Names that a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names
