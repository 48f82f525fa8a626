"""Checks of what the codes are worth: no wasted bits, tiny data, and the floor that every method must beat."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import numpy as np

from bitfuse import metrics
from bitfuse.checks.tools import Factory, clusters, fitted, spaces_of, view_names
from bitfuse.codes import Codes
from bitfuse.data import shapes
from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import DataWarning, InputError
from bitfuse.features import backbone
from bitfuse.features.images import open_image
from bitfuse.hashers.base import Hasher
from bitfuse.hashers.lsh import LSH


def no_dead_bits(make: Factory) -> None:
    """No bit is the same for all training rows, in any space, with the default parameters."""
    views, labels = clusters(view_names(make), n=240)
    hasher = make(n_bits=32, seed=0).fit(views, labels)
    for space, read in spaces_of(hasher, views):
        share = hasher.encode(read, space).bits().mean(axis=0)
        dead = int(((share == 0) | (share == 1)).sum())
        assert not dead, f"{dead} of 32 bits are the same in all training rows, in space {space!r}"


def tiny_data_warns_and_works(make: Factory) -> None:
    """12 rows and 64 bits work, with a DataWarning from a method that learns from data."""
    views, labels = clusters(view_names(make), n=12)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        hasher = fitted(make, views, labels, n_bits=64)
    warned = any(issubclass(w.category, DataWarning) for w in seen)
    assert warned == hasher.data_driven, f"12 rows for 64 bits {'warn' if warned else 'do not warn'}"
    for space, read in spaces_of(hasher, views):
        assert hasher.encode(read, space).packed.shape == (12, 8), f"tiny data gives odd codes in space {space!r}"


def beats_lsh(make: Factory, dataset: Dataset | None) -> None:
    """Codes rank rows that share a label above others better than LSH does; LSH itself better than random codes."""
    data = _shapes() if dataset is None else dataset
    hasher = make(n_bits=32, seed=0).fit(data.train.views, data.train.labels)
    ours = _map(hasher, data)
    if isinstance(hasher, LSH) or not hasher.data_driven:
        rng = np.random.default_rng(0)
        q, g = (Codes.from_real(rng.standard_normal((len(part), 32))) for part in (data.query, data.gallery))
        floor, name = _map_of(q, g, data), "random codes"
    else:
        likes = [LSH(n_bits=32, seed=seed).fit(data.train.views) for seed in range(3)]
        floor, name = float(np.mean([_map(lsh, data, hasher.spaces) for lsh in likes])), "LSH"
    assert ours > floor, f"mAP {ours:.3f}, {name} {floor:.3f} on {data.name}"


@functools.cache
def _shapes() -> Dataset:
    """A small world of shapes as the pocket backbone sees it, kept for the process."""
    encoder = backbone("pocket", light=True)
    parts: dict[str, Samples] = {}
    for i, (part, n) in enumerate({"train": 320, "query": 80, "gallery": 320}.items()):
        samples = shapes.generate(n, seed=11, start=1000 * i)
        pictures = [open_image(image) for image in samples.images or () if image is not None]
        views = {"image": encoder.encode("image", pictures), "text": encoder.encode("text", samples.texts or ())}
        parts[part] = dataclasses.replace(samples, views=views)
    return Dataset("shapes", parts["train"], parts["query"], parts["gallery"])


def _map(hasher: Hasher, data: Dataset, spaces: tuple[str, ...] | None = None) -> float:
    """mAP with all views on both sides; of a cross-modal method, from its first space to its second."""
    spaces = spaces or hasher.spaces
    if "fused" in spaces:
        return _map_of(hasher.encode(data.query.views, "fused"), hasher.encode(data.gallery.views, "fused"), data)
    asked, found = ({s: part.views[s]} for s, part in zip(spaces, (data.query, data.gallery)))
    across = spaces if hasher.spaces == spaces else ("fused", "fused")
    return _map_of(hasher.encode(asked, across[0]), hasher.encode(found, across[1]), data)


def _map_of(query: Codes, gallery: Codes, data: Dataset) -> float:
    if data.query.labels is None or data.gallery.labels is None:
        raise InputError(f"{data.name} carries no labels to judge by; give a data set that does")
    distances = query.hamming(gallery)
    relevant = data.query.labels.astype(np.int32) @ data.gallery.labels.T.astype(np.int32) > 0
    buckets = np.arange(query.n_bits + 2)
    n = np.stack([np.histogram(row, buckets)[0] for row in distances])
    r = np.stack([np.histogram(row[hit], buckets)[0] for row, hit in zip(distances, relevant)])
    return metrics.mean(metrics.average_precision(n, r))
