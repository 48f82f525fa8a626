"""The generated world: small rendered scenes with captions, labels and attributes, any number of them.

A scene holds one to four objects on a 3 x 3 grid over one of five backgrounds. An object has one of 12 shapes,
12 colours, 3 textures and 2 sizes; the first is always large, the others seldom are. The caption names every
object with all its properties, in one of four phrasings. The labels name only what is salient, the shapes and
the colours of the *large* objects (about 2.6 of 24 labels a scene), so that a quarter of all pairs of scenes
share a label and a code that ranks nothing scores a quarter.

Item `i` of seed `s` is the same scene whatever else is asked for. Who uses which seeds, so that nothing is
judged on what it was trained on: data sets for users, demos and tests take seeds below 1,000,000 (default 0);
the pocket backbone was trained on `TRAINING_SEED` and is scored on `HELD_OUT_SEED`.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import overload

import numpy as np

from bitfuse.data.base import Samples
from bitfuse.data.scenes import COLOURS, LABELS, SHAPES, STYLES, Scene, render, scene
from bitfuse.errors import InputError, UnknownName

TRAINING_SEED = 1_000_000
HELD_OUT_SEED = 2_000_000


def prompts() -> tuple[str, ...]:
    """What a user of this world may type, from "red star" to whole captions: 144 short ones and 144 captions."""
    short = [f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES)]
    return (*short, *(scene(TRAINING_SEED, item).caption for item in range(len(short))))


class _Pictures(Sequence[bytes]):
    """The scenes as PNG bytes, each drawn when it is first asked for."""

    def __init__(self, scenes: Sequence[Scene], size: int, style: str) -> None:
        self._scenes, self._size, self._style = scenes, size, style
        self._drawn: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._scenes)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        if row not in self._drawn:
            buffer = io.BytesIO()
            render(self._scenes[row], self._size, style=self._style).save(buffer, "PNG", compress_level=1)
            self._drawn[row] = buffer.getvalue()
        return self._drawn[row]


def generate(n: int, *, seed: int = 0, start: int = 0, size: int = 48, style: str = "flat") -> Samples:
    """Items `start` to `start + n` of a seed, with their pictures as PNG bytes, drawn when first asked for.

    Args:
        n: number of scenes, at least 1.
        seed: which world; see the module for the ranges that are taken.
        start: number of the first item, at least 0. Parts that must not overlap take different ranges of one seed.
        size: side of the pictures in pixels, at least 24.
        style: how the scenes are drawn (`bitfuse.data.scenes.STYLES`); what they hold and what is said of them is the
            same in every style. The pocket backbone has seen `"flat"` alone.

    Returns:
        Samples with ids `shape-000000` onwards, images, texts, 24 labels, and the attributes `count` (objects, 1 to
        4), `main_shape` and `main_colour` (of the first, large object), `background`, `width_cm` (20 to 120) and
        `price` (about 2 to 340, depends on the objects and the width).

    Raises:
        InputError: `n`, `start` or `size` out of range.
        UnknownName: no such style.

    Examples:
        >>> from bitfuse.data.shapes import generate
        >>> samples = generate(2, start=7)
        >>> samples.ids
        ('shape-000007', 'shape-000008')
        >>> samples.labels.shape, len(samples.label_names)
        ((2, 24), 24)
    """
    if n < 1 or start < 0:
        raise InputError(f"shapes needs n >= 1 and start >= 0, got n={n}, start={start}")
    if size < 24:
        raise InputError(f"size must be at least 24 pixels, got {size}; smaller shapes cannot be told apart")
    if style not in STYLES:
        raise UnknownName("style", style, STYLES)
    scenes = [scene(seed, start + i) for i in range(n)]
    return Samples(
        ids=tuple(f"shape-{start + i:06d}" for i in range(n)),
        images=_Pictures(scenes, size, style),
        texts=[s.caption for s in scenes],
        labels=np.array([[label in s.labels for label in LABELS] for s in scenes], bool),
        label_names=LABELS,
        attributes={
            "count": [len(s.things) for s in scenes],
            "main_shape": [s.things[0].shape for s in scenes],
            "main_colour": [s.things[0].colour for s in scenes],
            "background": [s.background for s in scenes],
            "width_cm": [s.width_cm for s in scenes],
            "price": [s.price for s in scenes],
        },
    )


def write(directory: str | Path, n: int, *, seed: int = 0, start: int = 0, size: int = 48, style: str = "flat") -> Path:
    """Save scenes as a user's data would lie there: `images/<id>.png` and a table `items.csv`.

    Args:
        directory: made if absent; files of the same names are replaced.
        n, seed, start, size, style: as for `generate`.

    Returns:
        The path of the table, with the columns `id`, `image` (relative to the table), `text`, `labels` (separated by
        `|`) and one per attribute. It appears last and whole: a directory without it was not finished.
    """
    samples = generate(n, seed=seed, start=start, size=size, style=style)
    folder = Path(directory)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, picture in zip(samples.ids, samples.images or ()):
        assert isinstance(picture, bytes)
        (folder / "images" / f"{name}.png").write_bytes(picture)
    table = folder / "items.csv"
    temporary = folder / "items.csv.part"
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "text", "labels", *samples.attributes])
        rows.writerows(_rows(samples))
    os.replace(temporary, table)
    return table


def _rows(samples: Samples) -> Iterator[list[object]]:
    assert samples.labels is not None
    assert samples.texts is not None
    for i, name in enumerate(samples.ids):
        labels = "|".join(np.asarray(LABELS)[samples.labels[i]])
        facts = [values[i] for values in samples.attributes.values()]
        yield [name, f"images/{name}.png", samples.texts[i], labels, *facts]
