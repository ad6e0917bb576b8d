"""Attention maps of TokenLearners: record them during a forward, resample them to the image's grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.errors import InputError
from medmixers.layers.sizes import INTERPOLATIONS, crop, per_axis
from medmixers.variants import NETWORKS


@contextmanager
def record_token_attention(network: nn.Module) -> Iterator[list[Tensor]]:
    """Record the attention maps of every forward inside the ``with`` block; the output does not change.

    Args:
        network: a module with TokenLearners (:class:`~medmixers.networks.token_unet.TokenPooling`) at any depth.

    Yields:
        A list. Each call of a TokenLearner adds its maps: (B, N, *grid), detached, each with sum 1.

    Raises:
        InputError: the network has no tokens.
    """
    # By name: an unpacked bundle brings its own copy of the class.
    learners = [module for module in network.modules() if "TokenPooling" in [k.__name__ for k in type(module).__mro__]]
    if not learners:
        names = ", ".join(sorted(name for name, row in NETWORKS.items() if row.has_tokens))
        raise InputError(
            f"{type(network).__name__} has no TokenLearner, so there is no token attention to record; "
            f"--voxel X,Y,Z shows attention of token mixers; networks that have a TokenLearner: {names}"
        )
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        maps.append(output[1].detach())

    handles = [learner.register_forward_hook(keep) for learner in learners]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def attention_on_image(maps: Tensor, size: Sequence[int], *, stride: int | Sequence[int] = 8) -> Tensor:
    """Resample maps to the grid of the image that the network saw.

    The networks pad the end of each axis to a multiple of their stride. So cell i covers the voxels stride * i to
    stride * (i + 1) - 1, counted from the start. The maps are scaled by exactly the stride and the padding is cut off:
    an interpolation straight to ``size`` would shrink them.

    Args:
        maps: (B, N, *grid), each with sum 1.
        size: spatial size of the image.
        stride: voxels per cell, the network's ``stride``; or one per axis.

    Returns:
        (B, N, *size), in multiples of uniform attention: 1 is attention by chance.

    Raises:
        InputError: the grid is too small for the image.
    """
    grid = maps.shape[2:]
    steps = per_axis(stride, len(grid), "stride")
    if len(grid) != len(size) or any(c * step < voxels for c, step, voxels in zip(grid, steps, size, strict=True)):
        raise InputError(f"maps of grid {tuple(grid)} and stride {stride} do not cover an image of {tuple(size)}")
    relative = maps * grid.numel()
    mode = INTERPOLATIONS[len(grid)]
    return crop(F.interpolate(relative, scale_factor=tuple(map(float, steps)), mode=mode, align_corners=False), size)
