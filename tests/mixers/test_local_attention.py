"""Tiled local attention against a plain one that unfolds every neighbourhood."""

from math import prod

import pytest
import torch
from torch.nn import functional as F

from medmixers.mixers.local_attention import LocalAttention


def unfold_attention(mixer, x):
    """The same weights, one gathered neighbourhood a query: memory tokens x kernel volume x channels."""
    batch, channels, *spatial = x.shape
    dims, k, heads = len(spatial), mixer.kernel_size, mixer.heads
    q, key, value = mixer.qkv(x.movedim(1, -1)).movedim(-1, 1).chunk(3, dim=1)

    def neighbourhoods(t):
        t = F.pad(t, [k // 2] * (2 * dims))
        for axis in range(2, 2 + dims):
            t = t.unfold(axis, k, 1)
        return t.reshape(batch, -1, prod(spatial), k**dims)

    inside = neighbourhoods(torch.ones(batch, 1, *spatial, dtype=x.dtype)) > 0
    q = q.reshape(batch, heads, -1, prod(spatial), 1)
    key, value = (neighbourhoods(t).unflatten(1, (heads, -1)) for t in (key, value))
    scores = (q * key).sum(2) / q.shape[2] ** 0.5  # (B, heads, N, k^d)
    weights = scores.masked_fill(~inside, -torch.inf).softmax(-1)
    out = (weights.unsqueeze(2) * value).sum(-1).reshape(batch, channels, *spatial)
    return mixer.proj(out.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("size", [(9, 13), (16, 8), (2, 7), (5, 9, 6), (4, 4, 4), (1, 3, 8)])
def test_equals_unfold_also_at_borders_and_in_gradients(size, kernel_size):
    torch.manual_seed(0)
    mixer = LocalAttention(32, spatial_dims=len(size), kernel_size=kernel_size, full_attention_tokens=0)
    x = torch.randn(2, 32, *size)
    probe = torch.randn_like(x)
    results = []
    for attention in (mixer, lambda t: unfold_attention(mixer, t)):
        mixer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = attention(leaf)
        (y * probe).sum().backward()
        results.append([y, leaf.grad, *(p.grad.clone() for p in mixer.parameters())])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * max(1, reference.abs().max().item()))


@pytest.mark.parametrize("tile_size", [1, 2, 3, 5])
def test_tile_changes_no_result(tile_size):
    torch.manual_seed(0)
    mixer = LocalAttention(16, spatial_dims=2, kernel_size=3, full_attention_tokens=0)
    x = torch.randn(1, 16, 7, 11)
    expected = mixer(x)
    mixer.tile_size = tile_size
    torch.testing.assert_close(mixer(x), expected, rtol=1e-5, atol=1e-6)


def test_small_maps_attend_globally_unless_told_otherwise():
    torch.manual_seed(0)
    local = LocalAttention(16, spatial_dims=2, kernel_size=3, full_attention_tokens=0)
    full = LocalAttention(16, spatial_dims=2, kernel_size=3)
    full.load_state_dict(local.state_dict())
    wide = LocalAttention(16, spatial_dims=2, kernel_size=15, full_attention_tokens=0)
    wide.load_state_dict(local.state_dict())
    x = torch.randn(1, 16, 8, 8)  # 64 tokens; a kernel of 15 reaches all of them
    torch.testing.assert_close(full(x), wide(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(full(x), local(x), atol=1e-3)
    larger = torch.randn(1, 16, 8, 9)
    torch.testing.assert_close(full(larger), local(larger))


def test_far_voxel_has_no_influence():
    mixer = LocalAttention(16, spatial_dims=2, kernel_size=5, full_attention_tokens=0)
    x = torch.randn(1, 16, 12, 12)
    changed = x.clone()
    changed[..., 6, 6] += 1
    touched = (mixer(changed) - mixer(x)).abs().amax((0, 1)) > 0
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[4:9, 4:9] = True
    assert torch.equal(touched, expected)
