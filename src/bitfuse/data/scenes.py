"""One scene of the generated world: what it holds, how it reads as a caption and how it is drawn."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitfuse.errors import InputError, UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES = (
    *("circle", "square", "triangle", "diamond", "pentagon", "hexagon"),
    *("star", "cross", "heart", "ring", "crescent", "arrow"),
)
COLOURS = {
    "red": (220, 30, 35),
    "orange": (250, 130, 10),
    "yellow": (250, 220, 20),
    "lime": (140, 220, 30),
    "green": (15, 120, 45),
    "teal": (0, 140, 140),
    "cyan": (40, 210, 240),
    "blue": (30, 60, 210),
    "purple": (120, 30, 150),
    "pink": (250, 120, 180),
    "brown": (120, 70, 30),
    "black": (15, 15, 15),
}
BACKGROUNDS = {
    "white": (255, 255, 255),
    "grey": (200, 200, 200),
    "beige": (240, 225, 190),
    "sky": (200, 225, 250),
    "slate": (95, 100, 110),
}
TEXTURES = ("plain", "striped", "dotted")
STYLES = ("flat", "outline", "pastel", "gradient", "noise")
CELLS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
PHRASINGS = 4

LABELS = (*SHAPES, *COLOURS)


@dataclass(frozen=True)
class Thing:
    """One object of a scene; `cell` counts from 0 (top left) to 8 (bottom right), row by row."""

    shape: str
    colour: str
    texture: str
    large: bool
    cell: int


@dataclass(frozen=True)
class Scene:
    """What a picture shows and what its caption says. `things[0]` is large: the main object."""

    things: tuple[Thing, ...]
    background: str
    phrasing: int
    width_cm: int
    price: float

    @property
    def caption(self) -> str:
        """The scene in words: every object with all its properties, in the phrasing drawn for it."""
        return _PHRASES[self.phrasing](self)

    @property
    def labels(self) -> tuple[str, ...]:
        """Shapes and colours of the large objects, in the order of `LABELS`."""
        salient = {word for t in self.things if t.large for word in (t.shape, t.colour)}
        return tuple(label for label in LABELS if label in salient)


def scene(seed: int, item: int) -> Scene:
    """The scene number `item` (from 0) of this seed."""
    # A generator of its own, seeded with a text: stable across Python versions, and the global one stays untouched.
    draw = random.Random(f"bitfuse shapes {seed} {item}")
    cells = draw.sample(range(len(CELLS)), draw.randint(1, 4))
    things = tuple(
        Thing(
            shape=draw.choice(SHAPES),
            colour=draw.choice(list(COLOURS)),
            texture=draw.choice(TEXTURES),
            large=position == 0 or draw.random() < 0.2,
            cell=cell,
        )
        for position, cell in enumerate(cells)
    )
    width_cm = draw.randrange(20, 121, 10)
    worth = sum((3 if t.large else 1) * (1 + SHAPES.index(t.shape) / 4) for t in things)
    price = round(worth * width_cm / 20 * draw.uniform(0.8, 1.25), 2)
    return Scene(things, draw.choice(list(BACKGROUNDS)), draw.randrange(PHRASINGS), width_cm, price)


def _in_full(scene: Scene) -> str:
    things = [
        f"a {'large' if t.large else 'small'} {t.texture} {t.colour} {t.shape} at the {CELLS[t.cell]}"
        for t in scene.things
    ]
    return f"{', '.join(things)}, on a {scene.background} background"


def _by_place(scene: Scene) -> str:
    things = [
        f"{CELLS[t.cell]} a {'large' if t.large else 'small'} {t.colour} {t.shape} ({t.texture})" for t in scene.things
    ]
    return f"{scene.background} background: {'; '.join(things)}"


def _with_pattern(scene: Scene) -> str:
    pattern = {"plain": "", "striped": " with stripes", "dotted": " with dots"}
    things = [
        f"{'big' if t.large else 'little'} {t.colour} {t.shape}{pattern[t.texture]}, {CELLS[t.cell]}"
        for t in scene.things
    ]
    return f"{' and '.join(things)}, over {scene.background}"


def _as_list(scene: Scene) -> str:
    count = ("one object", "two objects", "three objects", "four objects")[len(scene.things) - 1]
    things = [
        f"{t.texture} {t.colour} {t.shape}, {'large' if t.large else 'small'}, {CELLS[t.cell]}" for t in scene.things
    ]
    return f"{count} on {scene.background}: {'; '.join(things)}"


_PHRASES = (_in_full, _by_place, _with_pattern, _as_list)


def render(
    scene: Scene, size: int = 48, style: str = "flat", shifts: Sequence[tuple[float, float]] | None = None
) -> Image:
    """Draw a scene as an RGB image of `size` x `size` pixels (at least 24), at twice the size and then reduced.

    Args:
        scene: what to draw.
        size: side in pixels.
        shifts: for each thing, how far it stands from its cell, (right, down) in cells; None leaves all in place.
        style: another renderer of the same scene: `"outline"` draws contours only, `"pastel"` mixes every colour of a
            thing with white, `"gradient"` darkens the background from top to bottom, `"noise"` adds normal noise of 32
            grey levels to every pixel, the same whenever the scene is drawn.

    Raises:
        InputError: `size` too small.
        UnknownName: no such style.
    """
    from PIL import Image

    if size < 24:
        raise InputError(f"size must be at least 24 pixels, got {size}; smaller shapes cannot be told apart")
    if style not in STYLES:
        raise UnknownName("style", style, STYLES)
    ground = BACKGROUNDS[scene.background]
    canvas = Image.new("RGB", (2 * size, 2 * size), ground)
    if style == "gradient":
        shade = Image.linear_gradient("L").resize(canvas.size)  # black at the top
        canvas.paste(Image.new("RGB", canvas.size, tuple(c // 3 for c in ground)), (0, 0), shade)
    for thing, (right, down) in zip(scene.things, shifts or [(0.0, 0.0)] * len(scene.things), strict=True):
        row, column = divmod(thing.cell, 3)
        left, top = round(2 * size * (column + right) / 3), round(2 * size * (row + down) / 3)
        side = round(2 * size / 3)
        mask = _mask(thing, side)
        fill = _fill(thing, side, whiteness=0.5 if style == "pastel" else 0.0)
        canvas.paste(fill, (left, top), _contour(mask) if style == "outline" else mask)
    picture = canvas.reduce(2)
    return _noisy(picture, scene) if style == "noise" else picture


def _contour(mask: Image) -> Image:
    """The rim of a mask, about a tenth of its side wide."""
    from PIL import ImageChops, ImageFilter

    width = 2 * max(1, mask.width // 20) + 1
    return ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(width)))


def _noisy(picture: Image, scene: Scene) -> Image:
    from hashlib import sha256

    import numpy as np
    from PIL import Image

    seed = int.from_bytes(sha256(repr(scene).encode()).digest()[:8], "big")
    pixels = np.asarray(picture, np.float32)
    noise = 32 * np.random.default_rng(seed).standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _fill(thing: Thing, side: int, whiteness: float = 0.0) -> Image:
    """The texture of a thing, as wide as its cell; `whiteness` is the share of white in its colour."""
    from PIL import Image, ImageDraw

    r, g, b = (round(c + whiteness * (255 - c)) for c in COLOURS[thing.colour])
    fill = Image.new("RGB", (side, side), (r, g, b))
    if thing.texture == "plain":
        return fill
    draw = ImageDraw.Draw(fill)
    light = ((r + 255) // 2, (g + 255) // 2, (b + 255) // 2)
    step = side / (8 if thing.large else 12)
    for i in range(0, 12, 2):
        if thing.texture == "striped":
            draw.rectangle((0, i * step, side, (i + 1) * step - 1), fill=light)
        else:
            for j in range(0, 12, 2):
                draw.ellipse((i * step, j * step, (i + 1) * step, (j + 1) * step), fill=light)
    return fill


def _mask(thing: Thing, side: int) -> Image:
    """The outline of a thing inside its cell: 255 where it covers."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    centre, radius = side / 2, side * (0.47 if thing.large else 0.3)

    def disc(x: float, y: float, r: float, fill: int = 255) -> None:
        x, y, r = centre + x * radius, centre + y * radius, r * radius
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    if thing.shape in ("circle", "ring", "crescent"):
        disc(0, 0, 1)
        if thing.shape == "ring":
            disc(0, 0, 0.5, fill=0)
        elif thing.shape == "crescent":
            disc(0.5, 0, 0.8, fill=0)
    elif thing.shape == "heart":
        disc(-0.48, -0.35, 0.52)
        disc(0.48, -0.35, 0.52)
        draw.polygon([(centre + x * radius, centre + y * radius) for x, y in _OUTLINES["heart"]], fill=255)
    else:
        draw.polygon([(centre + x * radius, centre + y * radius) for x, y in _OUTLINES[thing.shape]], fill=255)
    return mask


def _regular(corners: int, turn: float = 0.0, inner: float | None = None) -> list[tuple[float, float]]:
    """Corners of a regular polygon, the first at the top; with `inner`, of a star with notches at that radius."""
    steps = corners if inner is None else 2 * corners
    radii = [1.0 if inner is None or i % 2 == 0 else inner for i in range(steps)]
    angles = [2 * math.pi * i / steps + turn for i in range(steps)]
    return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles)]


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0, -0.95), (0.98, 0.8), (-0.98, 0.8)],
    "diamond": [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
    "pentagon": _regular(5),
    "hexagon": _regular(6, turn=math.pi / 6),
    "star": _regular(5, inner=0.4),
    "cross": [
        *((-0.32, -0.95), (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32)),
        *((0.32, 0.95), (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32)),
    ],
    "heart": [(-0.96, -0.12), (0.96, -0.12), (0, 0.98)],
    "arrow": [(-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)],
}
