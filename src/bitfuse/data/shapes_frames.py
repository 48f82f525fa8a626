"""The frames of a scene of the generated world: four small pictures in which its objects move, in noise.

Every object moves on a straight line in a direction of its own through the place where the picture of the scene
shows it, the large ones slowly, the small ones three times as fast; what leaves the picture is cut. Each frame is
noisy by itself, so that four together say more than one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bitfuse.data.scenes import render, scene

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = 4
_SLOW, _FAST = 0.1, 0.3  # cells from one frame to the next
_NOISE = 40.0  # levels of 255, at most, up or down


def frames(seed: int, item: int, size: int = 48, style: str = "flat") -> list[Image]:
    """The four frames of scene number `item` of this seed: RGB, `size` x `size` pixels (at least 24), drawn in a style.

    Examples:
        >>> from bitfuse.data.shapes_frames import frames
        >>> [picture.size for picture in frames(0, 1)]
        [(48, 48), (48, 48), (48, 48), (48, 48)]
    """
    from PIL import Image

    draw = np.random.default_rng([seed, item, 2])
    this = scene(seed, item)
    turns = draw.uniform(0, 2 * math.pi, len(this.things))
    steps = [(_SLOW if thing.large else _FAST) for thing in this.things]
    pictures = []
    for i in range(FRAMES):
        at = i - (FRAMES - 1) / 2
        shifts = [(at * step * math.cos(turn), at * step * math.sin(turn)) for step, turn in zip(steps, turns)]
        pixels = np.asarray(render(this, size, shifts=shifts, style=style), np.float64)
        noisy = np.clip(np.round(pixels + draw.uniform(-_NOISE, _NOISE, pixels.shape)), 0, 255)
        pictures.append(Image.fromarray(noisy.astype(np.uint8)))
    return pictures
