"""The inputs of cases.json, by name: each writes its file."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (6, 7, 5)
VOXELS = np.arange(1, 211, dtype=np.int16).reshape(SHAPE)
RAMP = (np.add.outer(np.arange(8), np.arange(12)) * 10).astype(np.uint8)
COLOURS = np.stack([RAMP, 255 - RAMP, RAMP // 2], -1)


def nifti(data: Any, affine: Any = AFFINE, **options: Any) -> Callable[[Path], None]:
    return lambda path: nib.save(nib.Nifti1Image(data, affine, **options), path)


def changed(change: Callable[[bytearray], Any]) -> Callable[[Path], None]:
    """The bytes of a sound file, changed before they are packed."""

    def write(path: Path) -> None:
        raw = bytearray(nib.Nifti1Image(VOXELS.astype(np.float32), AFFINE).to_bytes())
        change(raw)
        path.write_bytes(gzip.compress(bytes(raw)))

    return write


def packed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The bytes of a sound file, changed after they are packed."""
    raw = nib.Nifti1Image(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), AFFINE).to_bytes()
    return lambda path: path.write_bytes(change(gzip.compress(raw)))


def scaled(path: Path) -> None:
    """Stored as 2 (v - 1), with slope 0.5 and intercept 1."""
    raw = bytearray(nib.Nifti1Image(2 * (VOXELS - 1), AFFINE).to_bytes())
    struct.pack_into("<2f", raw, 112, 0.5, 1)
    path.write_bytes(gzip.compress(bytes(raw)))


def with_value(value: float) -> np.ndarray:
    data = VOXELS.astype(np.float64)
    data[3, 4, 2] = value
    return data


def zero_affine(raw: bytearray) -> None:
    struct.pack_into("<2h", raw, 252, 0, 1)
    struct.pack_into("<12f", raw, 280, *[0.0] * 12)


SHEARED = np.array([[2, 0, 0.6, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
RGB = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
BIG = VOXELS.astype(np.int64) + 2**53
VOLUMES: dict[str, Callable[[Path], Any]] = {
    "16-bit whole numbers": nifti(VOXELS),
    "single precision": nifti(VOXELS.astype(np.float32)),
    "double precision": nifti(VOXELS.astype(np.float64)),
    "unsigned 8 bits": nifti(VOXELS.astype(np.uint8)),
    "slope and intercept": scaled,
    "big-endian": nifti(VOXELS.astype(">f4"), header=nib.Nifti1Header(endianness=">")),
    "NIfTI-2": lambda path: nib.save(nib.Nifti2Image(VOXELS, AFFINE), path),
    "(X, Y, Z, 1)": nifti(VOXELS[..., None]),
    "sheared axes": nifti(VOXELS, SHEARED),
    "NaN": nifti(with_value(np.nan)),
    "infinity": nifti(with_value(-np.inf)),
    "1e300": nifti(with_value(1e300)),
    "all zero": nifti(np.zeros(SHAPE, np.float32)),
    "complex": nifti(VOXELS.astype(np.complex64)),
    "RGB voxels": nifti(RGB),
    "beyond 2^53": nifti(BIG, dtype=np.int64),
    "4D": nifti(np.stack([VOXELS] * 2, -1)),
    "2D": nifti(VOXELS[..., 0]),
    "affine of zeros": changed(zero_affine),
    "claims 16 GB": changed(lambda raw: struct.pack_into("<8h", raw, 40, 3, 2000, 2000, 1000, 1, 1, 1, 1)),
    "cut off": packed(lambda raw: raw[: len(raw) // 2]),
    "without checksum": packed(lambda raw: raw[:-6]),
    "wrong checksum": packed(lambda raw: raw[:-8] + bytes(4) + raw[-4:]),
    "text": lambda path: path.write_text("no image"),
    "empty file": lambda path: path.write_bytes(b""),
    "not packed": lambda path: path.write_bytes(nib.Nifti1Image(VOXELS, AFFINE).to_bytes()),
}


def picture(pixels: np.ndarray, mode: str | None = None, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(path, **options)

    return write


def cut_off(path: Path) -> None:
    Image.fromarray(COLOURS).save(path)
    path.write_bytes(path.read_bytes()[:-30])


def transparent(path: Path) -> None:
    Image.fromarray(np.dstack([COLOURS, RAMP])).save(path)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(COLOURS).copy()).save(path, exif=exif, quality=100, subsampling=0)


def bomb(path: Path) -> None:
    """A few bytes whose header claims 60 000 x 60 000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


# name -> ending of the file, how it is written, greatest difference from COLOURS or RAMP that its format makes
PICTURES: dict[str, tuple[str, Callable[[Path], Any], float]] = {
    "RGB PNG": (".png", picture(COLOURS), 0),
    "grey PNG": (".png", picture(RAMP), 0),
    "16-bit grey PNG": (".png", picture(RAMP.astype(np.uint16) * 257), 0.01),
    "1-bit PNG": (".png", picture((RAMP > 90).astype(np.uint8) * 255, "1"), 255),
    "palette PNG": (".png", picture(COLOURS, "P"), 255),
    "opaque RGBA PNG": (".png", picture(COLOURS, "RGBA"), 0),
    "CMYK TIFF": (".tif", picture(COLOURS, "CMYK"), 1),
    "BMP": (".bmp", picture(COLOURS), 0),
    "lossless WebP": (".webp", picture(COLOURS, lossless=True), 0),
    "JPEG with EXIF orientation": (".jpg", rotated, 12),
    "RGBA PNG with transparent pixels": (".png", transparent, 0),
    "TIFF of real numbers": (".tif", picture(RAMP.astype(np.float32)), 0),
    "TIFF of two pages": (
        ".tif",
        picture(RAMP, save_all=True, append_images=[Image.fromarray(RAMP)]),
        0,
    ),
    "cut off PNG": (".png", cut_off, 0),
    "text named PNG": (".png", lambda path: path.write_text("no image"), 0),
    "PNG that claims 3.6 gigapixels": (".png", bomb, 0),
}
