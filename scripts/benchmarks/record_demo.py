"""Record a demo run: its figures in results/measured.json, the documents' tables, and the README's picture.

python scripts/benchmarks/record_demo.py demo_run

Commit, date and machine are those that the run wrote when it trained. A run from changed sources is refused.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from medmixers.demo.report import report
from medmixers.errors import InputError, one_line_errors
from medmixers.results import MEASURED, documents, read_clean_run, record

ROOT = Path(__file__).resolve().parents[2]
PICTURE = MEASURED.with_name("demo.png")


@one_line_errors("record_demo")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the demo's folder")
    folder = parser.parse_args().run
    run = read_clean_run([folder / "bundle", folder / "nnunet"])
    result = report(folder)
    if len(result.rows) < 2 or any(row.seconds is None for row in result.rows):
        raise InputError(f"{folder} is not finished; run scripts/demo.sh {folder} again")
    rows = [
        {"name": row.name, "parameters": row.parameters, "dice": dict(row.dice), "seconds": row.seconds}
        for row in result.rows
    ]
    record("demo", rows, run=run)
    shutil.copyfile(result.pictures[0], PICTURE)
    documents.write(ROOT)
    print(result)


if __name__ == "__main__":
    main()
