"""Record a demo run: its table in results/measured.json and in the README, and the README's picture.

python scripts/benchmarks/record_demo.py demo_run

Commit, date and machine are those that the run wrote down when it trained; a run of changed sources is refused.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from medmixers.demo.report import report
from medmixers.errors import InputError
from medmixers.results import MEASURED, measured, measured_note, read_clean_run, record, replace_between

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PICTURE = MEASURED.with_name("demo.png")
START, END = "<!-- demo table -->", "<!-- end of demo table -->"


def demo_table(section: dict[str, Any]) -> str:
    """The Markdown table of the section "demo" of measured.json, with what it was measured on."""
    labels = list(section["figures"][0]["dice"])
    header = ["network", "parameters", *(f"Dice {label.replace('_', ' ')}" for label in labels), "mean", "training"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in section["figures"]:
        dice = [f"{row['dice'][label]:.3f}" for label in labels]
        mean = sum(row["dice"].values()) / len(labels)
        cells = [row["name"], f"{row['parameters']:,}", *dice, f"{mean:.3f}", f"{row['seconds']:.0f} s"]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(
        f"\n{measured_note(section)}\nTraining is the wall time of the training command: "
        "the bundle's with its preflight and validation, nnU-Net's with its\nfinal validation."
    )
    return "\n".join(lines)


def with_table(readme: str, section: dict[str, Any]) -> str:
    """The README with the table of the section "demo" of measured.json between its markers."""
    return replace_between(readme, START, END, demo_table(section))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the demo's folder")
    folder = parser.parse_args().run
    try:
        run = read_clean_run([folder / "bundle", folder / "nnunet"])
        result = report(folder)
        if len(result.rows) < 2 or any(row.seconds is None for row in result.rows):
            raise InputError(f"{folder} is not finished; run scripts/demo.sh {folder} again")
    except (ValueError, OSError) as error:
        sys.exit(f"record_demo: error: {error}")
    rows = [
        {"name": row.name, "parameters": row.parameters, "dice": dict(row.dice), "seconds": row.seconds}
        for row in result.rows
    ]
    record("demo", rows, run=run)
    shutil.copyfile(result.pictures[0], PICTURE)
    README.write_text(with_table(README.read_text(), measured()["demo"]))
    print(result)


if __name__ == "__main__":
    main()
