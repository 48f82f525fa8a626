"""Samples and Dataset: what every reader returns and every other part of Bitfuse accepts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError

Views = Mapping[str, NDArray[np.float32]]
"""View name -> (n, d) float32, rows aligned. A row that is wholly NaN is missing; an absent key is missing for all."""

Image = Path | bytes


@dataclass(frozen=True, eq=False)
class Samples:
    """Items in a fixed order: any of their parts may be absent, all that are present have one entry a row.

    Attributes:
        ids: n distinct strings of 1 to 512 bytes (UTF-8).
        views: name -> (n, d) float32 features; a row wholly NaN lacks that view. Empty until features are extracted.
        images: n paths or encoded image bytes, None where an item has none; or None for a data set without images.
        texts: n strings, None where an item has none (an empty text counts as none); or None.
        labels: (n, c) bool, or None. A row without a True is unlabelled.
        label_names: c strings, in the order of the columns of `labels`.
        attributes: name -> n values (str, int, float, bool or None).
        sources: view name -> facts about where its features came from (backbone, revision, preprocessing, ...).

    Raises:
        InputError: repeated or empty ids, or parts of different lengths.
    """

    ids: tuple[str, ...]
    views: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    images: Sequence[Image | None] | None = None
    texts: Sequence[str | None] | None = None
    labels: NDArray[np.bool_] | None = None
    label_names: tuple[str, ...] = ()
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.ids)
        if len(set(self.ids)) != n:
            twice = Counter(self.ids).most_common(1)[0][0]
            raise InputError(f"ids must be distinct, {twice!r} occurs more than once; name another id column")
        for i in self.ids:
            try:
                size = len(i.encode())
            except UnicodeEncodeError:
                raise InputError(f"an id must be text that UTF-8 can hold, got {i[:40]!r}") from None
            if not 1 <= size <= 512:
                raise InputError(f"an id must have 1 to 512 bytes, got {size}: {i[:40]!r}")
        parts: dict[str, Any] = {f"view {k!r}": v for k, v in self.views.items()}
        parts |= {f"attribute {k!r}": v for k, v in self.attributes.items()}
        parts |= {"images": self.images, "texts": self.texts, "labels": self.labels}
        for name, part in parts.items():
            if part is not None and len(part) != n:
                raise InputError(f"{name} has {len(part)} entries for {n} ids; give one entry per row")
        if self.labels is not None and (self.labels.ndim != 2 or self.labels.dtype != bool):
            raise InputError(f"labels must be bool of shape (n, c), got {self.labels.dtype} {self.labels.shape}")
        if self.labels is not None and self.label_names and len(self.label_names) != self.labels.shape[1]:
            raise InputError(f"{len(self.label_names)} label names for {self.labels.shape[1]} label columns")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(n,) bool: the rows that carry at least one label."""
        return np.zeros(len(self), bool) if self.labels is None else np.asarray(self.labels.any(axis=1))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_] | Sequence[int]) -> Samples:
        """The samples of these rows (row numbers, or a mask of length n), in the order given."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.intp)
        listed = index.tolist()

        def pick(part: Sequence[Any] | None) -> list[Any] | None:
            return None if part is None else [part[i] for i in listed]

        return replace(
            self,
            ids=tuple(self.ids[i] for i in listed),
            views={k: v[index] for k, v in self.views.items()},
            images=pick(self.images),
            texts=pick(self.texts),
            labels=None if self.labels is None else self.labels[index],
            attributes={k: [v[i] for i in listed] for k, v in self.attributes.items()},
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train, query and gallery, with the invariants that make a score honest.

    Attributes:
        name: as asked for, with what distinguishes it (variant, seed, size).
        train, query, gallery: the three parts. Queries are disjoint by id from gallery and train.
        train_in_gallery: whether the training rows are also in the gallery; found from the ids.
        notes: what a reader should know beside a score (rows skipped, label variant, split recipe and seed).

    Raises:
        InputError: a query that is also in the gallery or in training, or parts with different views or labels.
    """

    name: str
    train: Samples
    query: Samples
    gallery: Samples
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        queries = set(self.query.ids)
        for part, samples in (("gallery", self.gallery), ("train", self.train)):
            shared = queries.intersection(samples.ids)
            if shared:
                raise InputError(
                    f"{len(shared)} quer(ies) are also in {part}, for example {min(shared)!r}; "
                    "queries must be disjoint from gallery and train, or the score measures memory"
                )
        if not self.train.label_names == self.query.label_names == self.gallery.label_names:
            raise InputError("train, query and gallery must have the same label columns in the same order")

    @property
    def train_in_gallery(self) -> str:
        """`"all"`, `"none"` or `"some"`: how much of the training part is searched in."""
        shared = len(set(self.train.ids).intersection(self.gallery.ids))
        return "none" if shared == 0 else "all" if shared == len(self.train) else "some"
