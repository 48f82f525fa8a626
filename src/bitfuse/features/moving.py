"""Opening moving pictures that strangers made: a folder of frames, or an animated GIF, WebP or PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from bitfuse.errors import InputError
from bitfuse.features.images import MAX_PIXELS, header_pixels, open_image, read_bytes

MAX_FRAMES = 10_000
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def spread(total: int, wanted: int) -> list[int]:
    """Numbers of `wanted` of `total` frames, evenly over the whole; where there are fewer, some twice, in order."""
    return [int(i) for i in np.floor((np.arange(wanted) + 0.5) * total / wanted)]


def open_frames(source: Path | bytes, n: int | None = None, *, name: str | None = None) -> list[Image.Image]:
    """Frames of a moving picture: RGB, in order.

    Args:
        source: a folder whose pictures, in the order of their names, are the frames; or an animated GIF, WebP or PNG
            file, or its bytes. A still picture is one frame. Films of other formats: have them written as a folder
            of frames first.
        n: how many, evenly over the whole (`spread`); None is all of them.
        name: what messages call it.

    Raises:
        InputError: no frames, more than 10,000, a frame that cannot be read, or frames of more than 64 million
            pixels together.
    """
    name = name or (source.name if isinstance(source, Path) else f"{len(source)} bytes")
    if n is not None and n < 1:
        raise InputError(f"n must be at least 1 frame, got {n}")
    if isinstance(source, Path) and source.is_dir():
        return _of_folder(source, n, name)
    data = read_bytes(source)
    open_image(data, name=name)  # what it refuses, with its messages and its limits, is refused here
    try:
        with Image.open(io.BytesIO(data)) as moving:
            total = getattr(moving, "n_frames", 1)
            wanted = _chosen(total, n, name)
            _check_pixels(moving.width * moving.height * len(set(wanted)), name)
            kept = {
                i: _on_white(frame)
                for i, frame in enumerate(ImageSequence.Iterator(moving))
                if i in set(wanted)
            }  # fmt: skip
    except InputError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise InputError(f"{name}: damaged or truncated animation ({error or type(error).__name__})") from error
    return [kept[i] for i in wanted]


def _of_folder(folder: Path, n: int | None, name: str) -> list[Image.Image]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES)
    wanted = _chosen(len(files), n, name)
    chosen = {i: read_bytes(files[i]) for i in set(wanted)}
    _check_pixels(sum(header_pixels(data) for data in chosen.values()), name)
    kept = {i: open_image(data, name=f"{name}/{files[i].name}") for i, data in chosen.items()}
    return [kept[i] for i in wanted]


def _chosen(total: int, n: int | None, name: str) -> list[int]:
    if not 1 <= total <= MAX_FRAMES:
        raise InputError(f"{name}: {total} frames; 1 to {MAX_FRAMES:,} are read, as pictures or an animation")
    return list(range(total)) if n is None else spread(total, n)


def _check_pixels(pixels: int, name: str) -> None:
    if pixels > MAX_PIXELS:
        raise InputError(
            f"{name}: {pixels:,} pixels in all frames are over the limit of {MAX_PIXELS:,}; take fewer (n)"
        )


def _on_white(frame: Image.Image) -> Image.Image:
    if not frame.has_transparency_data:
        return frame.convert("RGB")
    layer = frame.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
