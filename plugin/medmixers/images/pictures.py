"""Pictures (PNG, JPEG, TIFF, BMP, WebP) as numbers from 0 to 255, whatever their depth and colour model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.errors import InputError, MissingFileError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")
BITS_PER_SAMPLE, PHOTOMETRIC, COLOUR_MAP, SAMPLE_FORMAT = 258, 262, 320, 339  # tags of TIFF
UNSIGNED, WHITE_IS_ZERO = 1, 0


class Picture(NamedTuple):
    """A picture.

    Args:
        pixels: float32 from 0 (black) to 255 (white), (height, width) or (height, width, 3).
        converted: how the colour was changed to fit the wanted channels; empty where it was not.
    """

    pixels: NDArray[np.float32]
    converted: str = ""


def read_picture(path: Path, *, channels: int | None = None, convert: bool = True) -> Picture:
    """Read a picture by its own depth and colour model.

    The darkest value that its format can hold becomes 0 and the brightest 255. A palette gives its colours, CMYK
    becomes RGB, and the EXIF orientation is applied.

    Args:
        path: the file.
        channels: 1 gives grey, 3 gives RGB; None keeps what the file holds.
        convert: False refuses a file of another number of channels instead of converting it.

    Raises:
        MissingFileError: there is no such file.
        InputError: the file is damaged, its depth is not defined, it has transparent pixels or several pages, or
            ``convert`` is False and the channels differ.
    """
    with _opened(path, whole=True) as image:
        pixels = _by_depth(path, image)
    return fit_channels(path, pixels, channels, convert=convert)


def picture_size(path: Path) -> tuple[tuple[int, int], int]:
    """(width, height) and the number of channels of a picture, from its header. Raises as :func:`read_picture`."""
    with _opened(path, whole=False) as image:
        size = image.size[::-1] if _is_rotated(image) else image.size
        return size, 3 if _is_colour(image) else 1


def fit_channels(path: Path, pixels: NDArray[np.float32], channels: int | None, *, convert: bool) -> Picture:
    """Grey to RGB by repetition, RGB to grey by ITU-R 601 luma. Other channel counts are refused."""
    own = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if channels is None or own == channels:
        return Picture(pixels)
    if {own, channels} != {1, 3}:
        raise InputError(f"{path} has {own} channel(s); the network takes {channels}")
    if not convert:
        kind = "a grey" if own == 1 else "a colour"
        raise InputError(f"{path} is {kind} picture; the network takes {channels} channel(s)")
    if own == 1:
        return Picture(np.repeat(pixels[..., None], 3, axis=-1), "grey repeated as red, green and blue")
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    is_grey = bool((pixels == pixels[..., :1]).all())
    return Picture(pixels[..., 0].copy(), "") if is_grey else Picture(luma, "colour reduced to its luma")


@contextmanager
def _opened(path: Path, *, whole: bool) -> Iterator[Image]:
    """The picture, after the checksums of its file are found right where ``whole``."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise MissingFileError(f"there is no picture {str(path)!r}")
    try:
        if whole:
            with Image.open(path) as image:
                image.verify()  # Pillow then wants the file opened again
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise InputError(f"{path} holds {image.n_frames} pages; give one picture per file")
            _correct_palette(image)
            yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path} cannot be read: Pillow knows no such picture format") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise InputError(f"{path} cannot be read: {first_line(error)}") from None


def _correct_palette(image: Image) -> None:
    """Take a TIFF's palette without a value above 255 as one of 8 bits, as libtiff does: Pillow makes it black."""
    if image.format == "TIFF" and image.mode == "P":
        colours: Any = np.array(image.tag_v2[COLOUR_MAP]).reshape(3, -1)  # type: ignore[attr-defined]
        if colours.max() < 256:
            image.putpalette(colours.T.astype(np.uint8).tobytes())


def _by_depth(path: Path, image: Image) -> NDArray[np.float32]:
    """Pixels scaled by the depth that the file states."""
    from PIL import ImageOps

    if image.mode in (*SIXTEEN_BITS, "F"):
        white, inverted = _white_of_grey(path, image)
        grey = np.asarray(ImageOps.exif_transpose(image), np.float32) * np.float32(255 / white)
        return 255 - grey if inverted else grey
    picture: Any = ImageOps.exif_transpose(image)
    if picture.has_transparency_data:
        picture = _without_alpha(path, picture)
    mode = "RGB" if _is_colour(picture) else "L"
    return np.asarray(picture.convert(mode), np.float32)


def _white_of_grey(path: Path, image: Image) -> tuple[int, bool]:
    """The value of white of a grey picture of more than 8 bits, and whether its scale is inverted (TIFF)."""
    if image.format != "TIFF":
        if image.mode == "F":
            raise InputError(f"{path} holds real numbers: its value of white is not defined; save it with 8 or 16 bits")
        return 2**16 - 1, False
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits, kind = tags.get(BITS_PER_SAMPLE, (1,))[0], tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    if kind != UNSIGNED or bits > 16:
        raise InputError(
            f"{path} holds {bits}-bit {'integers' if kind == UNSIGNED else 'signed or real numbers'}: its value of "
            "white is not defined; save it with 8 or 16 bits"
        )
    return 2**bits - 1, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _without_alpha(path: Path, picture: Any) -> Any:
    """Drop an opaque alpha channel. A transparent pixel has no defined colour, so it is refused."""
    whole = picture.convert("LA" if picture.mode in ("LA", "La", "L", "1") else "RGBA")
    if whole.getchannel("A").getextrema()[0] < 255:
        raise InputError(f"{path} has transparent pixels, so its colours depend on a background; save it without alpha")
    return whole.convert("L" if whole.mode == "LA" else "RGB")


def _is_colour(image: Image) -> bool:
    """Whether it holds colour; a palette of greys does not."""
    if image.mode in ("P", "PA"):
        colours = np.asarray(image.convert("RGB"))
        return bool((colours != colours[..., :1]).any())
    return image.mode not in ("1", "L", "LA", "La", "F", *SIXTEEN_BITS)


def _is_rotated(image: Image) -> bool:
    """Whether the EXIF orientation exchanges width and height."""
    return image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
