"""Versions of the dependencies: the lowest that pyproject.toml admits, and those that the tests ran on.

python scripts/versions.py floors           the lower bounds as pins, for pip's --constraint
python scripts/versions.py record newest    write what is installed here to results/tested.json, as the newest
python scripts/versions.py record oldest    the same as the oldest; refused where a version is not the lower bound

scripts/test.sh --record runs the second or the third after all checks have passed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterable, Iterator
from datetime import date
from importlib.metadata import requires, version
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TESTED = ROOT / "plugin" / "medmixers" / "results" / "tested.json"


def read_project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(project: dict[str, Any]) -> list[Requirement]:
    """The dependencies of the package and of all its extras, as far as they apply to this Python."""
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    return [needed for needed in _applicable(lines) if needed.name != project["name"]]


def _applicable(lines: Iterable[str], extra: str = "") -> Iterator[Requirement]:
    for needed in map(Requirement, lines):
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            yield needed


def floors(project: dict[str, Any]) -> dict[str, str]:
    """Package -> lowest version that pyproject.toml admits; packages without a lower bound are left out."""
    return {
        canonicalize_name(needed.name): bound.version
        for needed in requirements(project)
        for bound in needed.specifier
        if bound.operator in (">=", "==", "~=")
    }


def installed_versions(project: dict[str, Any]) -> dict[str, str]:
    """Package -> installed version, of the dependencies and of what their extras add (pytorch-ignite of MONAI's).

    Raises:
        PackageNotFoundError: a package is not installed, other than the optional transformers.
    """
    needed = requirements(project)
    names = {item.name for item in needed}
    for item in needed:
        for extra in item.extras:
            names |= {added.name for added in _applicable(requires(item.name) or (), extra) if added.marker}
    return {canonicalize_name(name): Version(version(name)).public for name in sorted(names, key=str.lower)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("floors")
    commands.add_parser("record").add_argument("side", choices=("newest", "oldest"))
    arguments = parser.parse_args()
    project = read_project()
    if arguments.command == "floors":
        print(*(f"{name}=={lowest}" for name, lowest in floors(project).items()), sep="\n")
    else:
        record(project, arguments.side)


def record(project: dict[str, Any], side: str) -> None:
    """Write the installed versions to results/tested.json."""
    found = installed_versions(project)
    higher = [name for name, lowest in floors(project).items() if Version(found[name]) != Version(lowest)]
    if side == "oldest" and higher:
        raise SystemExit(f"versions.py: error: not at the lower bound of pyproject.toml: {', '.join(higher)}")
    tested = json.loads(TESTED.read_text()) if TESTED.is_file() else {}
    tested[side] = {"date": date.today().isoformat(), "python": platform.python_version(), "packages": found}
    TESTED.write_text(json.dumps(tested, indent=2, sort_keys=True) + "\n")
    print(f"wrote the {side} versions to {TESTED.relative_to(ROOT)}; next: python scripts/generate_bundles.py")


if __name__ == "__main__":
    main()
