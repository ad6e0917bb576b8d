"""Patches of simulated heads for the training of the demo's model: one anatomy under many shapes and appearances.

The anatomy is the MNI152 template with its maps of grey and white matter, as nilearn distributes it. Each patch has its
own deformation, contrast, sharpness, resolution, bias field and noise. Half of the patches have a simulated head around
the brain, the others have 0 there. So a network must segment by shape and by contrasts that it finds in the image, as
in SynthSeg (Billot et al., Medical Image Analysis 86, 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from medmixers.demo.subjects import Anatomy, voxel_sizes

PATCH = (64, 64, 64)
SPACING = 2.0  # mm
FURTHEST = 40.0  # mm from the brain at which the simulated head ends for certain
CONTROLS = 6  # points per axis of a random field's coarse grid
BACKGROUND, GREY, WHITE = 0, 1, 2


class Maps(NamedTuple):
    """T1, grey, white and the distance from the brain in mm, (4, X, Y, Z); the voxel's edge in mm."""

    channels: Tensor
    spacing: float


def load_maps(anatomy: Anatomy) -> Maps:
    """Maps of an anatomy with isotropic voxels, with a margin for the head."""
    spacing = float(voxel_sizes(anatomy.affine)[0])
    margin = round(FURTHEST / spacing)
    inside = torch.from_numpy(anatomy.mask > 0.5)
    t1, grey, white, brain = (
        F.pad(torch.as_tensor(each, dtype=torch.float32), (margin,) * 6)
        for each in (anatomy.t1, anatomy.grey, anatomy.white, inside)
    )
    distance = ndimage.distance_transform_edt(brain.numpy() < 0.5, sampling=spacing)
    return Maps(torch.stack([t1, grey, white, torch.from_numpy(distance).float()]), spacing)


def random_patch(maps: Maps, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One image, (1, *PATCH), normalised as the bundle does, and its labels (*PATCH), 0, 1 or 2."""
    draw = Draw(generator)
    t1, grey, white, distance = _sampled(maps, draw)
    inside = distance < 0.5
    rest = (1 - grey - white).clamp_min(0)
    tissues = torch.stack([rest, grey, white])
    labels = torch.where(white > grey, WHITE, GREY)  # the most probable of the three
    labels = torch.where(inside & (torch.maximum(grey, white) > rest), labels, BACKGROUND)
    image = _t1_like(t1, grey, white, draw) if draw.chance(0.5) else _contrast(t1, tissues, draw)
    image = torch.where(inside, image, _head(distance, draw) if draw.chance(0.5) else 0.0)
    background = ~inside & (image == 0)
    image = _scanned(image, draw)
    if draw.chance(0.5):  # skull-stripped images have exactly 0 around the brain
        image = torch.where(background, 0.0, image)
    return _normalised(image, draw)[None], labels


class Draw:
    """Random numbers of one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float, *size: int) -> Tensor:
        """Uniform numbers of this size."""
        return low + (high - low) * torch.rand(size, generator=self.generator)

    def normal(self, *size: int) -> Tensor:
        """Numbers of the standard normal distribution."""
        return torch.randn(size, generator=self.generator)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(torch.rand((), generator=self.generator) < probability)

    def field(self, channels: int = 1, controls: int = CONTROLS) -> Tensor:
        """A smooth random field of standard deviation of about 1, (channels, *PATCH)."""
        coarse = self.normal(1, channels, controls, controls, controls)
        return F.interpolate(coarse, PATCH, mode="trilinear", align_corners=True)[0] * 1.5


def _sampled(maps: Maps, draw: Draw) -> Tensor:
    """The maps under a random shape, on a random patch: (4, *PATCH)."""
    extent = torch.tensor(maps.channels.shape[1:]) * maps.spacing
    reach = (extent / 2 - FURTHEST).clamp_min(0) * (0.4 if draw.chance(0.9) else 1)  # mostly in the brain
    centre = draw.uniform(-1, 1, 3) * reach
    turn = torch.linalg.matrix_exp(_skew(draw.normal(3) * 0.15))
    scale = torch.diag(torch.exp(draw.normal(3) * 0.08 + draw.normal(1) * 0.08))
    matrix = turn @ scale @ (torch.eye(3) + 0.04 * draw.normal(3, 3))
    if draw.chance(0.5):
        matrix = matrix @ torch.diag(torch.tensor([-1.0, 1.0, 1.0]))  # left and right
    axes = [(torch.arange(size) - (size - 1) / 2) * SPACING for size in PATCH]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    millimetres = torch.einsum("ij,jxyz->ixyz", matrix, grid) + centre.view(3, 1, 1, 1)
    millimetres += draw.uniform(0, 2.5, 1) * draw.field(3)  # 128 mm over 5 control steps: no folds
    unit = 2 * millimetres / (extent - maps.spacing).view(3, 1, 1, 1)
    where = unit.flip(0).permute(1, 2, 3, 0)[None]
    sampled = F.grid_sample(maps.channels[None], where, align_corners=True, padding_mode="border")[0]
    return sampled


def _skew(angles: Tensor) -> Tensor:
    x, y, z = angles.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _t1_like(t1: Tensor, grey: Tensor, white: Tensor, draw: Draw) -> Tensor:
    """The template with another contrast between its tissues, another gamma, and at times inverted."""
    shift = draw.normal(2) * 0.1
    image = (t1 * (1 + shift[0] * grey + shift[1] * white)).clamp_min(0) ** torch.exp(0.3 * draw.normal(1))
    return 1.1 - image if draw.chance(0.2) else image


def _contrast(t1: Tensor, tissues: Tensor, draw: Draw) -> Tensor:
    """An image of the tissues: each has a mean; their borders are as sharp as a single subject's, or blurred."""
    means = draw.uniform(0.1, 1, 3)
    if draw.chance(0.8):  # as in T1, or as in T2
        means = means.sort(descending=draw.chance(0.4)).values
    gap = means[2] - means[1]
    if gap.abs() < 0.2:  # grey and white matter must be told apart
        means[2] = means[1] + (0.2 if gap >= 0 else -0.2)
    sharp = (tissues.clamp_min(1e-4) ** draw.uniform(1, 6, 1)).clamp_min(1e-8)
    image = torch.einsum("t,txyz->xyz", means, sharp / sharp.sum(0))
    texture = t1 - F.avg_pool3d(t1[None, None], 5, stride=1, padding=2)[0, 0]
    return image + draw.uniform(-0.5, 0.5, 1) * texture


def _head(distance: Tensor, draw: Draw) -> Tensor:
    """Fluid, skull and scalp around the brain, then air, (*PATCH)."""
    depth = distance + 1.5 * draw.field()[0]
    edges = torch.cumsum(torch.stack([draw.uniform(0, 3, 1), draw.uniform(2, 7, 1), draw.uniform(3, 16, 1)]), 0)
    fluid, skull, scalp = draw.uniform(0.02, 1, 3)
    skull = skull * 0.5
    tissue = scalp * (1 + 0.4 * draw.field(controls=12)[0])
    head = torch.where(depth < edges[2], tissue, 0.0)
    head = torch.where(depth < edges[1], skull * (1 + 0.4 * draw.field(controls=12)[0]), head)
    return torch.where(depth < edges[0], fluid, head).clamp_min(0)


def _scanned(image: Tensor, draw: Draw) -> Tensor:
    """Bias field, resolution and noise of a scanner."""
    image = image.clamp_min(0) * torch.exp(draw.uniform(0, 0.35, 1) * draw.field(controls=3)[0])
    if draw.chance(0.4):  # thick slices, or coarse voxels
        factors = draw.uniform(0.3, 1, 3) if draw.chance(0.3) else torch.ones(3)
        factors[int(draw.uniform(0, 3, 1))] = draw.uniform(0.25, 1, 1)
        coarse = [max(8, round(size * factor)) for size, factor in zip(PATCH, factors.tolist(), strict=True)]
        small = F.interpolate(image[None, None], coarse, mode="area")
        image = F.interpolate(small, PATCH, mode="trilinear", align_corners=False)[0, 0]
    sigma = draw.uniform(0, 0.05, 1)
    return torch.hypot(image + sigma * draw.normal(*PATCH), sigma * draw.normal(*PATCH))


def _normalised(image: Tensor, draw: Draw) -> Tensor:
    """Mean 0 and variance 1 where the image is not 0, as in the bundle, of the patch and the air that it may have."""
    part = image != 0
    if part.sum() < 100:
        return image
    values = image[part]
    share = 1.0 if draw.chance(0.5) else draw.uniform(0.3, 1, 1)  # of the patch in the image; the rest is dark
    mean, square = share * values.mean(), share * values.square().mean()
    deviation = (square - mean**2).clamp_min(1e-6).sqrt() * torch.exp(0.15 * draw.normal(1))
    return torch.where(part, (image - mean) / deviation + 0.15 * draw.normal(1), 0.0)
