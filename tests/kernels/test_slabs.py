"""Work on slabs against torch's own layers, over several samples and slabs of unequal length."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medmixers.kernels import slabs
from medmixers.layers.conv import conv_nd

SIZES = [(10, 12), (6, 10, 8)]
POOLS = {2: F.avg_pool2d, 3: F.avg_pool3d}


@pytest.fixture(autouse=True)
def several_slabs_without_gradients(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(slabs, "SLAB", 5 * 4 * 12 // torch.get_num_threads())  # a sample's last slab is the shortest
    with torch.no_grad():
        yield


def of_all(rows, at):
    """The slabs of ``at`` put together in the shape of ``rows``, but for the channels."""
    parts = [at(where).clone() for where in slabs.slabs(rows)]
    return torch.cat(parts).view(*rows.shape[:-1], -1).movedim(-1, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, "channels-last"])
def test_slabs_cover_rows_once(size, layout):
    x = torch.randn(2, 5, *size)
    x = x.contiguous(memory_format=slabs.CHANNELS_LAST[x.ndim] if layout == "channels-last" else layout)
    rows = slabs.as_rows(x)
    assert rows.is_contiguous()
    assert (rows.data_ptr() == x.data_ptr()) == (layout == "channels-last")
    lengths = [len(rows[where]) for where in slabs.slabs(rows)]
    assert len(set(lengths)) <= 2
    assert len(lengths) > 2
    torch.testing.assert_close(of_all(rows, lambda where: rows[where].flatten(0, -2)), x, rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3)])
def test_instance_norm_far_from_zero(size, dtype, tolerance):
    x = (torch.randn(2, 5, *size) + torch.tensor([0.0, 1, 2, 3, 4]).view(-1, *(1,) * len(size))).to(dtype)
    expected = F.instance_norm(x.double(), eps=1e-3)
    found = slabs.instance_norm_(slabs.as_rows(x), 1e-3).movedim(-1, 1)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("stride", [2, 1, (1, 2, 2), (2, 1, 2)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("project", [True, False])
def test_shortcuts_pool_project_and_interpolate(size, stride, project):
    n = len(size)
    stride = (stride,) * n if isinstance(stride, int) else stride[:n]
    x = torch.randn(2, 5, *size)
    layer = conv_nd(n)(5, 3, 1) if project else nn.Identity()
    mode = {2: "bilinear", 3: "trilinear"}[n]
    interpolated = F.interpolate(x, scale_factor=tuple(map(float, stride)), mode=mode)
    for resample, before in (("none", x), ("down", POOLS[n](x, stride)), ("up", interpolated)):
        expected = layer(before)
        at = slabs.shortcut_slabs(slabs.as_rows(x), layer, resample, stride)
        torch.testing.assert_close(of_all(slabs.as_rows(expected), at), expected, rtol=1e-5, atol=1e-5)


def test_pooling_needs_blocks_that_fill_the_map():
    with pytest.raises(RuntimeError):
        slabs.block_means(torch.randn(1, 4, 5, 3), (2, 2))
