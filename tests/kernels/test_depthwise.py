"""The depthwise convolution that changes the layout of its tensors against torch's own."""

import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
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
    """Tensors on a CPU say that they are on a GPU; the list holds what the choice is asked for."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # asks a driver
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)  # a training in this process may have set it
    asked = []

    def choose(candidates, *arguments):
        asked.append((candidates, arguments))
        return candidates[0]

    monkeypatch.setattr(depthwise, "fastest", choose)
    return asked


def volume():
    return torch.randn(1, 4, 5, 4, 6), torch.randn(4, 1, 3, 3, 3), torch.randn(4)


def test_on_a_gpu_the_fastest_is_chosen_for_each_operation(on_gpu):
    x, weight, bias = volume()
    depthwise_conv(x.requires_grad_(), weight.requires_grad_(), bias).sum().backward()
    chosen = [candidates[0] for candidates, _ in on_gpu]
    convolve, weight_gradient = depthwise.PLAIN.values()
    assert sorted(map(str, chosen)) == sorted(map(str, [convolve, convolve, weight_gradient]))


@pytest.mark.parametrize("reason", ["algorithms", "cudnn", "layout", "capture", "mode", "trace"])
def test_on_a_gpu_torchs_own_runs_where_it_must(reason, on_gpu, monkeypatch):
    x, weight, bias = volume()
    expected = depthwise.plain_depthwise_conv(x, weight, bias)
    convolution = depthwise_conv
    if reason == "algorithms":
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    elif reason == "cudnn":
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    elif reason == "layout":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    elif reason == "capture":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    elif reason == "trace":
        convolution = torch.jit.trace(depthwise_conv, (x, weight, bias))
        assert "aten::_convolution" in str(convolution.graph)
        on_gpu.clear()  # torch compares the traced function with the function itself
    with FlopCounterMode(display=False) if reason == "mode" else nullcontext() as counter:
        torch.testing.assert_close(convolution(x, weight, bias), expected)
    assert not on_gpu
    if counter:
        assert counter.get_total_flops() == 2 * x.numel() * 27


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_training_on_a_cpu_takes_the_operators(mode):
    """A compiled network takes the same ones as eager mode, in one graph, for any size."""
    function = depthwise_conv if mode == "eager" else torch.compile(depthwise_conv, fullgraph=True, backend="aot_eager")
    x, weight, bias = volume()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        function(x.requires_grad_(), weight.requires_grad_(), bias).sum().backward()
    names = [event.key for event in profiled.key_averages()]
    assert {"medmixers::depthwise_conv", "medmixers::depthwise_weight_gradient"} <= set(names)


def test_registered_as_operators_of_torch():
    """Schema, autograd, fake tensors and tracing of ahead-of-time autograd."""
    x, weight, bias = (tensor.requires_grad_() for tensor in volume())
    channels_last = x.detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    for each in (x, channels_last):
        torch.library.opcheck(depthwise.convolve, (each, weight, bias, depthwise.FASTEST))
        torch.library.opcheck(depthwise.weight_gradient, (each, torch.randn_like(each), [3, 3, 3], depthwise.FASTEST))


def test_gpu_candidates_are_torchs_own_alone_where_triton_is_absent_or_cannot(monkeypatch):
    own = (depthwise.plain_depthwise_conv,)
    depthwise.gpu_candidates.cache_clear()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "triton", None)
        without.delitem(sys.modules, "medmixers.kernels.depthwise_triton", raising=False)
        without.delattr(kernels, "depthwise_triton", raising=False)
        assert depthwise.gpu_candidates("convolve", torch.float32, 3) == own
    depthwise.gpu_candidates.cache_clear()
    pytest.importorskip("triton", reason="Triton is not installed")
    assert depthwise.gpu_candidates("convolve", torch.float64, 3) == own
    assert depthwise.gpu_candidates("convolve", torch.float32, 11) == own
    names = [candidate.__name__ for candidate in depthwise.gpu_candidates("convolve", torch.bfloat16, 9)]
    assert names == ["plain_depthwise_conv", "triton_depthwise_conv"]
