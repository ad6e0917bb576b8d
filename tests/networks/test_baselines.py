"""The papers' baselines: MONAI's own networks behind the names."""

from functools import partial

import pytest
import torch
from monai.networks.nets import SwinUNETR, UNet

from medmixers import create_network
from medmixers.networks.baselines import AnySize

SEGMENTERS = ("unet_keuth2025", "unet_patch_embedding_keuth2025", "unet_tshimanga2026", "swin_unetr_tshimanga2026")
build = partial(create_network, spatial_dims=2, in_channels=3, out_channels=5)


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size", [(48, 32, 32), (40, 33, 37), (8, 8, 8)])
def test_segmenters_take_any_3d_size(name, size):
    network = build(name, spatial_dims=3, in_channels=1).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, *size)).shape == (1, 5, *size)


def test_networks_are_monais():
    torch.manual_seed(0)
    ours = build("unet_tshimanga2026", spatial_dims=3, in_channels=4, out_channels=3)
    assert isinstance(ours, AnySize)
    assert type(ours.network) is UNet
    swin = build("swin_unetr_tshimanga2026", spatial_dims=3, in_channels=4, out_channels=3)
    assert isinstance(swin.network, SwinUNETR)
    theirs = UNet(3, 4, 3, channels=(32, 64, 128, 256, 320, 320), strides=(2,) * 5, num_res_units=0)
    theirs.load_state_dict(ours.network.state_dict())
    x = torch.randn(1, 4, 64, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", [(64, 48), (40, 40, 40)])
def test_resnet_widens_every_block_and_keeps_its_size(kernel_size, size):
    network = build("resnet18_keuth2025", spatial_dims=len(size), kernel_size=kernel_size)
    kernels = {m.kernel_size[0] for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)}
    assert kernels == {1, 7, kernel_size}
    assert network(torch.randn(2, 3, *size)).shape == (2, 5)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="kernel_size must be one of 3, 5, 7, 9, got 4"):
        build("unet_keuth2025", kernel_size=4)
    with pytest.raises(ValueError, match="'swin_unetr_tshimanga2026' has no option 'width'; valid: feature_size"):
        build("swin_unetr_tshimanga2026", width=3)
    with pytest.raises(ValueError, match=r"3 spatial dimensions, 1 channel.*got shape \(1, 1, 32, 32\)"):
        build("unet_keuth2025", spatial_dims=3, in_channels=1)(torch.randn(1, 1, 32, 32))
