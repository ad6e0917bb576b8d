"""Tiled local attention against plain ones: every neighbourhood unfolded, and full attention under a mask."""

from functools import partial

import pytest
import torch
from peers import Neighbourhoods, masked_attention, unfold_attention

from medmixers.kernels import flex_attention
from medmixers.kernels import tile_attention as tiles
from medmixers.kernels.flex_attention import tile_block_mask
from medmixers.mixers.local_attention import LocalAttention


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("size", [(9, 13), (16, 8), (2, 7), (5, 9, 6), (4, 4, 4), (1, 3, 8)])
def test_equals_unfold_also_at_borders_and_in_gradients(size, kernel_size):
    torch.manual_seed(0)
    mixer = LocalAttention(32, spatial_dims=len(size), kernel_size=kernel_size, full_attention_tokens=0)
    x = torch.randn(2, 32, *size)
    probe = torch.randn_like(x)
    results = []
    for attention in (mixer, Neighbourhoods(mixer, unfold_attention), Neighbourhoods(mixer, masked_attention)):
        mixer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = attention(leaf)
        (y * probe).sum().backward()
        results.append([y, leaf.grad, *(p.grad.clone() for p in mixer.parameters())])
    for ours, reference, masked in zip(*results, strict=True):
        torch.testing.assert_close(masked, reference, rtol=1e-5, atol=1e-5 * max(1, reference.abs().max().item()))
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5 * max(1, reference.abs().max().item()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [1, 2**14, tiles.BLOCK_NUMBERS])  # single tiles, some along one axis, everything
@pytest.mark.parametrize(("size", "kernel_size"), [((9, 21), 7), ((16, 8), 1), ((5, 13, 6), 3), ((4, 9, 8), 11)])
def test_blocks_equal_all_tiles_at_once(size, kernel_size, block, dtype, monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK_NUMBERS", block)
    torch.manual_seed(0)
    tiling = tiles.Tiling(heads=2, kernel_size=kernel_size, tile_size=4)
    qkv, probe = torch.randn(2, *size, 96, dtype=dtype), torch.randn(2, *size, 32, dtype=dtype)
    results = []
    for attention in (tiles.tile_attention, tiles.whole_tile_attention):
        leaf = qkv.clone().requires_grad_()
        y = attention(leaf, tiling)
        y.backward(probe)
        results.append((y, leaf.grad))
    with torch.no_grad():
        assert torch.equal(tiles.tile_attention(qkv, tiling), results[0][0])
    for ours, reference in zip(*results, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 4e-2
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tile_size", [1, 2, 3, 5])
def test_tile_changes_no_result(tile_size):
    torch.manual_seed(0)
    mixer = LocalAttention(16, spatial_dims=2, kernel_size=3, full_attention_tokens=0)
    x = torch.randn(1, 16, 7, 11)
    expected = mixer(x)
    mixer.tile_size = tile_size
    torch.testing.assert_close(mixer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", [(9, 13), (16, 32), (40, 21), (5, 9, 6), (9, 8, 17)])
def test_flex_backend_equals_tiles(size, kernel_size):
    # Forward only: FlexAttention has no backward pass on a CPU.
    torch.manual_seed(0)
    options = {"spatial_dims": len(size), "kernel_size": kernel_size, "full_attention_tokens": 0}
    tiles, flex = (LocalAttention(32, backend=backend, **options) for backend in ("auto", "flex"))
    flex.load_state_dict(tiles.state_dict())
    x = torch.randn(2, 32, *size)
    with torch.no_grad():
        torch.testing.assert_close(flex(x), tiles(x), rtol=1e-5, atol=1e-5)


def test_flex_attention_is_compiled_for_more_sizes_than_torchs_limit(monkeypatch):
    """Beyond the limit torch would go on with tokens squared memory, and only warn."""
    torch.compiler.reset()
    flex_attention._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the limit is of the tracing
    try:
        with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True), torch.no_grad():
            for edge in (4, 5, 6):
                mask = tile_block_mask((edge, edge), 3, torch.device("cpu"))
                q, k, v = torch.randn(3, 1, 1, mask.shape[-1], 16)
                compiled = flex_attention.compiled_flex_attention(q, k, v, block_mask=mask)
                expected = torch.nn.attention.flex_attention.flex_attention(q, k, v, block_mask=mask)
                torch.testing.assert_close(compiled, expected)
    finally:
        flex_attention._compiled.cache_clear()
        torch.compiler.reset()


@pytest.mark.parametrize(("size", "kernel_size"), [((40, 50), 7), ((64, 48), 35), ((9, 8, 17), 3), ((20, 4, 40), 9)])
def test_flex_mask_lists_just_the_tiles_in_reach(size, kernel_size):
    mask = tile_block_mask(size, kernel_size, torch.device("cpu"))
    tokens = torch.arange(mask.shape[-1])
    seen = mask.mask_mod(0, 0, tokens.unsqueeze(1), tokens)
    assert seen.any(-1).all()  # an empty softmax is NaN
    tiles = mask.shape[-1] // 128
    assert torch.equal(mask.to_dense()[0, 0].bool(), seen.view(tiles, 128, tiles, 128).any(3).any(1))


def test_unknown_backend_raises():
    with pytest.raises(ValueError, match=r"backend must be one of \('auto', 'tiles', 'flex'\), got 'triton'"):
        LocalAttention(16, spatial_dims=2, backend="triton")


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


@torch.no_grad()
def test_an_exported_program_takes_sizes_on_both_sides_of_its_bound():
    torch.manual_seed(0)
    mixer = LocalAttention(16, spatial_dims=2, kernel_size=3).eval()
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(mixer, (torch.randn(2, 16, 10, 12),), dynamic_shapes=(axes,)).module()
    for size in ((8, 8), (5, 7), (9, 8), (17, 13)):
        x = torch.randn(1, 16, *size)
        torch.testing.assert_close(program(x), mixer(x))
