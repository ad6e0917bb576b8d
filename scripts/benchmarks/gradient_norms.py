"""Gradient norms of 200 training steps with local attention at the resolution of stage 1, by each way to compute it.

python scripts/benchmarks/gradient_norms.py                 # about five minutes on one thread of a CPU
python scripts/benchmarks/gradient_norms.py --device cuda   # by FlexAttention too
python scripts/benchmarks/gradient_norms.py --record        # then results/measured.json and the README's table

Exit status 1 where a gradient is not finite. A recorded run needs a clean checkout: its commit stands beside the
figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from stability import BATCH, IMAGE, STEPS, backends, precisions, table, train

from medmixers.results import describe_run, measured, measured_note, record, replace_between

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SECTION = "gradient norms "  # of measured.json, before the device
START, END = (
    "<!-- gradient norms table -->",
    "<!-- end of gradient norms table -->",
)


def with_table(readme: str, sections: Mapping[str, Any]) -> str:
    """The README with the recorded norms of every device between its markers."""
    recorded = {name.removeprefix(SECTION): section for name, section in sections.items() if name.startswith(SECTION)}
    text = "\n".join([f"{table(recorded)}\n", *map(measured_note, recorded.values())])
    return replace_between(readme, START, END, text if recorded else "Not measured yet.")


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the optimizer, default {STEPS}")
    parser.add_argument("--record", action="store_true", help="write the figures and the README's table")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, got {arguments.steps}")
    if arguments.record and arguments.steps != STEPS:
        parser.error(f"--record is for {STEPS} steps, got {arguments.steps}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    run = describe_run(device=torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu", checkout=ROOT)
    if arguments.record and run.pop("dirty") is not False:
        parser.error("the checkout is not clean or not under git; commit, then run again")
    with_table(README.read_text(), measured())  # a marker that is missing shows before the minutes of training

    torch.set_num_threads(1)
    rows = []
    for backend in backends(arguments.device):
        for precision in precisions(arguments.device):
            rows.append(train(backend, precision, device=arguments.device, steps=arguments.steps).summary())
            print(rows[-1], file=sys.stderr, flush=True)
    figures = {"steps": arguments.steps, "batch": BATCH, "image": IMAGE, "rows": rows}
    print(table({arguments.device: {"figures": figures}}))
    if arguments.record:
        record(f"{SECTION}{arguments.device}", figures, run=run)
        README.write_text(with_table(README.read_text(), measured()))
    return int(any(row.get("not_finite") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
