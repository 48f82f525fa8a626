"""What both ways of tuning share: the pairs, the contrastive loss, and how often a caption finds its picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from bitfuse.data.base import Samples
from bitfuse.data.split import draws
from bitfuse.errors import InputError
from bitfuse.features.images import open_image

FEWEST = 32
"""Pairs below which there is nothing to learn from."""

MOST_JUDGES = 2048
"""Held-out pairs that are ranked against each other after each epoch."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of picture and text in the order of their samples, with what was set apart to judge by.

    Attributes:
        ids: of the samples, n.
        images, texts: n of each.
        train, held: numbers of the rows to learn from and to judge by.
        skipped: (id, reason) of samples that are no pair, or whose picture cannot be read.
    """

    ids: tuple[str, ...]
    images: list[Path | bytes]
    texts: list[str]
    train: NDArray[np.intp]
    held: NDArray[np.intp]
    skipped: list[tuple[str, str]]

    def pictures(self, rows: NDArray[np.intp]) -> list[Image]:
        """The pictures of these rows, decoded."""
        return [open_image(self.images[i]) for i in rows.tolist()]

    def words(self, rows: NDArray[np.intp]) -> list[str]:
        """The texts of these rows."""
        return [self.texts[i] for i in rows.tolist()]


def pairs_of(samples: Samples, share: float) -> Pairs:
    """The rows that have both a readable picture and a text; a share of them, by hash of id, is set apart.

    Raises:
        InputError: too few pairs, or a share that is not above 0 and below 1.
    """
    if not 0 < share < 1:
        raise InputError(f"the share of pairs to hold out must be above 0 and below 1, got {share!r}")
    if samples.images is None or samples.texts is None:
        raise InputError("tuning needs pairs of picture and text; these samples lack one of the two")
    ids: list[str] = []
    images: list[Path | bytes] = []
    texts: list[str] = []
    skipped: list[tuple[str, str]] = []
    for name, image, text in zip(samples.ids, samples.images, samples.texts):
        if image is None or text is None or not text.strip():
            skipped.append((name, "no pair of picture and text"))
            continue
        try:
            open_image(image)
        except InputError as error:
            skipped.append((name, str(error)))
            continue
        ids.append(name)
        images.append(image)
        texts.append(text)
    held = draws(ids, "bitfuse-tune") < share
    if (~held).sum() < FEWEST or held.sum() < 2:
        raise InputError(
            f"{len(ids)} pairs of picture and text ({int(held.sum())} held out) are too few to tune on; at least "
            f"{FEWEST} are needed to learn from"
        )
    return Pairs(tuple(ids), images, texts, np.flatnonzero(~held), np.flatnonzero(held), skipped)


def same_text(texts: Sequence[str]) -> Tensor:
    """(m, m) bool: pairs of rows whose texts are equal: their pictures are no wrong answers to each other's text."""
    keys = [hashlib.sha256(" ".join(text.lower().split()).encode()).digest()[:8] for text in texts]
    numbers = torch.tensor([int.from_bytes(key, "big", signed=True) for key in keys])
    return numbers[:, None] == numbers[None, :]


def contrastive(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """The symmetric cross entropy of CLIP over a batch: row i of each is a pair.

    Args:
        images, texts: (m, d), of any length.
        scale: () what the cosine is multiplied by.
        same: (m, m) bool, `same_text`; such rows are left out of each other's sum.
    """
    logits = scale * normalize(images, dim=1) @ normalize(texts, dim=1).T
    other = same.to(logits.device).clone().fill_diagonal_(False)
    logits = logits.masked_fill(other, -1e4)
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def found(images: Tensor, texts: Tensor, same: Tensor) -> dict[str, float]:
    """R@1 among all pairs, both ways; a picture that has the same text counts as found.

    Returns:
        `image_to_text_r1` and `text_to_image_r1`, shares in [0, 1].
    """
    similarity = normalize(images, dim=1) @ normalize(texts, dim=1).T
    same = same.to(similarity.device)

    def share(ranked: Tensor) -> float:
        return float(same.gather(1, ranked.argmax(dim=1, keepdim=True)).float().mean())

    return {"image_to_text_r1": share(similarity), "text_to_image_r1": share(similarity.T)}


def tensors(*rows: NDArray[Any]) -> list[Tensor]:
    """Arrays as float32 tensors."""
    return [torch.from_numpy(np.asarray(x, np.float32)) for x in rows]
