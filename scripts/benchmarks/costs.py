"""Time and memory of every network on a CPU, beside a peer that most people know.

python scripts/benchmarks/costs.py                     # all networks: 18 minutes on 2 quiet cores
python scripts/benchmarks/costs.py --only token_unet   # those with this text in their name
python scripts/benchmarks/costs.py --record            # all, then results/measured.json and the documents' tables

Each pass is measured in processes of its own, one per round, with the settings for a CPU that bundles and trainers
have. A recorded run needs a clean checkout and a quiet machine: its commit is recorded with the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from recording import measure_and_print
from samples import count_parameters, defaults
from scale_networks import PASSES, QUICK, THREADS, measure_pass
from torch import Tensor, nn

from medmixers.bundle_runtime.allocator import keep_freed_memory
from medmixers.errors import InputError, one_line_errors
from medmixers.factory import create_network
from medmixers.profiling import in_fresh_process
from medmixers.results.costs import PEERS, costs_tables
from medmixers.variants import NETWORKS

SIZES: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "classification": {2: (224, 224), 3: (96, 96, 96)},
    "segmentation": {2: (512, 512), 3: (96, 96, 96)},
}
IN_CHANNELS = {2: 3, 3: 1}
ROUNDS = 2  # of short passes, so that what else the machine does meets all networks
BETWEEN = 8  # networks between two visits of their peer


def cost_figures(names: Sequence[str], *, announce: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """Measure networks and the peers of their tasks.

    Args:
        names: of networks.
        announce: gets a line per network.

    Returns:
        One row per network, number of dimensions and pass: ``network``, ``task``, ``dims``, ``pass``, ``ms`` of each
        repeat and ``peak_mib`` above weights, gradients and input. A network has no rows for a form that it lacks.
    """
    forms = [(name, dims) for name in names for dims in IN_CHANNELS if count_parameters(name, dims) is not None]
    rows: dict[tuple[str, int, str], dict[str, Any]] = {}
    for number, task, dims in product(range(ROUNDS), SIZES, IN_CHANNELS):
        asked = [name for name in names if NETWORKS[name].task == task and (name, dims) in forms]
        for network in with_peer(asked, PEERS[task][dims]):
            for name in PASSES:
                known = rows.get((network, dims, name))
                if number and known and min(known["ms"]) > 1000 * QUICK:
                    continue
                found = in_fresh_process(measure, network, SIZES[task][dims], name)
                if known is None:
                    key = {"network": network, "task": task, "dims": dims, "pass": name}
                    rows[network, dims, name] = {**key, **found}
                else:
                    known["ms"] += found["ms"]
            announce(f"round {number + 1}, {dims}D, {network}")
    return list(rows.values())


def with_peer(names: Sequence[str], peer: str) -> list[str]:
    """Networks in the order of their visits: the peer before the first, after the last, and after every ``BETWEEN``."""
    order = [peer] if names else []
    for start in range(0, len(names), BETWEEN):
        order += [*names[start : start + BETWEEN], peer]
    return order


def measure(network: str, size: Sequence[int], name: str) -> dict[str, Any]:
    """Times in ms and the peak in MiB of a pass; the peak is right in a fresh process only."""
    keep_freed_memory()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    return measure_pass(*build(network, size), name)


def build(network: str, size: Sequence[int]) -> tuple[nn.Module, Tensor]:
    """A network or a peer with two outputs, untrained, and an image."""
    dims, channels = len(size), IN_CHANNELS[len(size)]
    options: dict[str, Any] = {"spatial_dims": dims, "in_channels": channels, "out_channels": 2}
    if network in NETWORKS:
        own = defaults(network)
        options |= {"input_size": tuple(size)} if NETWORKS[network].encoder is not None else {}
        options |= {"encoder": untrained_vit_b()} if "encoder" in own else {}
    return create_network(network, **options), torch.randn(1, channels, *size)


def untrained_vit_b() -> nn.Module:
    """RAD-DINO's encoder without its weights, which cannot be loaded everywhere: the cost is the same."""
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(image_size=518))


@one_line_errors("costs")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="networks whose name holds this text")
    parser.add_argument("--record", action="store_true", help="write the figures and the documents' tables")
    arguments = parser.parse_args()
    names = [name for name in sorted(NETWORKS) if arguments.only in name]
    if not names:
        raise InputError(f"no network has {arguments.only!r} in its name; `medmixers list networks` lists them")
    if arguments.record and arguments.only:
        raise InputError("--record is for a whole run, without --only")
    announce = partial(print, file=sys.stderr, flush=True)
    measure_and_print(
        "costs",
        lambda: cost_figures(names, announce=announce),
        costs_tables,
        is_recorded=arguments.record,
        packages=("timm", "dynamic_network_architectures", "transformers"),
    )


if __name__ == "__main__":
    main()
