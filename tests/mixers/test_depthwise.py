"""The depthwise convolution that lays its tensors out anew against torch's own."""

import pytest
import torch
from torch import nn

from medmixers.layers import depthwise
from medmixers.layers.depthwise import depthwise_conv

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.mark.parametrize("slab", [1, 1200, depthwise.SLAB_NUMBERS])  # numbers: single planes, a few, all at once
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("size", [(9, 13), (1, 4), (7, 4, 6), (1, 2, 1)])
def test_equals_torchs_own_in_values_gradients_and_layout(size, kernel_size, bias, channels_last, slab, monkeypatch):
    monkeypatch.setattr(depthwise, "SLAB_NUMBERS", slab)
    torch.manual_seed(0)
    conv = (nn.Conv2d if len(size) == 2 else nn.Conv3d)(
        16, 16, kernel_size, padding=kernel_size // 2, groups=16, bias=bias
    )
    x, probe = torch.randn(2, 2, 16, *size)
    if channels_last:
        x = x.contiguous(memory_format=LAYOUTS[x.ndim])
    results = []
    for function in (lambda t: depthwise_conv(t, conv.weight, conv.bias), conv):
        conv.zero_grad()
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(probe)
        results.append((y, leaf.grad, *(parameter.grad.clone() for parameter in conv.parameters())))
    ours = results[0][0]
    assert ours.is_contiguous(memory_format=LAYOUTS[x.ndim] if channels_last else torch.contiguous_format)
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max().item()))


def test_frozen_weights_get_no_gradient():
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8).requires_grad_(False)
    x = torch.randn(1, 8, 6, 6, requires_grad=True)
    depthwise_conv(x, conv.weight, conv.bias).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
