"""A training step on one rank and on two with DistributedDataParallel and gloo, and the bytes that a step sends."""

# No postponed annotations: DistributedDataParallel checks the one of a communication hook.
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.distributed import GradBucket
from torch.nn.parallel import DistributedDataParallel

from medmixers.factory import create_network

RANKS, THREADS, EDGE, BATCH, STEPS = 2, 1, 64, 2, 5
NETWORKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "metaformer_segformer_s12 grouped_conv": ("metaformer_segformer_s12", {"mixer": "grouped_conv"}),
    "token_unet_released_8": ("token_unet_released_8", {}),
}


def counted(sent: list[int], bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Average the gradients as DistributedDataParallel does, and note their bytes in ``sent``."""
    buffer = bucket.buffer()
    sent.append(buffer.numel() * buffer.element_size())
    work = distributed.all_reduce(buffer.div_(distributed.get_world_size()), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def scale_figures(
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    edge: int = EDGE,
    batch: int = BATCH,
    steps: int = STEPS,
    announce: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """One row per network.

    ``alone_ms``: steps of one rank, nothing else running. ``no_sync_ms`` and ``ms``: steps of two ranks without and
    with the exchange of gradients, in turn. ``bytes``: what a rank hands to the exchange per step.
    ``gradient_bytes``: the size of its gradients.
    """
    rows = []
    for label in networks:
        alone = run_ranks(1, label, edge, batch, steps)
        both = run_ranks(RANKS, label, edge, batch, steps)
        row = {"network": f"{label} {batch}x{'x'.join([str(edge)] * 3)}", "alone_ms": alone["no_sync_ms"], **both}
        rows.append(row)
        announce(str(row))
    return rows


def run_ranks(count: int, label: str, edge: int, batch: int, steps: int) -> dict[str, Any]:
    """What the first of ``count`` processes measures."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (count, folder, label, edge, batch, steps)
        multiprocessing.spawn(rank_steps, arguments, nprocs=count)
        return torch.load(Path(folder) / "figures.pt", weights_only=True)


def rank_steps(rank: int, count: int, folder: str, label: str, edge: int, batch: int, steps: int) -> None:
    """One process: steps with and without the exchange, in turn, after one of each."""
    torch.set_num_threads(THREADS)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        torch.manual_seed(0)
        name, options = NETWORKS[label]
        network = DistributedDataParallel(
            create_network(name, spatial_dims=3, in_channels=1, out_channels=2, **options)
        )
        sent: list[int] = []
        network.register_comm_hook(sent, counted)
        x = torch.randn(batch, 1, *[edge] * 3)
        figures: dict[str, Any] = {"no_sync_ms": [], "ms": []}
        for index in range(steps + 1):
            for key in ("no_sync_ms", "ms"):
                sent.clear()
                milliseconds = timed_step(network, x, exchange=key == "ms")
                if index:
                    figures[key].append(round(milliseconds, 2))
        figures["bytes"] = sum(sent)
        figures["gradient_bytes"] = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
        if rank == 0:
            torch.save(figures, Path(folder) / "figures.pt")
    finally:
        distributed.destroy_process_group()


def timed_step(network: DistributedDataParallel, x: torch.Tensor, *, exchange: bool) -> float:
    """Milliseconds of a forward and a backward pass, from a common start to the end on this rank."""
    network.zero_grad(set_to_none=True)
    distributed.barrier()
    start = time.perf_counter()
    with nullcontext() if exchange else network.no_sync():
        output = network(x)
        loss: torch.Tensor = nn.functional.mse_loss(output, torch.zeros_like(output))
        loss.backward()
    return 1000 * (time.perf_counter() - start)
