"""Mixers that came after Keuth et al., from spectral to linear attention, against their definitions in loops."""

from itertools import product

import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn
from torch.nn import functional as F

from medmixers.mixers.build import create_mixer
from medmixers.mixers.local_attention import LocalAttention

SIZES = {2: (7, 10), 3: (5, 4, 7)}
both_dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def build(name, spatial_dims, dim=16, **options):
    torch.manual_seed(0)
    return create_mixer(name, dim, spatial_dims=spatial_dims, **options).double()


def feature_map(*size, dim=16):
    return torch.randn(2, dim, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@both_dims
@torch.no_grad()
def test_spectral_is_a_circular_convolution(spatial_dims):
    size = SIZES[spatial_dims]
    mixer, x = build("spectral", spatial_dims), feature_map(*size)
    impulse = torch.zeros(1, 16, *size, dtype=torch.float64)
    impulse[(..., *[0] * spatial_dims)] = 1
    kernel = mixer(impulse)[0]
    expected = torch.zeros_like(x)
    for offset in product(*map(range, size)):
        moved = x.roll(offset, dims=tuple(range(2, x.ndim)))
        expected += kernel[(slice(None), *offset)].view(1, 16, *[1] * spatial_dims) * moved
    torch.testing.assert_close(mixer(x), expected)


@both_dims
@torch.no_grad()
def test_spectral_interpolates_its_filter_at_the_maps_frequencies(spatial_dims):
    size = SIZES[spatial_dims]
    mixer = build("spectral", spatial_dims, dim=1, frequencies=4)
    impulse = torch.zeros(1, 1, *size, dtype=torch.float64)
    impulse[(..., *[0] * spatial_dims)] = 1
    axes = tuple(range(2, 2 + spatial_dims))
    found = torch.fft.rfftn(mixer(impulse), dim=axes)[0, 0]
    frequencies = [torch.fft.fftfreq(n) for n in size[:-1]] + [torch.fft.rfftfreq(size[-1])]
    place = (
        torch.stack(torch.meshgrid(*frequencies, indexing="ij")).double() * 2 * 3
    )  # three steps from 0 to the highest
    place[:-1] += 3
    real, imaginary = (
        torch.from_numpy(map_coordinates(part[0].numpy(), place.numpy(), order=1)) for part in mixer.filter
    )
    inner = (..., slice(1, (size[-1] + 1) // 2))  # at 0 and the highest frequency, real signals make it symmetric
    torch.testing.assert_close(found[inner], torch.complex(real, imaginary)[inner])


@both_dims
@torch.no_grad()
def test_spectral_with_a_filter_of_ones_is_the_identity(spatial_dims):
    mixer = build("spectral", spatial_dims)
    mixer.filter[0], mixer.filter[1] = 1, 0
    for size in (SIZES[spatial_dims], (1,) * spatial_dims, (16,) * spatial_dims):
        x = feature_map(*size)
        torch.testing.assert_close(mixer(x), x)


@both_dims
@torch.no_grad()
def test_spectral_with_a_phase_that_grows_moves_the_map(spatial_dims):
    """The shift theorem: at the grid's own frequencies a phase of -2 pi f moves the map by one voxel."""
    frequencies = 5
    mixer = build("spectral", spatial_dims, frequencies=frequencies)
    phase = -torch.pi * torch.linspace(0, 1, frequencies, dtype=torch.float64)  # of the last axis
    mixer.filter[0], mixer.filter[1] = phase.cos(), phase.sin()
    x = feature_map(*[2 * (frequencies - 1)] * spatial_dims)
    torch.testing.assert_close(mixer(x), x.roll(1, dims=-1))


@torch.no_grad()
def test_spectral_keeps_the_filter_when_the_map_grows():
    """A map of twice the size is filtered alike: where frequencies agree, so does the filter."""
    mixer = build("spectral", 2, frequencies=4)
    size, dtype = 12, torch.float64
    small, large = mixer._filter_for([size, size], dtype), mixer._filter_for([2 * size, 2 * size], dtype)
    for frequency in range(size // 2):  # of the last axis, at 0 of the first
        torch.testing.assert_close(large[:, :, 0, 2 * frequency], small[:, :, 0, frequency])


@both_dims
@torch.no_grad()
def test_state_space_reads_both_ways(spatial_dims):
    """The mirrored map gives the mirrored result, and every position reaches every other one."""
    size = SIZES[spatial_dims]
    mixer, x = build("state_space", spatial_dims), feature_map(*size)
    axes = tuple(range(2, x.ndim))
    torch.testing.assert_close(mixer(x.flip(axes)), mixer(x).flip(axes))
    moved = x.clone()
    moved[(slice(None), slice(None), *[0] * spatial_dims)] += 1
    assert ((mixer(moved) - mixer(x)).abs().amax(1) > 0).all()


@both_dims
@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 2), (3, 3), (5, 2), (3, 9)])
@torch.no_grad()
def test_dilated_attention_is_the_loop(spatial_dims, kernel_size, dilation):
    size = SIZES[spatial_dims]
    mixer = build("dilated_attention", spatial_dims, dim=8, head_dim=4, kernel_size=kernel_size, dilation=dilation)
    x = feature_map(*size, dim=8)
    q, k, v = mixer.qkv(x.movedim(1, -1)).unflatten(-1, (3, 2, 4)).unbind(-3)  # (B, *spatial, heads, 4)
    reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
    mixed = torch.zeros_like(q)
    for place in product(*map(range, size)):
        keys = [
            tuple(p + dilation * o for p, o in zip(place, offset, strict=True))
            for offset in product(reach, repeat=spatial_dims)
        ]
        keys = [key for key in keys if all(0 <= p < n for p, n in zip(key, size, strict=True))]
        of_keys, of_values = (torch.stack([t[(slice(None), *key)] for key in keys], 1) for t in (k, v))
        weights = torch.einsum("zhd,zkhd->zhk", q[(slice(None), *place)], of_keys).div(2).softmax(-1)
        mixed[(slice(None), *place)] = torch.einsum("zhk,zkhd->zhd", weights, of_values)
    torch.testing.assert_close(mixer(x), mixer.proj(mixed.flatten(-2)).movedim(-1, 1))


@both_dims
@torch.no_grad()
def test_dilation_1_is_local_attention(spatial_dims):
    mixer = build("dilated_attention", spatial_dims, kernel_size=3, dilation=1)
    local = LocalAttention(16, spatial_dims=spatial_dims, kernel_size=3, full_attention_tokens=0).double()
    local.load_state_dict(mixer.state_dict())
    x = feature_map(*SIZES[spatial_dims])
    assert torch.equal(mixer(x), local(x))


@both_dims
@torch.no_grad()
def test_large_kernel_is_one_large_convolution_inside_the_map(spatial_dims):
    """Two kernels in a row are one: their convolution. At the border the first one's output is cut off."""
    mixer = build("large_kernel", spatial_dims, dim=3, kernel_size=7, dilation=2)  # kernels of 3 and 5, reach 11
    for conv in (mixer.local, mixer.distant):
        conv.bias.zero_()
    pad, convolve = 2 * spatial_dims * [10], F.conv2d if spatial_dims == 2 else F.conv3d
    spread = torch.zeros(3, 1, *[9] * spatial_dims, dtype=torch.float64)
    spread[(..., *[slice(None, None, 2)] * spatial_dims)] = mixer.distant.weight
    flipped = mixer.local.weight.flip(tuple(range(2, 2 + spatial_dims)))
    kernel = convolve(F.pad(spread.transpose(0, 1), 2 * spatial_dims * [2]), flipped, groups=3).transpose(0, 1)
    assert kernel.shape[2:] == (11,) * spatial_dims
    x = F.pad(feature_map(*[3] * spatial_dims, dim=3), pad)
    attention = mixer.pointwise(convolve(x, kernel, groups=3, padding=5))
    torch.testing.assert_close(mixer(x), x * attention)


@pytest.mark.parametrize("dilation", [2, 3, 4])
@pytest.mark.parametrize("kernel_size", range(7, 33, 2))
def test_large_kernel_covers_its_kernel(kernel_size, dilation):
    """Without a hole: the impulse response is nonzero at every voxel of the kernel, and as wide as documented."""
    mixer = build("large_kernel", 2, dim=1, kernel_size=kernel_size, dilation=dilation)
    reach = 2 * dilation - 1 + dilation * (mixer.distant.kernel_size[0] - 1)
    assert kernel_size <= reach < kernel_size + 4 * dilation
    for conv in (mixer.local, mixer.distant):
        nn.init.ones_(conv.weight)
        nn.init.zeros_(conv.bias)
    impulse = torch.zeros(1, 1, reach + 2, reach + 2, dtype=torch.float64)
    impulse[..., reach // 2 + 1, reach // 2 + 1] = 1
    response = mixer.distant(mixer.local(impulse))[0, 0]
    assert torch.equal(response.nonzero().amin(0), torch.tensor([1, 1]))
    assert torch.equal(response.nonzero().amax(0), torch.tensor([reach, reach]))
    assert (response[1:-1, 1:-1] > 0).all()


def test_large_kernel_has_the_published_kernels():
    mixer = build("large_kernel", 2)
    assert mixer.local.kernel_size == (5, 5)
    assert (mixer.distant.kernel_size, mixer.distant.dilation) == ((7, 7), (3, 3))
    for wrong in ({"kernel_size": 5}, {"dilation": 1}):
        with pytest.raises(ValueError, match="kernel_size must be at least 7 and dilation at least 2"):
            build("large_kernel", 2, **wrong)


@both_dims
def test_parameters_are_those_of_the_guide(spatial_dims):
    """plugin/docs/networks.md, of C channels."""
    c = 64
    expected = {
        "spectral": {2: 240, 3: 3600}[spatial_dims] * c,
        "state_space": (2 + 1 / 16) * c**2 + (34 + 1 / 16 + 2 / 16) * c + 32,
        "dilated_attention": 4 * c**2 + 4 * c,
        "large_kernel": c**2 + (3 + {2: 74, 3: 468}[spatial_dims]) * c,
    }
    for name, count in expected.items():
        assert sum(p.numel() for p in build(name, spatial_dims, dim=c).parameters()) == count


@pytest.mark.parametrize("name", ["linear_attention", "simplified_attention"])
@both_dims
@torch.no_grad()
def test_linear_attention_position_by_position(name, spatial_dims):
    """Xue et al. 2026, figures 2B and 2C."""
    mixer, x = build(name, spatial_dims), feature_map(*SIZES[spatial_dims])
    for weight in mixer.parameters():
        weight.mul_(5)
    maps = [layer(x) for layer in mixer.children()] or [x, x, x]
    query, key, value = (each[0].flatten(1).T for each in maps)  # (N, C)
    channels, positions = query.exp(), key.exp()
    channels, positions = channels / channels.sum(1, keepdim=True), positions / positions.sum(0)
    for place in range(0, len(query), 11):
        seen = positions @ channels[place]  # weight of every position for this one, summed over the channels
        torch.testing.assert_close(seen.sum(), torch.tensor(1.0, dtype=torch.float64))
        torch.testing.assert_close(mixer(x)[0].flatten(1)[:, place], seen @ value)
    counts = {"linear_attention": 3 * 16**2, "simplified_attention": 0}
    assert sum(p.numel() for p in mixer.parameters()) == counts[name]
