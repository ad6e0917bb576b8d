"""The images that a bundle of an nnU-Net model predicts: find the files of each case, and check them before a start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medmixers.datasets.image_files import check_geometry, has_shear, read_image
from medmixers.datasets.raw_format import is_hidden
from medmixers.datasets.readings import listing
from medmixers.errors import InputError, MissingFileError

if TYPE_CHECKING:
    from medmixers.bundle_runtime.nnunet_inference import Plans

COLOUR_ENDINGS = (".png", ".bmp", ".tif")  # of nnU-Net's NaturalImage2DIO: a colour picture holds all channels


def find_cases(dataset_dir: str, plans: Plans, *, missing_ok: bool = False) -> list[list[str]]:
    """The files of each case, one per channel: of CASE_0000, CASE_0001 ... in a folder or in its imagesTs.

    Hidden files are left out: macOS adds one, ._NAME, to each file that it copies to other file systems.

    Args:
        dataset_dir: the folder.
        plans: of the model.
        missing_ok: return an empty list instead of an error, which the bundle's preflight then raises.

    Raises:
        MissingFileError: no such folder, no case in it, or a channel that is missing.
    """
    try:
        return _cases(Path(dataset_dir), plans)
    except MissingFileError:
        if missing_ok:
            return []
        raise


def _cases(folder: Path, plans: Plans) -> list[list[str]]:
    folder = folder / "imagesTs" if (folder / "imagesTs").is_dir() else folder
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder of images {folder}")
    ending = plans.dataset["file_ending"]
    names = sorted(name for name, is_file in listing(str(folder)).items() if is_file and not is_hidden(name))
    cases = [case for name in names if (case := name.removesuffix(f"_0000{ending}")) not in ("", name)]
    if not cases:
        found = f"; it holds {len(names)} other files, {names[0]} for example" if names else ""
        raise MissingFileError(f"{folder} has no image; expected files named CASE_0000{ending}{found}")
    channels = plans.channels
    if ending in COLOUR_ENDINGS and not any(name.endswith(f"_0001{ending}") for name in names):
        channels = 1
    files = [[folder / f"{case}_{channel:04d}{ending}" for channel in range(channels)] for case in cases]
    for file in (file for case in files for file in case):
        if not file.is_file():
            raise MissingFileError(f"there is no {file}: each case has {channels} files")
    return [[str(file) for file in case] for case in files]


class NnUNetImages:
    """The check of the images before a start, as `medmixers dataset check` has it, for what a model's reader takes.

    Args:
        plans: of the model.
    """

    def __init__(self, *, plans: Plans) -> None:
        self.plans = plans

    def check_case(self, files: Sequence[Path], *, whole: bool = True) -> None:
        """Find the files of one case whole, finite, on one grid, and what the model takes.

        nnU-Net's own readers give zeros for what a truncated file lacks, and read NaN and zeros.

        Args:
            files: one per channel, or one colour picture.
            whole: read the voxels too, not only the headers.

        Raises:
            MissingFileError, InputError: a fault, with the file and what is valid.
        """
        for file in files:
            if not file.is_file():
                raise MissingFileError(f"there is no image {str(file)!r}")
        images = [read_image(file, whole=whole) for file in files]
        for file, image in zip(files, images, strict=True):
            check_geometry(file, image, files[0], images[0])
            if self.plans.dims > len(image.shape):
                raise InputError(f"{file} has the shape {image.shape}; the model takes {self.plans.dims}D images")
            if has_shear(image) and "Nibabel" not in self.plans.manager.plans["image_reader_writer"]:
                raise InputError(
                    f"{file} has axes that are not at right angles, which the model's reader does not read; resample "
                    "it to a grid with right angles"
                )
        channels = sum(image.components for image in images)
        if channels != self.plans.channels:
            raise InputError(f"{files[0]} has {channels} channels; the model takes {self.plans.channels}")
