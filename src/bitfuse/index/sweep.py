"""One exact pass over packed codes: which kernel, how many threads, how much memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bitfuse import kernels

Found = tuple[NDArray[np.int32], NDArray[np.int64]]  # distances and rows, (q, k) each, -1 where there are fewer

_SLICED_WORDS = 16  # longer codes are always scanned directly: the network's code grows with them
_WORTH_COMPILING = 100_000_000  # words that batches have scanned directly before the bit-sliced kernel is compiled
_THREAD_WORK = 2_000_000  # words to scan, below which a second thread costs more than it brings
_SPLIT_QUERIES = 64  # batches from here on are shared out by query, smaller ones by row
_CANDIDATES = 64 << 20  # bytes that the candidates of one pass over the codes may take
ready: set[int] = set()  # code lengths in words whose bit-sliced kernel is compiled, or about to be
_scanned: dict[int, int] = {}


def sweep(
    strips: kernels.Words, n_rows: int, queries: kernels.Words, k: int, bound: int, allow: NDArray[np.bool_],
    threads: int, starts: NDArray[np.int32] = kernels.NO_GROUPS, members: NDArray[np.int32] = kernels.NO_GROUPS,
) -> Found:  # fmt: skip
    """`kernels.nearest` over all rows, the work shared among threads, the candidates within their memory."""
    n_queries, n_words = queries.shape
    sliced = slicing_pays(n_words, n_queries, n_rows)
    at_once = max(1, _CANDIDATES // (8 * min(max(4 * k, 1024), n_rows + 1) + 12 * k))
    if n_queries * n_rows * n_words < _THREAD_WORK:
        threads = 1

    def run(first: int, last: int, start: int, stop: int) -> Found:
        asked = queries[start:stop]
        return kernels.nearest(strips, first, last, asked, k, bound, allow, starts, members, sliced=sliced)[:2]

    if threads > 1 and n_queries < min(_SPLIT_QUERIES, at_once + 1):
        share = -(-n_rows // (threads * kernels.BLOCK)) * kernels.BLOCK
        tasks = [(first, min(first + share, n_rows), 0, n_queries) for first in range(0, n_rows, share)]
    else:
        share = min(at_once, -(-n_queries // threads))
        tasks = [(0, n_rows, start, start + share) for start in range(0, n_queries, share)]
    if len(tasks) == 1:
        return run(*tasks[0])
    with ThreadPoolExecutor(min(threads, len(tasks))) as pool:
        parts = list(pool.map(lambda task: run(*task), tasks))
    if tasks[0][3] < n_queries:
        distances, found = (np.concatenate(column) for column in zip(*parts))
        return distances, found
    return merge(parts, k)


def merge(parts: list[Found], k: int) -> Found:
    """The k nearest of several answers over different rows, by (distance, row)."""
    if len(parts) == 1:
        return parts[0]
    distances, rows = (np.concatenate(column, axis=1) for column in zip(*parts))
    keys = np.where(rows >= 0, distances.astype(np.int64) << 32 | rows, np.iinfo(np.int64).max)
    keys = np.sort(keys, axis=1)[:, :k]
    absent = keys == np.iinfo(np.int64).max
    return np.where(absent, -1, keys >> 32).astype(np.int32), np.where(absent, -1, keys & 0xFFFFFFFF)


def slicing_pays(n_words: int, n_queries: int, n_rows: int) -> bool:
    """Whether to use the bit-sliced kernel; small work never waits for its compilation."""
    if n_words > _SLICED_WORDS or n_queries < few(n_words):
        return False
    if n_words not in ready:
        _scanned[n_words] = _scanned.get(n_words, 0) + n_words * n_queries * n_rows
        if _scanned[n_words] < _WORTH_COMPILING:
            return False
        ready.add(n_words)
    return True


def few(n_words: int) -> int:
    """The smallest batch for which bit-slicing pays."""
    return 12 if n_words == 1 else 16 if n_words < 4 else 24
