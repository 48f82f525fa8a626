"""Approximate search for collections too large to scan: FAISS's inverted file over binary codes (extra `faiss`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.codes import Codes, check_n_bits
from bitfuse.errors import DamagedFile, InputError, MissingDependency
from bitfuse.index.base import Answer, IdTable, check_codes, check_limits, trim
from bitfuse.index.linear import LinearIndex

_PER_LIST = 39  # codes that FAISS wants for each list it trains


def check_counts(lists: int | None, probes: int | None) -> None:
    """Raise `InputError` unless both are None or integers from 1 on."""
    for name, value in (("lists", lists), ("probes", probes)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31):
            raise InputError(f"{name} must be an integer from 1 on, or None, got {value!r}")


class InvertedLists:
    """Packed codes, parted by their nearest centre; ids are the caller's. FAISS's `IndexBinaryIVF`."""

    def __init__(self, index: Any, quantizer: Any = None) -> None:
        self._index, self._quantizer = index, quantizer  # FAISS does not keep the second one alive

    @classmethod
    def of(
        cls, packed: NDArray[np.uint8], ids: NDArray[np.int64], lists: int | None, probes: int | None
    ) -> InvertedLists:
        """Train on these codes, at least one, and hold them: None for the defaults that `FaissIndex` names."""
        faiss = _faiss()
        lists = min(lists or max(1, min(int(4 * len(packed) ** 0.5), len(packed) // _PER_LIST)), len(packed))
        width = 8 * packed.shape[1]  # FAISS takes whole bytes; pad bits are zero on both sides
        quantizer = faiss.IndexBinaryFlat(width)
        index = faiss.IndexBinaryIVF(quantizer, width, lists)
        index.cp.min_points_per_centroid = 1
        # the defaults trained 2.3 times as long for a recall of .989, not .990
        index.cp.max_points_per_centroid = 2 * _PER_LIST
        index.cp.niter = 10
        index.nprobe = min(lists, probes or max(1, lists // 16))
        index.train(packed)
        index.add_with_ids(packed, ids)
        return cls(index, quantizer)

    @classmethod
    def from_bytes(cls, data: NDArray[np.uint8], probes: int) -> InvertedLists:
        """What `to_bytes` gave.

        Raises:
            DamagedFile: something else.
        """
        try:
            index = _faiss().deserialize_index_binary(data)
        except RuntimeError as error:
            raise DamagedFile(f"not an inverted file of FAISS: {error}") from error
        index.nprobe = probes
        return cls(index)

    def to_bytes(self) -> NDArray[np.uint8]:
        """All of it, in FAISS's format."""
        return np.asarray(_faiss().serialize_index_binary(self._index))

    @property
    def lists(self) -> int:
        """Number of lists."""
        return int(self._index.nlist)

    @property
    def probes(self) -> int:
        """Number of lists that a query reads."""
        return int(self._index.nprobe)

    def add(self, packed: NDArray[np.uint8], ids: NDArray[np.int64]) -> None:
        """Append codes."""
        self._index.add_with_ids(packed, ids)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove ids."""
        self._index.remove_ids(ids)

    def search(
        self, packed: NDArray[np.uint8], k: int | None, bound: int
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """For each query distances below `bound` and ids, ordered by (distance, id): the k nearest, or all."""
        if k is None:
            limits, near, found = (np.asarray(part) for part in self._index.range_search(packed, bound))
            limits = limits.astype(np.int64)
        else:
            near, found = self._index.search(packed, k)
            kept = (found >= 0) & (near < bound)
            limits = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
            near, found = near[kept], found[kept]
        for start, stop in pairwise(limits.tolist()):
            order = np.lexsort((found[start:stop], near[start:stop]))
            yield near[start:stop][order].astype(np.int32), found[start:stop][order].astype(np.int64)


class FaissIndex:
    """The nearest items among those in the lists nearest to the query: some may be missed, none is wrong.

    The index trains itself at the first search and again when it has doubled. Measure its recall on your own codes
    against `ScanIndex`, as `benchmarks/search_ivf.py` does, and raise `probes` until it is enough.

    Args:
        n_bits: code length, 1 to 4096.
        lists: into how many the codes are parted; None for four times the root of their number.
        probes: lists read by a query; None for one in sixteen.

    Raises:
        MissingDependency: FAISS is not installed.
    """

    def __init__(self, n_bits: int, lists: int | None = None, probes: int | None = None) -> None:
        self.n_bits = check_n_bits(n_bits)
        check_counts(lists, probes)
        self.lists, self.probes = lists, probes
        _faiss()
        self._table = IdTable()
        self._codes = Codes(np.empty((0, -(-self.n_bits // 8)), np.uint8), self.n_bits)  # of all places, dead ones too
        self._lists: InvertedLists | None = None
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
        if self._lists is not None:
            self._lists.add(codes.packed, np.arange(start, self._table.places))

    def remove(self, ids: ArrayLike) -> None:
        """Remove items; see `Index.remove`."""
        places = self._table.remove(ids)
        if self._lists is not None:
            self._lists.remove(places)

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
            assert self._lists is not None
            for q, (near, found) in enumerate(self._lists.search(codes.packed, None if k is None else width, bound)):
                distances[q, : len(near)], places[q, : len(near)] = near, found
        return trim(distances, np.where(places >= 0, self._table.ids[places], -1) if len(self) else places, k)

    def _train(self) -> None:
        if self._lists is None or self._table.places >= 2 * self._trained:
            rows = np.flatnonzero(self._table.alive)
            self._lists = InvertedLists.of(self._codes.packed[rows], rows, self.lists, self.probes)
            self._trained = self._table.places


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependency("faiss-cpu", "faiss", "the approximate index") from error
    return faiss
