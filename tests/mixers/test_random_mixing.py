"""Random mixing whose matrix is stored, or made again from its seed in every pass: the same numbers."""

import math
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medmixers.kernels import random_rows as kernel
from medmixers.kernels.random_rows import random_rows
from medmixers.mixers.build import create_mixer
from medmixers.profiling import in_fresh_process, peak_bytes


def build(size, **options):
    return create_mixer("random_mixing", 8, spatial_dims=len(size), feature_size=size, **options)


def pair(size):
    """The two forms with one seed."""
    stored, streamed = build(size, stored=True), build(size, stored=False)
    streamed.load_state_dict(stored.state_dict())
    return stored, streamed


def wellons_hash(x):
    """lowbias32 on Python's integers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x ^ (x >> 16)


@pytest.mark.parametrize("seed", [0, 5, 2**31 - 1])
@pytest.mark.parametrize("cached", [1, 30, 2**18])  # row by row, two rows and a rest, all at once
def test_rows_are_softmaxes_of_hashed_numbers(seed, cached, monkeypatch):
    monkeypatch.setattr(kernel, "CACHED_NUMBERS", cached)
    tokens = 11
    expected = []
    for row in range(3, 8):
        key = wellons_hash((row + wellons_hash(seed)) % 2**32)
        bits = [wellons_hash((column * (wellons_hash(key) | 1) + key) % 2**32) for column in range(tokens)]
        powers = [math.exp((number >> 8) / 2**24) for number in bits]
        expected.append([power / sum(powers) for power in powers])
    torch.testing.assert_close(random_rows(torch.tensor(seed), 3, 8, tokens), torch.tensor(expected))


def test_numbers_are_uniform_and_rows_and_columns_independent():
    rows, columns = 1000, 2000
    powers = random_rows(torch.tensor(1), 0, rows, columns).double().log()
    numbers = powers - powers.amin(dim=1, keepdim=True)  # back from the softmax, up to a row's smallest number
    assert numbers.mean() == pytest.approx(0.5, abs=0.002)
    assert numbers.var() == pytest.approx(1 / 12, abs=0.0005)
    scores = (numbers - 0.5) * 12**0.5
    for matrix in (scores, scores.T):
        correlation = matrix @ matrix.T / matrix.shape[1] ** 0.5  # standard normal off the diagonal
        correlation.fill_diagonal_(0)
        assert correlation.std() == pytest.approx(1, abs=0.02)
        assert correlation.abs().max() < 6.5


@pytest.mark.parametrize("size", [(9, 13), (3, 5, 4)])
@pytest.mark.parametrize("block", [1, 100, 2**22])
def test_streamed_equals_stored_in_values_and_gradients(size, block, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK_NUMBERS", block)
    stored, streamed = pair(size)
    assert streamed.mixing is None
    x, probe = torch.randn(2, 2, 8, *size)
    results = []
    for mixer in (stored, streamed):
        leaf = x.clone().requires_grad_()
        y = mixer(leaf)
        y.backward(probe)
        with torch.no_grad():
            assert torch.equal(mixer(x), y)
        results.append((y, leaf.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_streamed_keeps_no_matrix_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        build((30, 30), stored=False)(torch.randn(1, 8, 30, 30, requires_grad=True)).sum().backward()
    assert sum(kept) <= 1


def mebibytes_of_a_streamed_pass():
    mixer, x = build((128, 128), stored=False), torch.randn(1, 8, 128, 128)
    x.new_empty(2**23 - 2**12).fill_(0)  # glibc now takes blocks of up to 32 MiB from the heap, as in a network
    before = peak_bytes("cpu", reset=True)
    with torch.no_grad():
        mixer(x)
    return (peak_bytes("cpu") - before) / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a pass is known on Linux alone")
def test_streamed_pass_needs_a_fraction_of_the_matrix():
    assert in_fresh_process(mebibytes_of_a_streamed_pass) < 200  # of 1024


def test_large_maps_are_streamed_by_default():
    assert build((91, 90)).mixing is not None
    assert build((91, 91)).mixing is None
    assert build((91, 91), stored=False).state_dict().keys() == {"seed"}


def test_torchs_seed_decides():
    torch.manual_seed(3)
    first = build((4, 5))
    torch.manual_seed(3)
    assert torch.equal(build((4, 5)).mixing, first.mixing)
    assert not torch.equal(build((4, 5)).mixing, first.mixing)


@pytest.mark.parametrize("source", [True, False])
@pytest.mark.parametrize("target", [True, False])
def test_each_form_loads_the_others_weights(source, target):
    saved, loaded = build((6, 7), stored=source), build((6, 7), stored=target)
    x = torch.randn(1, 8, 6, 7)
    loaded.load_state_dict(saved.state_dict())
    torch.testing.assert_close(loaded(x), saved(x), rtol=1e-5, atol=1e-6)
    assert loaded.seed == saved.seed


def test_a_matrix_without_a_seed_fits_the_stored_form_only():
    matrix = torch.rand(42, 42).softmax(-1)
    stored = build((6, 7), stored=True)
    stored.load_state_dict({"mixing": matrix})
    assert torch.equal(stored.mixing, matrix)
    for foreign in ({"mixing": matrix}, stored.state_dict()):
        with pytest.raises(RuntimeError, match="'mixing' was saved without a seed: build random_mixing with stored"):
            build((6, 7), stored=False).load_state_dict(foreign)


def test_an_estimate_on_the_meta_device_takes_one_product(monkeypatch):
    """Planning asks for memory many times: block by block, each estimate would take minutes."""
    made = []
    monkeypatch.setattr(kernel, "plain_random_rows", lambda *arguments: made.append(arguments))
    x = torch.empty(1, 8, 2**17, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        mixed = kernel.mix_by_random_rows(x, torch.zeros((), dtype=torch.int64, device="meta"))
    assert mixed.shape == x.shape
    assert counter.get_total_flops() == 2 * 8 * 2**34
    assert not made
