"""Read packs of scores: safely unpacked, checked, and compared with each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from medmixers.bundles.share.archive import open_archive
from medmixers.errors import InputError
from medmixers.study.report.folder import StudyFolder, read_folder
from medmixers.study.sharing.pack import FORMAT, PROVENANCE

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
KEYS: Mapping[str, type] = {"study": str, "question": dict, "datasets": list, "entries": list, "runs": list}
MOST_NAMED = 5  # differences
ABSENT = "(none)"


@dataclass(frozen=True)
class Site:
    """One site's pack.

    Args:
        name: of the site: that of its zip.
        study: its scores.
        provenance: content of provenance.json.
    """

    name: str
    study: StudyFolder
    provenance: Mapping[str, Any]

    @property
    def shared(self) -> dict[str, Any]:
        """What must be equal on all sites."""
        plan = self.study.plan
        kept = ("name", "kind", "classes", "metric", "margin", "ignore_label", "configuration")
        versions = plan.get("versions") or {}
        return {
            "YAML": self.provenance["spec"],
            "question": plan["question"],
            "data": {each["name"]: {key: each.get(key) for key in kept} for each in plan["datasets"]},
            "entries": {each["name"]: each.get("what") or each.get("options") for each in plan["entries"]},
            "versions": {name: str(number).partition("+")[0] for name, number in versions.items()},
            "commit": plan.get("commit"),
            "scorer": self.provenance["scorer"],
        }


def read_pack(file: str | Path, folder: Path) -> Site:
    """Unpack a zip of ``medmixers study pack`` into a new folder below ``folder``, and read it. Nothing in it runs.

    Raises:
        MissingFileError: no such zip.
        InputError: no pack of scores, a damaged one, or one of another version of the format.
    """
    from medmixers.study.sharing.pack import CONTENTS

    file = Path(file)
    home = folder / file.stem
    root = open_archive(file, home, contents=CONTENTS)
    try:
        provenance = json.loads((root / PROVENANCE).read_text(encoding="utf-8"))
        plan = json.loads((root / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is no pack of scores: plan.json or {PROVENANCE} cannot be read") from error
    _check(file, plan, provenance)
    return Site(file.stem, read_folder(root), provenance)


def _check(file: Path, plan: Any, provenance: Any) -> None:
    """Raise InputError unless a plan has what is read of it, and names that are safe in paths."""
    if not isinstance(provenance, dict) or provenance.get("format") != FORMAT:
        found = provenance.get("format") if isinstance(provenance, dict) else None
        raise InputError(f"{file} has format {found!r} of packs, this version reads {FORMAT}")
    wrong = [key for key in ("site", "spec", "scorer") if key not in provenance]
    wrong += [key for key, kind in KEYS.items() if not isinstance(plan, dict) or not isinstance(plan.get(key), kind)]
    if not wrong:
        needed = {
            "datasets": ("name", "kind", "classes", "cases", "test"),
            "entries": ("name",),
            "runs": ("id", "dataset", "entry", "seed"),
        }
        rows = [(key, row, names) for key, names in needed.items() for row in plan[key]]
        wrong = [key for key, row, names in rows if not isinstance(row, dict) or not set(names) <= row.keys()]
    if not wrong:
        wrong = [f"runs: {run['id']!r}" for run in plan["runs"] if not SAFE.fullmatch(str(run["id"]))]
    if wrong:
        raise InputError(f"{file} is no pack of scores: its plan is wrong at {wrong[0]}")


def check_alike(sites: Sequence[Site]) -> None:
    """Raise InputError unless all packs are of different folders of one study, made and scored alike."""
    origins: dict[str, str] = {}
    for site in sites:
        before = origins.setdefault(str(site.provenance["site"]), site.name)
        if before != site.name:
            raise InputError(f"{before} and {site.name} are packs of one study's folder: each site counts once")
    for first, second in pairwise(sites):
        found = list(differences(first.shared, second.shared))
        if found:
            more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            named = "; ".join(f"{key}: {old} and {new}" for key, old, new in found[:MOST_NAMED])
            raise InputError(f"{first.name} and {second.name} differ and cannot be merged: {named}{more}")


def differences(first: Any, second: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, value and other value of all that differs; keys as "question.margin" and "entries[2].mixer"."""
    if isinstance(first, dict) and isinstance(second, dict):
        for name in sorted({*first, *second}, key=str):
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(first.get(name, ABSENT), second.get(name, ABSENT), inner)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from differences(one, other, f"{key}[{index}]")
    elif first != second:
        yield key, _short(first), _short(second)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
