"""nnU-Net's networks by name, ``nnunet:PlainConvUNet``, of the package dynamic_network_architectures.

Convolutions with bias, instance norm, leaky ReLU and start weights are those of nnU-Net's plans; 2D and 3D. The options
have the names of the plans' ``arch_kwargs``. Their defaults are what nnU-Net plans for a large patch: six stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from dynamic_network_architectures.architectures import unet
from torch import Tensor, nn

from medmixers.layers.conv import conv_nd
from medmixers.networks.peers import Peer, build_peer

STRIDES = (1, 2, 2, 2, 2, 2)
MOST_FEATURES = {2: 512, 3: 320}  # of nnU-Net's planner, which doubles 32 from stage to stage
BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6)  # residual blocks per stage, of nnU-Net's ResEnc planners
INSTANCE_NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class NnUNetPeer(Peer):
    """A U-Net of nnU-Net. nnU-Net switches ``decoder.deep_supervision``; then it returns logits at all scales.

    The heads of the coarser scales exist always, so that nnU-Net's checkpoints fit. They are frozen until
    :meth:`train_all_heads`: nothing trains them without deep supervision.
    """

    def __init__(self, network: nn.Module, *, stride: Sequence[int]) -> None:
        super().__init__(network, stride=stride)
        self.decoder.seg_layers[:-1].requires_grad_(False)  # coarsest first

    @property
    def decoder(self) -> Any:
        """Decoder of the U-Net."""
        return self.network.decoder

    def train_all_heads(self) -> None:
        """Let the heads of the coarser scales train."""
        self.decoder.seg_layers.requires_grad_(True)

    def forward(self, x: Tensor) -> Any:
        """x: image, (B, in_channels, *spatial) -> logits, (B, K, *spatial); a list with deep supervision."""
        if self.decoder.deep_supervision:  # patches of nnU-Net's plans need no padding
            return self.network(x)
        return super().forward(x)


def PlainConvUNet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    features_per_stage: Sequence[int] | None = None,
    kernel_sizes: int | Sequence[int | Sequence[int]] = 3,
    strides: Sequence[int | Sequence[int]] = STRIDES,
    n_conv_per_stage: int | Sequence[int] = 2,
    n_conv_per_stage_decoder: int | Sequence[int] = 2,
) -> nn.Module:
    """nnU-Net's default U-Net.

    Args:
        features_per_stage: channels; by default nnU-Net's: 32, doubled per stage up to 320 in 3D and 512 in 2D.
        kernel_sizes: one for all stages, or one per stage; of a stage, one for all axes or one per axis.
        strides: per stage, the first 1; of a stage, one for all axes or one per axis. In plans, nnU-Net sets them.
        n_conv_per_stage: convolutions of the encoder, for all stages or per stage.
        n_conv_per_stage_decoder: convolutions of the decoder, for all stages or per stage.
    """
    options = {"n_conv_per_stage": n_conv_per_stage, "n_conv_per_stage_decoder": n_conv_per_stage_decoder}
    shape = spatial_dims, in_channels, out_channels
    return _unet(unet.PlainConvUNet, shape, features_per_stage, kernel_sizes, strides, options)


def ResidualEncoderUNet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    features_per_stage: Sequence[int] | None = None,
    kernel_sizes: int | Sequence[int | Sequence[int]] = 3,
    strides: Sequence[int | Sequence[int]] = STRIDES,
    n_blocks_per_stage: int | Sequence[int] | None = None,
    n_conv_per_stage_decoder: int | Sequence[int] = 1,
) -> nn.Module:
    """nnU-Net's U-Net with a residual encoder (ResEnc).

    Args:
        features_per_stage: channels; by default nnU-Net's: 32, doubled per stage up to 320 in 3D and 512 in 2D.
        kernel_sizes: one for all stages, or one per stage; of a stage, one for all axes or one per axis.
        strides: per stage, the first 1; of a stage, one for all axes or one per axis. In plans, nnU-Net sets them.
        n_blocks_per_stage: residual blocks of the encoder; by default 1, 3, 4, and 6 for each further stage.
        n_conv_per_stage_decoder: convolutions of the decoder, for all stages or per stage.
    """
    shape = spatial_dims, in_channels, out_channels
    options = _residual(n_blocks_per_stage, n_conv_per_stage_decoder, strides)
    return _unet(unet.ResidualEncoderUNet, shape, features_per_stage, kernel_sizes, strides, options)


def ResidualUNet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    features_per_stage: Sequence[int] | None = None,
    kernel_sizes: int | Sequence[int | Sequence[int]] = 3,
    strides: Sequence[int | Sequence[int]] = STRIDES,
    n_blocks_per_stage: int | Sequence[int] | None = None,
    n_conv_per_stage_decoder: int | Sequence[int] = 1,
) -> nn.Module:
    """U-Net with a residual encoder and a residual decoder.

    Args:
        features_per_stage: channels; by default nnU-Net's: 32, doubled per stage up to 320 in 3D and 512 in 2D.
        kernel_sizes: one for all stages, or one per stage; of a stage, one for all axes or one per axis.
        strides: per stage, the first 1; of a stage, one for all axes or one per axis. In plans, nnU-Net sets them.
        n_blocks_per_stage: residual blocks of the encoder; by default 1, 3, 4, and 6 for each further stage.
        n_conv_per_stage_decoder: residual blocks of the decoder, for all stages or per stage.
    """
    shape = spatial_dims, in_channels, out_channels
    options = _residual(n_blocks_per_stage, n_conv_per_stage_decoder, strides)
    return _unet(unet.ResidualUNet, shape, features_per_stage, kernel_sizes, strides, options)


def _residual(
    blocks: int | Sequence[int] | None, decoder: int | Sequence[int], strides: Sequence[Any]
) -> dict[str, Any]:
    return {
        "n_blocks_per_stage": BLOCKS[: len(strides)] if blocks is None else blocks,
        "n_conv_per_stage_decoder": decoder,
    }


def _unet(
    target: Callable[..., nn.Module],
    shape: tuple[int, int, int],
    features: Sequence[int] | None,
    kernel_sizes: Any,
    strides: Sequence[Any],
    options: dict[str, Any],
) -> nn.Module:
    dims, in_channels, out_channels = shape
    steps = [[stride] * dims if isinstance(stride, int) else list(stride) for stride in strides]
    arguments = {
        "input_channels": in_channels,
        "num_classes": out_channels,
        "n_stages": len(steps),
        "features_per_stage": features or [min(MOST_FEATURES[dims], 32 * 2**stage) for stage in range(len(steps))],
        "kernel_sizes": kernel_sizes,
        "strides": steps,
        "conv_op": conv_nd(dims),
        "conv_bias": True,
        "norm_op": INSTANCE_NORMS[dims],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        **options,
    }
    network: Any = build_peer(f"nnunet:{target.__name__}", target, arguments)
    network.apply(network.initialize)
    return NnUNetPeer(network, stride=[prod(axis) for axis in zip(*steps, strict=True)])
