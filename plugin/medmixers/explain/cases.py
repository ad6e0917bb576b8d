"""The images that `medmixers explain` is given: one file, the channels of a case, or a folder of cases."""

from __future__ import annotations

import re
from pathlib import Path

from medmixers.errors import InputError, MissingFileError

NIFTI = (".nii", ".nii.gz")
NAME = re.compile(r"(.+?)(?:_(\d{4}))?(\.nii(?:\.gz)?)", re.IGNORECASE)


def explained_cases(image: str | Path, channels: int) -> dict[str, list[Path]]:
    """Name of each case -> its files, one per channel, as nnU-Net names them: CASE_0000.nii.gz, CASE_0001.nii.gz ...

    Args:
        image: a NIfTI file, the first channel of a case; or a folder of those.
        channels: of the network.

    Raises:
        MissingFileError: there is no such file or folder, no NIfTI file in it, or a channel is missing.
        InputError: a file of another format.
    """
    image = Path(image)
    if image.is_dir():
        files = sorted(path for path in image.iterdir() if path.name.lower().endswith(NIFTI))
        if not files:
            raise MissingFileError(f"{image} holds no NIfTI file")
    elif not image.is_file():
        raise MissingFileError(f"there is no image {image}")
    else:
        files = [image]
    cases: dict[str, list[Path]] = {}
    for file in files:
        match = NAME.fullmatch(file.name)
        if match is None:
            raise InputError(f"{file} must be a NIfTI file, .nii or .nii.gz")
        if channels == 1:
            cases[match[1] if match[2] == "0000" else file.name[: -len(match[3])]] = [file]
        elif match[2] is None:
            raise InputError(f"{file} must be named CASE_0000{match[3]}: the network takes {channels} images per case")
        else:
            cases[match[1]] = [file.with_name(f"{match[1]}_{channel:04d}{match[3]}") for channel in range(channels)]
    missing = [file for paths in cases.values() for file in paths if not file.is_file()]
    if missing:
        raise MissingFileError(f"there is no image {missing[0]}: the network takes {channels} images per case")
    return cases
