"""The depthwise convolution that changes the layout of its tensors against torch's own."""

import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from medmixers import kernels
from medmixers.kernels import depthwise
from medmixers.kernels.depthwise import depthwise_conv

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


# Channels and numbers at a time: a few channels of single planes, all channels of some planes, all at once.
@pytest.mark.parametrize("at_once", [(5, 1), (16, 1200), (depthwise.CHANNELS, depthwise.SLAB_NUMBERS)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("size", [(9, 13), (1, 4), (7, 4, 6), (1, 2, 1)])
def test_equals_torchs_own_in_values_gradients_and_layout(size, kernel_size, bias, channels_last, at_once, monkeypatch):
    for name, number in zip(("CHANNELS", "SLAB_NUMBERS"), at_once, strict=True):
        monkeypatch.setattr(depthwise, name, number)
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


def test_autocast_leaves_float64():
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8).double()
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(depthwise_conv(x, conv.weight, conv.bias), conv(x))


@pytest.fixture
def on_gpu(monkeypatch):
    """What runs for tensors on a GPU, here for tensors on a CPU; the candidates count their calls."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # asks a driver
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)  # a training in this process may have set it
    asked = []

    def choose(candidates, *tensors):
        asked.append((candidates, tensors))
        return lambda x, weight, bias: "chosen"

    monkeypatch.setattr(depthwise, "fastest", choose)
    return depthwise._fastest_on_gpu, asked


def volume(**options):
    return torch.randn(1, 4, 5, 4, 6, **options), torch.randn(4, 1, 3, 3, 3, **options), torch.randn(4, **options)


def test_on_a_gpu_the_fastest_is_chosen(on_gpu):
    conv, asked = on_gpu
    x, weight, bias = volume()
    assert conv(x, weight, bias) == "chosen"
    ((candidates, tensors),) = asked
    assert candidates[0] is depthwise.plain_depthwise_conv
    assert tensors == (x, weight, bias)


@pytest.mark.parametrize("reason", ["algorithms", "cudnn", "layout", "capture", "mode"])
def test_on_a_gpu_torchs_own_runs_where_it_must(reason, on_gpu, monkeypatch):
    conv, asked = on_gpu
    x, weight, bias = volume()
    expected = depthwise.plain_depthwise_conv(x, weight, bias)
    if reason == "algorithms":
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    elif reason == "cudnn":
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    elif reason == "layout":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    elif reason == "capture":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with FlopCounterMode(display=False) if reason == "mode" else nullcontext() as counter:
        torch.testing.assert_close(conv(x, weight, bias), expected)
    assert not asked
    if counter:
        assert counter.get_total_flops() == 2 * x.numel() * 27


def test_a_tensor_says_by_its_device_which_way_it_goes(on_gpu, monkeypatch):
    _, asked = on_gpu
    monkeypatch.setattr(depthwise, "_needs_torchs_own", lambda: False)
    with FakeTensorMode():
        cpu, gpu = volume(), volume(device="cuda")
        assert depthwise_conv(*gpu) == "chosen"
        assert len(asked) == 1
        assert depthwise_conv(*cpu).shape == cpu[0].shape
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            depthwise_conv(*volume())
    traced = torch.jit.trace(depthwise_conv, volume())
    assert "convolution" in str(traced.graph)
    assert len(asked) == 1


def test_gpu_candidates_are_torchs_own_alone_where_triton_is_absent_or_cannot(monkeypatch):
    own = (depthwise.plain_depthwise_conv,)
    depthwise.gpu_candidates.cache_clear()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "triton", None)
        without.delitem(sys.modules, "medmixers.kernels.depthwise_triton", raising=False)
        without.delattr(kernels, "depthwise_triton", raising=False)
        assert depthwise.gpu_candidates(torch.float32, 3) == own
    depthwise.gpu_candidates.cache_clear()
    pytest.importorskip("triton", reason="Triton is not installed")
    assert depthwise.gpu_candidates(torch.float64, 3) == own
    assert depthwise.gpu_candidates(torch.float32, 11) == own
    names = [candidate.__name__ for candidate in depthwise.gpu_candidates(torch.bfloat16, 9)]
    assert names == ["plain_depthwise_conv", "triton_depthwise_conv"]
