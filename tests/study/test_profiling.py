import pytest
import torch
from torch import nn

from medmixers import create_network
from medmixers.study.profiling import count_gmacs, profile_network


def test_multiply_adds_of_known_layers():
    conv = nn.Conv2d(8, 16, 3, padding=1)
    assert count_gmacs(conv, torch.zeros(1, 8, 10, 12)) == pytest.approx(8 * 16 * 9 * 120 / 1e9)
    linear = nn.Linear(32, 64)
    assert count_gmacs(linear, torch.zeros(5, 32)) == pytest.approx(5 * 32 * 64 / 1e9)


def test_published_multiply_adds_of_poolformer():
    # Printed 1.82 with norm and pooling counted; convolutions alone, and the pooling's box sums, give about 1.8.
    profile = profile_network("poolformer_s12", size=(224, 224), in_channels=3, out_channels=1000, repeats=1)
    assert profile.gmacs == pytest.approx(1.82, abs=0.03)
    assert profile.parameters == 11_915_176


def test_token_unet_costs_what_was_derived():
    with torch.device("meta"):
        network = create_network("token_unet", spatial_dims=3, in_channels=4, out_channels=3)
        image = torch.empty(1, 4, 128, 128, 128)
    # 71.6 was derived with the shortcuts' pointwise convolutions after the upsampling; ours stand before it,
    # on an eighth of the voxels, and save 7/8 of 7.5 G.
    after = (256 * 128 * 32**3 + 128 * 64 * 64**3 + 64 * 32 * 128**3) / 1e9
    assert count_gmacs(network, image) + 7 / 8 * after == pytest.approx(71.6, abs=0.05)
