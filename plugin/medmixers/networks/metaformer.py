"""MetaFormer: block, stage and encoder (Yu et al. 2022, 2023; the study's form is Keuth et al. 2025, figure 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.conv import check_positive, check_spatial_dims, is_integer
from medmixers.layers.norms import create_norm
from medmixers.layers.sizes import check_image, level_strides, pad_to_multiple, per_axis
from medmixers.mixers import TOKEN_MIXERS
from medmixers.mixers.build import create_mixer, mixer_option_names
from medmixers.networks.blocks import Downsampling, MetaFormerBlock, MetaFormerStage, create_stem

DROP_PATH_SCHEDULES = ("constant", "ramp")


class MetaFormerEncoder(nn.Module):
    """Stages of MetaFormer blocks, four as published, with a token mixer each; one stage is an isotropic network.

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
            by ``positional_embedding``; other image sizes then raise. The other mixers do not use it.
        positional_embedding: learn one in the first block of each stage of global attention (the study's 2D
            classification); or one choice a stage.
        stem: "overlapping" convolution, "patch" embedding, or a "convolutional" stem (Yu et al. 2023, isotropic).
        stem_stride: downsampling of the stem: 4 as published, 2 or 1 for finer feature maps, 16 if isotropic; or one
            an axis.
        stage_strides: downsampling before each further stage: 2 as published; or one a stage, each 1 or 2 or a choice
            an axis, as ((1, 2, 2), 2, 2).
        norm: "group_norm" (one group), "layer_norm" (channels of a position), "batch_norm" or "none"; or one a stage.
        norm_bias: whether the blocks' and the downsampling's norms have a bias.
        norm_eps: added to the variance in the blocks' norms; None means the norm's own default.
        downsample_norm: norm after the stem and before each downsampling; "none" in Keuth et al. 2025.
        activation: of the channel MLP, a name of :data:`medmixers.layers.activations.ACTIVATIONS`.
        mlp_ratio: width of the channel MLP over C.
        mlp_bias: whether the channel MLP has biases.
        layer_scale_init: start value of LayerScale, None without; or one a stage.
        res_scale_init: start value of ResScale, None without; or one a stage. Both together are BranchScale.
        residual: False leaves the blocks' shortcuts out.
        channel_mlp: False leaves the blocks' channel MLPs out.
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
        positional_embedding: bool | Sequence[bool] = False,
        stem: str = "overlapping",
        stem_stride: int | Sequence[int] = 4,
        stage_strides: int | Sequence[int | Sequence[int]] = 2,
        norm: str | Sequence[str] = "group_norm",
        norm_bias: bool = True,
        norm_eps: float | None = None,
        downsample_norm: str = "none",
        activation: str = "gelu",
        mlp_ratio: float = 4.0,
        mlp_bias: bool = True,
        layer_scale_init: float | Sequence[float | None] | None = 1e-5,
        res_scale_init: float | Sequence[float | None] | None = None,
        residual: bool = True,
        channel_mlp: bool = True,
        drop_path_rate: float = 0.0,
        drop_path_schedule: str = "ramp",
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_stages(depths, dims)
        check_positive(in_channels=in_channels)
        stages = len(dims)
        mixers: list[str] = per_stage(mixer, stages, "mixer")
        norms: list[str] = per_stage(norm, stages, "norm")
        embeddings: list[bool] = per_stage(positional_embedding, stages, "positional_embedding")
        if any(embeddings) and not any(TOKEN_MIXERS[name].takes_position for name in mixers):
            valid = ", ".join(name for name, row in TOKEN_MIXERS.items() if row.takes_position)
            raise InputError(f"positional_embedding belongs to token mixer {valid}, got {', '.join(mixers)}")
        layer_scales = per_stage(layer_scale_init, stages, "layer_scale_init")
        res_scales = per_stage(res_scale_init, stages, "res_scale_init")
        options = stage_mixer_options(mixers, kernel_size, mixer_options or {})
        strides = [
            per_axis(stem_stride, spatial_dims, "stem_stride"),
            *level_strides(stage_strides, stages - 1, spatial_dims, "stage_strides"),
        ]
        sizes: Sequence[tuple[int, ...] | None] = [None] * stages
        if input_size is not None:
            sizes = stage_sizes(input_size, strides)
        drop_paths = drop_path_rates(drop_path_rate, depths, drop_path_schedule)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.dims, self.strides = tuple(dims), tuple(strides)

        def downsampling_norm(dim: int) -> nn.Module:
            return create_norm(downsample_norm, dim, spatial_dims=spatial_dims, bias=norm_bias)

        self.stem = create_stem(
            stem, in_channels, dims[0], spatial_dims=spatial_dims, stride=strides[0], norm=downsampling_norm(dims[0])
        )
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
                        **size_option(mixers[i], sizes[i], embeddings[i] and j == 0),
                    ),
                    norm=norms[i],
                    norm_bias=norm_bias,
                    norm_eps=norm_eps,
                    activation=activation,
                    mlp_ratio=mlp_ratio,
                    mlp_bias=mlp_bias,
                    layer_scale_init=layer_scales[i],
                    res_scale_init=res_scales[i],
                    drop_path=drop_paths[i][j],
                    residual=residual,
                    channel_mlp=channel_mlp,
                )
                for j in range(depths[i])
            ]
            downsample: nn.Module = nn.Identity()
            if i > 0:
                before = dims[i - 1]
                downsample = Downsampling(
                    before, dim, spatial_dims=spatial_dims, norm=downsampling_norm(before), stride=strides[i]
                )
            self.stages.append(MetaFormerStage(downsample, blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all stages, finest first.

        Args:
            x: image, (B, in_channels, *spatial).

        Returns:
            One (B, dims[i], *ceil(spatial / stride)) a stage, stride being the product of all up to it.
        """
        check_image(x, self.spatial_dims, self.in_channels)
        x = self.stem(pad_to_multiple(x, self.strides[0]))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def check_stages(depths: Sequence[int], dims: Sequence[int]) -> None:
    """Raise ValueError unless there is one entry a stage in each, blocks somewhere and channels everywhere."""
    if not (isinstance(depths, Sequence) and isinstance(dims, Sequence) and 0 < len(dims) == len(depths)):
        raise InputError(f"depths and dims must have one entry a stage each, got {depths=}, {dims=}")
    if not all(is_integer(depth) and depth >= 0 for depth in depths) or not any(depths):
        raise InputError(f"depths must be integers >= 0, not all of them 0, got {depths!r}")
    check_positive(**{f"dims[{i}]": dim for i, dim in enumerate(dims)})


def per_stage(value: Any, stages: int, name: str) -> list[Any]:
    """``value`` for every stage, or its entries if it is a sequence of one a stage. Raises ValueError otherwise."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * stages
    if len(value) != stages:
        raise InputError(f"{name} must be one value or {stages}, one a stage; got {list(value)!r}")
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
        raise InputError(f"token mixer {names} has no option {', '.join(unused)}; valid: {listed}")
    return [{key: value for key, value in options.items() if key in names} for names in valid]


def stage_sizes(input_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Spatial size of each stage's feature map for an image of ``input_size``, from the strides an axis of each stage.

    Raises ValueError for no image size.
    """
    size = tuple(input_size) if isinstance(input_size, Iterable) else ()
    if len(size) != len(strides[0]) or not all(is_integer(length) and length >= 1 for length in size):
        raise InputError(f"input_size must be {len(strides[0])} positive integers, got {input_size!r}")
    sizes = []
    for stride in strides:
        size = tuple(-(-length // step) for length, step in zip(size, stride, strict=True))
        sizes.append(size)
    return sizes


def size_option(mixer: str, size: tuple[int, ...] | None, positional_embedding: bool) -> dict[str, Any]:
    """``feature_size`` for a mixer that needs it, nothing for the others. Raises ValueError if it is unknown."""
    row = TOKEN_MIXERS[mixer]
    if not (row.size_bound or (row.takes_position and positional_embedding)):
        return {}
    if size is None:
        raise InputError(f"token mixer {mixer!r} is bound to one image size here: give input_size in voxels")
    return {"feature_size": size}


def drop_path_rates(rate: float, depths: Sequence[int], schedule: str) -> list[list[float]]:
    """Stochastic-depth rate of every block, a list a stage."""
    if schedule not in DROP_PATH_SCHEDULES:
        raise InputError(f"drop_path_schedule must be one of {DROP_PATH_SCHEDULES}, got {schedule!r}")
    if not 0 <= rate < 1:
        raise InputError(f"drop_path_rate must be in [0, 1), got {rate!r}")
    last = max(sum(depths) - 1, 1)
    rates = iter(rate * block / last if schedule == "ramp" else rate for block in range(sum(depths)))
    return [[next(rates) for _ in range(depth)] for depth in depths]
