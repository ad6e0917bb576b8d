"""What several networks are held to."""

import torch


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
