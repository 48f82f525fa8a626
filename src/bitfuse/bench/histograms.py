"""One pass over all pairs: how many items lie at each distance from a query, and how many labels they share with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import InputError
from bitfuse.metrics import gain

Labels = NDArray[np.bool_]
_BLOCK_BYTES = 1 << 25  # of the counts, or in the numpy twin of the distances, that one thread holds at once
_MOST_LABEL_WORDS = 32  # beyond, a matrix product counts shared labels faster than compiled loops over words


@dataclass(frozen=True, eq=False)
class Histograms:
    """All that the metrics need to know about one ranking by Hamming distance, ties included.

    Attributes:
        n: (q, n_bits + 1) int64, items at each distance from 0 to n_bits.
        r: (q, n_bits + 1) int64, those that share a label with the query.
        gains: (q, n_bits + 1) float64, sum of 2^shared - 1 over the items.
        grades: (q, g) int64, items by number of shared labels, 0 to g - 1.
    """

    n: NDArray[np.int64]
    r: NDArray[np.int64]
    gains: NDArray[np.float64]
    grades: NDArray[np.int64]


def histograms(
    query: Codes, gallery: Codes, query_labels: Labels, gallery_labels: Labels, threads: int | None = None
) -> Histograms:
    """Count distances and shared labels of all pairs, in blocks of queries of bounded size.

    Args:
        query, gallery: codes of one length.
        query_labels, gallery_labels: (q, c) and (n, c) bool.
        threads: None is one a processor that this process may use.
    """
    if query.n_bits != gallery.n_bits:
        raise InputError(f"codes of {query.n_bits} and {gallery.n_bits} bits cannot be compared; use one code length")
    marks = _words(query_labels), _words(gallery_labels)
    most = min(int(np.bitwise_count(part).sum(axis=1, dtype=np.int64).max(initial=0)) for part in marks)
    shape = (query.n_bits + 1, max(most, 1) + 1)
    threads = threads or usable_threads()
    step = max(1, min(_BLOCK_BYTES // (shape[0] * shape[1] * 4), -(-len(query) // threads)))
    blocks = [slice(i, i + step) for i in range(0, len(query), step)]
    words = query.words(), gallery.words()
    weights = gain(shape[1])

    def reduce(block: slice) -> tuple[NDArray[Any], ...]:
        counts = np.zeros((len(words[0][block]), *shape), np.uint32)
        if _compiled() and marks[0].shape[1] <= _MOST_LABEL_WORDS:
            from bitfuse.kernels import tally

            tally(words[0][block], marks[0][block], words[1], marks[1], counts)
        else:
            tally_plainly(query[block], gallery, query_labels[block], gallery_labels, counts)
        n, grades = counts.sum(axis=2, dtype=np.int64), counts.sum(axis=1, dtype=np.int64)
        return n, n - counts[:, :, 0], counts @ weights, grades

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(reduce, blocks)) or [reduce(slice(0, 0))]
    return Histograms(*(np.concatenate(column) for column in zip(*parts)))


def tally_plainly(
    query: Codes, gallery: Codes, query_labels: Labels, gallery_labels: Labels, counts: NDArray[np.uint32]
) -> None:
    """The numpy twin of `kernels.tally`, on codes and labels as they are: reference and fall-back."""
    grades = counts.shape[2]
    for q in range(len(query)):
        distance = query[q].hamming(gallery)[0].astype(np.int64)
        shared = gallery_labels[:, query_labels[q]].sum(axis=1)
        counts[q] += (
            np.bincount(distance * grades + shared, minlength=counts[q].size).reshape(-1, grades).astype(np.uint32)
        )


def ranked_by_row(
    query: Codes, gallery: Codes, query_labels: Labels, gallery_labels: Labels
) -> Iterator[NDArray[np.bool_]]:
    """Blocks of rankings with ties in the order of the gallery's rows: (q, n) bool, relevant at each rank."""
    step = max(1, _BLOCK_BYTES // max(1, 16 * len(gallery)))
    for i in range(0, len(query), step):
        distance = query[i : i + step].hamming(gallery).astype(np.uint16)
        order = np.argsort(distance, axis=1, kind="stable")
        yield np.take_along_axis(relevance(query_labels[i : i + step], gallery_labels), order, axis=1)


def relevance(query_labels: Labels, gallery_labels: Labels) -> NDArray[np.bool_]:
    """(q, n) bool: whether a pair shares a label."""
    shared = query_labels.astype(np.float32) @ gallery_labels.T.astype(np.float32)
    return np.asarray(shared > 0)


def usable_threads() -> int:
    """Processors that this process may use, or fewer where OMP_NUM_THREADS says so."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(available, int(limit))) if limit.isdigit() and int(limit) else available


def _compiled() -> bool:
    from bitfuse import kernels

    return kernels.COMPILED


def _words(labels: Labels) -> NDArray[np.uint64]:
    """Labels packed into machine words: (n, ceil(c / 64)) uint64, at least one word."""
    packed = np.packbits(labels, axis=1)
    out = np.zeros((len(labels), max(1, -(-packed.shape[1] // 8)) * 8), np.uint8)
    out[:, : packed.shape[1]] = packed
    return out.view(np.uint64)
