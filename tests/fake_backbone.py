"""A backbone without weights: words and colours become rows, so that collections can be tested without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH = 24
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (220, 220, 20)}


def _direction(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).normal(size=WIDTH)


class FakeBackbone:
    """Texts: the sum of a direction for each word. Pictures: the directions of the colours, weighted by nearness."""

    name = "fake"
    views = ("image", "text")
    aligned = True
    prompts = ("a red thing", "a blue thing")

    def __init__(self, weights: str = "sha256:1") -> None:
        self.weights = weights
        self.calls = 0

    def describe(self, view: str) -> Mapping[str, Any]:
        return {"backbone": self.name, "revision": "1", "weights": self.weights, "preprocessing": view, "width": WIDTH}

    def width(self, view: str) -> int:
        return WIDTH

    def encode(self, view: str, inputs: Sequence[Any], *, batch_size: int | None = None) -> np.ndarray:
        self.calls += len(inputs)
        if view == "text":
            rows = [sum(_direction(word) for word in text.lower().split()) for text in inputs]
        else:
            rows = []
            for picture in inputs:
                mean = np.asarray(picture, float).mean(axis=(0, 1))
                near = {c: np.exp(-np.linalg.norm(mean - rgb) / 60) for c, rgb in COLOURS.items()}
                rows.append(sum(w * _direction(c) for c, w in near.items()) + 0.01 * mean[0])
        return np.asarray(rows, np.float32)


def sources(backbone: FakeBackbone) -> dict[str, dict[str, Any]]:
    return {view: dict(backbone.describe(view)) for view in backbone.views}
