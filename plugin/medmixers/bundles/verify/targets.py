"""Find what the ``_target_`` strings of a bundle name, without importing any module of the bundle."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from pydoc import locate
from typing import Any

from medmixers.bundles.share.vendoring import OWN_NAME, PACKAGE, vendored_name

# Packages whose import does nothing unasked. A stranger's config may name any installed module.
KNOWN = ("monai", "torch", "numpy", "ignite", "nibabel")
STANDARD = ("os", "sys", "json", "math", "random", "pathlib", "logging", "copy", "re", "functools")


class Targets:
    """Looks targets up.

    Args:
        root: of the bundle; where it carries its own package, that package's sources are searched.
    """

    def __init__(self, root: Path) -> None:
        from monai.bundle.config_item import ComponentLocator

        self.root, self.own = root, vendored_name(root)
        self._monai_names = ComponentLocator()

    def is_of_known_package(self, target: str) -> bool:
        """Whether a target is of MONAI, torch, this package and the like; others are not looked up."""
        top = target.partition(".")[0]
        is_plain = "." not in target and bool(self._monai_names.get_component_module_name(target))
        return is_plain or top in (*KNOWN, *STANDARD) or bool(OWN_NAME.fullmatch(top)) or "." not in target

    def is_found(self, target: str) -> bool:
        """Whether a target of a known package exists."""
        top = target.partition(".")[0]
        if OWN_NAME.fullmatch(top):
            return self._is_in_sources(target) if self.own else bool(locate(target))
        if self._monai_names.get_component_module_name(target):
            return True
        if "." not in target:
            return importlib.util.find_spec(target) is not None if re.fullmatch(r"\w+", target) else False
        return bool(locate(target))

    def _is_in_sources(self, target: str) -> bool:
        """Whether the bundle's own package has a module of this name, which defines or imports the last part."""
        top, *parts = target.split(".")
        place = self.root / str(self.own)
        if top != self.own:
            return False
        for index, part in enumerate(parts):
            if (place / part).is_dir():
                place = place / part
            elif (place / f"{part}.py").is_file():
                return index + 2 == len(parts) and parts[-1] in defined_names(place / f"{part}.py")
            else:
                face = place / "__init__.py"
                return index + 1 == len(parts) and face.is_file() and part in defined_names(face)
        return True


def defined_names(module: Path) -> set[str]:
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


def installed_path(target: Any) -> str:
    """A target with the name of the installed package in place of a vendored one."""
    top, _, rest = str(target).partition(".")
    return f"{PACKAGE}.{rest}" if OWN_NAME.fullmatch(top) else str(target)
