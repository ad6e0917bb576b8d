"""MetaFormer encoder (Yu et al. 2022, 2023; Keuth et al. 2025, figure 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from medmixers.errors import InputError
from medmixers.layers.conv import check_positive, check_spatial_dims, is_integer
from medmixers.layers.norms import create_norm
from medmixers.layers.sizes import check_image_shape, level_strides, pad_to_multiple, per_axis
from medmixers.mixers import TOKEN_MIXERS
from medmixers.mixers.build import create_mixer, mixer_option_names
from medmixers.networks.blocks import BlockOptions, Downsampling, MetaFormerBlock, MetaFormerStage, create_stem

DROP_PATH_SCHEDULES = ("constant", "ramp")
EMBEDDING_PLACES = ("mixer", "stage")


class MetaFormerEncoder(nn.Module):
    """Stages of MetaFormer blocks, four as published, each with its token mixer. One stage is an isotropic network.

    Zeros pad the end of each axis to a multiple of ``stem_stride``, so that no border voxel is dropped. Later stages
    round sizes up.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        depths: blocks per stage.
        dims: channels per stage.
        mixer: name of the token mixer (``medmixers.list_mixers()``), or one name per stage for a hybrid.
        kernel_size: kernel of the mixers in voxels, or one per stage; None means each mixer's own default.
        mixer_options: other options of the mixers. Each stage takes the options that its mixer has. An option that no
            stage's mixer has raises.
        input_size: image size in voxels. Size-bound mixers and ``positional_embedding`` need it, and then other image
            sizes raise. Other mixers do not use it.
        positional_embedding: whether each stage of global attention learns one; or one choice per stage.
        positional_embedding_at: "mixer": added in the first block's mixer, after its norm (Keuth et al. 2025);
            "stage": added before the stage's first block (Yu et al. 2022), whatever its token mixer.
        stem: "overlapping" convolution, "patch" embedding, or "convolutional" stem (Yu et al. 2023, isotropic).
        stem_stride: downsampling of the stem: 4 as published, 2 or 1 for finer feature maps, 16 if isotropic; or one
            per axis.
        stage_strides: downsampling before each stage after the first: 2 as published; or one per stage, each 1, 2 or
            one per axis, for example ((1, 2, 2), 2, 2).
        norm: "group_norm" (one group), "layer_norm" (channels of each position), "batch_norm" or "none"; or one per
            stage.
        norm_bias: whether the norms of blocks and downsampling have a bias.
        norm_eps, activation, mlp_ratio, mlp_bias, residual, channel_mlp: as of
            :class:`medmixers.networks.blocks.BlockOptions`.
        downsample_norm: norm after the stem and before each downsampling; "none" in Keuth et al. 2025.
        layer_scale_init: start value of LayerScale, or None; or one per stage.
        res_scale_init: start value of ResScale, or None; or one per stage. With both it is BranchScale.
        drop_path_rate: rate of stochastic depth.
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
        kernel_size: int | Sequence[int | None] | None = None,
        mixer_options: Mapping[str, Any] | None = None,
        input_size: Sequence[int] | None = None,
        positional_embedding: bool | Sequence[bool] = False,
        positional_embedding_at: str = "mixer",
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
        strides = [
            per_axis(stem_stride, spatial_dims, "stem_stride"),
            *level_strides(stage_strides, stages - 1, spatial_dims, "stage_strides"),
        ]
        if positional_embedding_at not in EMBEDDING_PLACES:
            raise InputError(
                f"positional_embedding_at must be one of {EMBEDDING_PLACES}, got {positional_embedding_at!r}"
            )
        embedded = per_stage(positional_embedding, stages, "positional_embedding")
        at_stage = [chosen and positional_embedding_at == "stage" for chosen in embedded]
        sizes = None if input_size is None else stage_sizes(input_size, strides)
        if any(at_stage) and sizes is None:
            raise InputError("a positional embedding is bound to one image size: give input_size in voxels")
        mixers = stage_mixers(
            per_stage(mixer, stages, "mixer"),
            [chosen and positional_embedding_at == "mixer" for chosen in embedded],
            sizes,
            per_stage(kernel_size, stages, "kernel_size"),
            mixer_options or {},
        )
        shared = BlockOptions(
            norm_bias=norm_bias,
            norm_eps=norm_eps,
            activation=activation,
            mlp_ratio=mlp_ratio,
            mlp_bias=mlp_bias,
            residual=residual,
            channel_mlp=channel_mlp,
        )
        options = stage_options(
            shared, stages, norm=norm, layer_scale_init=layer_scale_init, res_scale_init=res_scale_init
        )
        drop_paths = drop_path_rates(drop_path_rate, depths, drop_path_schedule)
        downsampling_norm = partial(create_norm, downsample_norm, spatial_dims=spatial_dims, bias=norm_bias)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.dims, self.strides = tuple(dims), tuple(strides)
        self.stem = create_stem(
            stem, in_channels, dims[0], spatial_dims=spatial_dims, stride=strides[0], norm=downsampling_norm(dims[0])
        )
        self.stages = nn.ModuleList()
        for i, dim in enumerate(dims):
            blocks = create_blocks(dim, mixers[i], options[i], drop_paths[i], spatial_dims=spatial_dims)
            downsample: nn.Module = nn.Identity()
            if i > 0:
                before = dims[i - 1]
                downsample = Downsampling(
                    before, dim, spatial_dims=spatial_dims, norm=downsampling_norm(before), stride=strides[i]
                )
            embedding = (dim, *sizes[i]) if sizes and at_stage[i] else None
            self.stages.append(MetaFormerStage(downsample, blocks, embedding=embedding))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of all stages, finest first.

        Args:
            x: image, (B, in_channels, *spatial).

        Returns:
            Per stage (B, dims[i], *ceil(spatial / stride)), with the product of the strides so far.
        """
        check_image_shape(x, self.spatial_dims, self.in_channels)
        x = self.stem(pad_to_multiple(x, list(self.strides[0])))
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def check_stages(depths: Sequence[int], dims: Sequence[int]) -> None:
    """Raise ValueError unless both have one entry per stage, with at least one block, and channels everywhere."""
    if not (isinstance(depths, Sequence) and isinstance(dims, Sequence) and 0 < len(dims) == len(depths)):
        raise InputError(f"depths and dims must have one entry per stage each, got {depths=}, {dims=}")
    if not all(is_integer(depth) and depth >= 0 for depth in depths) or not any(depths):
        raise InputError(f"depths must be integers >= 0, not all of them 0, got {depths!r}")
    check_positive(**{f"dims[{i}]": dim for i, dim in enumerate(dims)})


def per_stage(value: Any, stages: int, name: str) -> list[Any]:
    """``value`` for every stage, or its entries, one per stage. Raises ValueError for another number of entries."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * stages
    if len(value) != stages:
        raise InputError(f"{name} must be one value or {stages}, one per stage; got {list(value)!r}")
    return list(value)


def stage_mixer_options(
    mixers: Sequence[str], kernel_sizes: Sequence[int | None], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Options of each stage's mixer. Raises ValueError for an option that no mixer has."""
    kernels = [{} if kernel is None else {"kernel_size": kernel} for kernel in kernel_sizes]
    valid = [set(mixer_option_names(mixer)) - {"feature_size"} for mixer in mixers]
    unused = sorted({*options, *(name for kernel in kernels for name in kernel)}.difference(*valid))
    if unused:
        listed = ", ".join(sorted(set().union(*valid))) or "none"
        names = ", ".join(dict.fromkeys(mixers))
        raise InputError(f"token mixer {names} has no option {', '.join(unused)}; valid: {listed}")
    return [
        {key: value for key, value in {**kernel, **options}.items() if key in names}
        for kernel, names in zip(kernels, valid, strict=True)
    ]


def stage_sizes(input_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Spatial size of each stage's feature map for an image of ``input_size``, given each stage's strides per axis.

    Raises ValueError unless ``input_size`` is an image size.
    """
    size = tuple(input_size) if isinstance(input_size, Iterable) else ()
    if len(size) != len(strides[0]) or not all(is_integer(length) and length >= 1 for length in size):
        raise InputError(f"input_size must be {len(strides[0])} positive integers, got {input_size!r}")
    sizes = []
    for stride in strides:
        size = tuple(-(-length // step) for length, step in zip(size, stride, strict=True))
        sizes.append(size)
    return sizes


@dataclass(frozen=True)
class StageMixer:
    """Token mixer of one stage.

    Args:
        name: name in ``TOKEN_MIXERS``.
        options: options of every block.
        feature_size: spatial size of the stage's feature map; None if the image size is not known.
        positional_embedding: whether the first block has one.
    """

    name: str
    options: Mapping[str, Any]
    feature_size: tuple[int, ...] | None
    positional_embedding: bool

    def build(self, dim: int, spatial_dims: int, *, is_first: bool) -> nn.Module:
        """The mixer of one block. Raises ValueError if it needs the image size and the size is not known."""
        row, options = TOKEN_MIXERS[self.name], dict(self.options)
        if row.size_bound or (row.takes_position and self.positional_embedding and is_first):
            if self.feature_size is None:
                raise InputError(
                    f"token mixer {self.name!r} is bound to one image size here: give input_size in voxels"
                )
            options["feature_size"] = self.feature_size
        return create_mixer(self.name, dim, spatial_dims=spatial_dims, **options)


def stage_mixers(
    names: Sequence[str],
    embeddings: Sequence[bool],
    sizes: Sequence[tuple[int, ...]] | None,
    kernel_sizes: Sequence[int | None],
    options: Mapping[str, Any],
) -> list[StageMixer]:
    """Token mixer of each stage.

    Args:
        names: one name per stage.
        embeddings: whether each stage has a positional embedding.
        sizes: sizes of the feature maps, if the image size is known.
        kernel_sizes: one kernel per stage, or None for the mixer's own default.
        options: other options of the mixers.
    """
    if any(embeddings) and not any(TOKEN_MIXERS[name].takes_position for name in names):
        valid = ", ".join(name for name, row in TOKEN_MIXERS.items() if row.takes_position)
        raise InputError(f"positional_embedding belongs to token mixer {valid}, got {', '.join(names)}")
    each = stage_mixer_options(names, kernel_sizes, options)
    feature_sizes = [None] * len(names) if sizes is None else sizes
    return list(map(StageMixer, names, each, feature_sizes, embeddings))


def stage_options(shared: BlockOptions, stages: int, **each: Any) -> list[BlockOptions]:
    """Block options of each stage: ``shared``, with those of ``each`` that may differ between the stages."""
    values = {name: per_stage(value, stages, name) for name, value in each.items()}
    return [replace(shared, **{name: entries[i] for name, entries in values.items()}) for i in range(stages)]


def create_blocks(
    dim: int, mixer: StageMixer, options: BlockOptions, drop_paths: Sequence[float], *, spatial_dims: int
) -> list[MetaFormerBlock]:
    """Blocks of a stage, one per entry of ``drop_paths``."""
    return [
        MetaFormerBlock(
            dim,
            spatial_dims=spatial_dims,
            mixer=mixer.build(dim, spatial_dims, is_first=i == 0),
            options=options,
            drop_path=rate,
        )
        for i, rate in enumerate(drop_paths)
    ]


def drop_path_rates(rate: float, depths: Sequence[int], schedule: str) -> list[list[float]]:
    """Stochastic-depth rate of every block, one list per stage."""
    if schedule not in DROP_PATH_SCHEDULES:
        raise InputError(f"drop_path_schedule must be one of {DROP_PATH_SCHEDULES}, got {schedule!r}")
    if not 0 <= rate < 1:
        raise InputError(f"drop_path_rate must be in [0, 1), got {rate!r}")
    last = max(sum(depths) - 1, 1)
    rates = iter(rate * block / last if schedule == "ramp" else rate for block in range(sum(depths)))
    return [[next(rates) for _ in range(depth)] for depth in depths]
