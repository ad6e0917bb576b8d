"""Time and memory of mixers and networks compared with their peers, in one run.

python scripts/benchmarks/benchmark.py                 # everything
python scripts/benchmarks/benchmark.py --quick         # fewer comparisons, no peaks of memory
python scripts/benchmarks/benchmark.py --device cuda   # those that are too large for a CPU too
python scripts/benchmarks/benchmark.py --record        # everything, then results/measured.json and the tables
python scripts/benchmarks/benchmark.py --record --only TEXT     # these alone, in a table of their own

A recorded run needs a clean checkout: its commit is recorded with the figures.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from comparisons import COMPARISONS
from measure import as_json, compare
from recording import device_name, versions

from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.errors import InputError, one_line_errors
from medmixers.results import MEASURED, check_recordable, describe_run, documents, measured, record, write_json
from medmixers.results.tables import benchmark_table

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("timm", "dynamic_network_architectures", "natten")  # recorded in addition to torch, MONAI and nnU-Net


@one_line_errors("benchmark")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer comparisons, times only")
    parser.add_argument("--only", default="", metavar="TEXT", help="comparisons whose name holds this text")
    parser.add_argument("--device", default="cpu", help="as torch names it (cpu, cuda)")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    names = [name for name in COMPARISONS if arguments.device != "cpu" or not COMPARISONS[name].gpu]
    names = [name for name in names if COMPARISONS[name].quick or not arguments.quick]
    chosen = [name for name in names if arguments.only in name]
    run = describe_run("benchmark", device=device_name(arguments.device), checkout=ROOT)
    if not chosen:
        raise InputError(f"no comparison has {arguments.only!r} in its name; valid: {', '.join(names)}")
    if arguments.record and arguments.quick:
        raise InputError("--record is for a whole run, without --quick")
    if arguments.record and (given := [name for name in ALLOCATOR_VARIABLES if name in os.environ]):
        raise InputError(f"unset {' and '.join(given)}: the record is without them, allocator.py compares both")
    if arguments.record:
        check_recordable(run)
        documents.render(ROOT)  # wrong markers must show before the minutes of measuring

    rows = []
    for name in chosen:
        rows += compare(name, device=arguments.device, memory=not arguments.quick)
        print(f"{name}: done", file=sys.stderr)
    figures = [as_json(row) for row in rows]
    print(benchmark_table(figures))
    if arguments.record:
        run["versions"] |= versions(PEERS)
        store(figures, device=arguments.device, only=arguments.only, run=run)
        documents.write(ROOT)


def store(figures: list[dict[str, Any]], *, device: str, only: str, run: dict[str, Any], path: Path = MEASURED) -> None:
    """Record a whole run, or some comparisons alone. Their older figures leave the other sections of this device."""
    name = f"benchmark {device} {only}".strip()
    record(name, figures, run=run, path=path)
    newer, sections = {row["comparison"] for row in figures}, measured(path)
    for other in [each for each in sections if each.startswith(f"benchmark {device}") and each != name]:
        kept = [row for row in sections[other]["figures"] if row["comparison"] not in newer]
        sections[other]["figures"] = kept
        if not kept:
            del sections[other]
    write_json(path, sections)


if __name__ == "__main__":
    main()
