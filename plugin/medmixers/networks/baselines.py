"""Baselines of the papers: thin factories over MONAI's networks.

MONAI's U-Nets take sizes that their strides divide. A wrapper lets them take any size.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.resnet import ResNetBlock, resnet18
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.conv import check_kernel_size, conv_nd
from medmixers.layers.sizes import INTERPOLATIONS, check_image_shape, crop, pad_for_instance_norm

# Residual units per kernel size in Keuth et al. 2025: fewer at larger kernels, to keep the networks trainable.
UNET_UNITS = {3: 2, 5: 1, 7: 1, 9: 1}
PATCH_EMBEDDING_UNITS = {3: 6, 5: 4, 7: 4, 9: 3}
STUDY_UNET: dict[str, Any] = {
    "act": "LEAKYRELU",
    "norm": ("INSTANCE", {"affine": True}),
    "bias": False,
}


class AnySize(nn.Module):
    """Pad the end of each axis to a multiple of ``stride``, apply ``network``, crop.

    Args:
        network: images (B, in_channels, *spatial) to logits of the same size.
        stride: multiple that the network's input sizes need; its norms are instance norms.
    """

    def __init__(self, network: nn.Module, *, spatial_dims: int, in_channels: int, stride: int) -> None:
        super().__init__()
        self.network = network
        self.spatial_dims, self.in_channels, self.stride = spatial_dims, in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, *spatial) of any size -> logits, (B, K, *spatial)."""
        check_image_shape(x, self.spatial_dims, self.in_channels)
        return crop(self.network(pad_for_instance_norm(x, self.stride)), x.shape[2:])


def study_unet(spatial_dims: int, in_channels: int, out_channels: int, *, kernel_size: int = 3) -> nn.Module:
    """U-Net of Keuth et al. 2025 from MONAI's blocks; 2D and 3D.

    Args:
        kernel_size: kernel of all convolutions: 3, 5, 7 or 9.
    """
    network = UNet(
        spatial_dims,
        in_channels,
        out_channels,
        channels=(64, 128, 320, 512, 1024),
        strides=(2, 2, 2, 2),
        kernel_size=kernel_size,
        up_kernel_size=kernel_size,
        num_res_units=_units(UNET_UNITS, kernel_size),
        **STUDY_UNET,
    )
    return AnySize(network, spatial_dims=spatial_dims, in_channels=in_channels, stride=16)


def study_unet_patch_embedding(
    spatial_dims: int, in_channels: int, out_channels: int, *, kernel_size: int = 3
) -> nn.Module:
    """UNet@PatchEmb of Keuth et al. 2025: the MetaFormer's stem, a U-Net, and fourfold upsampling.

    Args:
        kernel_size: kernel of the U-Net's convolutions: 3, 5, 7 or 9.
    """
    network = nn.Sequential(
        conv_nd(spatial_dims)(in_channels, 64, 7, stride=4, padding=2),
        UNet(
            spatial_dims,
            64,
            out_channels,
            channels=(64, 128, 320, 512),
            strides=(2, 2, 2),
            kernel_size=kernel_size,
            up_kernel_size=kernel_size,
            num_res_units=_units(PATCH_EMBEDDING_UNITS, kernel_size),
            **STUDY_UNET,
        ),
        nn.Upsample(scale_factor=4, mode=INTERPOLATIONS[spatial_dims], align_corners=False),
    )
    return AnySize(network, spatial_dims=spatial_dims, in_channels=in_channels, stride=32)


def token_unet_paper_unet(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """The default U-Net that Tshimanga et al. 2026 compare Token-UNet with."""
    network = UNet(
        spatial_dims,
        in_channels,
        out_channels,
        channels=(32, 64, 128, 256, 320, 320),
        strides=(2,) * 5,
        num_res_units=0,
    )
    return AnySize(network, spatial_dims=spatial_dims, in_channels=in_channels, stride=32)


class _SwinUNETR(SwinUNETR):
    def _check_input_size(self, spatial_shape: Any) -> None:
        """Skip MONAI's check by NumPy: it would break a compiled graph, and AnySize has padded the image."""


def swin_unetr(spatial_dims: int, in_channels: int, out_channels: int, *, feature_size: int = 24) -> nn.Module:
    """MONAI's SwinUNETR; Tshimanga et al. 2026 use 24 features.

    Args:
        feature_size: width of the first stage, a multiple of 12.
    """
    with torch.device("cpu"):  # MONAI reads values of tensors; the meta device has none
        network = _SwinUNETR(in_channels, out_channels, feature_size=feature_size, spatial_dims=spatial_dims)
    network.to(torch.get_default_device())
    return AnySize(network, spatial_dims=spatial_dims, in_channels=in_channels, stride=32)


def study_resnet18(spatial_dims: int, in_channels: int, out_channels: int, *, kernel_size: int = 3) -> nn.Module:
    """ResNet18 of Keuth et al. 2025: the convolutions of every basic block widened, the stem kept at 7.

    Args:
        kernel_size: kernel of the blocks' convolutions, odd.
    """
    padding = check_kernel_size(kernel_size) // 2
    network = resnet18(
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        num_classes=out_channels,
        conv1_t_size=7,
        conv1_t_stride=2,
        shortcut_type="B",
        bias_downsample=False,
    )
    conv = conv_nd(spatial_dims)
    for block in network.modules():
        if isinstance(block, ResNetBlock):
            for name in ("conv1", "conv2"):
                old = getattr(block, name)
                wide = conv(
                    old.in_channels, old.out_channels, kernel_size, stride=old.stride, padding=padding, bias=False
                )
                setattr(block, name, wide)
    return network


def _units(table: dict[int, int], kernel_size: int) -> int:
    if kernel_size not in table:
        raise InputError(f"kernel_size must be one of {', '.join(map(str, table))}, got {kernel_size!r}")
    return table[kernel_size]
