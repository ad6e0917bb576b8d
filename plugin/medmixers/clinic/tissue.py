"""Whether a window of a histology slide holds anything but bare glass."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

SATURATION = 0.03  # of HSV, from 0 to 1: CLAM (Lu et al. 2021) takes 8 of 255 for tissue
DARK = 0.85  # value of HSV: darker is a pen, a fold or pigment, without a saturation perhaps
BLOCK = 4.0  # microns: colours are averages of blocks this large, so that noise is no colour


def block_edge(mpp: float) -> int:
    """Pixels along the edge of a block, at so many microns per pixel."""
    return max(1, round(BLOCK / mpp))


def has_tissue(pixels: NDArray[Any], *, edge: int, saturation: float = SATURATION) -> bool:
    """Whether one block of pixels is more saturated, or darker, than bare glass.

    Glass is bright and grey. All else counts as tissue, pens and dirt too: in doubt a window is predicted.
    Pixels that are exactly black were not scanned (OpenSlide fills them so), and count as glass.

    Args:
        pixels: (3, x, y), from 0 to 255.
        edge: of a block, in pixels; the last blocks may be smaller.
        saturation: of HSV, which glass does not exceed.
    """
    import torch
    from skimage.color import rgb2hsv
    from torch.nn.functional import avg_pool2d

    scanned = torch.from_numpy(pixels).float()
    scanned[:, (scanned == 0).all(dim=0)] = 255
    blocks = avg_pool2d(scanned[None], edge, ceil_mode=True, count_include_pad=False)[0]
    _, found, value = rgb2hsv(blocks.numpy() / 255, channel_axis=0)
    return bool(((found > saturation) | (value < DARK)).any())
