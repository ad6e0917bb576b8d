"""The images that `medmixers explain` is given: one file, the channels of a case, or a folder of cases."""

from __future__ import annotations

import re
from pathlib import Path

from medmixers.errors import InputError, MissingFileError
from medmixers.images.pictures import PICTURES

NIFTI = (".nii", ".nii.gz")
ENDINGS = "|".join(re.escape(ending) for ending in (".nii.gz", ".nii", *PICTURES))
NAME = re.compile(rf"(.+?)(?:_(\d{{4}}))?({ENDINGS})", re.IGNORECASE)


def explained_cases(image: str | Path, channels: int) -> dict[str, list[Path]]:
    """Name of each case -> its files, one per channel, as nnU-Net names them: CASE_0000.nii.gz, CASE_0001.nii.gz ...

    A picture holds all channels of a network that takes 1 or 3, unless CASE_0001 stands next to it.

    Args:
        image: a NIfTI file or a picture, the first channel of a case; or a folder of those.
        channels: of the network.

    Raises:
        MissingFileError: there is no such file or folder, no image in it, or a channel is missing.
        InputError: a file of another format.
    """
    image = Path(image)
    if image.is_dir():
        files = sorted(path for path in image.iterdir() if path.name.lower().endswith((*NIFTI, *PICTURES)))
        if not files:
            raise MissingFileError(f"{image} holds no NIfTI file and no picture")
    elif not image.is_file():
        raise MissingFileError(f"there is no image {image}")
    else:
        files = [image]
    cases: dict[str, list[Path]] = {}
    for file in files:
        name, paths = _case_of(file, channels)
        if cases.get(name, paths) != paths:
            raise InputError(f"{file} and {cases[name][0]} are both case {name!r}; give one of them")
        cases[name] = paths
    missing = [file for paths in cases.values() for file in paths if not file.is_file()]
    if missing:
        raise MissingFileError(f"there is no image {missing[0]}: the network takes {channels} images per case")
    return cases


def _case_of(file: Path, channels: int) -> tuple[str, list[Path]]:
    """Name and files of the case that a file belongs to."""
    match = NAME.fullmatch(file.name)
    if match is None:
        raise InputError(f"{file} must be a NIfTI file, .nii or .nii.gz, or a picture ({', '.join(PICTURES)})")
    holds_all = file.name.lower().endswith(PICTURES) and channels == 3
    holds_all = holds_all and not file.with_name(f"{match[1]}_0001{match[3]}").is_file()
    if channels == 1 or holds_all:
        return match[1] if match[2] == "0000" else file.name[: -len(match[3])], [file]
    if match[2] is None:
        raise InputError(f"{file} must be named CASE_0000{match[3]}: the network takes {channels} images per case")
    return match[1], [file.with_name(f"{match[1]}_{channel:04d}{match[3]}") for channel in range(channels)]
