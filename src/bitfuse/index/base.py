"""The contract of every index, and the bookkeeping they share: arguments, ids, the shape of an answer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.codes import Codes, as_array
from bitfuse.errors import InputError

Answer = tuple[NDArray[np.int32], NDArray[np.int64]]
_RECENT = 4096  # ids kept in a dictionary before they are merged into the sorted table


@runtime_checkable
class Index(Protocol):
    """Codes with distinct ids that can be searched by Hamming distance.

    A *row* is an item's place in insertion order. Removing an item closes the gap; adding a removed id again appends.
    """

    n_bits: int

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids in row order: (len(self),) int64."""
        ...

    def __len__(self) -> int: ...

    def add(self, codes: Codes, ids: ArrayLike | None = None) -> None:
        """Append codes.

        Args:
            codes: (n) of `n_bits` bits.
            ids: (n,) distinct integers from 0, none of them in the index; None counts on from the largest id so far.

        Raises:
            InputError: wrong code length, or ids that are negative, repeated or present; nothing was added.
        """
        ...

    def remove(self, ids: ArrayLike) -> None:
        """Remove items.

        Args:
            ids: (m,) integers.

        Raises:
            InputError: an id is not in the index; nothing was removed.
        """
        ...

    def search(
        self, codes: Codes, k: int | None = None, radius: int | None = None, allow: ArrayLike | None = None
    ) -> Answer:
        """The nearest items of each query, ordered by (distance, row).

        Args:
            codes: q queries.
            k: how many, at least 1; None for all within `radius`.
            radius: largest distance that counts, 0 or more; None for any.
            allow: only these may be found: a boolean mask over the rows, (len(self),), or an array of ids (those that
                the index does not hold are ignored); None for all.

        Returns:
            Distances int32 and ids int64, both (q, m): m = min(k, len(self)), and without k the longest answer.
            Where a query has fewer than m answers, the rest of its row is -1 in both.

        Raises:
            InputError: wrong code length, neither `k` nor `radius`, or either out of range; a mask of another length.
        """
        ...


def check_codes(codes: Codes, n_bits: int) -> Codes:
    """Return codes of `n_bits` bits; raise `InputError` for anything else."""
    if not isinstance(codes, Codes):
        raise InputError(f"an index takes bitfuse.Codes, got {type(codes).__name__}; see Codes.from_real, from_bits")
    if codes.n_bits != n_bits:
        raise InputError(f"this index holds codes of {n_bits} bits, got {codes.n_bits}; use one code length")
    return codes


def check_limits(k: int | None, radius: int | None, n: int, n_bits: int) -> tuple[int, int]:
    """How many answers at most, 0 to n, and the first distance that is too far, 1 to n_bits + 1."""
    if k is None and radius is None:
        raise InputError("name k, the number of neighbours, or radius, the largest distance, or both")
    for name, value, least in (("k", k, 1), ("radius", radius, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least):
            raise InputError(f"{name} must be an integer from {least} on, got {value!r}")
    return n if k is None else min(int(k), n), n_bits + 1 if radius is None else min(int(radius), n_bits) + 1


def as_ids(ids: ArrayLike) -> NDArray[np.int64]:
    """Integers as a flat int64 array; raise `InputError` for anything else."""
    array = as_array(ids, "ids")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise InputError(f"ids must be a flat array of integers, got {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"ids must fit in int64, got {array.max()}")
    return np.atleast_1d(array).astype(np.int64)


def trim(distances: NDArray[np.int32], ids: NDArray[np.int64], k: int | None) -> Answer:
    """Cut an answer without k to its longest row."""
    width = distances.shape[1] if k is not None else int((ids >= 0).sum(axis=1).max(initial=0))
    return np.ascontiguousarray(distances[:, :width]), np.ascontiguousarray(ids[:, :width])


class IdTable:
    """Which rows ids stand in: ids and living rows are kept in arrays that grow by half, about 10 to 18 bytes an item.

    Rows here are *places* in those arrays: removing marks a row dead and keeps its place until `compact`.
    """

    def __init__(self) -> None:
        self._ids = np.empty(0, np.int64)
        self._alive = np.empty(0, np.bool_)
        self.places = 0  # dead ones included
        self.dead = 0
        self.counted = True  # the id of every place is the place itself
        self._next = 0
        self._sorted: tuple[NDArray[np.int64], NDArray[np.int64] | None] = (self._ids, None)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        return self.places - self.dead

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id of every place, dead ones included: (places,) int64."""
        return self._ids[: self.places]

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Whether a place holds a living item: (places,); a new array after each removal."""
        return self._alive[: self.places]

    def add(self, ids: ArrayLike | None, n: int) -> None:
        """Append n ids, checked; None counts on from the largest so far."""
        new = np.arange(self._next, self._next + n) if ids is None else as_ids(ids)
        if len(new) != n:
            raise InputError(f"{n} codes need {n} ids, got {len(new)}")
        if n == 0:
            return
        ascending = bool((np.diff(new) > 0).all())
        if new.min() < 0:
            raise InputError(f"ids must be 0 or more (-1 marks the absence of an answer), got {new.min()}")
        if not ascending and len(np.unique(new)) < n:
            values, times = np.unique(new, return_counts=True)
            raise InputError(f"ids must be distinct, got {values[times > 1][0]} more than once")
        if new.min() < self._next and (self.find(new) >= 0).any():
            raise InputError(f"id {new[self.find(new) >= 0][0]} is in the index already; remove it first")
        start = self.places
        if start + n > len(self._ids):
            room = max(start + n, len(self._ids) * 3 // 2)
            self._ids = np.concatenate([self.ids, np.empty(room - start, np.int64)])
            self._alive = np.concatenate([self.alive, np.ones(room - start, np.bool_)])
        in_order = ascending and new[0] >= self._next and self._sorted[1] is None and not self._recent
        self.counted = self.counted and ascending and new[0] == start and new[-1] == start + n - 1
        self._ids[start : start + n] = new
        self.places = start + n
        self._next = max(self._next, int(new.max()) + 1)
        if in_order:  # the ids of all places ascend: the array is its own sorted table
            self._sorted = (self.ids, None)
        elif n + len(self._recent) <= max(_RECENT, start // 8):
            self._recent.update(zip(new.tolist(), range(start, start + n)))
        else:
            self._sort()

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The living place of each id, or -1."""
        table, order = self._sorted
        places = np.full(len(ids), -1, np.int64)
        if len(table):
            at = np.minimum(np.searchsorted(table, ids), len(table) - 1)
            known = table[at] == ids
            places[known] = at[known] if order is None else order[at[known]]
        if self._recent:
            recent = np.fromiter((self._recent.get(i, -1) for i in ids.tolist()), np.int64, len(ids))
            places = np.where(recent >= 0, recent, places)
        if self.dead:
            places[(places >= 0) & ~self.alive[places]] = -1
        return places

    def remove(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Mark ids dead and return their places; raise `InputError` for ids that are not there."""
        asked = np.unique(as_ids(ids))
        places = self.find(asked)
        if (places < 0).any():
            missing = asked[places < 0]
            raise InputError(f"{len(missing)} id(s) are not in the index, the first is {missing[0]}; nothing removed")
        alive = self._alive.copy()  # searches under way keep theirs
        alive[places] = False
        self._alive = alive
        self.dead += len(places)
        return places

    def compact(self) -> NDArray[np.int64]:
        """Drop dead places and return the places that stayed, in order."""
        kept = np.flatnonzero(self.alive)
        self._ids, self._alive = self.ids[kept], np.ones(len(kept), np.bool_)
        self.counted = self.counted and len(kept) == self.places
        self.places, self.dead = len(kept), 0
        self._sort()
        return kept

    def allowed(self, allow: ArrayLike | None) -> NDArray[np.bool_] | None:
        """The living places that may be found, (places,); None for all of them."""
        if allow is None:
            return self.alive if self.dead else None
        array = np.asarray(allow)
        if array.dtype == np.bool_:
            if array.shape != (len(self),):
                raise InputError(f"a mask over {len(self)} rows must be of shape ({len(self)},), got {array.shape}")
            if not self.dead:
                return array.copy()  # the caller's may be read-only, for which kernels would be compiled again
            mask = np.zeros(self.places, np.bool_)
            mask[self.alive] = array
            return mask
        places = self.find(as_ids(array))
        mask = np.zeros(self.places, np.bool_)
        mask[places[places >= 0]] = True
        return mask

    def _sort(self) -> None:
        living = np.flatnonzero(self.alive)
        ids = self.ids[living]
        if len(living) == self.places and bool((np.diff(ids) > 0).all()):
            self._sorted = (self.ids, None)
        else:
            order = np.argsort(ids, kind="stable")
            self._sorted = (ids[order], living[order])
        self._recent = {}
