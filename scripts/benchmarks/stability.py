"""Gradient norms of a training with local attention, by each way to compute it: whether one of them is unstable.

Keuth et al. 2025 trained local attention on 224x224 images more gently than the rest, since compiled FlexAttention
exploded. Here one block of MetaFormer S12 learns the directions of gratings at the resolution of stage 1, from the
same weights and on the same batches for every way, with the optimizer of Keuth et al. without its warm-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, median
from typing import Any

import peers
import torch
from measure import has_bfloat16, reason
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.factory import create_network
from medmixers.mixers.local_attention import BACKENDS as OURS
from medmixers.results.tables import LOSS_STEPS

PEERS = {"unfold": peers.unfold_attention, "FlexAttention": peers.row_major_flex_attention}
GPU_ONLY = ("flex", "FlexAttention")  # cannot be trained on a CPU
PRECISIONS = ("float32", "bfloat16")  # the second under autocast
IMAGE, BATCH, CLASSES, STEPS = (224, 224), 2, 8, 200
PERIOD = 8  # of a grating, in pixels: two tokens of stage 1
NOISE = 1.5  # its standard deviation, a grating's being 0.7: all steps are needed to learn the task
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05  # Keuth et al. 2025


@dataclass(frozen=True)
class Training:
    """What one training did.

    Args:
        backend: how local attention was computed, a name of :func:`backends`.
        precision: of PRECISIONS.
        norms: Euclidean norm of the gradient of all weights, one number per step.
        losses: cross-entropy, one number per step.
        error: why there is neither.
    """

    backend: str
    precision: str
    norms: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    error: str | None = None

    def summary(self) -> dict[str, Any]:
        """As JSON data; a number that is not finite is None."""
        row = {"backend": self.backend, "precision": self.precision}
        if self.error:
            return {**row, "error": self.error}
        finite = [norm for norm in self.norms if isfinite(norm)]
        losses = {"first_loss": fmean(self.losses[:LOSS_STEPS]), "last_loss": fmean(self.losses[-LOSS_STEPS:])}
        return {
            **row,
            "first": self.norms[0] if isfinite(self.norms[0]) else None,
            "median": median(finite) if finite else None,
            "largest": max(finite, default=None),
            "not_finite": len(self.norms) - len(finite),
            **{key: loss if isfinite(loss) else None for key, loss in losses.items()},
        }


def backends(device: str) -> list[str]:
    """Names of the ways that can be trained on a device, the reference first."""
    names = ("unfold", *(name for name in OURS if name != "auto"), "FlexAttention")
    return [name for name in names if torch.device(device).type == "cuda" or name not in GPU_ONLY]


def precisions(device: str) -> list[str]:
    """Of PRECISIONS, those that the device computes in itself."""
    return [name for name in PRECISIONS if name == "float32" or has_bfloat16(device)]


def build(backend: str) -> nn.Module:
    """The network with weights of one seed."""
    torch.manual_seed(0)
    network = create_network(
        "metaformer_s12",
        spatial_dims=2,
        in_channels=1,
        out_channels=CLASSES,
        depths=(1,),
        dims=(64,),
        mixer="local_attention",
        kernel_size=7,
        mixer_options={"backend": backend if backend in OURS else "tiles", "full_attention_tokens": 0},
        layer_scale_init=1.0,  # at 1e-5, as published, the mixer would hardly count in so few steps
        drop_path_rate=0.0,  # the batches alone are random, and the same for all
    )
    if backend in PEERS:
        block: Any = network.get_submodule("encoder.stages.0.blocks.0")
        block.token_mixer = peers.Neighbourhoods(block.token_mixer, PEERS[backend])
    return network


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Gratings in noise with a random phase, (BATCH, 1, *IMAGE), and the number of their direction, (BATCH,)."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(*(torch.arange(size) for size in IMAGE), indexing="ij")
    for _ in range(steps):
        classes = torch.randint(CLASSES, (BATCH,), generator=generator)
        angle, turn = (x.view(-1, 1, 1) for x in (classes * torch.pi / CLASSES, torch.rand(BATCH, generator=generator)))
        wave = (angle.cos() * columns + angle.sin() * rows) / PERIOD + turn
        noise = torch.randn(BATCH, *IMAGE, generator=generator)
        yield ((2 * torch.pi * wave).sin() + NOISE * noise).unsqueeze(1), classes


def train(backend: str, precision: str, *, device: str, steps: int = STEPS) -> Training:
    """Train the network and keep every step's gradient norm and loss.

    Args:
        backend: of :func:`backends`.
        precision: of PRECISIONS.
        device: as torch names it.
        steps: of the optimizer.

    Returns:
        The norms. A peer that cannot run here has its error instead.
    """
    try:
        norms, losses = zip(*_steps(build(backend).to(device), precision, device, steps), strict=True)
    except Exception as error:  # whatever a peer raises where it cannot run
        if backend in OURS:
            raise
        return Training(backend, precision, error=reason(error))
    return Training(backend, precision, norms, losses)


def _steps(network: nn.Module, precision: str, device: str, steps: int) -> Iterator[tuple[float, float]]:
    """Gradient norm and loss of each step."""
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    kind, half = torch.device(device).type, precision == "bfloat16"
    for images, classes in batches(steps):
        optimizer.zero_grad()
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(network(images.to(device)), classes.to(device))
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        optimizer.step()
        yield norm.item(), loss.item()
