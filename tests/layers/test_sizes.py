"""Padding to what a network of a total stride takes."""

from itertools import product
from math import prod

import pytest
import torch

from medmixers import create_network
from medmixers.layers.sizes import crop, pad_for_instance_norm

SMALLEST = [(1, 1), (1, 33), (32, 1), (32, 32), (1, 1, 1), (1, 40, 1)]


@pytest.mark.parametrize("stride", [2, 8])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_least_padding_that_leaves_two_positions(stride, spatial_dims):
    for size in product((1, stride - 1, stride, stride + 1), repeat=spatial_dims):
        x = torch.randn(2, 3, *size)
        padded = pad_for_instance_norm(x, stride)
        cells = [-(-length // stride) for length in size]
        if prod(cells) == 1:
            cells[-1] = 2
        assert list(padded.shape[2:]) == [stride * count for count in cells]
        assert torch.equal(crop(padded, size), x)
        assert padded.count_nonzero() == x.count_nonzero()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet_keuth2025", {}),
        ("unet_patch_embedding_keuth2025", {}),
        ("unet_tshimanga2026", {}),
        ("swin_unetr_tshimanga2026", {"feature_size": 12}),
        ("token_unet", {"channels": (4, 8, 8), "transformer_heads": 2}),
        ("token_unet_released_8_attention", {"channels": (4, 8, 8)}),
    ],
)
def test_the_smallest_images_train(name, options):
    torch.manual_seed(0)
    sizes = SMALLEST if options else SMALLEST[:4]  # MONAI's U-Nets are wide: in 2D only
    for size in sizes:
        network = create_network(name, spatial_dims=len(size), in_channels=1, out_channels=2, **options).train()
        x = torch.randn(1, 1, *size)
        logits = network(x)
        logits.square().mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
        with torch.no_grad():
            by_hand = torch.zeros(1, 1, *pad_for_instance_norm(x, network.stride).shape[2:])
            by_hand[(..., *(slice(length) for length in size))] = x
            torch.testing.assert_close(logits.detach(), crop(network(by_hand), size))
