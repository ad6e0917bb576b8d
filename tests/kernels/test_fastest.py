"""The choice among functions that compute the same: by the clock, once a kind of input, and only where they agree."""

from types import SimpleNamespace

import pytest
import torch

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


def tensors(*, size=6, dtype=torch.float32):
    return torch.randn(size, dtype=dtype), torch.randn(size, dtype=dtype)


def ours(recwarn):
    """Those of the choice. Torch's own depend on what else has run in the process."""
    return [each for each in recwarn if "is not used: " in str(each.message)]


@pytest.mark.parametrize("slow_first", [True, False])
def test_the_sooner_is_chosen(slow_first):
    candidates = Product(0.02 * slow_first), Product(0.02 * (not slow_first))
    assert fastest(candidates, *tensors()) is candidates[slow_first]


def test_measured_once_for_each_kind_of_input():
    candidates = Product(0.002), Product()
    kinds = ({}, {"size": 7}, {"dtype": torch.bfloat16})
    calls = [0]
    for _ in range(2):
        for kind in kinds:
            chosen = fastest(candidates, *tensors(**kind))
            assert chosen is candidates[1]
            calls.append(candidates[1].calls)
    each = 1 + choice.REPEATS
    assert calls == [0, each, 2 * each, 3 * each] + [3 * each] * 3
    with_edge = lambda x, weight, edge: x * weight  # noqa: E731
    for edge in (3, 5, 3):  # an argument that is no tensor
        fastest((with_edge, with_edge), *tensors(), edge)
    assert [key[-1] for key in choice.CHOSEN if key[0] is with_edge] == [3, 5]


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda x, weight: x @ weight[:1], "RuntimeError: "),
        (lambda x, weight: x * weight * 1.01, "its numbers differ"),
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


def test_the_next_call_decides_where_nothing_can_be_compared():
    """A scaled loss overflows in its first steps: that must not settle the choice."""
    slow, quick = Product(0.02), Product()
    x, weight = tensors()
    assert fastest((slow, quick), x * torch.nan, weight) is slow
    assert fastest((slow, quick), x, weight) is quick
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


def test_leaves_no_trace_in_the_random_numbers():
    candidates = Product(), Product()
    arguments = tensors()
    state = torch.get_rng_state()
    fastest(candidates, *arguments)
    assert torch.equal(torch.get_rng_state(), state)
