"""Multiply-adds of a network by counting."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(network: nn.Module, image: torch.Tensor) -> float:
    """Multiply-adds of convolutions, matrix products and Fourier transforms of one forward, in eval mode.

    Both may be on "meta". A transform of N real numbers counts as 2.5 N log2(N) operations, as FFTW counts them.
    """
    network.eval()
    transforms = {torch.ops.aten._fft_r2c: _flops_to_spectrum, torch.ops.aten._fft_c2r: _flops_from_spectrum}
    with FlopCounterMode(display=False, custom_mapping=transforms) as counter, torch.no_grad():
        network(image)
    return float(counter.get_total_flops() / 2)


def _flops_to_spectrum(signal: Sequence[int], dim: Sequence[int], *_: Any, **__: Any) -> int:
    """signal: shape of the real numbers, all transformed over the axes ``dim``."""
    return int(2.5 * prod(signal) * log2(prod(signal[axis] for axis in dim)))


def _flops_from_spectrum(
    spectrum: Sequence[int], dim: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    return _flops_to_spectrum(out_shape, dim)
