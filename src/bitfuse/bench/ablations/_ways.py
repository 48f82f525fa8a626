"""Ways of keeping items in few bytes: truncation, product quantisation, binary codes, codes with reranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.bench.ablations._findings import fitted
from bitfuse.codes import Codes
from bitfuse.data.base import Dataset
from bitfuse.hashers import hasher
from bitfuse.hashers.base import Hasher

Reals = NDArray[np.float32]

NEIGHBOURS = 10
CANDIDATES = 100
"""Items of the scan by code that are compared again by their floats."""


@dataclass(frozen=True)
class Way:
    """One way of keeping items in few bytes.

    Attributes:
        scores: (queries, gallery) -> (q, n) similarities, the greater the nearer; equal ones are ties.
        searcher: gallery of any size -> a search of queries for their 10 nearest, for the clock.
    """

    scores: Callable[[Reals, Reals], NDArray[np.floating]]
    searcher: Callable[[Reals], Callable[[Reals], Any]]


def ways(
    faiss: Any, data: Dataset, train: Reals, n: int, seed: int, learned: Mapping[str, Any] | None
) -> dict[str, Way]:
    """The ways that come to `n` bytes an item; with `learned`, parameters of CLIPMH, its codes too."""
    found: dict[str, Way] = {}
    d = train.shape[1]
    for name, width in (("float32", 4), ("float16", 2), ("int8", 1)):
        if n % width == 0 and n // width <= min(d, len(train)):
            found[f"truncated, {name}"] = _truncated(faiss, train, n // width, name)
    if n <= d and len(train) >= 256:
        found["product quantisation"] = _quantised(faiss, train, n, seed)
    widths = {view: x.shape[1] for view, x in data.train.views.items()}
    methods: dict[str, tuple[str, Mapping[str, Any]]] = {"LSH": ("lsh", {}), "ITQ": ("itq", {})}
    if learned is not None:
        methods["CLIPMH"] = ("clipmh", learned)
    for title, (method, parameters) in methods.items():
        if 8 * n <= 4096:
            model = fitted(hasher(method, n_bits=8 * n, seed=seed, **parameters), data.train)
            found[f"{title} code"] = _coded(model, widths)
            if method == "itq":
                found["ITQ code, rerank"] = _reranked(model, widths)
    return found


def _truncated(faiss: Any, train: Reals, width: int, kind: str) -> Way:
    mean = train.mean(axis=0)
    axes = np.linalg.svd(train - mean, full_matrices=False)[2][:width].T
    types = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}

    def seen(x: Reals) -> Reals:
        return np.ascontiguousarray((x - mean) @ axes, np.float32)

    def index(gallery: Reals) -> Any:
        made = faiss.IndexFlatL2(width) if kind == "float32" else faiss.IndexScalarQuantizer(width, types[kind])
        made.train(seen(train))
        made.add(seen(gallery))
        return made

    return _by_distance(index, seen)


def _quantised(faiss: Any, train: Reals, n: int, seed: int) -> Way:
    width = n * -(-train.shape[1] // n)  # columns of zeros make the parts equal

    def seen(x: Reals) -> Reals:
        return np.pad(x, ((0, 0), (0, width - x.shape[1])))

    quantiser = faiss.IndexPQ(width, n, 8)
    quantiser.pq.cp.seed = seed + 1
    quantiser.pq.cp.min_points_per_centroid = 1
    quantiser.train(seen(train))

    def index(gallery: Reals) -> Any:
        made = faiss.clone_index(quantiser)
        made.add(seen(gallery))
        return made

    return _by_distance(index, seen)


def _by_distance(index: Callable[[Reals], Any], seen: Callable[[Reals], Reals]) -> Way:
    """A way whose items an index of FAISS can give back: distances of float queries to what it gives."""

    def scores(query: Reals, gallery: Reals) -> NDArray[np.floating]:
        kept = index(gallery).reconstruct_n(0, len(gallery))
        return np.asarray(2 * seen(query) @ kept.T - (kept**2).sum(axis=1))

    def searcher(gallery: Reals) -> Callable[[Reals], Any]:
        made = index(gallery)
        return lambda query: made.search(seen(query), NEIGHBOURS)

    return Way(scores, searcher)


def _encode(model: Hasher, widths: dict[str, int], x: Reals) -> Codes:
    ends = np.cumsum(list(widths.values()))[:-1]
    return model.encode(dict(zip(widths, np.split(x, ends, axis=1))))


def _coded(model: Hasher, widths: dict[str, int]) -> Way:
    def scores(query: Reals, gallery: Reals) -> NDArray[np.floating]:
        return -_encode(model, widths, query).hamming(_encode(model, widths, gallery)).astype(np.float32)

    def searcher(gallery: Reals) -> Callable[[Reals], Any]:
        return _scan(model, widths, gallery, NEIGHBOURS)

    return Way(scores, searcher)


def _scan(model: Hasher, widths: dict[str, int], gallery: Reals, k: int) -> Callable[[Reals], NDArray[np.int64]]:
    """Search by code alone; queries are encoded once, before the clock."""
    from bitfuse.index.scan import ScanIndex

    index = ScanIndex(model.n_bits, threads=1)
    index.add(_encode(model, widths, gallery))
    known: dict[int, Codes] = {}

    def search(query: Reals) -> NDArray[np.int64]:
        if id(query) not in known:
            known[id(query)] = _encode(model, widths, query)
        return index.search(known[id(query)], k=k)[1]

    return search


def _reranked(model: Hasher, widths: dict[str, int]) -> Way:
    def scores(query: Reals, gallery: Reals) -> NDArray[np.floating]:
        values = -_encode(model, widths, query).hamming(_encode(model, widths, gallery)).astype(np.float32)
        first = np.argsort(-values, axis=1, kind="stable")[:, :CANDIDATES]
        np.put_along_axis(values, first, 2 + np.take_along_axis(query @ gallery.T, first, axis=1), axis=1)
        return values

    def searcher(gallery: Reals) -> Callable[[Reals], Any]:
        scan = _scan(model, widths, gallery, CANDIDATES)

        def search(query: Reals) -> NDArray[np.intp]:
            found = scan(query)
            similarity = np.einsum("qd,qcd->qc", query, gallery[found])
            order = np.argsort(-similarity, axis=1)[:, :NEIGHBOURS]
            return np.take_along_axis(found, order, axis=1)

        return search

    return Way(scores, searcher)


def flat(faiss: Any, gallery: Reals) -> Callable[[Reals], Any]:
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return lambda query: index.search(query, NEIGHBOURS)
