"""One image file: what is damaged, or claims more than it holds, is refused before it fills the memory."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medmixers.datasets.image_files import read_any, read_image

DATA = np.random.default_rng(0).random((6, 7, 5), dtype=np.float32)


def content(image: type[nib.Nifti1Image] = nib.Nifti1Image) -> bytes:
    raw: bytes = image(DATA, np.diag([2.0, 2.0, 3.0, 1.0])).to_bytes()
    return raw


@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_sound_files_are_read_as_nibabel_reads_them(
    image: type[nib.Nifti1Image], ending: str, endianness: str, tmp_path: Path
) -> None:
    header = image.header_class(endianness=endianness)
    path = tmp_path / f"a{ending}"
    raw = image(DATA.astype(f"{endianness}f4"), np.diag([2.0, 2.0, 3.0, 1.0]), header).to_bytes()
    path.write_bytes(gzip.compress(raw) if "gz" in ending.lower() else raw)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.data, np.asanyarray(nib.load(path).dataobj))
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    header_only = read_image(path, whole=False)
    assert (header_only.shape, header_only.data.size) == (DATA.shape, 0)


def test_several_gzip_members_and_padding_are_read(tmp_path: Path) -> None:
    raw = content()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]) + bytes(64))
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").data, DATA)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".tif"])
def test_files_that_itk_reads_hold_the_voxels_that_were_written(ending: str, tmp_path: Path) -> None:
    """One after another: the voxels of an image that is gone are overwritten by the next one."""
    import SimpleITK as sitk

    files = {tmp_path / f"{k}{ending}": np.random.default_rng(k).integers(0, 9, (14, 16, 12), "u1") for k in range(8)}
    files = {path: data[0] if ending == ".tif" else data for path, data in files.items()}
    for path, data in files.items():
        sitk.WriteImage(sitk.GetImageFromArray(data), str(path))
    for path, data in files.items():
        np.testing.assert_array_equal(read_any(path).data, data.T)


def flipped(raw: bytes) -> bytes:
    """A flipped bit that leaves finite voxels and a stream that unpacks: only the checksum finds it."""
    packed = gzip.compress(raw)
    for index in range(len(packed) // 2, len(packed) - 20):
        changed = bytearray(packed)
        changed[index] ^= 1
        try:
            unpacked = zlib.decompressobj(31).decompress(bytes(changed), len(raw))
        except zlib.error:
            continue
        is_whole = len(unpacked) == len(raw) and unpacked != raw
        if is_whole and np.isfinite(np.frombuffer(unpacked[352:], "<f4")).all():
            return bytes(changed)
    raise AssertionError("no such bit")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flipped, "CRC check failed"),
        (lambda raw: gzip.compress(raw)[:-6], "end-of-stream marker"),
        (lambda raw: gzip.compress(raw)[:-8] + bytes(8), "CRC check failed"),
        (lambda raw: gzip.compress(raw) + b"more", "Not a gzipped file"),
    ],
)
def test_gzip_is_read_to_its_end(spoil: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(spoil(content()))
    with pytest.raises(ValueError, match=rf"a\.nii\.gz cannot be read: .*{message}"):
        read_image(tmp_path / "a.nii.gz")


def claiming(*shape: int) -> bytes:
    raw = bytearray(content())
    struct.pack_into("<8h", raw, 40, 3, *shape, 1, 1, 1, 1)
    return bytes(raw)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_claims_more_than_its_file_is_refused(ending: str, whole: bool, tmp_path: Path) -> None:
    path, raw = tmp_path / f"a{ending}", claiming(2000, 2000, 1000)
    path.write_bytes(gzip.compress(raw) if ending.endswith("gz") else raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ValueError, match=r"cannot be read: Expected 16000000352 bytes by its header, but the file has \d+$"
    ):
        read_image(path, whole=whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_zeros_compress_as_far_as_gzip_can(tmp_path: Path) -> None:
    """The limit is gzip's own: an image of zeros of any size is read."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9) as stream:
        stream.write(nib.Nifti1Image(np.zeros((200, 200, 100), np.uint8), np.eye(4)).to_bytes())
    (tmp_path / "a.nii.gz").write_bytes(buffer.getvalue())
    assert not read_any(tmp_path / "a.nii.gz").data.any()


@pytest.mark.parametrize(
    "dtype", [np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), np.dtype(np.complex64)], ids=["RGB", "complex"]
)
def test_voxels_that_are_no_real_numbers_are_refused(dtype: np.dtype, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), dtype), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"a\.nii\.gz has voxels of type .*; a channel holds real numbers"):
        read_image(tmp_path / "a.nii.gz")


def test_a_header_extension_that_claims_gigabytes(tmp_path: Path) -> None:
    raw = bytearray(content())
    raw[348] = 1
    struct.pack_into("<f", raw, 108, 368)
    raw[352:352] = struct.pack("<ii", 2**31 - 16, 4) + bytes(8)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(ValueError, match=r"a\.nii\.gz cannot be read: ") as error:
        read_image(tmp_path / "a.nii.gz")
    assert "\n" not in str(error.value)
