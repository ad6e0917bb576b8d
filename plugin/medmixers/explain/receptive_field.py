"""Effective receptive field (Luo et al. 2016): how strongly each voxel of the image moves the output at one voxel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHARES = (0.5, 0.95, 0.99)


def receptive_field(network: nn.Module, image: Tensor, position: Sequence[int]) -> Tensor:
    """Absolute gradient of the largest logit at a position for the image, summed over the image's channels.

    Args:
        network: in eval mode. Of a classifier, the largest logit of the image is taken.
        image: (1, C, *spatial).
        position: voxel of the output.

    Returns:
        (*spatial), in multiples of its mean; zeros where no voxel has an influence.
    """
    x = image.detach().clone().requires_grad_()
    logits = network(x)
    if isinstance(logits, list | tuple):
        logits = logits[0]
    index = (0, slice(None), *position)
    at = logits[0] if logits.ndim == 2 else logits[index]
    (gradient,) = torch.autograd.grad(at.max(), x)
    field = gradient[0].abs().sum(0)
    mean = field.mean()
    return field / mean if mean > 0 else field


def reach(field: Tensor, position: Sequence[int], shares: Sequence[float] = SHARES) -> list[int]:
    """Distance in voxels, the largest of the axes, within which each share of the field lies. 0: the voxel alone."""
    distance = torch.zeros(field.shape, dtype=torch.long, device=field.device)
    for axis, (size, place) in enumerate(zip(field.shape, position, strict=True)):
        offset = (torch.arange(size, device=field.device) - place).abs()
        distance = distance.maximum(offset.view(*(size if other == axis else 1 for other in range(field.ndim))))
    held = torch.bincount(distance.flatten().cpu(), weights=field.flatten().double().cpu()).cumsum(0)
    return torch.searchsorted(held, torch.tensor(shares, dtype=held.dtype) * held[-1]).tolist()
