"""Read one image file: its voxel grid, and its voxels where they are asked for. A damaged file is named."""

from __future__ import annotations

import gzip
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medmixers.datasets.raw_format import NIFTI
from medmixers.errors import InputError, MissingPackageError, first_line, joined_lines
from medmixers.images.pictures import PICTURES

PILLOW_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")
# Grids may differ by rounding in their headers: by this part of a voxel's edge, at the volume's corners.
GEOMETRY_TOLERANCE = 0.1
GZIP_RATIO = 1032  # deflate's highest: bytes that one byte of a .gz file can unpack to
PIECE = 2**20  # bytes that are read at a time
NIFTI2_HEADER = 540  # length in bytes, which is the header's first number
SHEAR_TOLERANCE = 1e-4  # of the cosine between two axes; ITK refuses from about twice of it
MOST_SINGLE = float(np.finfo(np.float32).max)
MOST_EXACT = 2**53  # whole numbers beyond it are not exact in floating point


class Volume(NamedTuple):
    """One image file."""

    shape: tuple[int, ...]  # of the grid
    affine: NDArray[np.float64]  # voxels to millimetres, (D + 1, D + 1)
    components: int = 1
    data: NDArray[Any] = np.empty(0)  # (*shape), or (*shape, components) where components > 1; empty: only the header
    world: NDArray[np.float64] = np.eye(4)  # of NIfTI: voxels to RAS millimetres, the third axis of a 2D file too


def check_geometry(path: Path, volume: Volume, other_path: Path, other: Volume) -> None:
    """Raises ValueError where two images do not lie on one voxel grid."""
    if volume.shape != other.shape:
        raise InputError(f"{path} has shape {volume.shape}, {other_path.name} has {other.shape}")
    corners = np.array(list(product(*((0, extent - 1) for extent in volume.shape), (1,))))
    distance = np.linalg.norm(corners @ (volume.affine - other.affine).T, axis=1).max()
    edge = np.linalg.norm(other.affine[:-1, :-1], axis=0).min()
    if not distance <= GEOMETRY_TOLERANCE * edge:  # written so that a NaN fails
        raise InputError(
            f"{path} lies elsewhere than {other_path.name}: a corner is {distance:.3g} mm away by the affines"
        )


def check_mask_grid(path: Path, mask: Volume, image_path: Path, image: Volume) -> None:
    """Raises InputError where a mask lies elsewhere than its image. A picture lies nowhere.

    Affines are compared that one reader gave: NIfTI's counts to the right and to anterior, ITK's to the left and to
    posterior.
    """
    is_nifti = [file.name.lower().endswith(NIFTI) for file in (path, image_path)]
    is_picture = any(file.name.lower().endswith(PICTURES) for file in (path, image_path))
    if is_nifti[0] == is_nifti[1] and not is_picture:
        check_geometry(path, mask, image_path, image)


def read_image(path: Path, *, whole: bool = True, channels_last: bool = False) -> Volume:
    """Read an image file, or only its header.

    Raises InputError for a file that is damaged, has other than real numbers, holds NaN, infinity or what is infinite
    in single precision, or is a volume of zeros.

    Args:
        path: of the file.
        whole: read the voxels too.
        channels_last: take the last of four axes as components; else four axes are refused.
    """
    volume = read_any(path, whole=whole, channels_last=channels_last)
    if whole:
        check_voxels(path, volume)
    return volume


def check_voxels(path: Path, volume: Volume) -> None:
    """Raise InputError for NaN, infinity, numbers that networks cannot take, and a volume of zeros.

    A picture may be black: slices at the end of a scan are.
    """
    data = volume.data
    finite = np.isfinite(data) if data.dtype.kind == "f" else np.True_
    if not finite.all():
        raise InputError(f"{path} holds NaN or infinity in {int((~finite).sum())} of {data.size} voxels")
    is_double = data.dtype.kind == "f" and data.dtype.itemsize > 4 and data.size > 0
    if is_double and max(-float(data.min()), float(data.max())) > MOST_SINGLE:
        raise InputError(f"{path} holds {np.abs(data).max():.3g}, which is infinite in single precision (float32)")
    if len(volume.shape) == 3 and not data.any():
        raise InputError(f"{path} is 0 in all of its {data.size} voxels")


def read_any(path: Path, *, whole: bool = True, channels_last: bool = False) -> Volume:
    """Read NIfTI through nibabel, which reads sheared affines too, pictures through Pillow, others through ITK.

    NaN and infinity pass. The arguments are those of :func:`read_image`.
    """
    try:
        if path.name.lower().endswith(NIFTI):
            volume = _read_nifti(path, whole=whole)
        else:
            read = _read_picture if path.suffix.lower() in PILLOW_ENDINGS else _read_itk
            volume = read(path, whole=whole)
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise anything: readers follow its bytes
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error
    if channels_last and len(volume.shape) == 4:
        volume = volume._replace(shape=volume.shape[:3], components=volume.shape[3])
    if len(volume.shape) not in (2, 3):
        raise InputError(f"{path} has {len(volume.shape)} axes {volume.shape}; each file is one 2D or 3D channel")
    if volume.data.dtype.kind not in "biuf":
        raise InputError(f"{path} has voxels of type {volume.data.dtype}; a channel holds real numbers")
    _check_affine(path, volume.affine)
    if volume.data.dtype.itemsize == 8 and volume.data.dtype.kind in "iu" and volume.data.size:
        most = max(-int(volume.data.min()), int(volume.data.max()))
        if most > MOST_EXACT:
            raise InputError(f"{path} holds whole numbers up to {most}; those beyond 2^53 are not exact in a network")
    return volume


def has_shear(volume: Volume) -> bool:
    """Whether the axes of the grid are not at right angles. ITK, and nnU-Net with it, reads no such NIfTI file."""
    axes = volume.affine[:-1, :-1] / np.linalg.norm(volume.affine[:-1, :-1], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(len(axes))).max() > SHEAR_TOLERANCE)


def _check_affine(path: Path, affine: NDArray[np.float64]) -> None:
    """Raise InputError where voxels have no size: an affine of zeros, NaN, or with two parallel axes."""
    edges = np.linalg.norm(affine[:-1, :-1], axis=0)
    if not (np.isfinite(affine).all() and (edges > 0).all() and abs(np.linalg.det(affine[:-1, :-1] / edges)) > 1e-6):
        shown = ", ".join(f"{edge:.3g}" for edge in edges)
        raise InputError(f"{path} has no valid affine: voxel edges of {shown} mm, or axes that are parallel")


def _read_nifti(path: Path, *, whole: bool) -> Volume:
    """A .nii.gz is read in one pass to its end, where gzip keeps its checksum and its length."""
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if packed else open(path, "rb") as stream:
        first = stream.read(4)
        stream.seek(0)
        is_second = NIFTI2_HEADER in (int.from_bytes(first, "little"), int.from_bytes(first, "big"))
        kind = nib.Nifti2Image if is_second else nib.Nifti1Image
        if not whole:  # an image takes three times as long
            header = kind.header_class.from_fileobj(stream)
            kept = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
            check_length(path, *kept)
            return _nifti_header(*kept[:2], header.get_best_affine())
        image = kind.from_stream(stream) if packed else kind.from_filename(path)
        voxels = image.dataobj
        check_length(path, voxels.shape, voxels.dtype, voxels.offset)
        volume = _nifti_header(voxels.shape, voxels.dtype, image.affine)
        volume = volume._replace(data=np.asanyarray(voxels).reshape(volume.shape))
        while packed and stream.read(PIECE):
            pass
        return volume


def _nifti_header(shape: tuple[int, ...], dtype: np.dtype[Any], affine: NDArray[np.float64]) -> Volume:
    shape = shape[:3] if set(shape[3:]) <= {1} else shape  # (X, Y, Z, 1) is one volume
    kept = [*range(min(len(shape), 3)), 3]
    return Volume(shape, affine[np.ix_(kept, kept)], data=np.empty(0, dtype), world=affine)


def check_length(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
    """Raise InputError where a NIfTI header claims more voxels than its file can hold; they would fill the memory.

    Args:
        path: of the file.
        shape: of its voxels, by the header.
        dtype: of one voxel.
        offset: bytes before the voxels.
    """
    claimed = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    size = path.stat().st_size
    most = size * GZIP_RATIO if path.name.lower().endswith(".gz") else size
    if claimed > most:
        raise InputError(f"{path} cannot be read: Expected {claimed} bytes by its header, but the file has {size}")


def _read_picture(path: Path, *, whole: bool) -> Volume:
    from PIL import Image  # only here, as SimpleITK: a packed bundle of volumes reads NIfTI without them

    with Image.open(path) as image:
        picture = image.convert("RGB") if image.mode == "P" else image  # a palette's colours, as nnU-Net reads them
        header = Volume(picture.size, np.eye(3), len(picture.getbands()))
        return header._replace(data=np.asarray(picture).swapaxes(0, 1)) if whole else header


def _read_itk(path: Path, *, whole: bool) -> Volume:
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise MissingPackageError(f"reading {path} needs the package SimpleITK: {joined_lines(error)}") from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes = reader.GetDimension()
    affine = np.eye(axes + 1)
    affine[:-1, :-1] = np.reshape(reader.GetDirection(), (axes, axes)) * reader.GetSpacing()
    affine[:-1, -1] = reader.GetOrigin()
    header = Volume(reader.GetSize(), affine, reader.GetNumberOfComponents())
    if not whole:
        return header
    image = reader.Execute()  # named: a view into an image that is gone shows whatever the memory holds next
    data = np.moveaxis(sitk.GetArrayViewFromImage(image), range(axes), range(axes)[::-1])  # to x, y, z
    return header._replace(data=data.copy())
