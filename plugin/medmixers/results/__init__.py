"""Figures as data. measured.json: what this project measured, with commit, versions, machine and date. No torch here.

Published and measured figures never mix; a figure that was not measured is absent.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("measured.json")


def measured() -> dict[str, Any]:
    """All measured sections, by name."""
    return json.loads(MEASURED.read_text())


def record(section: str, figures: Any, *, commit: str, path: Path = MEASURED) -> None:
    """Replace one section of measured.json, with where and when it was measured.

    Args:
        section: its name.
        figures: JSON data.
        commit: of the checkout that was measured.
        path: the file; written under a temporary name, then renamed.
    """
    sections = json.loads(path.read_text()) if path.is_file() else {}
    sections[section] = {
        "date": date.today().isoformat(),
        "commit": commit,
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("torch", "monai", "nnunetv2")},
        "figures": figures,
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(sections, indent=2) + "\n")
    os.replace(partial, path)


def processor() -> str:
    """The processor's name as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
