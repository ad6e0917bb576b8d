"""The affine augmentation against shifts, SciPy's resampling, and MONAI's handling of seeds."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy.ndimage import affine_transform

from medmixers.bundle_runtime.augmentation import RandNormalAffined, resample


def test_without_noise_nothing_moves():
    image = torch.rand(2, 7, 9)
    transform = RandNormalAffined(["image"], std=0.0, mode="bilinear")
    torch.testing.assert_close(transform({"image": image})["image"], image)


def test_a_translation_moves_by_its_share_of_half_the_size_and_fills_with_zeros():
    image = torch.arange(1.0, 49).reshape(1, 6, 8)
    matrix = torch.tensor([[1.0, 0.0, 2 * 2 / 8], [0.0, 1.0, 0.0]])  # two columns to the right in the source
    moved = resample(image, matrix, "bilinear")
    torch.testing.assert_close(moved[0, :, :6], image[0, :, 2:])
    assert not moved[0, :, 6:].any()


@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
@pytest.mark.parametrize("shape", [(11, 8), (7, 9, 6)])
def test_it_samples_where_scipy_does(mode, order, shape):
    rng = np.random.default_rng(len(shape) + order)
    image, axes = rng.random(shape), len(shape)
    matrix = np.eye(axes, axes + 1) + rng.normal(0, 0.1, (axes, axes + 1))
    # from -1 to 1 along reversed axes, to indices of voxels
    half = np.array(shape) / 2
    linear = matrix[::-1, :axes][:, ::-1] * half[:, None] / half[None, :]
    offset = matrix[::-1, axes] * half + half - 0.5 - linear @ (half - 0.5)
    expected = affine_transform(image, linear, offset, order=order, mode="grid-constant", cval=0.0)
    found = resample(torch.from_numpy(image)[None], torch.from_numpy(matrix).float(), mode)[0].numpy()
    assert np.mean(np.abs(found - expected) < 1e-4) > (0.97 if order == 0 else 0.999)  # ties of nearest may differ


def test_keys_move_together_and_keep_their_kind():
    label = MetaTensor((torch.rand(1, 12, 12) > 0.5).to(torch.uint8), affine=torch.eye(4))
    transform = Compose([RandNormalAffined(["image", "label"], std=0.1, mode=["nearest", "nearest"])])
    transform.set_random_state(3)
    found = transform({"image": label.float(), "label": label, "name": "a"})
    assert (found["image"] == found["label"]).all()
    assert isinstance(found["label"], MetaTensor)
    assert (found["label"].dtype, found["name"]) == (torch.uint8, "a")
    assert not torch.equal(found["label"], label)
    transform.set_random_state(3)
    again = transform({"image": label.float(), "label": label})
    assert torch.equal(again["image"], found["image"])
