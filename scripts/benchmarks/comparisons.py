"""Comparisons of the benchmark: ours and its peers on one input, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import peers
import torch
from torch import nn

from medmixers.factory import create_network
from medmixers.kernels.depthwise import TRITON, convolve
from medmixers.kernels.plain_depthwise import plain_depthwise_conv, under_autocast
from medmixers.layers.activations import ACTIVATIONS
from medmixers.layers.conv import conv_nd
from medmixers.mixers.build import create_mixer
from medmixers.mixers.grouped_conv import GroupedConv
from medmixers.mixers.local_attention import LocalAttention
from medmixers.registry import Registry
from medmixers.results.tables import OURS

FORWARD, TRAINING = "forward", "forward + backward"
HALF, HALF_TRAINING = f"{FORWARD}, bfloat16", f"{TRAINING}, bfloat16"  # under autocast
ALL = (FORWARD, TRAINING, HALF, HALF_TRAINING)
COMPILED = ", compiled"  # ends the label of a contender compiled by torch.compile


@dataclass(frozen=True)
class Comparison:
    """Ours and its peers on one input.

    Args:
        size: input size, (B, C, *spatial), float32, contiguous.
        contenders: label -> function that builds the contender; the first label is "ours".
        passes: FORWARD (eval mode, no gradient), TRAINING (train mode, gradients of input and weights), or either in
            bfloat16, if the processor supports it.
        threads: number of CPU threads.
        quick: whether ``--quick`` runs it.
        gpu: whether it is too large for a CPU.
    """

    size: tuple[int, ...]
    contenders: Mapping[str, Callable[[], nn.Module]]
    passes: tuple[str, ...] = (FORWARD, TRAINING)
    threads: int = 1
    quick: bool = True
    gpu: bool = False


COMPARISONS: Registry[Comparison] = Registry("comparison")


def _graphs_of(contenders: Mapping[str, Callable[[], nn.Module]]) -> dict[str, Callable[[], nn.Module]]:
    """The contenders compiled by torch.compile."""

    def graph(build: Callable[[], nn.Module]) -> nn.Module:
        return torch.compile(build())  # type: ignore[return-value]

    return {label + COMPILED: partial(graph, build) for label, build in contenders.items()}


def _name(what: str, size: Iterable[int], kernel_size: int) -> str:
    return f"{what} {'x'.join(map(str, size))} kernel {kernel_size}"


def _local_attention(size: tuple[int, ...], kernel_size: int, *, gpu: bool) -> Comparison:
    def build(backend: str = "tiles") -> LocalAttention:
        options: dict[str, Any] = {"spatial_dims": len(size) - 2, "kernel_size": kernel_size, "backend": backend}
        return LocalAttention(size[1], full_attention_tokens=0, **options)

    def by(attention: Callable[..., torch.Tensor]) -> Callable[[], nn.Module]:
        return lambda: peers.Neighbourhoods(build(), attention)

    others: dict[str, Callable[[], nn.Module]] = {"ours, backend flex": partial(build, "flex")} if gpu else {}
    others |= {"unfold": by(peers.unfold_attention), "NATTEN": by(peers.natten_attention)}
    if gpu or len(size) == 4:  # on a CPU its mask is dense: tokens squared
        others["FlexAttention"] = by(peers.row_major_flex_attention)
    if len(size) == 4:
        others["masked SDPA"] = by(peers.masked_attention)
    passes = ALL if gpu else (FORWARD, TRAINING)
    return Comparison(size, {OURS: build, **others}, passes=passes, gpu=gpu)


for _shape, _kernel in (((1, 64, 56, 56), 7), ((1, 64, 24, 24, 24), 5), ((1, 64, 32, 32, 32), 3)):
    COMPARISONS.register(_name("local attention", _shape[2:], _kernel), _local_attention(_shape, _kernel, gpu=False))

# The stages of a 224x224 image in a batch, and volumes.
for _shape, _kernel in (
    ((16, 64, 56, 56), 7),
    ((16, 128, 28, 28), 7),
    ((16, 320, 14, 14), 7),
    ((2, 64, 32, 32, 32), 3),
    ((2, 64, 32, 32, 32), 7),
    ((1, 64, 64, 64, 64), 5),
):
    COMPARISONS.register(_name("local attention", _shape, _kernel), _local_attention(_shape, _kernel, gpu=True))

for _size, _kernel in (((56, 56), 3), ((32, 32, 32), 3), ((32, 32, 32), 7)):
    _dims = {"spatial_dims": len(_size), "kernel_size": _kernel}
    COMPARISONS.register(
        _name("pooling", _size, _kernel),
        Comparison(
            (1, 64, *_size),
            {
                OURS: partial(create_mixer, "pooling", 64, **_dims),
                "nn.AvgPool": partial(peers.AveragePooling, **_dims),
            },
        ),
    )

for _kernel in (3, 7):
    _dims = {"spatial_dims": 3, "kernel_size": _kernel}
    _pools: dict[str, Callable[[], nn.Module]] = {
        OURS: partial(create_mixer, "pooling", 64, **_dims),
        "nn.AvgPool": partial(peers.AveragePooling, **_dims),
    }
    COMPARISONS.register(
        _name("pooling", (2, 64, 64, 64, 64), _kernel),
        Comparison((2, 64, 64, 64, 64), {**_pools, **_graphs_of(_pools)}, passes=ALL, gpu=True),
    )

_random = partial(create_mixer, "random_mixing", 64, spatial_dims=2, feature_size=(96, 96))
COMPARISONS.register(
    "random mixing 96x96",
    Comparison(
        (1, 64, 96, 96),
        {OURS: partial(_random, stored=False), "its matrix stored": partial(_random, stored=True)},
        quick=False,
    ),
)
_options: dict[str, Any] = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "input_size": (768, 768)}
_metaformer = partial(create_network, "metaformer_s12", **_options)
COMPARISONS.register(
    "metaformer_s12 random mixing 768x768",
    Comparison(
        (1, 3, 768, 768),
        {
            OURS: partial(_metaformer, mixer="random_mixing"),
            "pooling in its place": partial(_metaformer, mixer="pooling"),
        },
        passes=(FORWARD,),
        threads=2,
        quick=False,
    ),
)

for _size, _kernel in (((56, 56), 7), ((24, 24, 24), 3), ((24, 24, 24), 7)):
    COMPARISONS.register(
        _name("grouped conv", _size, _kernel),
        Comparison(
            (2, 64, *_size),
            {
                OURS: partial(create_mixer, "grouped_conv", 64, spatial_dims=len(_size), kernel_size=_kernel),
                "nn.Conv": partial(conv_nd(len(_size)), 64, 64, _kernel, padding=_kernel // 2, groups=64),
            },
        ),
    )


def _every_depthwise(build: Callable[[], nn.Module], function: Callable[..., torch.Tensor]) -> nn.Module:
    """A module with ``function`` of x, weight and bias in place of its grouped convolutions."""
    network = build()
    for module in network.modules():
        if isinstance(module, GroupedConv):
            module.forward = lambda x, conv=module.conv: function(x, conv.weight, conv.bias)  # type: ignore
    return network


def _by_triton(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return convolve(*under_autocast(x, weight, bias), TRITON)


def _by_depthwise(build: Callable[[], nn.Module]) -> dict[str, Callable[[], nn.Module]]:
    """Ours and torch's own grouped convolutions in a module, each compiled too."""
    eager: dict[str, Callable[[], nn.Module]] = {
        OURS: build,
        "torch's own": partial(_every_depthwise, build, plain_depthwise_conv),
    }
    return {**eager, **_graphs_of(eager)}


def _by_depthwise_on_a_gpu(build: Callable[[], nn.Module]) -> dict[str, Callable[[], nn.Module]]:
    contenders = _by_depthwise(build)
    own = contenders["torch's own"]
    return {
        **contenders,
        "ours, Triton": partial(_every_depthwise, build, _by_triton),
        "torch's own, channels-last": lambda: peers.ChannelsLast(own(), spatial_dims=3),
    }


for _kernel in (3, 7):
    _options = {"spatial_dims": 3, "kernel_size": _kernel}
    _mixer = partial(create_mixer, "grouped_conv", 64, **_options)
    _options |= {"in_channels": 1, "out_channels": 2}
    _metaformer = partial(create_network, "metaformer_s12", mixer="grouped_conv", **_options)
    _volumes, _images = (2, 64, 64, 64, 64), (2, 1, 96, 96, 96)
    COMPARISONS.register(
        _name("grouped conv", _volumes, _kernel),
        Comparison(_volumes, _by_depthwise_on_a_gpu(_mixer), passes=ALL, gpu=True),
    )
    COMPARISONS.register(
        _name("3D metaformer_s12 grouped conv", _images, _kernel),
        Comparison(_images, _by_depthwise_on_a_gpu(_metaformer), passes=(TRAINING, HALF_TRAINING), gpu=True),
    )
    COMPARISONS.register(
        _name("3D metaformer_s12 grouped conv", (2, 1, 64, 64, 64), _kernel),
        Comparison((2, 1, 64, 64, 64), _by_depthwise(_metaformer), passes=(TRAINING,), threads=2, quick=False),
    )


def _timm_channels_last(name: str) -> nn.Module:
    return peers.ChannelsLast(peers.timm_network(name), spatial_dims=2)


# LayerScale's published start value of 1e-5 would hide the mixers in what bfloat16 changes.
_visible = {"layer_scale_init": 1.0}
for _network, _quick, _options in (
    ("poolformer_s12", True, _visible),
    ("convformer_s18", False, {}),
    ("caformer_s18", False, {}),
):
    _options = {"spatial_dims": 2, "in_channels": 3, "out_channels": 1000, **_options}
    _classifiers: dict[str, Callable[[], nn.Module]] = {
        OURS: partial(create_network, _network, **_options),
        "timm": partial(peers.timm_network, _network),
        "timm, channels-last": partial(_timm_channels_last, _network),
    }
    COMPARISONS.register(
        f"{_network} 1x224x224",
        Comparison((1, 3, 224, 224), _classifiers, passes=(FORWARD, TRAINING, HALF), quick=_quick),
    )
    _graphs = _graphs_of({label: _classifiers[label] for label in (OURS, "timm, channels-last")})
    COMPARISONS.register(
        f"{_network} 128x224x224",
        Comparison((128, 3, 224, 224), {**_classifiers, **_graphs}, passes=(HALF, HALF_TRAINING), gpu=True),
    )

# Yu et al. 2023, Tables 11 and 12: StarReLU alone, and the same network with GELU in its place.
COMPARISONS.register(
    "StarReLU 1x1000000", Comparison((1, 1_000_000), {OURS: ACTIVATIONS["star_relu"], "nn.GELU": ACTIVATIONS["gelu"]})
)
for _network in ("convformer_s18", "caformer_s18"):
    _classifier = partial(create_network, _network, spatial_dims=2, in_channels=3, out_channels=1000)
    COMPARISONS.register(
        f"{_network} StarReLU 1x224x224",
        Comparison(
            (1, 3, 224, 224),
            {OURS: _classifier, "GELU in its place": partial(_classifier, activation="gelu")},
            quick=False,
        ),
    )

for _kernel in (3, 7):
    _options = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": _kernel, **_visible}
    COMPARISONS.register(
        f"3D metaformer_s12 pooling 96x96x96 kernel {_kernel}",
        Comparison(
            (1, 1, 96, 96, 96),
            {
                OURS: partial(create_network, "metaformer_s12", mixer="pooling", **_options),
                "nn.AvgPool3d, nn.Conv3d": partial(peers.naive_metaformer, "metaformer_s12", **_options),
            },
            passes=(FORWARD, TRAINING, HALF) if _kernel == 3 else (FORWARD, TRAINING),
            quick=_kernel == 3,
        ),
    )

_brats: dict[str, Any] = {"spatial_dims": 3, "in_channels": 4, "out_channels": 3}
_swin = {"MONAI SwinUNETR": partial(create_network, "swin_unetr_tshimanga2026", **_brats)}
_unets: dict[str, Callable[[], nn.Module]] = {
    "MONAI UNet": partial(create_network, "unet_tshimanga2026", **_brats),
    "nnU-Net PlainConvUNet": partial(create_network, "nnunet:PlainConvUNet", **_brats),
    "nnU-Net ResEncUNet": partial(create_network, "nnunet:ResidualEncoderUNet", **_brats),
}
for _network in ("token_unet", "token_unet_no_transformer", "token_unet_released_8"):
    for _edge in (96, 128):
        COMPARISONS.register(
            f"{_network} {_edge}x{_edge}x{_edge}",
            Comparison(
                (1, 4, _edge, _edge, _edge),
                {
                    OURS: partial(create_network, _network, **_brats),
                    **_swin,
                    **(_unets if _network == "token_unet" else {}),
                },
                passes=(FORWARD, HALF) if _edge == 96 else ALL,
                threads=2,
                quick=False,
                gpu=_edge > 96,
            ),
        )
