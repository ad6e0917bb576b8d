"""The choice among functions that compute the same: by the clock, once a kind of input, and only where they agree."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from medmixers.kernels import fastest as choice
from medmixers.kernels.fastest import fastest


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.setattr(choice, "CHOSEN", {})
    monkeypatch.setattr(choice, "FAILED", set())
    monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=lambda: Product.now))


class Product:
    """x times weight, in so many seconds of a pretended clock, and the calls counted."""

    now = 0.0

    def __init__(self, seconds=0.0, compute=torch.mul):
        self.seconds, self.compute, self.calls = seconds, compute, 0

    def __call__(self, x, weight):
        self.calls += 1
        Product.now += self.seconds
        return self.compute(x, weight)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad * weight, 2 * grad * x


def tensors(*, size=6, dtype=torch.float32, weight_grad=True):
    return torch.randn(size, dtype=dtype), torch.randn(size, dtype=dtype, requires_grad=weight_grad)


def ours(recwarn):
    """Those of the choice. Torch's own depend on what else has run in the process."""
    return [each for each in recwarn if "is not used: " in str(each.message)]


@pytest.mark.parametrize("slow_first", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_the_sooner_is_chosen(slow_first, grad):
    candidates = Product(0.02 * slow_first), Product(0.02 * (not slow_first))
    with torch.set_grad_enabled(grad):
        assert fastest(candidates, *tensors()) is candidates[slow_first]


def test_measured_once_for_each_kind_of_input():
    candidates = Product(0.002), Product()
    kinds = ({}, {"size": 7}, {"dtype": torch.bfloat16}, {"weight_grad": False})
    calls = [0]
    for _ in range(2):
        for kind in kinds:
            chosen = fastest(candidates, *tensors(**kind))
            assert chosen is candidates[1]
            calls.append(candidates[1].calls)
    each = 1 + choice.REPEATS
    assert calls == [0, each, 2 * each, 3 * each, 4 * each] + [4 * each] * 4
    with torch.no_grad():
        fastest(candidates, *tensors())  # as where the weights are frozen: no gradient is wanted
    assert candidates[1].calls == 4 * each


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda x, weight: x @ weight[:1], "RuntimeError: "),
        (lambda x, weight: x * weight * 1.01, "its numbers differ"),
        (WrongGradient.apply, "its numbers differ"),
        (lambda x, weight: x * weight * torch.tensor([torch.nan] + [1.0] * (len(x) - 1)), "its numbers differ"),
    ],
)
def test_one_that_fails_is_named_once_and_left_out(compute, reason, recwarn):
    slow, broken, quick = Product(0.02), Product(compute=compute), Product()
    for size in (6, 9):
        assert fastest((slow, broken), *tensors(size=size)) is slow
    assert fastest((slow, broken, quick), *tensors()) is quick
    assert broken.calls == 1
    (warning,) = ours(recwarn)
    assert f"is not used: {reason}" in str(warning.message)


def test_the_reference_stays_where_nothing_can_be_compared():
    slow, quick = Product(0.02), Product()
    x, weight = tensors()
    for values in (x * torch.nan, x):
        assert fastest((slow, quick), values, weight) is slow
    assert slow.calls == 1
    assert not choice.FAILED


def test_the_reference_stays_for_a_shape_without_memory_for_a_trial(recwarn):
    def compute(x, weight):
        if len(x) > 8:
            raise torch.OutOfMemoryError("no memory")
        return x * weight

    slow, quick = Product(0.02), Product(compute=compute)
    for _ in range(2):
        assert fastest((slow, quick), *tensors(size=9)) is slow
    assert (slow.calls, quick.calls) == (1, 1)
    assert fastest((slow, quick), *tensors()) is quick
    assert not ours(recwarn)


def test_sums_over_many_voxels_do_not_overflow_float16():
    reference, other = Product(), Product()
    x, weight = (torch.full((size,), 4.0, dtype=torch.float16) for size in (300_000, 1))
    fastest((reference, other), x, weight.requires_grad_())
    assert other.calls == 1 + choice.REPEATS  # compared and found equal, then timed


def test_leaves_no_trace_in_the_callers_graph():
    candidates = Product(), Product()
    x, weight = tensors()
    x.requires_grad_()
    state = torch.get_rng_state()
    doubled = 2 * x
    fastest(candidates, doubled, weight)
    assert x.grad is None
    assert weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    (doubled * weight).sum().backward()  # the graph is whole
    torch.testing.assert_close(x.grad, 2 * weight.detach())


def test_activation_checkpointing_counts_none_of_its_saved_tensors():
    candidates = Product(), Product()
    x, weight = tensors()

    def block(x):
        return fastest(candidates, x, weight)(x, weight)

    checkpoint(block, x.requires_grad_(), use_reentrant=False).sum().backward()
    torch.testing.assert_close(x.grad, weight.detach())
