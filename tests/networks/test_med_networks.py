"""MedNeXt and MedUNeXt: LAFFN, SEM, SDFFN against plain tensor algebra."""

from functools import partial

import pytest
import torch
from network_checks import check_gradients
from torch.nn import functional as F

from medmixers import create_network
from medmixers.errors import InputError
from medmixers.networks.med_blocks import FFN, LAFFN, SDFFN, SEM, MEDAttention, MEDBlock
from medmixers.results.published import published

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


@pytest.mark.parametrize("kind", ["softmax", "linear", "simplified"])
@pytest.mark.parametrize("size", SIZES)
def test_attention_written_out(kind, size):
    """Figure 2A to 2C in float64, position by position."""
    torch.manual_seed(0)
    module = MEDAttention(8, spatial_dims=len(size), kind=kind).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    tokens = as_tokens(x)
    query, key, value = [tokens @ matrix(layer) for layer in module.projections] or [tokens] * 3
    if kind == "softmax":
        scores = (query @ key.transpose(1, 2) / 8**0.5).exp()
        expected = scores @ value / scores.sum(-1, keepdim=True)
    else:
        of_channels, of_positions = query.exp(), key.exp()
        context = torch.einsum("bnc,bnd->bcd", of_positions / of_positions.sum(1, keepdim=True), value)
        expected = (of_channels / of_channels.sum(-1, keepdim=True)) @ context
    torch.testing.assert_close(as_tokens(module(x)), expected)


def test_feed_forward_forms_have_the_counts_of_the_text():
    """Section SDFFN: 2,097,152 weights of the traditional form at width 512; the smooth one keeps its width."""
    forms = {"ffn": FFN(512, spatial_dims=2, ratio=4), "smooth_ffn": FFN(512, spatial_dims=2, ratio=1)}
    counts = {name: sum(value.numel() for value in form.parameters()) for name, form in forms.items()}
    (printed,) = (f.value for f in published() if f.name == "FFN of width 512")
    assert counts == {"ffn": printed, "smooth_ffn": 2 * 512**2}
    block = MEDBlock(8, spatial_dims=2, feature_size=(6, 9), feed_forward="ffn")
    x = torch.randn(1, 8, 4, 4)
    first, _, last = block.sdffn
    expected = F.conv2d(F.gelu(F.conv2d(x, first.weight)), last.weight)
    torch.testing.assert_close(block.sdffn(x), expected)


# Rows of the ablation (Tables 7 and 8): which of the three modules a network has.
ABLATION = [(laffn, sem, sdffn) for laffn in (False, True) for sem in (False, True) for sdffn in (False, True)]


@pytest.mark.parametrize(("laffn", "sem", "sdffn"), ABLATION)
def test_modules_switch_off_without_a_trace(laffn, sem, sdffn):
    """No weight of a module stays behind, every weight that is left trains, and TorchScript gives the same logits."""
    torch.manual_seed(0)
    options = {"attention": "laffn" if laffn else "none", "sem": sem, "feed_forward": "sdffn" if sdffn else "ffn"}
    network = build("med_next", **TINY["med_next"], input_size=(64, 64), rescale=laffn, **options)
    kinds = {type(module).__name__ for module in network.modules()}
    assert {name: name in kinds for name in ("LAFFN", "SEM", "SDFFN")} == {"LAFFN": laffn, "SEM": sem, "SDFFN": sdffn}
    image = torch.randn(2, 3, 64, 64)
    check_gradients(network, network(image))
    network.eval()
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


@pytest.mark.parametrize("attention", ["softmax", "linear", "simplified"])
def test_other_attention_stands_in_place_of_laffn(attention):
    torch.manual_seed(0)
    options = {"attention": attention, "feed_forward": "smooth_ffn"}
    network = build("med_unext", in_channels=1, **TINY["med_unext"], **options)
    image = torch.randn(2, 1, 64, 96)
    check_gradients(network, network(image))
    network.eval()
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "soft"}, "attention must be one of laffn, softmax, linear, simplified, none, got 'soft'"),
        ({"feed_forward": "mlp"}, "feed_forward must be one of sdffn, ffn, smooth_ffn, got 'mlp'"),
        ({"rescale": True, "attention": "none"}, "rescale belongs to attention 'laffn', got attention='none'"),
        ({"sem": "no"}, "network 'med_next': sem must be True or False, got 'no'"),
    ],
)
def test_wrong_modules_are_named(options, message):
    with pytest.raises(InputError) as caught:
        build("med_next", **TINY["med_next"], **options)
    assert str(caught.value) == message


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
