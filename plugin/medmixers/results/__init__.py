"""Figures as data: what this project measured, and what the papers print.

measured.json holds the measured figures, each section with its commit, versions, machine and date. networks.json holds
the parameters and the export support of every network; scripts/benchmarks/record_networks.py writes it. tested.json
holds the versions of the dependencies that the whole suite passed on; scripts/test.sh --record writes it. clients.json
holds what other software did with our bundles and files; pytest --record-clients writes it. Published and measured
figures never mix, and a figure that was not measured is absent. :mod:`medmixers.results.published` reads the papers'
figures; :mod:`medmixers.results.tables` makes the tables of the README and the guides.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medmixers.errors import InputError
from medmixers.files import written_whole
from medmixers.results.measured_code import measured_code_digest

MEASURED = Path(__file__).with_name("measured.json")
NETWORK_FACTS = Path(__file__).with_name("networks.json")
TESTED = Path(__file__).with_name("tested.json")
CHANGED = "with changes"
BUSIEST = 0.1  # share of the processor that others may use while figures are recorded
CODE = ("plugin", "bundles", "scripts", "pyproject.toml")  # the parts of the checkout that a run depends on


def measured(path: Path = MEASURED) -> dict[str, Any]:
    """All measured sections, by name."""
    return json.loads(path.read_text())


def network_facts() -> dict[str, Any]:
    """``parameters``: of every network in "2D" and "3D", null without such a form; ``exports``: how it exports."""
    return json.loads(NETWORK_FACTS.read_text())


def versions_tested(side: str = "newest") -> dict[str, str]:
    """Package, named as pip normalises names -> version that the whole suite passed on; "newest" or "oldest"."""
    return json.loads(TESTED.read_text())[side]["packages"]


def range_tested() -> str:
    """The oldest and the newest tested versions of the packages that a model depends on, for the guide."""
    oldest, newest = versions_tested("oldest"), versions_tested("newest")
    names = ("torch", "monai", "nnunetv2", "timm", "nibabel", "simpleitk", "numpy")
    return ", ".join(f"{name} {' and '.join(dict.fromkeys((oldest[name], newest[name])))}" for name in names)


def describe_run(section: str, *, device: str, checkout: str | Path = ".") -> dict[str, Any]:
    """When, where and from which commit a run that starts now is made.

    Args:
        section: of measured.json, or its kind: ``code`` is the digest of what it measures.
        device: that the run computes on, as torch names it.
        checkout: of this project. ``commit`` and ``dirty`` are None where git does not know it.
    """
    return {
        "date": date.today().isoformat(),
        "commit": _git(checkout, "rev-parse", "HEAD"),
        "code": measured_code_digest(checkout, section),
        "dirty": None if (changes := _changes(checkout)) is None else bool(changes),
        "processor": processor(),
        "cores": usable_cores(),
        "device": device,
        "versions": {name: version(name) for name in ("torch", "monai", "nnunetv2")},
    }


def record(section: str, figures: Any, *, run: Mapping[str, Any], path: Path = MEASURED) -> None:
    """Replace one section of measured.json.

    Args:
        section: its name.
        figures: JSON data.
        run: when and where it was measured, as of :func:`describe_run`, without ``dirty``.
        path: the file; written under a temporary name, then renamed.
    """
    sections = json.loads(path.read_text()) if path.is_file() else {}
    sections[section] = {**run, "figures": figures}
    write_json(path, sections)


def older_than_the_code(checkout: str | Path) -> list[str]:
    """Sections of measured.json whose figures an older state of the code that they measure gave."""
    return [name for name, each in measured().items() if each.get("code") != measured_code_digest(checkout, name)]


def check_recordable(*runs: dict[str, Any]) -> None:
    """Refuse to record on a busy machine, and as :func:`check_committed` does."""
    check_committed(*runs)
    check_quiet_machine()


def check_committed(*runs: dict[str, Any]) -> None:
    """Take ``dirty`` out of runs that will be recorded. Raise InputError if it is not False."""
    dirty = [run.pop("dirty") for run in runs]
    if dirty != [False] * len(runs):
        raise InputError("the checkout is not clean or not under git; commit, then run again")


def check_quiet_machine(seconds: float = 2.0) -> None:
    """Raise InputError if other processes use the processor now. Nothing is known outside Linux, and nothing raised."""
    if (before := _processor_ticks()) is None:
        return
    time.sleep(seconds)
    busy, total = (now - then for now, then in zip(_processor_ticks() or before, before, strict=True))
    if total and busy / total > BUSIEST:
        raise InputError(
            f"other processes use {busy / total:.0%} of the processor: figures are recorded on a quiet machine "
            f"(at most {BUSIEST:.0%})"
        )


def _processor_ticks() -> tuple[int, int] | None:
    """Ticks that all processes used since the start, and all ticks."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None
    numbers = [int(number) for number in path.read_text().splitlines()[0].split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)  # without idle and waiting for disks


def measured_note(section: Mapping[str, Any]) -> str:
    """When, where and with what a section of measured.json was measured, as a sentence."""
    known = ", ".join(f"{name} {number}" for name, number in section["versions"].items())
    return (
        f"Measured {section['date']} at commit {section['commit'][:7]}; {section['processor']}, {section['cores']} "
        f"cores, device {section['device']}; {known}."
    )


def write_json(path: Path, data: Any) -> None:
    """Write JSON under a temporary name, then rename."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(data, indent=2) + "\n")


def git_commit(checkout: str | Path) -> str | None:
    """The commit of a checkout, with the words "with changes" where its code has some; None outside of one's root."""
    if not (Path(checkout) / ".git").exists() or (commit := _git(checkout, "rev-parse", "HEAD")) is None:
        return None
    return f"{commit} {CHANGED}" if _changes(checkout) else commit


def _changes(checkout: str | Path) -> str | None:
    """What git says of changed code; empty where there is none, None outside a checkout."""
    return _git(checkout, "status", "--porcelain", "--", *CODE)


def _git(checkout: str | Path, *arguments: str) -> str | None:
    """What git prints; None without git or outside a checkout."""
    try:
        out = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()


def usable_cores() -> int | None:
    """Cores that this process may use, which a container may hold below the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def processor() -> str:
    """The processor's name as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
