"""Find what the ``_target_`` strings of a bundle name, without importing any module of the bundle."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from pydoc import locate
from typing import Any

from medmixers.bundles.share.carried import is_carried, vendored_name
from medmixers.bundles.share.vendoring import OWN_NAME, PACKAGE

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
            return is_carried(self.root, target) if self.own else bool(locate(target))
        if self._monai_names.get_component_module_name(target):
            return True
        if "." not in target:
            return importlib.util.find_spec(target) is not None if re.fullmatch(r"\w+", target) else False
        return bool(locate(target))


def installed_path(target: Any) -> str:
    """A target with the name of the installed package in place of a vendored one."""
    top, _, rest = str(target).partition(".")
    return f"{PACKAGE}.{rest}" if OWN_NAME.fullmatch(top) else str(target)
