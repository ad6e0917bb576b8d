"""MedNeXt and MedUNeXt: LAFFN, SEM, SDFFN against plain tensor algebra."""

from functools import partial

import pytest
import torch
from network_checks import check_gradients
from torch.nn import functional as F

from medmixers import create_network
from medmixers.networks.med_blocks import LAFFN, SDFFN, SEM, MEDBlock

TINY = {"med_next": {"dims": (8, 8, 16, 16)}, "med_unext": {"channels": (8, 8, 16, 16, 16), "med_depth": 1}}
SIZES = [(6, 9), (4, 5, 6)]
build = partial(create_network, spatial_dims=2, in_channels=3, out_channels=2)


def as_tokens(x):
    return x.flatten(2).transpose(1, 2)  # (B, N, C)


def matrix(layer):
    return layer.weight.flatten(1).T


@pytest.mark.parametrize("size", SIZES)
def test_laffn_written_out(size):
    torch.manual_seed(0)
    module = LAFFN(8, spatial_dims=len(size))
    x = torch.randn(2, 8, *size)
    tokens = as_tokens(x)
    first, second = (tokens @ matrix(layer) for layer in (module.query, module.key))
    product = first.exp() / first.exp().sum(-1, keepdim=True) * (second.exp() / second.exp().sum(1, keepdim=True))
    expected = product @ matrix(module.out)
    torch.testing.assert_close(as_tokens(module(x)), expected, rtol=1e-4, atol=1e-7)
    module.rescale = True
    torch.testing.assert_close(as_tokens(module(x)), expected * 8 * tokens.shape[1], rtol=1e-4, atol=1e-5)


def test_literal_laffn_is_nearly_dead_and_rescaling_wakes_it():
    torch.manual_seed(0)
    x = torch.randn(1, 32, 14, 14)
    literal, rescaled = LAFFN(32, spatial_dims=2), LAFFN(32, spatial_dims=2, rescale=True)
    assert literal(x).abs().max() < 1e-3
    assert 0.05 < rescaled(x).std() < 5


@pytest.mark.parametrize("size", SIZES)
def test_sem_written_out(size):
    torch.manual_seed(0)
    dims = len(size)
    module = SEM(8, spatial_dims=dims, feature_size=size, kernel_sizes=(3, 5))
    x = torch.randn(2, 8, *size)
    conv = {2: F.conv2d, 3: F.conv3d}[dims]
    z = conv(x, module.left.weight)
    strips = []
    for k, layers in zip((3, 5), (module.near, module.far), strict=True):
        total = torch.zeros_like(z)
        for axis, layer in enumerate(layers):
            moved = z.movedim(axis + 2, -1)  # correlate along one axis, channel by channel
            padded = F.pad(moved, (k // 2, k // 2))
            taps = layer.weight.flatten(1)  # (C, k)
            rows = sum(padded[..., t : t + moved.shape[-1]] * taps[:, t].view(1, 8, *[1] * dims) for t in range(k))
            total = total + rows.movedim(-1, axis + 2)
        strips.append(total)
    letters = "hwd"[:dims]
    lines = [
        torch.einsum(f"bc{letters},o{letters[a]}->bc{letters.replace(letters[a], 'o')}", z, layer.weight)
        for a, layer in enumerate(module.axes)
    ]
    joined = conv(torch.cat(lines, 1), module.join.weight)
    weights = conv(torch.cat([*strips, joined], 1), module.weigh.weight)
    expected = conv(weights * conv(x, module.right.weight), module.out.weight)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-6)


def test_sem_resamples_other_sizes_and_is_exact_at_its_own():
    module = SEM(4, spatial_dims=2, feature_size=(6, 9))
    assert module(torch.randn(1, 4, 11, 5)).shape == (1, 4, 11, 5)
    constant = torch.ones(1, 4, 12, 18)  # resampling keeps a constant axis constant
    for linear in module.axes:
        torch.nn.init.eye_(linear.weight)
    lines = module.along_axes(constant)
    assert len(lines) == 2
    for line in lines:
        torch.testing.assert_close(line, constant)


@pytest.mark.parametrize("size", SIZES)
def test_sdffn_written_out(size):
    torch.manual_seed(0)
    module = SDFFN(8, spatial_dims=len(size))
    x = torch.randn(2, 8, *size)
    conv = {2: F.conv2d, 3: F.conv3d}[len(size)]
    hidden = conv(conv(x, module.fc1.weight), module.dwconv.weight, padding=1, groups=8)
    torch.testing.assert_close(module(x), conv(hidden, module.fc2.weight), rtol=1e-5, atol=1e-6)


def test_med_block_adds_its_three_branches():
    torch.manual_seed(0)
    block = MEDBlock(8, spatial_dims=2, feature_size=(6, 9))
    x = expected = torch.randn(2, 8, 6, 9)
    for branch in (block.laffn, block.sem, block.sdffn):
        normed = F.layer_norm(expected.movedim(1, -1), (8,), eps=1e-6).movedim(-1, 1)
        expected = expected + branch(normed)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["med_next", "med_unext"])
@pytest.mark.parametrize("size", [(70, 45), (33, 20, 40), (32, 32)])
def test_any_size_trains(name, size):
    torch.manual_seed(0)
    network = build(name, spatial_dims=len(size), in_channels=1, **TINY[name], rescale=True)
    logits = network(torch.randn(2, 1, *size))
    assert logits.shape == ((2, 2) if name == "med_next" else (2, 2, *size))
    check_gradients(network, logits)


def test_border_voxels_influence_med_unext():
    torch.manual_seed(0)
    network = build("med_unext", in_channels=1, **TINY["med_unext"]).eval()
    x = torch.randn(1, 1, 37, 50)
    changed = x.clone()
    changed[..., -1, -1] += 10
    with torch.no_grad():
        assert (network(changed) - network(x)).abs()[..., -1, -1].max() > 1e-5


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"feature_size must have 3 values, got \(6, 9\)"):
        SEM(8, spatial_dims=3, feature_size=(6, 9))
    with pytest.raises(ValueError, match=r"five levels, the last two equal; got \(8, 16\)"):
        build("med_unext", channels=(8, 16))
