"""``medmixers explain attention``: the maps of one case or of a folder, of an nnU-Net model or a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, MissingFileError
from medmixers.explain.bundle_attention import BundleAttention, bundle_channels
from medmixers.explain.cases import explained_cases
from medmixers.files import refuse_overwriting_inputs
from medmixers.progress import Announce, silent


def write_attention(
    model: str | Path,
    image: str | Path,
    out: str | Path,
    *,
    fold: str | None = None,
    checkpoint: str | None = None,
    device: str = "cpu",
    announce: Announce = silent,
) -> str:
    """Write token attention maps as NIfTI; a file for a file, a folder of CASE.nii.gz for a folder.

    Args:
        model: folder of an nnU-Net model or of a bundle.
        image: a NIfTI file (of several channels the first, CASE_0000), or a folder of cases.
        out: the file or the folder.
        fold: of an nnU-Net model's weights; the first found by default.
        checkpoint: file name in the fold, or for a bundle a file of weights.
        device: as torch names it.
        announce: called with the name of each step.

    Returns:
        What was written, in words.
    """
    model, out = Path(model), Path(out)
    is_bundle = (model / "configs" / "inference.json").is_file()
    if is_bundle and fold is not None:
        raise InputError("--fold is of nnU-Net models; a bundle has one file of weights: --checkpoint FILE")
    if not is_bundle and not all((model / name).is_file() for name in ("plans.json", "dataset.json")):
        raise MissingFileError(
            f"{model} is neither a trained nnU-Net model, with plans.json and dataset.json, nor a bundle, with "
            "configs/inference.json"
        )
    channels = bundle_channels(model) if is_bundle else _nnunet_channels(model)
    cases = explained_cases(image, channels)
    if Path(image).is_dir():
        refuse_overwriting_inputs(out, [files[0] for files in cases.values()])
        targets = {case: out / f"{case}.nii.gz" for case in cases}
    elif not out.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{out} must be a NIfTI file, .nii or .nii.gz")
    else:
        targets = dict.fromkeys(cases, out)
    options: dict[str, Any] = {"fold": fold, "checkpoint": checkpoint, "device": device, "announce": announce}
    explain = _of_bundle(model, **options) if is_bundle else _of_nnunet(model, **options)
    lines = []
    for case, files in cases.items():
        count = explain(files, targets[case])
        lines.append(f"{count} token attention maps of {', '.join(map(str, files))}: {targets[case]}")
    return "\n".join(lines)


def _nnunet_channels(model: Path) -> int:
    return len(json.loads((model / "dataset.json").read_text("utf-8"))["channel_names"])


def _of_bundle(
    model: Path, *, fold: str | None, checkpoint: str | None, device: str, announce: Announce
) -> Callable[[list[Path], Path], int]:
    announce("load the bundle")
    attention = BundleAttention(model, checkpoint=checkpoint, device=device)
    return lambda files, target: len(attention(files, out=target))


def _of_nnunet(
    model: Path, *, fold: str | None, checkpoint: str | None, device: str, announce: Announce
) -> Callable[[list[Path], Path], int]:
    announce("load nnU-Net")
    from medmixers.explain.nnunet_attention import nnunet_token_attention

    options: dict[str, Any] = {"fold": fold, "device": device, "announce": announce}
    if checkpoint is not None:
        options["checkpoint"] = checkpoint

    def explain(files: list[Path], target: Path) -> int:
        maps, _ = nnunet_token_attention(model, files, out=target, **options)
        return len(maps)

    return explain
