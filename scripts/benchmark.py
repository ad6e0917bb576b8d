"""Time and memory of mixers and networks beside their peers, in one run.

python scripts/benchmark.py            # everything
python scripts/benchmark.py --quick    # fewer comparisons, no peaks of memory: under two minutes on a free core
python scripts/benchmark.py --record   # everything, then results/measured.json and the README's table

A recorded run needs a clean checkout: its commit stands beside the figures.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from medmixers.results import describe_run, record
from medmixers.study.benchmark import COMPARISONS, compare, table

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
START, END = "<!-- benchmark table: scripts/benchmark.py -->", "<!-- end of benchmark table -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer comparisons, times only")
    parser.add_argument("--only", default="", metavar="TEXT", help="comparisons whose name holds this text")
    parser.add_argument("--device", default="cpu", help="as torch names it (cpu, cuda)")
    parser.add_argument("--record", action="store_true", help="write the figures and the README's table")
    arguments = parser.parse_args()
    names = [name for name in COMPARISONS if arguments.only in name]
    names = [name for name in names if COMPARISONS[name].quick or not arguments.quick]
    run = describe_run(device=arguments.device, checkout=ROOT)
    if not names:
        sys.exit(f"benchmark: error: no comparison has {arguments.only!r} in its name; valid: {', '.join(COMPARISONS)}")
    if arguments.record and (arguments.quick or arguments.only):
        sys.exit("benchmark: error: --record is for a whole run, without --quick and --only")
    if arguments.record and run.pop("dirty") is not False:
        sys.exit("benchmark: error: the checkout is not clean or not under git; commit, then run again")

    rows = []
    for name in names:
        rows += compare(name, device=arguments.device, memory=not arguments.quick)
        print(f"{name}: done", file=sys.stderr)
    print(table(rows))
    if arguments.record:
        figures = [{key: value for key, value in asdict(row).items() if value is not None} for row in rows]
        record(f"benchmark {arguments.device}", figures, run=run)
        text = README.read_text()
        before, after = text.partition(START)[0], text.partition(END)[2]
        where = f"{run['processor']}, {run['cores']} cores, device {run['device']}"
        note = f"Measured {run['date']} at commit {run['commit'][:7]}; {where}; torch {run['versions']['torch']}."
        README.write_text(f"{before}{START}\n{table(rows)}\n\n{note}\n{END}{after}")


if __name__ == "__main__":
    main()
