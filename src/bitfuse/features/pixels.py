"""CLIP's preparation of pictures in NumPy: the numbers of the processor in `transformers`, with less work around."""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def pixel_values(image: Image, config: Mapping[str, Any]) -> NDArray[np.float32]:
    """Shortest side to s (bicubic), the middle s x s, to [0, 1], minus mean, over std: (3, s, s) float32.

    Args:
        image: RGB.
        config: a `preprocessor_config.json` that is `plain`.
    """
    size, crop = config.get("size", 224), config.get("crop_size", 224)
    short = int(size["shortest_edge"] if isinstance(size, dict) else size)
    side = int(crop["height"] if isinstance(crop, dict) else crop)
    width, height = image.size
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = image.resize(scaled, resample=config.get("resample", 3))
    left, top = (scaled[0] - side) // 2, (scaled[1] - side) // 2
    pixels = np.asarray(image, np.float32)[top : top + side, left : left + side] / 255
    mean, std = (np.asarray(config[key], np.float32) for key in ("image_mean", "image_std"))
    return np.asarray(((pixels - mean) / std).transpose(2, 0, 1), np.float32)
