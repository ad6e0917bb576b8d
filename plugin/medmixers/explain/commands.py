"""``medmixers explain attention`` and ``receptive_field``: maps of a case, of an nnU-Net model or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes
from torch import Tensor

from medmixers.errors import InputError
from medmixers.explain.case import Case, Window, finite, in_case, window_around
from medmixers.explain.cases import explained_cases
from medmixers.explain.mixer_attention import block_attention
from medmixers.explain.models import Model
from medmixers.explain.picture import write_picture
from medmixers.explain.receptive_field import SHARES, reach, receptive_field
from medmixers.explain.token_attention import token_maps
from medmixers.files import refuse_overwriting_inputs, written_whole
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

    The whole case goes through the network at once, not in windows: attention is a softmax over all positions, so the
    maps of windows could not be stitched together.

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
    loaded, out = Model(model, fold=fold, checkpoint=checkpoint, device=device, announce=announce), Path(out)
    cases = explained_cases(image, loaded.channels)
    if Path(image).is_dir():
        refuse_overwriting_inputs(out, [files[0] for files in cases.values()])
        targets = {case: out / f"{case}.nii.gz" for case in cases}
    else:
        targets = dict.fromkeys(cases, out)
        for files in cases.values():
            _check_target(out, files)
    lines = []
    for name, files in cases.items():
        case = loaded.case(files)
        announce("run the network")
        maps = token_maps(case.network, case.image)
        announce("resample the maps")
        with written_whole(targets[name]) as partial:
            nib.save(case.on_file(maps), partial)
        lines.append(f"{maps.shape[1]} token attention maps of {', '.join(map(str, files))}: {targets[name]}")
    return "\n".join(lines)


def write_block_attention(
    model: str | Path,
    image: str | Path,
    out: str | Path,
    voxel: Sequence[int],
    *,
    fold: str | None = None,
    checkpoint: str | None = None,
    device: str = "cpu",
    announce: Announce = silent,
) -> str:
    """Write what one voxel attends to in every block of attention: 4D NIfTI, one volume per block, and a picture.

    The network gets the window around the voxel. Maps are in multiples of uniform attention in this window.

    Args:
        voxel: of the image file, counted from 0.
        out: NIfTI file; the picture stands next to it, as .png.
        model, image, fold, checkpoint, device, announce: as of :func:`write_attention`; the image is one file.
    """
    case, files = _one_case(model, image, out, fold, checkpoint, device, announce)
    window = window_around(case, voxel)
    announce("run the network")
    blocks = block_attention(case.network, window.image, window.position)
    maps = torch.stack([block.weights for block in blocks])
    picture = _write(case, window, maps, Path(out), files, voxel, announce)
    lines = [
        f"volume {i}: {block.block}, {block.kind}, feature map of {_by(block.grid)}" for i, block in enumerate(blocks)
    ]
    where = f"{len(blocks)} attention maps of voxel {','.join(map(str, voxel))} in {files[0]}: {out}, {picture}"
    return "\n".join([where, *lines])


def write_receptive_field(
    model: str | Path,
    image: str | Path,
    out: str | Path,
    voxel: Sequence[int],
    *,
    fold: str | None = None,
    checkpoint: str | None = None,
    device: str = "cpu",
    announce: Announce = silent,
) -> str:
    """Write the effective receptive field of the output at one voxel: NIfTI and a picture; and say how wide it is.

    Its map is in multiples of the mean in the window. The arguments are those of :func:`write_block_attention`.
    """
    case, files = _one_case(model, image, out, fold, checkpoint, device, announce)
    window = window_around(case, voxel)
    announce("run the network")
    field = receptive_field(case.network, window.image, window.position)
    if not field.any():
        raise InputError(f"no voxel of the image has an influence on voxel {','.join(map(str, voxel))}")
    picture = _write(case, window, field[None], Path(out), files, voxel, announce)
    reached = zip(SHARES, reach(field, window.position), strict=True)
    shares = ", ".join(f"{share:.0%} within {distance}" for share, distance in reached)
    voxels = f"voxels of {_by([f'{size:g}' for size in case.spacing])} mm" if case.spacing else "voxels"
    return (
        f"effective receptive field at voxel {','.join(map(str, voxel))} in {files[0]}: {out}, {picture}\n"
        f"{shares} {voxels} on each axis, in a window of {_by(case.window)}"
    )


def _one_case(
    model: str | Path,
    image: str | Path,
    out: str | Path,
    fold: str | None,
    checkpoint: str | None,
    device: str,
    announce: Announce,
) -> tuple[Case, list[Path]]:
    if Path(image).is_dir():
        raise InputError(f"{image} is a folder: --voxel needs one image file")
    loaded = Model(model, fold=fold, checkpoint=checkpoint, device=device, announce=announce)
    ((_, files),) = explained_cases(image, loaded.channels).items()
    _check_target(Path(out), files)
    refuse_overwriting_inputs(_picture_of(Path(out)), files)
    return loaded.case(files), files


def _check_target(out: Path, files: Sequence[Path]) -> None:
    if not out.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{out} must be a NIfTI file, .nii or .nii.gz")
    refuse_overwriting_inputs(out, files)


def _picture_of(out: Path) -> Path:
    return out.with_name(out.name.removesuffix(".gz").removesuffix(".nii") + ".png")


def _write(
    case: Case, window: Window, maps: Tensor, out: Path, files: Sequence[Path], voxel: Sequence[int], announce: Announce
) -> Path:
    """Write maps of a window, (N, *window), as NIfTI and as a picture. Returns the picture's path."""
    announce("resample the maps")
    volumes = case.on_file(in_case(case, window, finite(maps)))
    source, picture = nib.load(files[0]), _picture_of(out)
    grey = np.asarray(source.dataobj, np.float32).reshape(*source.shape[:2], -1, *source.shape[3:])
    grey = grey.mean(-1) if grey.ndim == 4 else grey
    heat = np.asarray(volumes.dataobj).reshape(*grey.shape, -1)
    place = [*voxel, *[0] * (3 - len(voxel))]
    write_picture(picture, grey, heat, place, voxel_sizes(source.affine))
    with written_whole(out) as partial:
        nib.save(volumes, partial)
    return picture


def _by(sizes: Sequence[object]) -> str:
    return " x ".join(map(str, sizes))
