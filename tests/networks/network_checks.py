"""What several networks are held to."""

import torch
from torch import Tensor, nn

from medmixers.kernels import slabs


def check_gradients(network, logits):
    """Every weight has a finite gradient."""
    (logits * torch.randn_like(logits)).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def check_segmentation(network, x):
    """Logits of three classes for every voxel, gradients, and corner voxels that change the logits at their place."""
    logits, size = network(x), x.shape[2:]
    assert logits.shape == (len(x), 3, *size)
    check_gradients(network, logits)
    with torch.no_grad():
        for corner in ((0,) * len(size), (-1,) * len(size)):
            changed = x.clone()
            changed[(slice(None), 0, *corner)] += 5
            difference = (network(changed) - network(x)).abs()
            assert difference[(slice(None), slice(None), *corner)].max() > 1e-3


def check_slabs(network, x, monkeypatch):
    """Without gradients a CPU computes in place, slab by slab; with them it runs torch's layers one by one."""
    monkeypatch.setattr(slabs, "SLAB", 4 * 16 * 7)
    plain, called = slabs.slabs, []
    monkeypatch.setattr(slabs, "slabs", lambda rows: called.append(rows) or plain(rows))
    before, expected = x.clone(), network(x)
    for image in (x, x.contiguous(memory_format=slabs.CHANNELS_LAST[x.ndim])):
        with torch.no_grad():
            torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)
        assert called
        called.clear()
    assert torch.equal(x, before)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = network(x)
    if not isinstance(half, Tensor):  # deep supervision: the finest logits first
        half, expected = half[0], expected[0]
    assert half.dtype == torch.bfloat16
    assert (half - expected).norm() < 0.1 * expected.norm()


class Doubled(nn.Module):
    """A user's wrapper, as of a low-rank update, with the weights of what it wraps."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.wrapped, name)

    def forward(self, *args):
        return 2 * self.wrapped(*args)


def check_change(network, path, change):
    """A submodule that is replaced, or has a hook, changes the logits, with gradients and without alike."""
    network.eval()
    x = torch.randn(1, network.in_channels, *(16,) * network.spatial_dims)
    before = network(x)
    changed = change(network.get_submodule(path))
    if isinstance(changed, nn.Module):
        network.set_submodule(path, changed.eval())
    after = network(x)
    assert not torch.allclose(after, before, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(network(x), after, rtol=1e-4, atol=1e-5)
