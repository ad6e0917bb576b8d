"""Faster ways through instance norm and trilinear upsampling, against torch's own operators."""

import copy

import pytest
import torch
from torch.nn import functional as F

from medmixers import create_network
from medmixers.kernels import upsampling
from medmixers.kernels.eager import CHANNELS_LAST
from medmixers.kernels.instance_norm import InstanceNorm
from medmixers.kernels.upsampling import MOST_POSITIONS, upsample_map
from medmixers.layers.sizes import upsample

VOLUMES = [
    ((2, 3, 4, 5, 6), (2, 2, 2)),
    ((1, 2, 3, 7, 5), (1, 2, 2)),
    ((1, 2, 1, 1, 2), (2, 2, 2)),
    ((1, 1, 4, 3, MOST_POSITIONS), (2, 1, 2)),
]


@pytest.fixture
def fast_calls(monkeypatch):
    """Shapes that the fast way took."""
    calls, fast = [], upsampling._upsample_volume
    monkeypatch.setattr(upsampling, "_upsample_volume", lambda x, strides: calls.append(x.shape) or fast(x, strides))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "strides"), VOLUMES)
def test_upsampling_and_its_gradient_equal_torchs(shape, strides, dtype, fast_calls):
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    ours, theirs = upsample_map(x, strides), upsample(x, strides)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(theirs)
    torch.testing.assert_close(
        *(torch.autograd.grad((result * weights).sum(), x)[0] for result in (ours, theirs)), atol=1e-5, rtol=1e-5
    )
    assert fast_calls == [x.shape]


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(1, 2, 6, 5),
        torch.randn(1, 1, 2, 2, MOST_POSITIONS + 1),
        torch.randn(1, 2, 4, 4, 4).bfloat16(),
        torch.randn(1, 2, 4, 4, 4).to(memory_format=CHANNELS_LAST[5]),
    ],
    ids=["2d", "long", "bfloat16", "channels-last"],
)
def test_other_maps_are_upsampled_by_torch(x, fast_calls):
    torch.testing.assert_close(upsample_map(x, (2,) * (x.ndim - 2)), upsample(x, (2,) * (x.ndim - 2)), atol=0, rtol=0)
    assert fast_calls == []


def test_autocast_does_not_round_the_upsampling():
    x = torch.randn(1, 2, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        ours = upsample_map(x, (2, 2, 2))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, upsample(x, (2, 2, 2)), atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (2, 3, 4, 5, 6), (1, 4, 1, 1, 2)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_instance_norm_and_its_gradient_equal_torchs(shape, channels_last):
    x = (5 + 3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    held = x.contiguous(memory_format=CHANNELS_LAST[x.ndim]) if channels_last else x
    ours, theirs = InstanceNorm(shape[1])(held), F.instance_norm(x)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(theirs)
    torch.testing.assert_close(*(torch.autograd.grad((result * weights).sum(), x)[0] for result in (ours, theirs)))


def test_instance_norm_refuses_a_single_position():
    with pytest.raises(ValueError, match="Expected more than 1"):
        InstanceNorm(3)(torch.randn(1, 3, 1, 1, 1))


@pytest.mark.parametrize("name", ["token_unet", "token_unet_released_8_attention"])
def test_a_network_computes_as_with_torchs_own_operators(name, monkeypatch):
    """Logits and gradients in float64; the reference is what a compiled or exported network holds."""
    network = create_network(name, spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8, 8, 16)).double()
    image = torch.randn(2, 1, 16, 24, 16, dtype=torch.float64)
    found = []
    for plain in (False, True):
        if plain:
            for module in ("instance_norm", "upsampling"):
                monkeypatch.setattr(f"medmixers.kernels.{module}.is_eager_on_cpu", lambda *tensors: False)
        each = copy.deepcopy(network)
        logits = each(image)
        logits.square().mean().backward()
        found.append([logits, *(parameter.grad for parameter in each.parameters() if parameter.grad is not None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
