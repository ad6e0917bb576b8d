"""An environment in which Python finds the requirements of a bundle and nothing else, not even this package."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distributions, packages_distributions, requires
from pathlib import Path
from typing import Any

BASE = ("monai", "torch", "numpy", "nibabel", "pytorch-ignite", "fire", "tqdm")  # monai[fire,ignite,nibabel,tqdm]
SITECUSTOMIZE = """\
import sys
from importlib.machinery import PathFinder
from os.path import realpath

OWN, ROOT, HIDDEN = {own!r}, {root!r}, {hidden!r}
FINDERS = list(sys.meta_path)


class OnlyTheBundle:
    invalidate_caches = PathFinder.invalidate_caches
    find_distributions = PathFinder.find_distributions

    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top in HIDDEN:
            return None
        if top == OWN and path is None:
            return PathFinder.find_spec(name, [entry for entry in sys.path if realpath(entry or ".") == ROOT])
        found = (finder.find_spec(name, path, target) for finder in FINDERS)
        return next((spec for spec in found if spec is not None), None)


sys.meta_path[:] = [OnlyTheBundle]
"""


def environment_without_package(folder: Path, root: Path, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables for a Python process that has the bundle's requirements only.

    Every other installed package is hidden. So is this one, except a copy of that name in the bundle, as older zips
    carry one. A new virtual environment shows the same, but takes minutes.

    Args:
        folder: where the startup file is written.
        root: of the bundle.
        metadata: of the bundle; it names the requirements.
    """
    known = _with_dependencies([*BASE, *metadata["required_packages_version"]])
    hidden = {name for name, owners in _owners().items() if not known & set(map(_plain, owners))}
    own = __name__.partition(".")[0]
    hidden -= {own, *sys.stdlib_module_names}  # a backport may be installed under the name of a standard module
    text = SITECUSTOMIZE.format(own=own, root=os.path.realpath(root), hidden=sorted(hidden))
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}


def _owners() -> dict[str, list[str]]:
    """Name that can be imported -> the packages that install it."""
    owners = {name: list(packages) for name, packages in packages_distributions().items()}
    if sys.version_info < (3, 11):  # there it leaves out packages without top_level.txt, such as scipy
        for package in distributions():
            if not package.read_text("top_level.txt"):
                for name in {file.parts[0].removesuffix(".py") for file in package.files or ()}:
                    owners.setdefault(name, []).append(package.metadata["Name"])
    return owners


def _with_dependencies(names: Iterable[str]) -> set[str]:
    """Plain names of distributions and of all that they require without extras."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [_plain(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue  # a requirement of another platform
        waiting += [_plain(each.name) for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
