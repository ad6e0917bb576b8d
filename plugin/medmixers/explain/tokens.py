"""Tokens of a Token-UNet on an image: where they come from, where they go, and how many are near-copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.explain.token_attention import attention_on_image, record_token_attention

NEAR_COPY = 0.95  # cosine similarity of two tokens above which the later one is a near-copy


class Tokens(NamedTuple):
    """Tokens of a forward.

    Args:
        attention: TokenLearner's maps A, (B, N, *spatial), in multiples of uniform attention.
        spread: TokenFuser's maps B, (B, N, *spatial): the weight with which mixed token n is added to each voxel, of
            either sign. None for a network without a TokenFuser.
        vectors: the tokens, (B, N, C), as TokenLearner gives them.
    """

    attention: Tensor
    spread: Tensor | None
    vectors: Tensor


class NearCopy(NamedTuple):
    """A token that is almost another one.

    Args:
        token: its number, from 0.
        original: number of the earlier token that is nearest to it.
        similarity: cosine of both.
    """

    token: int
    original: int
    similarity: float


@torch.inference_mode()
def tokens_of(network: nn.Module, image: Tensor) -> Tokens:
    """Tokens of a network's last TokenLearner on an image, (B, C, *spatial).

    Raises:
        InputError: the network has no tokens.
    """
    with (
        record_token_attention(network) as recorded,
        _recorded_spreading(network) as spread,
        _vectors(network) as found,
    ):
        network(image)
    size, stride = image.shape[2:], getattr(network, "stride", 8)
    on_image = None
    if spread:
        cells = spread[-1][0, 0].numel()
        on_image = attention_on_image(spread[-1] / cells, size, stride=stride)  # which multiplies by the cells
    return Tokens(attention_on_image(recorded[-1], size, stride=stride), on_image, found[-1])


@contextmanager
def _recorded_spreading(network: nn.Module) -> Iterator[list[Tensor]]:
    """Maps of every TokenFuser, (B, N, *grid)."""
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        fuser: Any = module
        x = inputs[0]
        maps.append(fuser.scores(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(-1, x.shape[2:]).detach())

    with _hooked(network, "TokenSpreading", keep):
        yield maps


@contextmanager
def _vectors(network: nn.Module) -> Iterator[list[Tensor]]:
    """Tokens of every TokenLearner, (B, N, C)."""
    tokens: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        tokens.append(output[0].detach())

    with _hooked(network, "TokenPooling", keep):
        yield tokens


@contextmanager
def _hooked(network: nn.Module, name: str, keep: Any) -> Iterator[None]:
    # By name: an unpacked bundle brings its own copy of the class.
    modules = [module for module in network.modules() if name in [kind.__name__ for kind in type(module).__mro__]]
    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def near_copies(vectors: Tensor, threshold: float = NEAR_COPY) -> list[NearCopy]:
    """Tokens with a cosine similarity above the threshold to an earlier token that is no near-copy itself.

    Args:
        vectors: (N, C). Two tokens of length 0 are copies.
        threshold: cosine similarity.
    """
    unit = F.normalize(vectors.double(), dim=1)
    similarity = unit @ unit.T
    empty = unit.norm(dim=1) == 0
    similarity[empty[:, None] & empty] = 1
    originals: list[int] = []
    copies: list[NearCopy] = []
    for token in range(len(vectors)):
        nearest = max(originals, key=lambda other: float(similarity[token, other]), default=None)
        if nearest is not None and similarity[token, nearest] > threshold:
            copies.append(NearCopy(token, nearest, float(similarity[token, nearest])))
        else:
            originals.append(token)
    return copies


def diversity_text(vectors: Tensor, entry: int) -> list[str]:
    """How many tokens are near-copies, and of which: one or two lines.

    Args:
        vectors: (B, N, C).
        entry: of the batch, which the lines are about.
    """
    copies, number = near_copies(vectors[entry]), vectors.shape[1]
    text = f"{len(copies)} of {number} tokens are near-copies of an earlier one (cosine similarity above {NEAR_COPY:g})"
    if len(vectors) > 1:
        mean = sum(len(near_copies(one)) for one in vectors) / len(vectors)
        text = f"slice {entry}: {text}; {mean:.1f} per slice on average"
    pairs = ", ".join(f"{each.token} of {each.original} ({each.similarity:.3f})" for each in copies)
    return [text, *([f"near-copies: {pairs}"] if pairs else [])]
