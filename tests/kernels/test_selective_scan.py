"""The scan in chunks against the loop."""

import pytest
import torch

from medmixers.kernels.selective_scan import CHUNK, plain_selective_scan, selective_scan


def inputs(count, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(2, count, 3, 4), (2, count, 3), (2, count, 5), (2, count, 5)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("count", [1, 4, 5, 37])
def test_values_and_gradients_of_the_loop(count):
    given = inputs(count)
    results = []
    for function in (lambda *tensors: selective_scan(*tensors, chunk=4), plain_selective_scan):
        x, decay, b, c = given
        y = function(x, -decay.square(), b, c)
        results.append([y, *torch.autograd.grad(y.sin().sum(), given)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("decay", [0.0, -50.0])
def test_states_that_keep_everything_and_nothing(decay):
    count = 5 * CHUNK
    x, ones = torch.ones(1, count, 1, 1), torch.ones(1, count, 1)
    y = selective_scan(x, torch.full((1, count, 1), decay), ones, ones).flatten()
    torch.testing.assert_close(y, torch.arange(1.0, count + 1) if decay == 0 else torch.ones(count))


@torch.no_grad()
def test_strong_decays_do_not_round_weak_ones_away():
    """In float32, every other token decays by up to exp(-400). Differences of running sums would lose three digits."""
    x, _, b, c = inputs(3 * CHUNK, torch.float32)
    decay = -torch.rand(2, 3 * CHUNK, 3, generator=torch.Generator().manual_seed(1))
    decay[:, ::2] *= 400
    expected = plain_selective_scan(*(tensor.double() for tensor in (x, decay, b, c)))
    found = selective_scan(x, decay, b, c)
    assert (found - expected).abs().max() < 4e-7 * expected.abs().max()


@torch.no_grad()
def test_the_chunk_changes_the_speed_only():
    x, decay, b, c = inputs(50)
    results = [selective_scan(x, -decay.square(), b, c, chunk=chunk) for chunk in (1, 7, 64)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])
