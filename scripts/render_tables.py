"""Write the tables of README.md and plugin/docs/ from the recorded figures, or check that they are current.

python scripts/render_tables.py            write them
python scripts/render_tables.py --check    change nothing; exit status 1 if a document is out of date

The figures are in plugin/medmixers/results/*.json; the scripts in scripts/benchmarks/ measure and record them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medmixers.errors import one_line_errors
from medmixers.results import documents, older_than_the_code

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    arguments = parser.parse_args()
    with one_line_errors("render_tables"):
        paths = documents.outdated(ROOT) if arguments.check else documents.write(ROOT)
    for path in paths:
        print(f"{'differs' if arguments.check else 'written'}: {path.relative_to(ROOT)}")
    if arguments.check and (older := older_than_the_code(ROOT)):
        print(f"note: measured with older code: {', '.join(older)}")
    if paths and arguments.check:
        print("run: python scripts/render_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
