"""Augmentation of pictures as Yu et al. 2022 and 2023 train on them, by the parts of timm and torchvision."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.engines.utils import default_prepare_batch
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor
from torchvision.transforms import v2


class RandPictured(Randomizable, MapTransform):
    """timm's training transform: a random crop, resized; a flip; RandAugment; a random rectangle of noise.

    The picture passes through 8 bits. One with a single channel stays grey.

    Args:
        keys: pictures with values from 0 to 1, (1 or 3, W, H) as MONAI reads them, of any size.
        size: of the result, W and H.
        smallest_crop: smallest area of the crop, a fraction of the picture.
        rand_augment: timm's text for RandAugment, or "".
        erasing_probability: of the rectangle.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        size: Sequence[int],
        smallest_crop: float,
        rand_augment: str,
        erasing_probability: float,
    ) -> None:
        super().__init__(keys)
        self.transform = create_transform(
            (3, *reversed(size)),
            is_training=True,
            color_jitter=0.0,
            auto_augment=rand_augment or None,
            interpolation="random",
            scale=(smallest_crop, 1.0),
            re_prob=erasing_probability,
            re_mode="pixel",
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            with seeded(int(self.R.randint(2**31 - 1))):
                changed = self._augmented(torch.as_tensor(result[key]).as_subclass(Tensor))
            result[key] = convert_to_dst_type(changed, result[key])[0]
        return result

    def _augmented(self, picture: Tensor) -> Tensor:
        """(C, W, H) from 0 to 1 -> the same, of another size. The rectangle's noise leaves 0 to 1, as in timm."""
        channels = picture.shape[0]
        pixels = (picture * 255).round().clamp(0, 255).byte().permute(2, 1, 0).expand(-1, -1, 3)
        normalised: Tensor = self.transform(Image.fromarray(pixels.numpy()))
        mean, std = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD])[:, :channels, None, None]
        return (normalised[:channels] * std + mean).transpose(1, 2)


class MixedBatch:
    """A batch whose pictures are mixed by MixUp or CutMix, each half of the time. Labels become shares of classes.

    Args:
        classes: number of classes.
        mixup_alpha: of the Beta distribution of MixUp; 0: no MixUp.
        cutmix_alpha: of the Beta distribution of CutMix; 0: no CutMix.
    """

    def __init__(self, *, classes: int, mixup_alpha: float, cutmix_alpha: float) -> None:
        kinds = ((v2.MixUp, mixup_alpha), (v2.CutMix, cutmix_alpha))
        self.mix = v2.RandomChoice([kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha > 0])

    def __call__(self, batch: Any, *arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        """The trainer's ``prepare_batch``: pictures (B, C, W, H) and labels (B) -> pictures and shares (B, classes)."""
        images, labels = default_prepare_batch(batch, *arguments, **keywords)[:2]
        mixed, shares = self.mix(images.as_subclass(Tensor), labels.as_subclass(Tensor))
        return mixed, shares


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that timm draws from, and put them back."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
