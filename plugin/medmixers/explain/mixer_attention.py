"""Attention of one voxel in the token mixers of a MetaFormer: local, dilated and global attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.explain.token_attention import attention_on_image

ATTENTION = ("LocalAttention", "GlobalAttention", "DilatedAttention")


class BlockAttention(NamedTuple):
    """Attention of one voxel in one block.

    Args:
        block: as "stage 3, block 1", counted from 1.
        kind: class of the token mixer.
        grid: size of the feature map.
        weights: mean over the heads on the grid of the window, (*window), in multiples of uniform attention.
    """

    block: str
    kind: str
    grid: tuple[int, ...]
    weights: Tensor


def attention_rows(mixer: nn.Module, x: Tensor, position: Sequence[int]) -> Tensor:
    """Softmax weights with which a position of a feature map reads every other one.

    Args:
        mixer: local, dilated or global attention.
        x: its input, (1, C, *spatial).
        position: of the query.

    Returns:
        (heads, *spatial), each with sum 1; 0 outside the neighbourhood.
    """
    module: Any = mixer
    embedding = getattr(module, "pos_embedding", None)
    if embedding is not None:
        x = x + embedding
    q, k, _ = module.qkv(x[0].movedim(0, -1)).unflatten(-1, (3, module.heads, -1)).unbind(-3)  # (*spatial, heads, D)
    scores = torch.einsum("hd,...hd->h...", q[tuple(position)], k).float() / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~_neighbourhood(module, x.shape[2:], position).to(x.device), float("-inf"))
    return scores.flatten(1).softmax(-1).view_as(scores)


def _neighbourhood(mixer: Any, sizes: Sequence[int], position: Sequence[int]) -> Tensor:
    """The positions that a query sees, bool, (*sizes)."""
    seen = torch.ones(*sizes, dtype=torch.bool)
    if not hasattr(mixer, "kernel_size") or seen.numel() <= getattr(mixer, "full_attention_tokens", 0):
        return seen
    dilation = getattr(mixer, "dilation", 1)
    for axis, (size, place) in enumerate(zip(sizes, position, strict=True)):
        offset = torch.arange(size) - place
        near = (offset.abs() <= dilation * (mixer.kernel_size // 2)) & (offset % dilation == 0)
        seen = seen & near.view(*(size if other == axis else 1 for other in range(len(sizes))))
    return seen


@torch.inference_mode()
def block_attention(network: nn.Module, image: Tensor, position: Sequence[int]) -> list[BlockAttention]:
    """Attention of the voxel ``position`` of an image, (1, C, *spatial), in every block that attends.

    A cell of a feature map covers as many voxels as the strides before it multiply to, counted from the start.

    Raises:
        InputError: no block of the network has attention as its token mixer.
    """
    found: list[BlockAttention] = []
    handles = []
    for block, mixer, strides in _attending(network):
        cell = [place // stride for place, stride in zip(position, strides, strict=True)]

        def keep(module: nn.Module, inputs: Any, *, block: str, cell: list[int], strides: list[int]) -> None:
            weights = attention_rows(module, inputs[0], cell).mean(0)
            on_image = attention_on_image(weights[None, None], image.shape[2:], stride=strides)[0, 0]
            found.append(BlockAttention(block, type(module).__name__, tuple(weights.shape), on_image.cpu()))

        handles.append(mixer.register_forward_pre_hook(partial(keep, block=block, cell=cell, strides=strides)))
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _attending(network: nn.Module) -> list[tuple[str, nn.Module, list[int]]]:
    """Block, token mixer and strides so far of every block whose token mixer is attention."""
    # By name: an unpacked bundle brings its own copy of the classes.
    encoders: list[Any] = [m for m in network.modules() if "MetaFormerEncoder" in [k.__name__ for k in type(m).__mro__]]
    blocks = []
    for encoder in encoders:
        strides = [1] * encoder.spatial_dims
        for number, (stage, more) in enumerate(zip(encoder.stages, encoder.strides, strict=True), start=1):
            strides = [before * stride for before, stride in zip(strides, more, strict=True)]
            mixers = [m for m in stage.modules() if type(m).__name__ in ATTENTION]
            blocks += [(f"stage {number}, block {i}", mixer, strides) for i, mixer in enumerate(mixers, start=1)]
    if not blocks:
        raise InputError(
            f"{type(network).__name__} has no block with attention as its token mixer; mixers that attend: "
            "local_attention, dilated_attention, global_attention"
        )
    return blocks
