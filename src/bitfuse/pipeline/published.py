"""A published data set on disk as train, query and gallery with features."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

from bitfuse.data.base import Dataset, Samples
from bitfuse.data.sets import read_published
from bitfuse.errors import DataWarning
from bitfuse.features.base import Backbone
from bitfuse.pipeline.extract import extract


def published(
    name: str, encoder: Backbone, *, root: str | Path, variant: str | None = None, seed: int | None = None,
    per_class: int | None = None, train: int | None = None, cache: bool | str | Path = True, progress: bool = False,
) -> Dataset:  # fmt: skip
    """Read, split and encode a published data set; arguments as for `read_published` and `extract`.

    Warns:
        DataWarning: the copy on disk is not the published set, or rows had inputs that cannot be used.
    """
    whole = read_published(name, root, variant=variant, seed=seed, per_class=per_class, train=train)
    gallery, lost = extract(whole.gallery, encoder, cache=cache, progress=progress)
    query, lost_queries = extract(whole.query, encoder, cache=cache, progress=progress)
    skipped = lost + lost_queries
    if skipped:
        shown = "; ".join(f"{row}: {reason}" for row, reason in skipped[:3])
        warnings.warn(
            f"{root}: {len(skipped)} row(s) with inputs that cannot be used: {shown}", DataWarning, stacklevel=4
        )
    found = with_parts(whole, query, gallery)
    return dataclasses.replace(found, notes={**found.notes, "skipped": skipped})


def with_parts(whole: Dataset, query: Samples, gallery: Samples) -> Dataset:
    """The data set with encoded parts in place of its own; what trains is those rows of the gallery that did."""
    trained = set(whole.train.ids)
    train = gallery.take([i for i, row in enumerate(gallery.ids) if row in trained])
    return dataclasses.replace(whole, train=train, query=query, gallery=gallery)
