"""Pictures of every depth and colour model show the same ramp."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from medmixers.errors import InputError, MissingFileError
from medmixers.images.pictures import picture_size, read_picture

RAMP = (np.add.outer(np.arange(40), np.arange(64)) * 2).astype(np.uint8)  # 0 to 204
COLOURS = np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=-1)
ORIENTATION = 0x0112


def palette_of_greys(file):
    """Index 255 is black and index 0 white: the indices would show the ramp upside down."""
    picture = Image.new("P", RAMP.shape[::-1])
    picture.putdata([int(value) for value in (255 - RAMP).ravel()])
    picture.putpalette([255 - index for index in range(256) for _ in range(3)])
    picture.save(file)


def rotated(file):
    """Stored on its side, with the EXIF orientation that turns it upright (6: rotate by 90 degrees)."""
    stored = Image.fromarray(np.rot90(RAMP))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored.save(file, exif=exif)


GREY = {
    "8.png": lambda file: Image.fromarray(RAMP).save(file),
    "16.png": lambda file: Image.fromarray(RAMP.astype(np.uint16) * 257).save(file),
    "palette.png": palette_of_greys,
    "alpha.png": lambda file: Image.fromarray(np.stack([RAMP, np.full_like(RAMP, 255)], -1), "LA").save(file),
    "rotated.png": rotated,
    "8.bmp": lambda file: Image.fromarray(RAMP).save(file),
    "8.tif": lambda file: Image.fromarray(RAMP).save(file),
    "16.tif": lambda file: tifffile.imwrite(file, RAMP.astype(np.uint16) * 257, photometric="minisblack"),
    "big_endian.tif": lambda file: tifffile.imwrite(file, RAMP.astype(">u2") * 257, byteorder=">"),
    "white_is_zero.tiff": lambda file: tifffile.imwrite(file, 255 - RAMP, photometric="miniswhite"),
    "white_is_zero_16.tiff": lambda file: tifffile.imwrite(
        file, 65535 - RAMP.astype(np.uint16) * 257, photometric="miniswhite"
    ),
    "8.webp": lambda file: Image.fromarray(RAMP).save(file, lossless=True),
}
COLOUR = {
    "rgb.png": lambda file: Image.fromarray(COLOURS).save(file),
    "rgba.png": lambda file: Image.fromarray(np.dstack([COLOURS, np.full_like(RAMP, 255)])).save(file),
    "rgb.bmp": lambda file: Image.fromarray(COLOURS).save(file),
    "rgb.tif": lambda file: Image.fromarray(COLOURS).save(file),
    "rgb.webp": lambda file: Image.fromarray(COLOURS).save(file, lossless=True),
    "cmyk.tif": lambda file: Image.fromarray(np.dstack([255 - COLOURS, np.zeros_like(RAMP)]), "CMYK").save(file),
}


@pytest.mark.parametrize("name", GREY)
def test_a_grey_picture(tmp_path, name):
    GREY[name](tmp_path / name)
    picture = read_picture(tmp_path / name, channels=1)
    np.testing.assert_allclose(picture.pixels, RAMP, atol=0.01)
    assert picture.converted == ""
    size, channels = picture_size(tmp_path / name)
    assert size == RAMP.shape[::-1]
    assert channels == (3 if name.endswith("webp") else 1)  # WebP has no grey: its header says colour


@pytest.mark.parametrize("name", COLOUR)
def test_a_colour_picture(tmp_path, name):
    COLOUR[name](tmp_path / name)
    np.testing.assert_allclose(read_picture(tmp_path / name, channels=3).pixels, COLOURS, atol=0.01)
    assert picture_size(tmp_path / name) == (RAMP.shape[::-1], 3)


def test_a_picture_of_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(np.where(RAMP > 128, 255, 0).astype(np.uint8)).convert("1").save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "1.png").pixels, np.where(RAMP > 128, 255, 0))


def test_jpeg_in_grey_and_colour(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "g.jpg", quality=95)
    Image.fromarray(COLOURS).save(tmp_path / "c.jpg", quality=95, subsampling=0)
    np.testing.assert_allclose(read_picture(tmp_path / "g.jpg").pixels, RAMP, atol=4)
    np.testing.assert_allclose(read_picture(tmp_path / "c.jpg").pixels, COLOURS, atol=8)


def test_a_coloured_palette_gives_its_colours(tmp_path):
    Image.fromarray(COLOURS).quantize(256).save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png")
    assert picture.pixels.shape == COLOURS.shape
    np.testing.assert_array_equal(picture.pixels, np.asarray(Image.fromarray(COLOURS).quantize(256).convert("RGB")))


def test_a_palette_of_16_bits_with_values_of_8_bits_is_not_black(tmp_path):
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2])
    file = tmp_path / "p.tif"
    tifffile.imwrite(file, RAMP, photometric="palette", colormap=colours.astype(np.uint16))
    np.testing.assert_array_equal(read_picture(file).pixels, COLOURS)
    assert picture_size(file) == (RAMP.shape[::-1], 3)


def test_channels_are_converted_and_said_or_refused(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    Image.fromarray(COLOURS).save(tmp_path / "colour.png")
    repeated = read_picture(tmp_path / "grey.png", channels=3)
    np.testing.assert_array_equal(repeated.pixels, np.repeat(RAMP[..., None], 3, axis=-1))
    assert repeated.converted == "grey repeated as red, green and blue"
    luma = read_picture(tmp_path / "colour.png", channels=1)
    np.testing.assert_allclose(luma.pixels, np.asarray(Image.fromarray(COLOURS).convert("L")), atol=1)  # Pillow rounds
    assert luma.converted == "colour reduced to its luma"
    with pytest.raises(InputError, match=r"grey\.png is a grey picture; the network takes 3 channel"):
        read_picture(tmp_path / "grey.png", channels=3, convert=False)
    with pytest.raises(InputError, match=r"colour\.png has 3 channel\(s\); the network takes 2"):
        read_picture(tmp_path / "colour.png", channels=2)


def transparent(file):
    Image.fromarray(np.dstack([COLOURS, RAMP])).save(file)


def two_pages(file):
    Image.fromarray(RAMP).save(file, save_all=True, append_images=[Image.fromarray(RAMP)])


def cut(file):
    Image.fromarray(RAMP).save(file)
    file.write_bytes(file.read_bytes()[:-40])


def bomb(file):
    """A header that claims 60,000 x 60,000 pixels."""
    Image.fromarray(RAMP).save(file)
    content = bytearray(file.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("t.png", transparent, "has transparent pixels"),
        ("two.tif", two_pages, "holds 2 pages"),
        ("cut.png", cut, "cannot be read"),
        ("text.png", lambda file: file.write_text("hello"), "Pillow knows no such picture format"),
        ("float.tif", lambda file: tifffile.imwrite(file, RAMP.astype(np.float32)), "value of white is not defined"),
        ("signed.tif", lambda file: tifffile.imwrite(file, RAMP.astype(np.int16)), "cannot be read|not defined"),
        ("bomb.png", bomb, "cannot be read: Image size"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read_picture(tmp_path / name, channels=1)
    with pytest.raises(MissingFileError):
        read_picture(tmp_path / "none.png")
