"""Opening pictures that strangers made: one decoder, with limits, for extraction, search and the service."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from bitfuse.errors import InputError

DECODING = 1
"""Version of what `open_image` makes of a file; part of cache keys, raised when pixels would change."""

MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 28
MAX_ASPECT = 100
"""Longest over shortest side: encoders scale the shortest side up, so a line of one pixel is a bomb too."""

# Plugins are called directly, not through Image.open: it would warn or raise by PIL's own global limit, before ours.
_FORMATS: tuple[tuple[bytes, Callable[[io.BytesIO], ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def open_image(source: Path | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Image.Image:
    """Decode a picture to RGB, upright, whole.

    JPEG, PNG, WebP, GIF, BMP and TIFF, told by content. EXIF rotation is applied; transparency is laid on white;
    16-bit grey is scaled to 8 bits; of an animation the first frame is taken. PIL's global settings stay as they are.

    Args:
        source: a file, or the bytes of one.
        max_pixels: width times height allowed, checked on the header before anything is decoded.
        name: what messages call the picture (default: the file's name, or the number of bytes).

    Returns:
        A `PIL.Image.Image` of mode RGB, fully loaded.

    Raises:
        InputError: missing, empty, not a picture of these formats, truncated, too large, or thinner than 1:100.
    """
    name = name or (source.name if isinstance(source, Path) else f"{len(source)} bytes")
    image = _open(read_bytes(source), name)
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(f"{name}: {width} x {height} pixels are over the limit of {max_pixels:,}; scale it down")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"{name}: {width} x {height} pixels are thinner than 1:{MAX_ASPECT}; crop it")
    if image.mode in ("I", "F"):
        raise InputError(f"{name}: 32-bit pixels have no fixed range; save 8 or 16 bits per channel")
    try:
        image.load()
        return _upright(_rgb(image), image)
    except Exception as error:  # a damaged file can make a decoder raise nearly anything, and must not end a run
        raise InputError(f"{name}: damaged or truncated picture ({error or type(error).__name__})") from error


def header_pixels(data: bytes) -> int:
    """Width times height by the header, nothing decoded; 0 where `open_image` would refuse the header anyway."""
    try:
        width, height = _open(data, "").size
    except InputError:
        return 0
    return width * height


def read_bytes(source: Path | bytes) -> bytes:
    """The bytes of a picture file of at most 256 MiB (bytes are handed through).

    Raises:
        InputError: not an ordinary readable file, empty, or too large.
    """
    if isinstance(source, bytes):
        size, data = len(source), source
    else:
        try:
            facts = source.stat()
            if not stat.S_ISREG(facts.st_mode):  # a named pipe or a device would never end
                raise InputError(f"{source.name}: not an ordinary file")
            size = facts.st_size
            data = source.read_bytes() if size <= MAX_BYTES else b""
        except FileNotFoundError as error:
            raise InputError(f"{source.name}: no such file ({source})") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{source.name}: cannot be read ({error})") from error
    if size > MAX_BYTES:
        raise InputError(f"picture of {size:,} bytes is over the limit of {MAX_BYTES:,}; scale it down")
    if not data:
        raise InputError(f"{'the picture' if isinstance(source, bytes) else source.name}: empty, 0 bytes")
    return data


def _open(data: bytes, name: str) -> ImageFile:
    for magic, plugin in _FORMATS:
        if data.startswith(magic) and (magic != b"RIFF" or data[8:12] == b"WEBP"):
            try:
                return plugin(io.BytesIO(data))
            except Exception as error:  # as in open_image
                raise InputError(f"{name}: damaged picture header ({error or type(error).__name__})") from error
    raise InputError(f"{name}: {_what(data)}; give JPEG, PNG, WebP, GIF, BMP or TIFF")


def _what(data: bytes) -> str:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing, not a raster picture"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "a text document, not a picture"
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file, which is not read"
    return "not a picture of a known format"


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)  # converting "I;16" clips at 255 instead of scaling
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _upright(picture: Image.Image, original: Image.Image) -> Image.Image:
    try:
        orientation = original.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF beside sound pixels: the picture is used as it is stored
        orientation = 1
    turn = _UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)
