"""``create_network`` and the lists of names. torch is imported when a network is built, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmixers.errors import InputError, MissingPackageError
from medmixers.mixers import TOKEN_MIXERS
from medmixers.registry import check_options, check_types, locate, option_names
from medmixers.variants import NETWORKS

if TYPE_CHECKING:
    from torch import nn


def list_networks() -> list[str]:
    """Names that :func:`create_network` takes."""
    return sorted(NETWORKS)


def list_mixers() -> list[str]:
    """Names that the option ``mixer`` of the MetaFormer networks takes."""
    return sorted(TOKEN_MIXERS)


def stage_mixers(name: str, options: Mapping[str, Any]) -> set[str]:
    """Token mixers of a network with these options; empty for one that has none."""
    mixer = {**NETWORKS[name].arguments, **options}.get("mixer", ())
    return {mixer} if isinstance(mixer, str) else set(mixer)


def needs_input_size(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a network with these options is built for one image size, and takes it as ``input_size``."""
    chosen = {**NETWORKS[name].arguments, **options}
    mixers = stage_mixers(name, options)
    return (
        NETWORKS[name].size_bound
        or bool(chosen.get("positional_embedding"))
        or any(TOKEN_MIXERS[mixer].size_bound for mixer in mixers)
    )


def create_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    pretrained: str | Path | bool | None = None,
    warm_start: bool = False,
    frozen: int | Sequence[str] = (),
    activation_checkpointing: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a network by its name, untrained unless ``pretrained`` is given.

    Args:
        name: one of :func:`list_networks`.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes (or sigmoid channels) of the logits.
        pretrained: a weights file, or "timm:NAME"; see :func:`medmixers.networks.weights.load_weights`, which also
            reports what it did. True downloads the weights that timm publishes for this name, or for the blocks that
            the option ``transformer`` of a Token-UNet names.
        warm_start: let ``pretrained`` come from a network with other token mixers.
        frozen: modules that are not trained, for example ("encoder",); or a number of stages of a MetaFormer's encoder,
            with the stem.
        activation_checkpointing: in training compute each block's activations a second time in the backward pass.
            This saves memory and costs a second forward; results, random numbers and keys of the state dict stay.
        options: keyword arguments of the network's and its encoder's constructors, for example ``mixer``,
            ``kernel_size``, ``norm``; they override what the name fixes. ``medmixers list options NAME`` lists them.

    Returns:
        The module. It maps images (B, in_channels, *spatial) to logits, (B, out_channels) of a classifier and
        (B, out_channels, *spatial) of a segmentation network.

    Raises:
        InputError: an unknown name or option (the message gives the nearest valid ones), a value of another type or out
            of range, or weights that do not fit.
        OSError: weights that cannot be found or downloaded.
    """
    from medmixers.layers.conv import check_positive, check_spatial_dims

    check_spatial_dims(spatial_dims)
    check_positive(in_channels=in_channels, out_channels=out_channels)
    _check_switches(warm_start=warm_start, activation_checkpointing=activation_checkpointing)
    _check_source(pretrained)
    network = _build(name, spatial_dims, in_channels, out_channels, options)
    if pretrained is True:
        pretrained = _published_weights(name, options)
    if pretrained:
        _weights_loader()(network, pretrained, warm_start=warm_start)
    if frozen:
        from medmixers.layers.freezing import freeze

        freeze(network, frozen)
    if activation_checkpointing:
        from medmixers.layers.checkpointing import checkpoint_blocks

        checkpoint_blocks(network, [locate(path) for path in NETWORKS[name].blocks])
    return network


def _check_switches(**switches: Any) -> None:
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InputError(f"{name} must be True or False, got {value!r}")


def _check_source(pretrained: Any) -> None:
    """An empty text is refused: a variable that is not set would leave the network untrained."""
    if not (pretrained is None or isinstance(pretrained, bool | Path)) and (
        not isinstance(pretrained, str) or not pretrained.strip()
    ):
        raise InputError(f'pretrained must be a weights file, "timm:NAME", True or None, got {pretrained!r}')


def network_of_weights(source: str | Path, *, mixer: str | None = None, kernel_size: int | None = None) -> Any:
    """The network that an author's checkpoint comes from: :func:`medmixers.networks.weights.saved_network`."""
    try:
        from medmixers.networks.weights import saved_network
    except ImportError as error:  # the code in a bundle's zip
        raise MissingPackageError("this belongs to the installed package medmixers") from error
    return saved_network(source, mixer=mixer, kernel_size=kernel_size)


def _published_weights(name: str, options: Mapping[str, Any]) -> str:
    """Source of the weights that timm publishes for a network. Raises InputError for one without."""
    weights, transformer = NETWORKS[name].weights, str(options.get("transformer"))
    if transformer.startswith("timm:"):
        return transformer
    if weights.startswith("timm:"):
        return weights
    where = f"its published weights are a file, {weights}: download it and" if weights else "no weights are published:"
    raise InputError(f"pretrained=True: timm has no weights of {name!r}; {where} give a file's path")


def load_start_weights(network: nn.Module, source: str | Path) -> Any:
    """Start weights for a training on another data set, into ``network`` in place, and the report on them.

    :func:`medmixers.networks.weights.load_weights` adapts the first convolution to other channels and leaves the last
    layers out where they have another number of classes.

    Raises:
        InputError: anything else does not fit; nothing is loaded then.
    """
    return _weights_loader()(network, source, other_classes=True)


def _weights_loader() -> Callable[..., Any]:
    try:
        from medmixers.networks.weights import load_weights
    except ImportError as error:  # the code in a bundle's zip
        raise MissingPackageError("pretrained belongs to the installed package medmixers; here give weights") from error
    return load_weights


def _build(name: str, spatial_dims: int, in_channels: int, out_channels: int, options: Mapping[str, Any]) -> nn.Module:
    arguments = {**NETWORKS[name].arguments, **options}
    check_network_options(name, arguments, types=False)
    try:
        network = _construct(name, spatial_dims, in_channels, out_channels, arguments)
    except InputError:  # a constructor names its limits better than a type does
        raise
    except Exception:
        check_network_options(name, arguments)
        raise
    check_network_options(name, arguments)
    return network


def _construct(
    name: str, spatial_dims: int, in_channels: int, out_channels: int, arguments: Mapping[str, Any]
) -> nn.Module:
    row = NETWORKS[name]
    target = locate(row.target)
    if row.encoder is None:
        return target(spatial_dims, in_channels, out_channels, **arguments)
    encoder = locate(row.encoder)
    encoder_names = option_names(encoder)
    own = {key: value for key, value in arguments.items() if key not in encoder_names}
    shared = {key: value for key, value in arguments.items() if key in encoder_names}
    return target(encoder(spatial_dims, in_channels, **shared), out_channels, **own)


def check_network_options(name: str, options: Mapping[str, Any], *, types: bool = True) -> None:
    """Raise InputError for an option that the network does not have, or for a value of another type.

    Args:
        name: of the network.
        options: of the network.
        types: check the types of the values too, and of the values in ``mixer_options``.
    """
    row = NETWORKS[name]
    owner, targets = f"network {name!r}", [locate(path) for path in (row.target, row.encoder) if path]
    valid = [option for target in targets for option in option_names(target)]
    check_options(owner, options, valid, listing=f"medmixers list options {name}")
    if types:
        for target in targets:
            check_types(owner, options, target)
        for mixer in sorted(stage_mixers(name, options)):
            mixer_options = options.get("mixer_options") or {}
            check_types(f"token mixer {mixer!r}", mixer_options, locate(TOKEN_MIXERS[mixer].target))
