"""CLIP's preparation of pictures in NumPy: the numbers of the processor in `transformers`, with less work around."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


def plain(config: Mapping[str, Any]) -> bool:
    """Whether a `preprocessor_config.json` asks for what `pixel_values` does, and nothing else."""
    kind = str(config.get("image_processor_type", config.get("feature_extractor_type", "")))
    steps = ("do_resize", "do_center_crop", "do_normalize", "do_rescale")
    return (
        kind.startswith("CLIP")
        and all(config.get(step, True) for step in steps)
        and math.isclose(config.get("rescale_factor", 1 / 255), 1 / 255)
    )


def pixel_values(images: Sequence[Image], config: Mapping[str, Any]) -> NDArray[np.float32]:
    """Shortest side to s (bicubic), the middle s x s, to [0, 1], minus mean, over std: (n, 3, s, s) float32.

    Args:
        images: n RGB pictures, at least one.
        config: a `preprocessor_config.json` that is `plain`.
    """
    size, crop = config.get("size", 224), config.get("crop_size", 224)
    short = int(size["shortest_edge"] if isinstance(size, dict) else size)
    side = int(crop["height"] if isinstance(crop, dict) else crop)
    middles = np.stack([_middle(image, short, side, config.get("resample", 3)) for image in images])
    mean, std = (np.asarray(config[key], np.float32).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    # all pictures at once: a call a picture costs more than the arithmetic
    pixels = middles.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    pixels /= 255
    pixels -= mean
    pixels /= std
    return pixels


def _middle(image: Image, short: int, side: int, resample: int) -> NDArray[np.uint8]:
    width, height = image.size
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = (scaled[0] - side) // 2, (scaled[1] - side) // 2
    pixels = np.asarray(image.resize(scaled, resample=resample))
    return pixels[top : top + side, left : left + side]
