"""Stochastic depth against MONAI's layer."""

import pytest
import torch
from monai.networks.layers import DropPath as MonaiDropPath

from medmixers.layers.drop_path import DropPath


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(5,), (5, 3, 4, 6), (5, 2, 3, 4, 6)])
@pytest.mark.parametrize("training", [True, False])
def test_numbers_and_gradients_are_monais(rate, dtype, size, training):
    x, results = torch.randn(size).to(dtype), []
    for layer in (DropPath(rate), MonaiDropPath(rate)):
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        y = layer.train(training)(leaf)
        y.sum().backward()
        results.append((y, leaf.grad, torch.rand(3)))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)
    if not training or not rate:
        assert torch.equal(results[0][0], x)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match=rf"drop_prob must be in \[0, 1\], got {rate}"):
        DropPath(rate)
