"""What a network costs: parameters and multiply-adds by counting, a training step by the clock. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from medmixers.factory import create_network, needs_input_size


@dataclass(frozen=True)
class Cost:
    """Parameters (trainable values) and multiply-adds of one forward pass of one image; None where not countable."""

    parameters: int
    macs: float | None


def network_cost(
    network: str, options: Mapping[str, Any], size: Sequence[int], in_channels: int, out_channels: int, *,
    forward: bool = True,
) -> Cost:  # fmt: skip
    """Count on the meta device; multiply-adds only with ``forward``. Raises InputError for what cannot be built so."""
    import torch

    from medmixers.layers.macs import count_macs

    with torch.device("meta"):
        model = _build(network, options, size, in_channels, out_channels)
        parameters = sum(each.numel() for each in model.parameters() if each.requires_grad)
        if not forward:
            return Cost(parameters, None)
        try:
            macs: float | None = count_macs(model, torch.empty(1, in_channels, *size))
        except (RuntimeError, NotImplementedError):  # an operator without a meta kernel
            macs = None
    return Cost(parameters, macs)


def step_seconds(
    network: str, options: Mapping[str, Any], size: Sequence[int], in_channels: int, out_channels: int, *,
    batch_size: int, device: str, repeats: int = 3,
) -> float:  # fmt: skip
    """Seconds of one training step on random images: forward, backward and AdamW; median after one warm-up."""
    import torch

    model = _build(network, options, size, in_channels, out_channels).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.randn(batch_size, in_channels, *size, device=device)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _build(network: str, options: Mapping[str, Any], size: Sequence[int], in_channels: int, out_channels: int) -> Any:
    sized = {"input_size": tuple(size)} if needs_input_size(network, options) else {}
    return create_network(
        network, spatial_dims=len(size), in_channels=in_channels, out_channels=out_channels, **{**sized, **options}
    )
