"""Gradient norms of 200 training steps with local attention at the resolution of stage 1, by each way to compute it.

python scripts/benchmarks/gradient_norms.py                 # about five minutes on one thread of a CPU
python scripts/benchmarks/gradient_norms.py --device cuda   # by FlexAttention too
python scripts/benchmarks/gradient_norms.py --record        # then results/measured.json and the documents' tables

Exit status 1 where a gradient is not finite. A recorded run needs a clean checkout: its commit is recorded with the
figures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from recording import device_name
from stability import BATCH, IMAGE, STEPS, backends, precisions, train

from medmixers.errors import one_line_errors
from medmixers.results import check_committed, describe_run, documents, record
from medmixers.results.tables import gradient_norms_table

ROOT = Path(__file__).resolve().parents[2]


@one_line_errors("gradient_norms")
def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the optimizer, default {STEPS}")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, got {arguments.steps}")
    if arguments.record and arguments.steps != STEPS:
        parser.error(f"--record is for {STEPS} steps, got {arguments.steps}")
    run = describe_run("gradient norms", device=device_name(arguments.device), checkout=ROOT)
    if arguments.record:
        check_committed(run)
    documents.render(ROOT)  # wrong markers must show before the minutes of training

    torch.set_num_threads(1)
    rows = []
    for backend in backends(arguments.device):
        for precision in precisions(arguments.device):
            rows.append(train(backend, precision, device=arguments.device, steps=arguments.steps).summary())
            print(rows[-1], file=sys.stderr, flush=True)
    figures = {"steps": arguments.steps, "batch": BATCH, "image": IMAGE, "rows": rows}
    print(gradient_norms_table({arguments.device: rows}))
    if arguments.record:
        record(f"gradient norms {arguments.device}", figures, run=run)
        documents.write(ROOT)
    return int(any(row.get("not_finite") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
