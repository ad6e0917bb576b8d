import pytest
import torch
from torch import nn

from medmixers.study.profiling import count_gmacs, profile_network


def test_multiply_adds_of_known_layers():
    conv = nn.Conv2d(8, 16, 3, padding=1)
    assert count_gmacs(conv, torch.zeros(1, 8, 10, 12)) == pytest.approx(8 * 16 * 9 * 120 / 1e9)
    linear = nn.Linear(32, 64)
    assert count_gmacs(linear, torch.zeros(5, 32)) == pytest.approx(5 * 32 * 64 / 1e9)


def test_profile_of_poolformer():
    # Convolutions and matrix products alone; the paper prints 1.9, see results/published.json.
    profile = profile_network("poolformer_s12", size=(224, 224), in_channels=3, out_channels=1000, repeats=1)
    assert profile.gmacs == pytest.approx(1.81, abs=0.005)
    assert profile.parameters == 11_915_176
