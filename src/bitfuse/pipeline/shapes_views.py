"""The views of the generated world beyond image and text: its sounds and frames, through the pocket encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Samples
from bitfuse.data.shapes_frames import frames
from bitfuse.data.shapes_sound import sound
from bitfuse.errors import InputError, UnknownName
from bitfuse.features import backbone
from bitfuse.features.sounds import open_sound
from bitfuse.pipeline.cache import FeatureCache

VIEWS = ("image", "text", "sound", "frames")
_ENCODERS = {"sound": "audio:pocket", "frames": "video:pocket"}
_BLOCK = 256  # scenes whose frames are held at once


def check_views(views: Sequence[str]) -> tuple[str, ...]:
    """The views asked for, in the order given.

    Raises:
        UnknownName: a view that this world does not have.
        InputError: none, or one twice.
    """
    asked = tuple(views)
    if unknown := [view for view in asked if view not in VIEWS]:
        raise UnknownName("view of shapes", unknown[0], VIEWS)
    if not asked or len(set(asked)) != len(asked):
        raise InputError(f"views of shapes are one or more of {VIEWS}, each once; got {asked}")
    return asked


def with_views(
    samples: Samples, views: Sequence[str], *, seed: int, start: int, size: int, style: str, folder: Path | None
) -> Samples:
    """Samples of the world with exactly these views.

    Args:
        samples: items `start` onwards of a seed, with the features of their images and texts.
        views: as `check_views` gives them.
        seed, start: where the samples are in the world.
        size, style: the side of a frame, and how it is drawn.
        folder: of the cache of features; None keeps nothing.

    Raises:
        InputError: a view that neither the samples have nor this world makes.
    """
    if lacking := [view for view in views if view not in samples.views and view not in _ENCODERS]:
        raise InputError(f"the backbone gave no view {lacking[0]!r}, only {list(samples.views)}; leave it out of views")
    items = range(start, start + len(samples))
    made = {view: _rows(view, seed, items, _drawing(view, size, style), folder) for view in views if view in _ENCODERS}
    sources = {view: dict(backbone(_ENCODERS[view]).describe(view)) for view in made}
    return replace(
        samples,
        views={view: made[view] if view in made else samples.views[view] for view in views},
        sources={view: {**samples.sources, **sources}[view] for view in views},
    )


def _rows(
    view: str, seed: int, items: range, draw: Callable[[int, int], Any], folder: Path | None
) -> NDArray[np.float32]:
    encoder = backbone(_ENCODERS[view])
    facts = {**encoder.describe(view), "view": f"{view} of shapes", "drawn": _version(view, draw)}
    cache = FeatureCache(folder, facts, encoder.width(view)) if folder else None
    rows = np.empty((len(items), encoder.width(view)), np.float32)
    keys = [hashlib.sha256(f"{seed} {item}".encode()).digest() for item in items]
    for at in range(0, len(items), _BLOCK):
        block = range(at, min(at + _BLOCK, len(items)))
        known = {i: None if cache is None else cache.get(keys[i]) for i in block}
        new = [i for i, row in known.items() if row is None]
        known |= dict(zip(new, encoder.encode(view, [draw(seed, items[i]) for i in new])))
        for i, row in known.items():
            rows[i] = row
        if cache is not None:
            for i in new:
                cache.put(keys[i], rows[i])
    if cache is not None:
        cache.flush()
    return rows


def _drawing(view: str, size: int, style: str) -> Callable[[int, int], Any]:
    if view == "sound":
        return lambda seed, item: open_sound(sound(seed, item))
    return lambda seed, item: frames(seed, item, size, style)


def _version(view: str, draw: Callable[[int, int], Any]) -> str:
    """Stands for the version of the world: the hash of what its first item is drawn as."""
    first = draw(0, 0)
    data = [first.samples.tobytes()] if view == "sound" else [frame.tobytes() for frame in first]
    return hashlib.sha256(b"".join(data)).hexdigest()
