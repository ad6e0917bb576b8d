"""Each mixer against an independent form of the same operation."""

import pytest
import torch
from timm.models.metaformer import Attention as TimmAttention
from timm.models.metaformer import SepConv as TimmSepConv
from torch import nn

from medmixers.kernels import average_pool as pooling
from medmixers.mixers.build import create_mixer

CASES = [((9, 13), nn.AvgPool2d, nn.Conv2d), ((7, 9, 8), nn.AvgPool3d, nn.Conv3d)]


by_operator = pooling._pool_by_operator


def close(ours, reference, tolerance=1e-5):
    torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


# One map at a time, a few, all 16; and as on a GPU.
@pytest.mark.parametrize("cached", [1, 1500, pooling.CACHED_NUMBERS, None])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize(("size", "pool", "conv"), CASES)
def test_pooling_is_the_average_inside_the_image_minus_the_input(size, pool, conv, kernel_size, cached, monkeypatch):
    if cached is None:
        monkeypatch.setattr(pooling, "_pool", by_operator)
    else:
        monkeypatch.setattr(pooling, "CACHED_NUMBERS", cached)
    x, probe = torch.randn(2, 2, 8, *size)
    reference = pool(kernel_size, stride=1, padding=kernel_size // 2, count_include_pad=False)
    mixer = create_mixer("pooling", 8, spatial_dims=len(size), kernel_size=kernel_size)
    results = []
    for function in (lambda t: reference(t) - t, mixer, lambda t: pooling.plain_local_average(t, kernel_size) - t):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(probe)
        results.append((y, leaf.grad))
    for expected, ours, plain in zip(*results, strict=True):
        close(ours, expected)
        close(plain, expected)


@pytest.mark.parametrize("size", [(9, 13), (7, 9, 8)])
def test_pooling_rounds_once_in_half_precision(size):
    mixer = create_mixer("pooling", 8, spatial_dims=len(size))
    x = torch.randn(2, 8, *size) + 4  # far from zero, where the average of rounded terms would lose most
    half = x.bfloat16()
    assert torch.equal(mixer(half), mixer(half.float()).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mixer(x), mixer(x.float()))


@pytest.mark.parametrize("size", [(1, 4), (2, 3, 1)])
def test_pooling_takes_maps_smaller_than_the_kernel(size):
    x = torch.randn(2, 8, *size)
    everything = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
    close(create_mixer("pooling", 8, spatial_dims=len(size), kernel_size=9)(x), everything - x)


@pytest.mark.parametrize("size", [(9, 13), (7, 9, 8), (2, 3, 1)])
def test_traced_and_exported_pooling_takes_other_sizes(size):
    mixer = create_mixer("pooling", 8, spatial_dims=len(size), kernel_size=5)
    small, large = torch.randn(1, 8, *size), torch.randn(1, 8, *(extent + 4 for extent in size))
    traced = torch.jit.trace(mixer, small)
    close(traced(small), mixer(small))
    close(traced(large), mixer(large))
    axes = dict.fromkeys(range(2, small.ndim), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(mixer, (large,), dynamic_shapes=(axes,)).module()
    close(exported(2 * large[..., 1:]), mixer(2 * large[..., 1:]))


@pytest.mark.parametrize(("name", "groups"), [("conv", 1), ("grouped_conv", 8)])
@pytest.mark.parametrize(("size", "pool", "conv"), CASES)
def test_convolutions(size, pool, conv, name, groups):
    mixer = create_mixer(name, 8, spatial_dims=len(size), kernel_size=5)
    reference = conv(8, 8, 5, padding=2, groups=groups)
    reference.load_state_dict(mixer.conv.state_dict())
    x = torch.randn(2, 8, *size)
    close(mixer(x), reference(x))


def test_sep_conv_is_timms():
    timm_mixer = TimmSepConv(24)
    nn.init.normal_(timm_mixer.act1.scale)
    nn.init.normal_(timm_mixer.act1.bias)
    mixer = create_mixer("sep_conv", 24, spatial_dims=2)
    mixer.load_state_dict(timm_mixer.state_dict())
    x = torch.randn(2, 24, 9, 13)
    close(mixer(x), timm_mixer(x))


def test_global_attention_is_timms_without_embedding():
    timm_mixer = TimmAttention(64, head_dim=32, proj_bias=True)
    mixer = create_mixer("global_attention", 64, spatial_dims=2, head_dim=32)
    mixer.load_state_dict(timm_mixer.state_dict())
    x = torch.randn(2, 64, 5, 7)
    close(mixer(x), timm_mixer(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x))


@pytest.mark.parametrize("size", [(9, 13), (5, 9, 6)])
@pytest.mark.parametrize("embedded", [False, True])
def test_global_attention_written_out(size, embedded):
    options = {"feature_size": size} if embedded else {}
    mixer = create_mixer("global_attention", 48, spatial_dims=len(size), **options)
    x = torch.randn(2, 48, *size)
    tokens = x
    if embedded:
        nn.init.normal_(mixer.pos_embedding)
        tokens = x + mixer.pos_embedding
    tokens = tokens.flatten(2).transpose(1, 2)
    heads = []
    for h in range(3):
        q, k, v = (tokens @ w[16 * h : 16 * (h + 1)].T for w in mixer.qkv.weight.chunk(3))
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1) @ v)  # sqrt(16) = 4
    expected = torch.cat(heads, -1) @ mixer.proj.weight.T + mixer.proj.bias
    close(mixer(x), expected.transpose(1, 2).view_as(x))


def test_positional_embedding_starts_at_zero():
    mixer = create_mixer("global_attention", 32, spatial_dims=2, feature_size=(4, 5))
    assert mixer.pos_embedding.shape == (1, 32, 4, 5)
    assert not mixer.pos_embedding.any()


@pytest.mark.parametrize("size", [(4, 7), (3, 4, 5)])
def test_random_mixing_is_a_frozen_average(size):
    mixer = create_mixer("random_mixing", 8, spatial_dims=len(size), feature_size=size)
    x = torch.randn(2, 8, *size)
    expected = torch.einsum("mn,bcn->bcm", mixer.mixing, x.flatten(2)).view_as(x)
    close(mixer(x), expected)
    close(mixer.mixing.sum(-1), torch.ones(x[0, 0].numel()))
    assert mixer.mixing.min() > 0
    # softmax of uniform numbers: no weight is more than e times another of its row
    assert (mixer.mixing.amax(-1) / mixer.mixing.amin(-1)).max() < 2.7183
    assert list(mixer.parameters()) == []
    assert "mixing" in mixer.state_dict()


@pytest.mark.parametrize("size", [(4, 7), (3, 4, 5)])
def test_spatial_fc_mixes_each_channel_alike(size):
    mixer = create_mixer("spatial_fc", 8, spatial_dims=len(size), feature_size=size)
    x = torch.randn(2, 8, *size)
    expected = torch.einsum("mn,bcn->bcm", mixer.fc.weight, x.flatten(2)).view_as(x)
    close(mixer(x), expected)


def test_identity_returns_its_input():
    x = torch.randn(1, 4, 3, 3)
    assert create_mixer("identity", 4, spatial_dims=2)(x) is x
