"""What the ablations share that change the features themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitfuse.bench import modes as asking
from bitfuse.bench.ablations._findings import real_map
from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import InputError
from bitfuse.features.base import Backbone


def encoded_by(encoder: Backbone, data: Dataset, *, cache: bool = True) -> Dataset:
    """The data with the features of this backbone in place of its own.

    Raises:
        InputError: no pictures, texts or labels.
    """
    from bitfuse.pipeline.extract import extract

    parts = {}
    for name in ("train", "query", "gallery"):
        samples: Samples = getattr(data, name)
        if samples.images is None or samples.texts is None or not samples.labelled.any():
            raise InputError(f"this ablation needs pictures, texts and labels; {name} of {data.name!r} lacks some")
        parts[name], _ = extract(replace(samples, views={}, sources={}), encoder, cache=cache)
    return Dataset(data.name, **parts, notes=data.notes)


def cosine(data: Dataset) -> float:
    """mAP of the features themselves: each view at unit length, side by side."""
    views = tuple(data.query.views)
    rows = [asking.reference(samples, np.arange(len(samples)), views, views) for samples in (data.query, data.gallery)]
    return real_map(rows[0], rows[1], data)


def paired(query: Samples) -> float:
    """R@1 of the pictures' own texts among those of all queries, each side centred on its own mean."""
    sides = [asking.unit(asking.unit(query.views[v]) - asking.centre(query, v)) for v in ("image", "text")]
    return asking.found_pairs(sides[0], sides[1], (1,))[1]
