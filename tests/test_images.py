"""Pictures as they come: every kind that must open, every kind that must be refused with a reason."""

import contextlib
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from bitfuse.errors import InputError
from bitfuse.features.images import header_pixels, open_image


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def quarters(mode="RGB"):
    """40 x 20: red top left, green top right, blue bottom left, yellow bottom right."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :20], pixels[:10, 20:], pixels[10:, :20], pixels[10:, 20:] = RED, GREEN, BLUE, YELLOW
    return Image.fromarray(pixels).convert(mode)


RED, GREEN, BLUE, YELLOW, WHITE = (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (255, 255, 255)


def near(pixel, colour, tolerance=12):
    return np.abs(np.subtract(pixel, colour)).max() <= tolerance


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_allowed_format_opens_from_bytes_and_from_a_file(form, tmp_path):
    data = encoded(quarters(), form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    path = tmp_path / "named.anything"
    path.write_bytes(data)
    for source in (data, path):
        image = open_image(source)
        assert image.mode == "RGB"
        assert image.size == (40, 20)
        assert near(image.getpixel((5, 5)), RED, 30)
    assert header_pixels(data) == 800


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_makes_the_picture_upright(form, orientation):
    stored = {
        1: lambda i: i,
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.rotate(180, expand=True),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.rotate(90, expand=True),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.rotate(270, expand=True),
    }[orientation](quarters())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    image = open_image(encoded(stored, form, exif=exif, **options))
    assert image.size == (40, 20)
    for place, colour in (((5, 5), RED), ((34, 5), GREEN), ((5, 14), BLUE), ((34, 14), YELLOW)):
        assert near(image.getpixel(place), colour, 60), (orientation, place)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # PIL says so, and rightly
def test_broken_exif_beside_sound_pixels_is_ignored():
    data = encoded(quarters(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(data).size == (40, 20)


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert open_image(encoded(clear, "PNG")).getpixel((3, 3)) == WHITE
    assert near(open_image(encoded(half, "PNG")).getpixel((3, 3)), (127, 127, 127), 1)
    assert open_image(encoded(clear, "WEBP", lossless=True)).getpixel((3, 3)) == WHITE
    assert open_image(encoded(clear.convert("LA"), "PNG")).getpixel((3, 3)) == WHITE


def test_palette_with_and_without_a_transparent_colour():
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    assert near(open_image(encoded(palette, "PNG")).getpixel((34, 14)), YELLOW)
    index = palette.getpixel((34, 14))
    clear = open_image(encoded(palette, "PNG", transparency=index))
    assert clear.getpixel((34, 14)) == WHITE
    assert near(clear.getpixel((5, 5)), RED)


def test_cmyk_and_greyscale():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert near(open_image(encoded(ink, "JPEG", quality=95)).getpixel((8, 8)), (255, 0, 0), 30)
    assert open_image(encoded(Image.new("L", (4, 4), 77), "PNG")).getpixel((1, 1)) == (77, 77, 77)
    assert open_image(encoded(Image.new("1", (4, 4), 1), "PNG")).getpixel((1, 1)) == WHITE


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(form):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    image = open_image(encoded(Image.fromarray(ramp), form))
    np.testing.assert_array_equal(np.asarray(image)[..., 0].ravel(), np.arange(256))


def test_big_endian_sixteen_bit_tiff():
    values = np.array([[0, 32768], [65535, 257]], ">u2")
    data = encoded(Image.frombytes("I;16B", (2, 2), values.tobytes()), "TIFF")
    assert np.asarray(open_image(data))[..., 0].tolist() == [[0, 128], [255, 1]]


def test_thirty_two_bit_pixels_have_no_range_and_are_refused():
    with pytest.raises(InputError, match="no fixed range"):
        open_image(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(form):
    frames = [Image.new("RGB", (12, 12), c) for c in (RED, GREEN, BLUE)]
    image = open_image(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
    assert near(image.getpixel((6, 6)), RED, 30)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_pictures_are_refused(form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, form)
    for keep in (len(data) // 2, 20):
        with pytest.raises(InputError, match="damaged"):
            open_image(data[:keep])


def bomb(width, height):
    """A PNG of a few dozen bytes whose header claims any size."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header_without_a_warning(side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="over the limit"):
            open_image(bomb(side, side))


def test_limits_can_be_set_and_thin_lines_are_refused():
    data = encoded(quarters(), "PNG")
    with pytest.raises(InputError, match="limit of 799"):
        open_image(data, max_pixels=799)
    assert open_image(data, max_pixels=800).size == (40, 20)
    with pytest.raises(InputError, match="thinner"):
        open_image(encoded(Image.new("RGB", (1, 101)), "PNG"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just words", "not a picture"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<!doctype html><p>not found", "text document"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"RIFF\0\0\0\0WAVEfmt " + bytes(40), "not a picture"),
        (b"P6 2 2 255 " + bytes(12), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
        (b"\xff\xd8\xff", "damaged"),
    ],
)
def test_what_is_not_a_picture_is_refused_with_the_reason(data, reason):
    with pytest.raises(InputError, match=reason):
        open_image(data)
    assert header_pixels(data) == 0


def test_files_that_are_not_there_or_not_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.png").touch()
    for name, reason in (("none.png", "no such file"), ("", "not an ordinary"), ("pipe", "not an ordinary")):
        with pytest.raises(InputError, match=reason):
            open_image(tmp_path / name)
    with pytest.raises(InputError, match=r"empty\.png: empty"):
        open_image(tmp_path / "empty.png")
    with pytest.raises(InputError, match="cannot be read"):
        open_image(Path("a\0b"))


def test_pil_settings_are_left_alone():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    open_image(encoded(quarters(), "PNG"))
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert before == after


SEEDS = [encoded(quarters(), form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damage_gives_a_picture_or_an_input_error_and_nothing_else(data, draw):
    broken = bytearray(data)
    for place in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)):
        broken[place] = draw.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(InputError):
            assert open_image(bytes(broken), max_pixels=1_000_000).mode == "RGB"
