"""Pretrained weights: checkpoints of timm and of the original authors for our MetaFormers, in 2D and 3D.

The steps are: read, rename to our keys, adapt the shapes, load. The report accounts for every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medmixers.checkpoints import read_checkpoint
from medmixers.errors import InputError, MissingFileError, first_line
from medmixers.networks.metaformer import MetaFormerEncoder
from medmixers.variants import NETWORKS

TIMM_PREFIX = "timm:"
VALID_CONTENT = "valid: a state dict (names and tensors), alone or under 'state_dict' or 'model'"

# (pattern, replacement), applied in order to every key. timm's checkpoints have our stem and stages; their head holds
# the last norm. The authors' PoolFormer has patch_embed and network.k, where stages and downsamplings alternate. Their
# baselines have downsample_layers and stages.i.j, and another norm inside the MLP head.
TIMM_RENAMES = (
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
)
ORIGINAL_RENAMES = (
    (r"^patch_embed\.proj\.", "stem.conv."),
    (r"^downsample_layers\.0\.post_norm\.", "stem.norm."),
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.pre_norm\.", r"stages.\1.downsample.norm."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^network\.(\d+)\.proj\.", lambda m: f"stages.{(int(m[1]) + 1) // 2}.downsample.conv."),
    (r"^network\.(\d+)\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.layer_scale_(\d)$", r".layer_scale\1.scale"),
)
WRAPPER_PREFIXES = r"^(module\.|_orig_mod\.)+"  # state dicts of distributed and compiled networks have them
ENCODER_RENAME = (r"^(stem|stages)\.", r"encoder.\1.")


@dataclass(frozen=True)
class LoadReport:
    """Report of :func:`load_weights` on each key.

    Args:
        loaded: keys loaded without a change.
        adapted: our key -> change that made it fit.
        skipped: key of the checkpoint -> reason for not using it.
        kept: our key -> reason for keeping its start value.
    """

    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    skipped: Mapping[str, str]
    kept: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded, {len(self.adapted)} adapted"]
        for title, reasons in (("adapted", self.adapted), ("skipped", self.skipped), ("kept", self.kept)):
            for reason in dict.fromkeys(reasons.values()):
                keys = [key for key, why in reasons.items() if why == reason]
                lines.append(f"{title}, {reason}: {len(keys)}, {keys[0]}" + (" ..." if len(keys) > 1 else ""))
        return "\n".join(lines)


def load_weights(
    network: nn.Module, source: str | Path | Mapping[str, Tensor], *, warm_start: bool = False
) -> LoadReport:
    """Load a 2D ImageNet checkpoint of a MetaFormer into one of ours, in place.

    Inflation fits 2D weights to a 3D network: a kernel is repeated along the new axis and divided by its length. A
    volume that is constant along that axis then gets the 2D network's answer away from the borders. The first
    convolution is adapted to other channel counts as in timm: summed for one channel, repeated and rescaled for more.
    A classification head with another number of classes is not loaded.

    Args:
        network: a MetaFormer classifier or SegFormer, with an ``encoder``.
        source: a state dict; a file that torch wrote; or "timm:NAME", to download by timm.
        warm_start: allow other token mixers than the checkpoint's. Mixers are loaded if they fit, and everything else
            is loaded. Attention weights fit global and local attention (a local head of 16 channels takes half a head
            of 32). The checkpoint's positional embedding is not loaded.

    Raises:
        ValueError: keys or shapes that do not fit, or a file without a state dict; nothing is loaded then.
        FileNotFoundError: no such file.
        OSError: timm could not download.
    """
    own = network.state_dict()
    if not isinstance(getattr(network, "encoder", None), MetaFormerEncoder):
        raise InputError(f"{type(network).__name__} takes no weights from elsewhere; valid: {_families()}")
    theirs = read_source(source)
    state = _rename(theirs)
    if not any(key.startswith("encoder.") for key in own.keys() & state.keys()):
        raise InputError(
            f"the checkpoint is of another kind of network: none of its {len(theirs)} names, {min(theirs)!r} for "
            "example, is in the encoder; valid: a MetaFormer's, timm's, of the original authors or of this package"
        )
    fitted: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    skipped: dict[str, str] = {}
    misfits: dict[str, str] = {}  # key -> why it does not fit
    for key, value in state.items():
        if key.startswith(("norm.", "head.")) and (key not in own or value.shape != own[key].shape):
            skipped[key] = "head of another task"
        elif key not in own:
            misfits[key] = "is not in the network"
        else:
            tensor, change = _fit(key, value, own[key])
            if tensor is None:
                misfits[key] = f"has shape {tuple(value.shape)}, the network's is {tuple(own[key].shape)}"
                continue
            fitted[key] = tensor
            if change:
                adapted[key] = change
    kept: dict[str, str] = {}
    for key in [key for key in own if key not in fitted]:
        if key.endswith(("qkv.bias", "proj.bias")) and key.removesuffix("bias") + "weight" in fitted:
            fitted[key], adapted[key] = torch.zeros_like(own[key]), "set to zero: the checkpoint has no such bias"
        elif key.startswith(("norm.", "head.", "norms.", "decoder.")):
            kept[key] = "head of another task"
        else:
            misfits.setdefault(key, "is not in the checkpoint")
    _check_misfits(misfits, warm_start=warm_start)
    skipped |= {key: "another token mixer" for key in misfits if key in state}
    kept |= {key: "another token mixer" for key in misfits if key in own}
    network.load_state_dict({**own, **fitted})
    loaded = tuple(key for key in fitted if key not in adapted)
    return LoadReport(loaded, adapted, skipped, kept)


def _families() -> str:
    """Names of the families that are built around our encoder."""
    families = {name.partition("_")[0] for name, row in NETWORKS.items() if row.encoder}
    return "networks named " + ", ".join(f"{family}_*" for family in sorted(families))


def _check_misfits(misfits: Mapping[str, str], *, warm_start: bool) -> None:
    """Raise ValueError for misfits. ``warm_start`` allows misfits of token mixers."""
    others = [key for key in misfits if not (".token_mixer." in key or key.endswith(".pos_embed"))]
    wrong = others if warm_start else list(misfits)
    if wrong:
        first = min(others or wrong)
        hint = "" if others else "; warm_start=True allows other token mixers"
        raise InputError(f"{len(wrong)} keys do not fit, the first: {first} {misfits[first]}{hint}")


def read_source(source: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ``source`` (see :func:`load_weights`), without the key prefixes of DDP and torch.compile.

    Raises:
        ValueError: a file or a mapping without a state dict, or a name that timm does not know.
        OSError: no such file, or timm could not download.
    """
    if isinstance(source, Mapping):
        return _state_dict(source, "the mapping")
    if str(source).startswith(TIMM_PREFIX):
        return _download_from_timm(_timm_name(str(source)))
    path = Path(source)
    if not path.is_file():
        raise MissingFileError(f"no weights file {str(source)!r}; valid: a file, or 'timm:NAME' to download")
    try:
        saved = read_checkpoint(path)
    except InputError as error:
        raise InputError(f"{error}; {VALID_CONTENT}") from error
    return _state_dict(saved, repr(str(path)))


def check_source(source: str) -> None:
    """Raise the errors of :func:`read_source`, without a download."""
    if source.startswith(TIMM_PREFIX):
        _timm_name(source)
    else:
        read_source(source)


def _state_dict(saved: Any, where: str) -> dict[str, Tensor]:
    """Names and tensors in ``saved``. Raises ValueError, with the contents of ``where``, if there are none."""
    for wrapper in ("state_dict", "model"):
        saved = saved.get(wrapper, saved) if isinstance(saved, Mapping) else saved
    if isinstance(saved, Mapping) and saved and all(isinstance(value, Tensor) for value in saved.values()):
        return {re.sub(WRAPPER_PREFIXES, "", str(key)): value for key, value in saved.items()}
    found = f"an object of {type(saved).__name__}"
    if isinstance(saved, Mapping):
        keys = [repr(key) for key in saved]
        found = f"the keys {', '.join(keys[:5])}{' ...' if len(keys) > 5 else ''}" if keys else "nothing"
    raise InputError(f"{where} holds {found}, no state dict; {VALID_CONTENT}")


def _timm_name(source: str) -> str:
    """The name in "timm:NAME". Raises ValueError if timm has no such model."""
    import timm

    name = source.removeprefix(TIMM_PREFIX)
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"timm has no model {name!r}; valid are timm's poolformer, convformer and caformer models")
    return name


def _download_from_timm(name: str) -> dict[str, Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises many kinds of errors
        raise OSError(
            f"timm could not download {name!r} ({first_line(error)}); fetch its file elsewhere and give its path"
        ) from error


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with our keys, from every known format."""
    renames = TIMM_RENAMES if "stem.conv.weight" in state else ORIGINAL_RENAMES
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in (*renames, ENCODER_RENAME):
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def _fit(key: str, value: Tensor, own: Tensor) -> tuple[Tensor | None, str]:
    """``value`` in the shape of ``own``, and the changes made; None if it does not fit."""
    changes = []
    if key == "encoder.stem.conv.weight" and value.shape[1] != own.shape[1]:
        from timm.models import adapt_input_conv

        changes.append(f"input channels {value.shape[1]} -> {own.shape[1]}")
        value = adapt_input_conv(own.shape[1], value)
    if value.ndim == 2 and own.ndim > 2 and value.shape == own.shape[:2]:
        value = value.reshape(own.shape) if own[0, 0].numel() == 1 else value  # linear MLPs of timm's attention stages
    if value.ndim == 4 and own.ndim == 5 and value.shape[:2] == own.shape[:2]:
        depth = own.shape[2]
        changes.append("inflated to 3D")
        value = value.unsqueeze(2).expand(-1, -1, depth, -1, -1) / depth
    if value.shape != own.shape:
        return None, ""
    return value.to(own.dtype), ", ".join(changes)
