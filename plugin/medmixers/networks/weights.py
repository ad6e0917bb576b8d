"""Weights from elsewhere: timm's and the original authors' checkpoints into our MetaFormers, in 2D and 3D.

The steps are: read, rename to our keys, adapt the shapes, load. Every key is accounted for in the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medmixers.files import first_line

TIMM_PREFIX = "timm:"

# (pattern, replacement), applied in order to every key. timm's checkpoints have stem and stages as we do; its head
# holds the last norm. The authors' PoolFormer has patch_embed and network.k, stages and downsamplings in turn; their
# baselines have downsample_layers and stages.i.j, and a norm of its own inside the MLP head.
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
ENCODER_RENAME = (r"^(stem|stages)\.", r"encoder.\1.")


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` did with each key.

    Args:
        loaded: taken as they were.
        adapted: our key -> how it was changed to fit.
        skipped: key of the checkpoint -> why it was not used.
        kept: our key -> why it kept its start value.
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

    2D weights go into a 3D network by inflation: a kernel is repeated along the new axis and divided by its length,
    so that a volume that is constant along that axis gets the 2D network's answer away from the borders. The first
    convolution is adapted to other channel counts as timm does it (summed for one channel, repeated and rescaled for
    others). A classification head of another class count, or none, is left out.

    Args:
        network: one with an ``encoder``: a MetaFormer classifier or SegFormer.
        source: a state dict; a file that torch wrote; or "timm:NAME", which timm downloads and caches.
        warm_start: allow other token mixers than the checkpoint's: all else is loaded, mixers where they fit. Attention
            weights go into global and local attention (a local head of 16 channels takes half a head of 32); the
            checkpoint's positional embedding is dropped.

    Raises:
        ValueError: keys or shapes that do not fit; nothing is loaded then.
        FileNotFoundError: no such file.
        OSError: timm could not download.
    """
    state = _rename(read_checkpoint(source))
    own = network.state_dict()
    fitted: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    skipped: dict[str, str] = {}
    unfit: list[str] = []
    for key, value in state.items():
        is_mixer = ".token_mixer." in key
        if key.startswith(("norm.", "head.")) and (key not in own or value.shape != own[key].shape):
            skipped[key] = "head of another task"
        elif key not in own:
            if warm_start and (is_mixer or key.endswith(".pos_embed")):
                skipped[key] = "another token mixer"
            else:
                unfit.append(f"{key} is not in the network")
        else:
            tensor, change = _fit(key, value, own[key])
            if tensor is not None:
                fitted[key] = tensor
                if change:
                    adapted[key] = change
            elif warm_start and is_mixer:
                skipped[key] = "another token mixer"
            else:
                unfit.append(f"{key} has shape {tuple(value.shape)}, the network's is {tuple(own[key].shape)}")
    kept: dict[str, str] = {}
    for key in own.keys() - fitted.keys():
        if key.endswith(("qkv.bias", "proj.bias")) and key.removesuffix("bias") + "weight" in fitted:
            fitted[key], adapted[key] = torch.zeros_like(own[key]), "set to zero: the checkpoint has no such bias"
        elif key.startswith(("norm.", "head.", "norms.", "decoder.")):
            kept[key] = "head of another task"
        elif warm_start and ".token_mixer." in key:
            kept[key] = "another token mixer"
        else:
            unfit.append(f"{key} is not in the checkpoint")
    if unfit:
        hint = "" if warm_start else "; warm_start=True allows other token mixers"
        raise ValueError(f"{len(unfit)} keys do not fit, the first: {sorted(unfit)[0]}{hint}")
    network.load_state_dict({**own, **fitted})
    loaded = tuple(key for key in fitted if key not in adapted)
    return LoadReport(loaded, adapted, skipped, kept)


def read_checkpoint(source: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict behind ``source``, as of :func:`load_weights`, with its own keys."""
    if isinstance(source, Mapping):
        return dict(source)
    if str(source).startswith(TIMM_PREFIX):
        return _download_from_timm(str(source).removeprefix(TIMM_PREFIX))
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {str(source)!r}; valid: a file, or 'timm:NAME' to download")
    saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        saved = saved.get(wrapper, saved) if isinstance(saved, dict) else saved
    if not isinstance(saved, dict) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise ValueError(f"{str(path)!r} holds no state dict (names and tensors)")
    return saved


def _download_from_timm(name: str) -> dict[str, Tensor]:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}; valid are timm's poolformer, convformer and caformer models")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises many kinds; all mean that there are no weights
        raise OSError(
            f"timm could not download {name!r} ({first_line(error)}); fetch its file elsewhere and give its path"
        ) from error


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under our keys, whichever format it is in."""
    renames = TIMM_RENAMES if "stem.conv.weight" in state else ORIGINAL_RENAMES
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in (*renames, ENCODER_RENAME):
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def _fit(key: str, value: Tensor, own: Tensor) -> tuple[Tensor | None, str]:
    """``value`` in the shape of ``own`` and what was done for it; None if it cannot be."""
    changes = []
    if key == "encoder.stem.conv.weight" and value.shape[1] != own.shape[1]:
        from timm.models import adapt_input_conv

        changes.append(f"input channels {value.shape[1]} -> {own.shape[1]}")
        value = adapt_input_conv(own.shape[1], value)
    if value.ndim == 2 and own.ndim > 2 and value.shape == own.shape[:2]:
        value = value.reshape(own.shape) if own[0, 0].numel() == 1 else value  # timm's linear MLPs of attention stages
    if value.ndim == 4 and own.ndim == 5 and value.shape[:2] == own.shape[:2]:
        depth = own.shape[2]
        changes.append("inflated to 3D")
        value = value.unsqueeze(2).expand(-1, -1, depth, -1, -1) / depth
    if value.shape != own.shape:
        return None, ""
    return value.to(own.dtype), ", ".join(changes)
