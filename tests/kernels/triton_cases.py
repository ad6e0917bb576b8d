"""What test_depthwise_triton.py runs in a process of its own: Triton reads TRITON_INTERPRET when it is imported."""

import os

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medmixers.kernels import depthwise, fastest
from medmixers.kernels.depthwise import TRITON, convolve, depthwise_conv, weight_gradient
from medmixers.kernels.depthwise_triton import triton_depthwise_conv, triton_weight_gradient

assert os.environ.get("TRITON_INTERPRET") == "1", "run test_depthwise_triton.py, which sets TRITON_INTERPRET"

slow = pytest.mark.slow  # interpreted, a case takes seconds
CASES = [  # size, kernel, channels, bias
    ((5, 2, 3), 3, 2, False),  # planes in two chunks
    ((1, 4, 3), 5, 2, True),
    ((3, 1, 4), (3, 1, 5), 2, True),
    ((2, 1, 1), 1, 2, True),
    pytest.param((9, 1, 2), (7, 3, 3), 1, True, marks=slow),
    pytest.param((2, 3, 5), 7, 1, True, marks=slow),
    pytest.param((2, 1, 3), 9, 1, True, marks=slow),
    pytest.param((9, 13), 7, 2, False, marks=slow),
    ((27, 21), 3, 2, True),  # more positions than a program takes
]


def by_triton(x, weight, bias):
    return convolve(x, weight, bias, TRITON)


def guarded(*size, dtype=torch.float32):
    """A contiguous batch of two between two of NaN: what is read outside of it shows."""
    batches = torch.randn(4, *size)
    batches[[0, 3]] = torch.nan
    return batches.to(dtype)[1:3]


def values_and_gradients(function, x, conv, probe):
    leaf = x.detach().requires_grad_()
    y = function(leaf, conv.weight, conv.bias)
    return [y, *torch.autograd.grad(y, [leaf, *conv.parameters()], probe)]


def depthwise_module(size, kernel_size, *, bias=True, channels=2):
    extents = (kernel_size,) * len(size) if isinstance(kernel_size, int) else kernel_size
    conv = nn.Conv2d if len(size) == 2 else nn.Conv3d
    padding = [extent // 2 for extent in extents]
    return conv(channels, channels, extents, padding=padding, groups=channels, bias=bias)


@pytest.mark.parametrize(("size", "kernel_size", "channels", "bias"), CASES)
def test_equals_torchs_own_in_values_and_gradients(size, kernel_size, channels, bias):
    torch.manual_seed(0)
    conv = depthwise_module(size, kernel_size, channels=channels, bias=bias)
    x, probe = guarded(channels, *size), guarded(channels, *size)
    assert x.is_contiguous()
    ours = values_and_gradients(by_triton, x, conv, probe)
    expected = values_and_gradients(lambda x, weight, bias: conv(x), x, conv, probe)
    for result, value, tolerance in zip(ours, expected, (1e-5, 1e-4, 1e-4, 1e-4), strict=False):
        torch.testing.assert_close(result, value, rtol=tolerance, atol=tolerance * max(1, value.abs().max().item()))


@pytest.mark.parametrize("size", [pytest.param((3, 4, 5), marks=slow), (5, 4)])
def test_gradients_of_gradients(size):
    conv, (x, probe) = depthwise_module(size, 3), torch.randn(2, 2, 2, *size)
    results = []
    for function in (by_triton, lambda x, weight, bias: conv(x)):
        leaf = x.clone().requires_grad_()
        y = function(leaf, conv.weight, conv.bias).square()
        first = torch.autograd.grad(y, [leaf, conv.weight], probe, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first)
        results.append(torch.autograd.grad(penalty, [leaf, *conv.parameters()]))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@slow
def test_registered_as_operators_of_torch():
    """Schema, autograd, fake tensors and tracing of ahead-of-time autograd."""
    weight, bias = torch.randn(2, 1, 3, 3, 3, requires_grad=True), torch.randn(2, requires_grad=True)
    x, grad = (torch.randn(2, 2, 2, 3, 2, requires_grad=True) for _ in range(2))
    torch.library.opcheck(convolve, (x, weight, bias, TRITON))
    torch.library.opcheck(convolve, (x.mT.contiguous().mT, weight, None, TRITON))
    torch.library.opcheck(weight_gradient, (x, grad, [3, 3, 3], TRITON))


@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=slow), torch.bfloat16])
def test_half_precision_rounds_the_results_only(dtype):
    torch.manual_seed(0)
    conv = depthwise_module((3, 4, 5), 3).to(dtype)
    x, probe = guarded(2, 3, 4, 5, dtype=dtype), guarded(2, 3, 4, 5, dtype=dtype)
    ours = values_and_gradients(by_triton, x, conv, probe)
    exact = values_and_gradients(lambda x, weight, bias: conv(x), x.double(), conv.double(), probe.double())
    for result, value in zip(ours, exact, strict=True):
        assert result.dtype == dtype
        torch.testing.assert_close(result, value.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_only_wanted_gradients_of_any_layout():
    conv = depthwise_module((3, 4, 5), 3).requires_grad_(False)
    x, probe = torch.randn(2, 2, 2, 3, 4, 5)
    x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    y = by_triton(x, conv.weight, conv.bias)
    y.backward(probe.transpose(3, 4).contiguous().transpose(3, 4))
    (expected,) = torch.autograd.grad(conv(x), x, probe)
    torch.testing.assert_close(x.grad, expected)
    assert conv.weight.grad is None


@pytest.mark.parametrize(
    ("triton_wins", "kind"),
    [
        (True, torch.Tensor),
        (False, MetaTensor),
        *(pytest.param(*each, marks=slow) for each in ((True, MetaTensor), (False, torch.Tensor))),
    ],
)
def test_the_choice_on_a_gpu_is_made_among_equals(triton_wins, kind, monkeypatch):
    for_triton = triton_depthwise_conv, triton_weight_gradient
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # asks a driver
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(fastest, "CHOSEN", {})
    monkeypatch.setattr(fastest, "FAILED", set())
    monkeypatch.setattr(fastest, "_seconds", lambda each, _: (each in for_triton) != triton_wins)
    conv = depthwise_module((3, 2, 4), 3)
    x, probe = guarded(2, 3, 2, 4), guarded(2, 3, 2, 4)
    ours = values_and_gradients(depthwise_conv, x.as_subclass(kind), conv, probe)
    for result, value in zip(ours, values_and_gradients(lambda x, *_: conv(x), x, conv, probe), strict=True):
        torch.testing.assert_close(torch.Tensor(result), value, rtol=1e-4, atol=1e-4)
    expected = for_triton if triton_wins else tuple(depthwise.PLAIN.values())
    assert set(fastest.CHOSEN.values()) == set(expected)
    assert not fastest.FAILED


@slow
def test_contenders_of_the_benchmark_compute_the_same():
    from comparisons import COMPARISONS, COMPILED  # imports every network

    comparison = COMPARISONS["grouped conv 2x64x64x64x64 kernel 3"]
    x, results = torch.randn(1, 64, 1, 2, 2), {}
    for label, build in comparison.contenders.items():
        if COMPILED not in label:
            torch.manual_seed(0)
            results[label] = build()(x)
    assert len(results) == 4
    for result in results.values():
        torch.testing.assert_close(result, results["ours"], rtol=1e-5, atol=1e-5)
