"""Exact search at speed: distinct codes are scanned once each, by the compiled kernels."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse import kernels
from bitfuse.codes import Codes, check_n_bits
from bitfuse.errors import InputError
from bitfuse.index.base import Answer, IdTable, check_codes, check_limits, trim
from bitfuse.index.sweep import Found, few, merge, ready, sweep

_NO_MASK = np.empty(0, np.bool_)
_GROUP_FROM = 4096  # rows from which equal codes are looked for
_DISTINCT = 0.8  # above this share of distinct codes the plain scan is faster
_DEAD = 8  # dead rows are dropped from the answers until one in so many of the grouped ones is dead, then grouped anew
_NARROW = 8  # allowed rows are gathered when fewer than one in so many
_ROOM = 256  # answers within a radius that a query may give at first
_OVERFETCHED = 1 << 22  # answers of a batch, filtered or not, up to which asking for more beats grouping anew


@dataclass(frozen=True)
class _Groups:
    """Rows grouped by equal codes: the distinct codes in strips, each row's group, each group's rows."""

    strips: kernels.Words  # (n_strips, n_words, 16), groups by first row
    groups: NDArray[np.int32]  # (rows,)
    starts: NDArray[np.int32]  # (g + 1,)
    members: NDArray[np.int32]  # (rows,), or fewer after `within`

    def __len__(self) -> int:
        return len(self.starts) - 1

    def within(self, allow: NDArray[np.bool_]) -> _Groups:
        """The groups of the allowed rows, ordered by their first allowed row."""
        kept, starts, members = kernels.list_members(self.groups, len(self), allow)
        return _Groups(_in_strips(kernels.take_rows(self.strips, kept)), self.groups, starts, members)


@dataclass(frozen=True)
class _State:
    """What one search sees. Rows are places of the id table: first the grouped ones, then the tail."""

    base: _Groups | None
    view: _Groups | None  # base without dead rows; None until a search finds many of them
    tail: kernels.Words
    rows: int

    @property
    def grouped(self) -> int:
        return 0 if self.base is None else len(self.base.groups)

    def words(self, rows: NDArray[np.int64]) -> kernels.Words:
        """The codes of ascending rows."""
        own = kernels.take_rows(self.tail, rows[rows >= self.grouped] - self.grouped)
        if self.base is None:
            return own
        shared = self.base.groups[rows[rows < self.grouped]]
        return np.concatenate([kernels.take_rows(self.base.strips, shared), own])


def _in_strips(words: kernels.Words) -> kernels.Words:
    strips = kernels.new_strips(len(words), words.shape[1])
    kernels.put_rows(strips, 0, words)
    return strips


class ScanIndex:
    """Exact nearest neighbours in Hamming distance, at the speed of the machine.

    Equal codes are grouped and each distinct code is scanned once; new rows wait in an ungrouped tail until there are
    as many as grouped ones; removed rows are masked until `compact`. Searches may run while another thread changes the
    index: each sees the state in which it began.

    Args:
        n_bits: code length, 1 to 4096.
        threads: of one search; None for as many as this process may use.
        group: False scans every row by itself, for a few rows that change all the time.

    Examples:
        >>> index = ScanIndex(3)
        >>> index.add(Codes.from_bits([[0, 0, 0], [1, 1, 1], [0, 0, 1]]), ids=[10, 11, 12])
        >>> index.search(Codes.from_bits([[0, 1, 1]]), k=2)
        (array([[1, 1]], dtype=int32), array([[11, 12]]))
    """

    def __init__(self, n_bits: int, threads: int | None = None, group: bool = True) -> None:
        self.n_bits, self._grouping = check_n_bits(n_bits), group
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads must be an integer from 1 on, or None for all, got {threads!r}")
        self.threads = threads or _processors()
        self._n_words = -(-self.n_bits // 64)
        self._lock = threading.Lock()
        self._table = IdTable()
        self._state = _State(None, None, kernels.new_strips(0, self._n_words), 0)
        self._tried = 0  # rows when grouping was last tried

    def __len__(self) -> int:
        return len(self._table)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids in row order: (len(self),) int64."""
        with self._lock:
            return self._table.ids[self._table.alive]

    @property
    def distinct(self) -> int | None:
        """How many distinct codes the grouped rows have; None where nothing is grouped."""
        base = self._state.base
        return None if base is None else len(base)

    def add(self, codes: Codes, ids: ArrayLike | None = None) -> None:
        """Append codes; see `Index.add`."""
        words = check_codes(codes, self.n_bits).words()
        with self._lock:
            old = self._state
            if old.rows + len(words) >= 2**31 - kernels.BLOCK:
                raise InputError("a ScanIndex holds fewer than 2**31 rows; split the codes over several")
            self._table.add(ids, len(words))
            start = old.rows - old.grouped
            tail = old.tail
            if start + len(words) > len(tail) * kernels.STRIP:
                tail = kernels.new_strips(max(start + len(words), start * 3 // 2), self._n_words)
                tail[: len(old.tail)] = old.tail
            kernels.put_rows(tail, start, words)  # behind the rows that searches under way read
            self._state = replace(old, tail=tail, rows=old.rows + len(words))

    def remove(self, ids: ArrayLike) -> None:
        """Remove items; see `Index.remove`. Their memory is given back by `compact`."""
        with self._lock:
            places = self._table.remove(ids)
            if (places < self._state.grouped).any():
                self._state = replace(self._state, view=None)

    def compact(self) -> None:
        """Give back the memory of removed rows and group all equal codes anew."""
        with self._lock:
            words = self._state.words(self._table.compact())
            self._state = _State(None, None, _in_strips(words), len(words))
            if self._grouping:
                self._group(words)

    def warm(self) -> None:
        """Compile everything that a search of this code length may need, or load it from the cache: 0 to 10 seconds."""
        probe = ScanIndex(self.n_bits, threads=1)
        ready.add(self._n_words)
        probe.add(Codes(np.zeros((_GROUP_FROM, -(-self.n_bits // 8)), np.uint8), self.n_bits))
        for queries in (1, 2 * few(self._n_words)):
            probe.search(Codes(np.zeros((queries, -(-self.n_bits // 8)), np.uint8), self.n_bits), k=1)

    def search(
        self, codes: Codes, k: int | None = None, radius: int | None = None, allow: ArrayLike | None = None
    ) -> Answer:
        """The nearest items, by (distance, row); see `Index.search`."""
        queries = check_codes(codes, self.n_bits).words()
        with self._lock:
            width, bound = check_limits(k, radius, len(self), self.n_bits)
            mask = self._table.allowed(allow)
            state, ids, counted = self._prepared(), self._table.ids, self._table.counted
        if width == 0 or len(queries) == 0:
            shape = (len(queries), 0 if k is None else width)
            return np.empty(shape, np.int32), np.empty(shape, np.int64)
        scan = partial(_search, state, mask, allow is not None, bound=bound, threads=self.threads)
        distances, rows = _all_within(scan, queries, width) if k is None else scan(queries, k=width)
        if not counted:
            rows = np.where(rows >= 0, ids[rows], -1)
        return trim(distances, rows, k)

    def _prepared(self) -> _State:
        """The state, with as many rows grouped as pays, and a view without dead rows where they are none or many."""
        tail = self._state.rows - self._state.grouped
        enough = tail >= max(_GROUP_FROM, self._state.grouped) and self._state.rows >= 2 * self._tried
        if self._grouping and enough:
            self._group(self._state.words(np.arange(self._state.rows)))
        base, alive = self._state.base, self._table.alive[: self._state.grouped]
        if base is not None and self._state.view is None:
            dead = len(alive) - np.count_nonzero(alive)
            if not dead or dead * _DEAD > len(alive):
                self._state = replace(self._state, view=base.within(alive) if dead else base)
        return self._state

    def _group(self, words: kernels.Words) -> None:
        self._tried = len(words)
        groups, count = kernels.group_codes(words, int(_DISTINCT * len(words))) if kernels.COMPILED else (None, 0)
        if count and groups is not None:
            _, starts, members = kernels.list_members(groups, count, _NO_MASK)
            firsts = members[starts[:-1]]
            base = _Groups(_in_strips(words[firsts]), groups, starts, members)
            self._state = _State(base, None, kernels.new_strips(0, self._n_words), len(words))
        elif self._state.base is not None:
            self._state = _State(None, None, _in_strips(words), len(words))


def _search(
    state: _State, mask: NDArray[np.bool_] | None, filtered: bool, queries: kernels.Words, *, k: int, bound: int,
    threads: int,
) -> Found:  # fmt: skip
    """Distances and rows, (q, k), -1 where there are fewer, over groups and tail."""
    if mask is not None and np.count_nonzero(mask) * _NARROW < state.rows:
        rows = np.flatnonzero(mask)
        distances, found = sweep(_in_strips(state.words(rows)), len(rows), queries, k, bound, _NO_MASK, threads)
        return distances, np.where(found >= 0, rows[found], -1) if len(rows) else found
    parts: list[Found] = []
    if state.base is not None:
        view = state.view or state.base
        if mask is not None and (filtered or state.view is None):
            parts.append(_filtered(state.base, view, mask[: state.grouped], queries, k, bound, threads))
        else:
            parts.append(_grouped(view, queries, k, bound, threads))
    if state.rows > state.grouped:
        allow = _NO_MASK if mask is None else mask[state.grouped :]
        distances, found = sweep(state.tail, state.rows - state.grouped, queries, k, bound, allow, threads)
        parts.append((distances, np.where(found >= 0, found + state.grouped, -1) if state.grouped else found))
    return merge(parts, k)


def _grouped(view: _Groups, queries: kernels.Words, k: int, bound: int, threads: int) -> Found:
    return sweep(view.strips, len(view), queries, k, bound, _NO_MASK, threads, view.starts, view.members)


def _filtered(
    base: _Groups, view: _Groups, mask: NDArray[np.bool_], queries: kernels.Words, k: int, bound: int, threads: int
) -> Found:
    """A wide filter over groups: ask for more rows and drop those not allowed; group anew for queries left short."""
    more = max(k, min(len(mask), 2 * k * len(mask) // max(1, int(np.count_nonzero(mask))) + 32))
    if len(queries) * more > _OVERFETCHED:
        return _grouped(base.within(mask), queries, k, bound, threads)
    distances, rows = _grouped(view, queries, more, bound, threads)
    kept = (rows >= 0) & mask[rows]
    short = np.flatnonzero((kept.sum(axis=1) < k) & (rows[:, -1] >= 0))
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    distances, rows = (np.take_along_axis(np.where(kept, a, -1), order, axis=1) for a in (distances, rows))
    if len(short):
        distances[short], rows[short] = _grouped(base.within(mask), queries[short], k, bound, threads)
    return distances, rows


def _all_within(scan: Callable[..., Found], queries: kernels.Words, n: int) -> Found:
    """All answers within a radius: queries whose answers fill the room ask again with more."""
    room = min(n, _ROOM)
    distances, rows = scan(queries, k=room)
    open_ = np.flatnonzero(rows[:, -1] >= 0)
    while len(open_) and room < n:
        room = min(n, 16 * room)
        more = scan(queries[open_], k=room)
        width = int((more[1] >= 0).sum(axis=1).max())
        wider = ((0, 0), (0, width - distances.shape[1]))
        distances, rows = np.pad(distances, wider, constant_values=-1), np.pad(rows, wider, constant_values=-1)
        distances[open_], rows[open_] = more[0][:, :width], more[1][:, :width]
        open_ = open_[more[1][:, -1] >= 0]
    return distances, rows


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
