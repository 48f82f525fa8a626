"""Approximate search for collections too large to scan: FAISS's inverted file over binary codes (extra `faiss`)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.codes import Codes, check_n_bits
from bitfuse.errors import InputError, MissingDependency
from bitfuse.index.base import Answer, IdTable, check_codes, check_limits, trim
from bitfuse.index.linear import LinearIndex

_PER_LIST = 39  # codes that FAISS wants for each list it trains


class FaissIndex:
    """The nearest items among those in the lists nearest to the query: some may be missed, none is wrong.

    The index trains itself at the first search and again when it has doubled. Measure its recall on your own codes
    against `ScanIndex`, with `benchmarks/search_faiss.py --approximate`, and raise `probes` until it is enough.

    Args:
        n_bits: code length, 1 to 4096.
        lists: into how many the codes are parted; None for four times the root of their number.
        probes: lists read by a query; None for one in sixteen.

    Raises:
        MissingDependency: FAISS is not installed.
    """

    def __init__(self, n_bits: int, lists: int | None = None, probes: int | None = None) -> None:
        self.n_bits = check_n_bits(n_bits)
        for name, value in (("lists", lists), ("probes", probes)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be an integer from 1 on, or None, got {value!r}")
        self.lists, self.probes = lists, probes
        self._faiss = _faiss()
        self._table = IdTable()
        self._codes = Codes(np.empty((0, -(-self.n_bits // 8)), np.uint8), self.n_bits)  # of all places, dead ones too
        self._index: Any = None
        self._trained = 0  # places when it was trained

    def __len__(self) -> int:
        return len(self._table)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids in row order: (len(self),) int64."""
        return self._table.ids[self._table.alive]

    def add(self, codes: Codes, ids: ArrayLike | None = None) -> None:
        """Append codes; see `Index.add`."""
        check_codes(codes, self.n_bits)
        start = self._table.places
        self._table.add(ids, len(codes))
        self._codes = Codes.concatenate([self._codes, codes])
        if self._index is not None:
            self._index.add_with_ids(codes.packed, np.arange(start, self._table.places))

    def remove(self, ids: ArrayLike) -> None:
        """Remove items; see `Index.remove`."""
        places = self._table.remove(ids)
        if self._index is not None:
            self._index.remove_ids(places)

    def search(
        self, codes: Codes, k: int | None = None, radius: int | None = None, allow: ArrayLike | None = None
    ) -> Answer:
        """Near items, by (distance, row); see `Index.search`. With `allow`, the allowed items are searched exactly."""
        check_codes(codes, self.n_bits)
        width, bound = check_limits(k, radius, len(self), self.n_bits)
        distances, places = np.full((len(codes), width), -1, np.int32), np.full((len(codes), width), -1, np.int64)
        mask = self._table.allowed(allow)
        if allow is not None and mask is not None:
            rows = np.flatnonzero(mask)
            exact = LinearIndex(self.n_bits)
            exact.add(self._codes[rows], ids=rows)
            near, found = exact.search(codes, k=max(1, width), radius=bound - 1)
            distances[:, : near.shape[1]], places[:, : near.shape[1]] = near, found
        elif width and len(codes):
            self._train()
            limits, near, found = self._within(codes, bound) if k is None else self._nearest(codes, width, bound)
            for q, (start, stop) in enumerate(pairwise(limits)):
                order = np.lexsort((found[start:stop], near[start:stop]))
                distances[q, : stop - start] = near[start:stop][order]
                places[q, : stop - start] = found[start:stop][order]
        return trim(distances, np.where(places >= 0, self._table.ids[places], -1) if len(self) else places, k)

    def _within(self, codes: Codes, bound: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        limits, near, found = self._index.range_search(codes.packed, bound)
        return np.asarray(limits, np.int64), np.asarray(near), np.asarray(found)

    def _nearest(self, codes: Codes, k: int, bound: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        near, found = self._index.search(codes.packed, k)
        kept = (found >= 0) & (near < bound)
        return np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), near[kept], found[kept]

    def _train(self) -> None:
        if self._index is not None and self._table.places < 2 * self._trained:
            return
        rows = np.flatnonzero(self._table.alive)
        lists = self.lists or max(1, min(int(4 * len(rows) ** 0.5), len(rows) // _PER_LIST))
        lists = min(lists, len(rows))
        width = 8 * self._codes.packed.shape[1]  # FAISS takes whole bytes; pad bits are zero on both sides
        quantizer = self._faiss.IndexBinaryFlat(width)
        index = self._faiss.IndexBinaryIVF(quantizer, width, lists)
        index.cp.min_points_per_centroid = 1
        index.nprobe = min(lists, self.probes or max(1, lists // 16))
        index.train(self._codes.packed[rows])
        index.add_with_ids(self._codes.packed[rows], rows)
        self._quantizer, self._index = quantizer, index  # FAISS does not keep the first one alive
        self._trained = self._table.places


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependency("faiss-cpu", "faiss", "the approximate index") from error
    return faiss
