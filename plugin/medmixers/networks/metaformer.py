"""MetaFormer: block, stage and encoder (Yu et al. 2022, 2023; the study's form is Keuth et al. 2025, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn

from medmixers.layers.activations import ACTIVATIONS
from medmixers.layers.conv import conv_nd
from medmixers.layers.norms import create_norm
from medmixers.layers.scales import create_scale
from medmixers.layers.sizes import check_image, pad_to_multiple
from medmixers.mixers.build import create_mixer, mixer_option_names

STEM_STRIDES = (1, 2, 4)
DROP_PATH_SCHEDULES = ("constant", "ramp")


class ChannelMLP(nn.Sequential):
    """Pointwise C -> ratio C, activation, ratio C -> C, with biases: the half of a block that mixes no positions."""

    def __init__(self, dim: int, *, spatial_dims: int, ratio: float, activation: str) -> None:
        conv, width = conv_nd(spatial_dims), int(ratio * dim)
        super().__init__()
        self.fc1 = conv(dim, width, 1)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = conv(width, dim, 1)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.get_parameter("weight"), std=0.02)
            nn.init.zeros_(layer.get_parameter("bias"))


class MetaFormerBlock(nn.Module):
    """x + scale1 * mixer(norm1 x), then x + scale2 * mlp(norm2 x), each branch under stochastic depth.

    Args:
        dim: channels C.
        mixer: token mixer, a module (B, C, *spatial) -> the same shape.
        layer_scale_init: start value of the branches' LayerScale; None leaves it out.
        res_scale_init: start value of the shortcuts' ResScale; None leaves it out.
        drop_path: probability of dropping a branch for a whole sample in training.
    """

    def __init__(
        self,
        dim: int,
        *,
        spatial_dims: int,
        mixer: nn.Module,
        norm: str = "group_norm",
        activation: str = "gelu",
        mlp_ratio: float = 4.0,
        layer_scale_init: float | None = 1e-5,
        res_scale_init: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = create_norm(norm, dim, spatial_dims=spatial_dims)
        self.token_mixer = mixer
        self.layer_scale1 = create_scale(dim, spatial_dims=spatial_dims, init=layer_scale_init)
        self.res_scale1 = create_scale(dim, spatial_dims=spatial_dims, init=res_scale_init)
        self.norm2 = create_norm(norm, dim, spatial_dims=spatial_dims)
        self.mlp = ChannelMLP(dim, spatial_dims=spatial_dims, ratio=mlp_ratio, activation=activation)
        self.layer_scale2 = create_scale(dim, spatial_dims=spatial_dims, init=layer_scale_init)
        self.res_scale2 = create_scale(dim, spatial_dims=spatial_dims, init=res_scale_init)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *spatial) -> the same shape."""
        x = self.res_scale1(x) + self.drop_path(self.layer_scale1(self.token_mixer(self.norm1(x))))
        return self.res_scale2(x) + self.drop_path(self.layer_scale2(self.mlp(self.norm2(x))))


class MetaFormerStage(nn.Module):
    """Downsampling (identity in the first stage), then the blocks."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[MetaFormerBlock]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C_in, *spatial) -> (B, C, *spatial / stride)."""
        return self.blocks(self.downsample(x))


class PatchEmbedding(nn.Module):
    """Strided convolution with bias, without norm: the stem and the downsampling of the study's MetaFormer."""

    def __init__(self, in_channels: int, dim: int, *, spatial_dims: int, stride: int) -> None:
        super().__init__()
        # Kernel 2 s - 1 and padding s / 2 give 7 / 2 at stride 4 and 3 / 1 at stride 2, as published.
        self.conv = conv_nd(spatial_dims)(in_channels, dim, 2 * stride - 1, stride=stride, padding=stride // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class MetaFormerEncoder(nn.Module):
    """Four stages of MetaFormer blocks with a token mixer each.

    An input whose size is no multiple of ``stem_stride`` is padded with zeros at the end of the axis, so that no
    border voxel is dropped; further stages round up.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        depths: blocks of each stage.
        dims: channels of each stage.
        mixer: name of the token mixer (``medmixers.list_mixers()``), or one name a stage for a hybrid.
        kernel_size: kernel in voxels of the mixers that have one; None means each mixer's own default.
        mixer_options: further options of the mixers. Each stage takes those that its mixer has; an option that no
            stage's mixer has raises.
        input_size: image size in voxels. Needed by mixers that are bound to a size (random_mixing, spatial_fc) and
            by ``positional_embedding``; other image sizes then raise.
        positional_embedding: learn one in the first block of each stage of global attention (the study's 2D
            classification).
        stem_stride: downsampling of the first stage: 4 as published, 2 or 1 for finer feature maps.
        norm: "group_norm" (one group), "layer_norm" (channels of a position), "batch_norm" or "none".
        activation: of the channel MLP: "gelu", "relu", "silu", "squared_relu", "star_relu".
        mlp_ratio: width of the channel MLP over C.
        layer_scale_init: start value of LayerScale, None without; or one a stage.
        res_scale_init: start value of ResScale, None without; or one a stage.
        drop_path_rate: stochastic depth.
        drop_path_schedule: "constant": the rate in every block (Keuth et al. 2025); "ramp": linear from 0 in the
            first block to the rate in the last (Yu et al. 2022).

    Raises:
        ValueError: an unknown name or option, or a value out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        depths: Sequence[int] = (2, 2, 6, 2),
        dims: Sequence[int] = (64, 128, 320, 512),
        mixer: str | Sequence[str] = "pooling",
        kernel_size: int | None = None,
        mixer_options: Mapping[str, Any] | None = None,
        input_size: Sequence[int] | None = None,
        positional_embedding: bool = False,
        stem_stride: int = 4,
        norm: str = "group_norm",
        activation: str = "gelu",
        mlp_ratio: float = 4.0,
        layer_scale_init: float | Sequence[float | None] | None = 1e-5,
        res_scale_init: float | Sequence[float | None] | None = None,
        drop_path_rate: float = 0.0,
        drop_path_schedule: str = "ramp",
    ) -> None:
        super().__init__()
        if stem_stride not in STEM_STRIDES:
            raise ValueError(f"stem_stride must be one of {STEM_STRIDES}, got {stem_stride!r}")
        if len(depths) != len(dims):
            raise ValueError(f"depths and dims must have one entry a stage each, got {depths=}, {dims=}")
        stages = len(depths)
        mixers: list[str] = per_stage(mixer, stages, "mixer")
        layer_scales = per_stage(layer_scale_init, stages, "layer_scale_init")
        res_scales = per_stage(res_scale_init, stages, "res_scale_init")
        options = stage_mixer_options(mixers, kernel_size, mixer_options or {})
        sizes = stage_sizes(input_size, spatial_dims, stem_stride, stages)
        drop_paths = drop_path_rates(drop_path_rate, depths, drop_path_schedule)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.dims, self.stem_stride = tuple(dims), stem_stride

        self.stem = PatchEmbedding(in_channels, dims[0], spatial_dims=spatial_dims, stride=stem_stride)
        self.stages = nn.ModuleList()
        for i, dim in enumerate(dims):
            blocks = [
                MetaFormerBlock(
                    dim,
                    spatial_dims=spatial_dims,
                    mixer=create_mixer(
                        mixers[i],
                        dim,
                        spatial_dims=spatial_dims,
                        **options[i],
                        **size_option(mixers[i], sizes[i], positional_embedding and j == 0),
                    ),
                    norm=norm,
                    activation=activation,
                    mlp_ratio=mlp_ratio,
                    layer_scale_init=layer_scales[i],
                    res_scale_init=res_scales[i],
                    drop_path=drop_paths[i][j],
                )
                for j in range(depths[i])
            ]
            downsample: nn.Module = nn.Identity()
            if i > 0:
                downsample = PatchEmbedding(dims[i - 1], dim, spatial_dims=spatial_dims, stride=2)
            self.stages.append(MetaFormerStage(downsample, blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all stages, finest first.

        Args:
            x: image, (B, in_channels, *spatial).

        Returns:
            One (B, dims[i], *ceil(spatial / (stem_stride * 2^i))) a stage.
        """
        check_image(x, self.spatial_dims, self.in_channels)
        x = self.stem(pad_to_multiple(x, self.stem_stride))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def per_stage(value: Any, stages: int, name: str) -> list[Any]:
    """``value`` for every stage, or its entries if it is a sequence of one a stage. Raises ValueError otherwise."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * stages
    if len(value) != stages:
        raise ValueError(f"{name} must be one value or {stages}, one a stage; got {list(value)!r}")
    return list(value)


def stage_mixer_options(
    mixers: Sequence[str], kernel_size: int | None, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The part of the mixers' options that each stage's mixer takes. Raises ValueError for one that none takes."""
    if kernel_size is not None:
        options = {"kernel_size": kernel_size, **options}
    valid = [set(mixer_option_names(mixer)) - {"feature_size"} for mixer in mixers]
    unused = sorted(set(options).difference(*valid))
    if unused:
        listed = ", ".join(sorted(set().union(*valid))) or "none"
        names = ", ".join(dict.fromkeys(mixers))
        raise ValueError(f"token mixer {names} has no option {', '.join(unused)}; valid: {listed}")
    return [{key: value for key, value in options.items() if key in names} for names in valid]


def stage_sizes(
    input_size: Sequence[int] | None, spatial_dims: int, stem_stride: int, stages: int
) -> list[tuple[int, ...] | None]:
    """Spatial size of each stage's feature map for an image of ``input_size``; None where that is not given."""
    if input_size is None:
        return [None] * stages
    if len(input_size) != spatial_dims or min(input_size) < 1:
        raise ValueError(f"input_size must be {spatial_dims} positive integers, got {tuple(input_size)!r}")
    strides = [stem_stride * 2**i for i in range(stages)]
    return [tuple(-(-size // stride) for size in input_size) for stride in strides]


def size_option(mixer: str, size: tuple[int, ...] | None, positional_embedding: bool) -> dict[str, Any]:
    """``feature_size`` for a mixer that needs it, nothing for the others. Raises ValueError if it is unknown."""
    wanted = positional_embedding if mixer == "global_attention" else True
    if not wanted or "feature_size" not in mixer_option_names(mixer):
        return {}
    if size is None:
        raise ValueError(f"token mixer {mixer!r} is bound to one image size here: give input_size in voxels")
    return {"feature_size": size}


def drop_path_rates(rate: float, depths: Sequence[int], schedule: str) -> list[list[float]]:
    """Stochastic-depth rate of every block, a list a stage."""
    if schedule not in DROP_PATH_SCHEDULES:
        raise ValueError(f"drop_path_schedule must be one of {DROP_PATH_SCHEDULES}, got {schedule!r}")
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path_rate must be in [0, 1), got {rate!r}")
    last = max(sum(depths) - 1, 1)
    rates = iter(rate * block / last if schedule == "ramp" else rate for block in range(sum(depths)))
    return [[next(rates) for _ in range(depth)] for depth in depths]
