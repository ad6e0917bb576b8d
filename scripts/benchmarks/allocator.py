"""The benchmark's times with glibc's allocator as it is, and with the settings of `medmixers nnunet env --cpu`.

python scripts/benchmarks/allocator.py                  # all comparisons on a CPU: 10 minutes on a quiet machine
python scripts/benchmarks/allocator.py --only pooling   # those with this text in their name
python scripts/benchmarks/allocator.py --record         # all, then results/measured.json and the documents' tables

glibc reads its settings when a process starts. So two processes measure, one with them and one without, each
comparison in turn. A recorded run needs a clean checkout: its commit is recorded with the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recording import measure_and_print

from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.errors import InputError, one_line_errors
from medmixers.results.allocator import SETTINGS, allocator_table

ROUNDS, REPEATS, SECONDS = 2, 2, 1.0  # of each process: rounds over a comparison, and per round as measure.py has them
WORKER = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import measure
measure.MIN_REPEATS, measure.SECONDS = {REPEATS}, {SECONDS}
for line in sys.stdin:
    rows = measure.compare(line.strip(), memory=False)
    print(json.dumps([measure.as_json(row) for row in rows]), flush=True)
"""


@contextmanager
def workers() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process per setting that measures the comparisons whose names it reads."""
    plain = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    environments = dict(zip(SETTINGS, (plain, {**plain, **ALLOCATOR_VARIABLES}), strict=True))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = {
        setting: subprocess.Popen([sys.executable, "-c", WORKER], env=environment, **pipes)
        for setting, environment in environments.items()
    }
    try:
        yield started
    finally:
        for process in started.values():
            process.communicate()


def ask(process: subprocess.Popen[str], comparison: str) -> list[dict[str, Any]]:
    """Rows that a worker measures."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(comparison, file=process.stdin, flush=True)
    if not (line := process.stdout.readline()):
        raise RuntimeError(f"the process that measured {comparison} ended")
    return json.loads(line)


def allocator_figures(comparisons: Iterable[str], *, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """One row per comparison, pass and contender that runs here: times in ms by setting."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    with workers() as started:
        for comparison in comparisons:
            for number in range(rounds):
                for setting in SETTINGS if number % 2 == 0 else SETTINGS[::-1]:
                    for row in ask(started[setting], comparison):
                        times = found.setdefault((comparison, row["run"], row["contender"]), {})
                        times.setdefault(setting, []).extend(row.get("milliseconds", ()))
            print(f"{comparison}: done", file=sys.stderr)
    keys = ("comparison", "run", "contender")
    return [{**dict(zip(keys, key, strict=True)), **times} for key, times in found.items() if all(times.values())]


def chosen_comparisons(text: str) -> list[str]:
    """Names of comparisons for a CPU that hold a text."""
    from comparisons import COMPARISONS  # imports every network

    on_cpu = {name: each for name, each in COMPARISONS.items() if not each.gpu}
    if not (names := [name for name in on_cpu if text in name]):
        raise InputError(f"no comparison has {text!r} in its name; valid: {', '.join(on_cpu)}")
    return names


def check_platform(system: Mapping[str, str | int]) -> None:
    """Raise InputError unless the C library is glibc."""
    if "CS_GNU_LIBC_VERSION" not in system:
        raise InputError("the settings are those of glibc, which this system does not have")


@one_line_errors("allocator")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="comparisons whose name holds this text")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    check_platform(getattr(os, "confstr_names", {}))
    names = chosen_comparisons(arguments.only)
    if arguments.record and arguments.only:
        raise InputError("--record is for a whole run, without --only")
    measure_and_print("allocator", lambda: allocator_figures(names), allocator_table, is_recorded=arguments.record)


if __name__ == "__main__":
    main()
