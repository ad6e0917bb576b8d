"""Token attention: recorded without a trace, and brought to the right voxels."""

from __future__ import annotations

import pytest
import torch

from medmixers import create_network
from medmixers.explain.token_attention import attention_on_image, record_token_attention


def token_unet(spatial_dims: int, name: str = "token_unet", **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_network(
        name,
        spatial_dims=spatial_dims,
        in_channels=1,
        out_channels=3,
        channels=(8, 8, 8, 16),
        **options,
    ).eval()


@pytest.mark.parametrize("name", ["token_unet", "token_unet_released_8_attention"])
@pytest.mark.parametrize("size", [(33, 20), (17, 24, 9)])
def test_recording_does_not_change_the_output(size: tuple[int, ...], name: str) -> None:
    network = token_unet(len(size), name, num_tokens=5)
    x = torch.randn(2, 1, *size)
    with torch.no_grad():
        plain = network(x)
        with record_token_attention(network) as maps:
            recorded = network(x)
            network(x)
        after = network(x)
    assert torch.equal(plain, recorded)
    assert torch.equal(plain, after)
    assert len(maps) == 2  # one a forward, none after the block
    assert maps[0].shape == (2, 5, *(-(-voxels // 8) for voxels in size))
    assert torch.allclose(maps[0].flatten(2).sum(-1), torch.ones(2, 5))
    assert not any(module._forward_hooks for module in network.modules())


def test_gradients_are_the_same_and_maps_are_detached() -> None:
    network = token_unet(2).train()
    x = torch.randn(1, 1, 16, 16)
    network(x).square().mean().backward()
    plain = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    with record_token_attention(network) as maps:
        network(x).square().mean().backward()
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, network.parameters(), strict=True))
    assert not maps[0].requires_grad


def test_hooks_are_removed_after_an_error() -> None:
    network = token_unet(2)
    with pytest.raises(RuntimeError, match="stop"), record_token_attention(network):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("name", ["unet_star_star", "token_unet_released_no_tokens"])
def test_a_network_without_tokens_is_named(name: str) -> None:
    network = create_network(name, spatial_dims=2, in_channels=1, out_channels=2)
    with (
        pytest.raises(ValueError, match=r"^TokenUNet\w* has no TokenLearner") as raised,
        record_token_attention(network),
    ):
        pass
    names = str(raised.value).partition("networks that have a TokenLearner: ")[2].split(", ")
    assert {"token_unet", "token_unet_no_transformer", "token_unet_released_32"} < set(names)
    for listed in names:
        with record_token_attention(create_network(listed, spatial_dims=2, in_channels=1, out_channels=2)):
            pass


@pytest.mark.parametrize("size", [(29, 29), (24, 17, 30)])
def test_cells_land_on_the_voxels_that_they_cover(size: tuple[int, ...]) -> None:
    grid = tuple(-(-voxels // 8) for voxels in size)
    for axis, voxels in enumerate(size):
        centres = 8 * torch.arange(grid[axis]) + 3.5  # of cells, in voxels
        shape = [-1 if a == axis else 1 for a in range(len(size))]
        maps = centres.reshape(shape).expand(grid)[None, None]
        image = attention_on_image(maps / maps[0, 0].numel(), size)
        assert image.shape == (1, 1, *size)
        between = torch.arange(4, min(8 * (grid[axis] - 1) + 4, voxels))  # centres of two cells around it
        found = image[0, 0].movedim(axis, 0)[between].flatten(1)
        assert torch.allclose(found, between.float()[:, None].expand_as(found), atol=1e-4)


def test_uniform_attention_is_one_and_the_scale_is_relative() -> None:
    assert torch.allclose(attention_on_image(torch.full((1, 2, 2, 3), 1 / 6), (15, 20)), torch.ones(1, 2, 15, 20))
    maps = torch.tensor([[[[0.75, 0.25]]]])
    assert attention_on_image(maps, (8, 16))[0, 0, 0, [0, -1]].tolist() == [1.5, 0.5]


def test_a_grid_that_does_not_cover_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grid \(2, 2\) and stride 8 do not cover an image of \(16, 17\)"):
        attention_on_image(torch.ones(1, 1, 2, 2), (16, 17))
    with pytest.raises(ValueError, match="do not cover"):
        attention_on_image(torch.ones(1, 1, 2, 2), (16, 16, 16))


def test_cells_of_another_length_on_each_axis():
    maps = torch.rand(1, 2, 3, 2, 4)
    maps = maps / maps.sum((2, 3, 4), keepdim=True)
    thin = attention_on_image(maps, (3, 8, 16), stride=(1, 4, 4))
    # along an axis of stride 1 nothing is interpolated: each slice is the 2D result of that slice
    for index in range(3):
        alone = attention_on_image(maps[:, :, index], (8, 16), stride=4)
        torch.testing.assert_close(thin[:, :, index], 3 * alone)
    with pytest.raises(ValueError, match=r"maps of grid .* do not cover an image of \(4, 8, 16\)"):
        attention_on_image(maps, (4, 8, 16), stride=(1, 4, 4))
