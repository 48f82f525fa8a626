"""The codes of a collection in memory: a large index that only grows, and a small one for items whose code changed.

An item has one *slot*, its position among the insertion row numbers, for as long as a process holds the collection.
Slots ascend with rows, so the order (distance, slot) is the order (distance, insertion row number).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.index import asymmetric
from bitfuse.index.scan import ScanIndex

Slots = NDArray[np.int64]
Mask = NDArray[np.bool_]
Number = TypeVar("Number", np.int32, np.float32)
_FOLD = 4096  # changed codes that are kept apart before they are worth a new large index


class _Growing:
    """An array that grows at its end in amortised constant time; it starts as a view on what it is given."""

    def __init__(self, start: NDArray[Any]) -> None:
        self._room, self._n = start, len(start)

    @property
    def array(self) -> NDArray[Any]:
        return self._room[: self._n]

    def extend(self, more: NDArray[Any]) -> None:
        need = self._n + len(more)
        if need > len(self._room):
            room = np.empty((max(need, self._n * 3 // 2), *self._room.shape[1:]), self._room.dtype)
            room[: self._n] = self.array
            self._room = room
        self._room[self._n : need] = more
        self._n = need


@dataclass(frozen=True)
class Allowed:
    """Which slots may be found, as the two indexes want it; valid until the next change.

    Attributes:
        slots: (slots,) bool.
        main: the slots that the large index holds, in its order.
        changed: the slots of the small one.
    """

    slots: Mask
    main: Mask
    changed: Mask


class Resident:
    """Codes by slot, searchable.

    Args:
        n_bits: code length.
        rows: (n,) insertion row numbers, ascending.
        packed: (n, ceil(n_bits / 8)) uint8, their codes; may be a read-only map of a file.
    """

    def __init__(self, n_bits: int, rows: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        self.n_bits = n_bits
        self._rows, self._packed, self._hidden = _Growing(rows), _Growing(packed), _Growing(np.zeros(len(rows), bool))
        self._n_hidden = 0  # slots that are dead, or whose newer code stands in the small index
        self._changed_slots: Slots = np.empty(0, np.int64)
        self._changed_packed: NDArray[np.uint8] = packed[:0]
        self._changed: ScanIndex | None = None
        self._main = self._index(packed)

    def _index(self, packed: NDArray[np.uint8], slots: Slots | None = None, group: bool = True) -> ScanIndex:
        index = ScanIndex(self.n_bits, group=group)
        index.add(Codes(packed, self.n_bits), ids=slots)
        return index

    @property
    def rows(self) -> NDArray[np.int64]:
        """(slots,) insertion row numbers, ascending; dead slots included."""
        rows: NDArray[np.int64] = self._rows.array
        return rows

    @property
    def n_slots(self) -> int:
        """Number of slots, dead ones included."""
        return len(self._rows.array)

    @property
    def alive(self) -> Mask:
        """(slots,) bool: which slots hold an item."""
        alive = ~self._hidden.array
        alive[self._changed_slots] = True
        return alive

    def settle(self) -> None:
        """Let the index build what it builds at its first search, and give back to the system what that took.

        glibc keeps freed arrays of many megabytes in the heap once a few have been freed, which would double what an
        open collection holds.
        """
        if self.n_slots:
            self._main.search(Codes(self._packed.array[:1], self.n_bits), 1)
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
        if trim is not None:
            trim(0)

    def __len__(self) -> int:
        return self.n_slots - self._n_hidden + len(self._changed_slots)

    @property
    def changed(self) -> int:
        """Number of items whose code changed since the large index was built."""
        return len(self._changed_slots)

    def slots_of(self, rows: NDArray[np.int64]) -> Slots:
        """The slots of these rows, in their order; rows without a slot are left out."""
        known = self.rows
        if not len(known):
            return np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(known, rows), len(known) - 1)
        slots: Slots = at[known[at] == rows]
        return slots

    def packed(self, slots: Slots | None = None) -> NDArray[np.uint8]:
        """(n, ceil(n_bits / 8)) uint8: the newest codes of these slots, of all of them by default."""
        if slots is None:
            slots = np.arange(self.n_slots)
        packed: NDArray[np.uint8] = self._packed.array[slots]
        if len(self._changed_slots):
            at = np.minimum(np.searchsorted(self._changed_slots, slots), len(self._changed_slots) - 1)
            newer = self._changed_slots[at] == slots
            packed[newer] = self._changed_packed[at[newer]]
        return packed

    def put(self, rows: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Set the codes of these rows (ascending); rows beyond the last become new slots."""
        first = self.n_slots
        new = rows > (self.rows[-1] if first else -1)
        if not new.all():
            self._change(self.slots_of(rows[~new]), packed[~new])
        n_new = int(new.sum())
        if n_new:
            self._rows.extend(rows[new])
            self._packed.extend(packed[new])
            self._hidden.extend(np.zeros(n_new, bool))
            self._main.add(Codes(packed[new], self.n_bits), ids=np.arange(first, first + n_new))

    def _change(self, slots: Slots, packed: NDArray[np.uint8]) -> None:
        differs = (self.packed(slots) != packed).any(axis=1)
        slots, packed = slots[differs], packed[differs]
        at = np.searchsorted(self._changed_slots, slots)
        again = np.append(self._changed_slots, -1)[at] == slots
        newest = self._changed_packed.copy()
        newest[at[again]] = packed[again]
        new = ~again
        self._set_changed(
            np.insert(self._changed_slots, at[new], slots[new]), np.insert(newest, at[new], packed[new], axis=0)
        )
        self._hide(slots)
        if self.changed > max(_FOLD, self.n_slots // 8):
            self._fold()

    def _fold(self) -> None:
        alive, packed = np.flatnonzero(self.alive), self.packed()
        self._hidden, self._n_hidden = _Growing(~self.alive), self.n_slots - len(alive)
        self._set_changed(self._changed_slots[:0], self._changed_packed[:0])
        self._packed = _Growing(packed)
        self._main = self._index(packed[alive], alive)

    def _hide(self, slots: Slots) -> None:
        hidden = self._hidden.array
        fresh = slots[~hidden[slots]]
        if len(fresh):
            self._main.remove(fresh)
            hidden[fresh] = True
            self._n_hidden += len(fresh)

    def _set_changed(self, slots: Slots, packed: NDArray[np.uint8]) -> None:
        self._changed_slots, self._changed_packed, self._changed = slots, packed, None

    def kill(self, rows: NDArray[np.int64]) -> None:
        """Forget the items of these rows; their slots stay, dead."""
        slots = self.slots_of(rows)
        self._hide(slots)
        keep = ~np.isin(self._changed_slots, slots)
        if not keep.all():
            self._set_changed(self._changed_slots[keep], self._changed_packed[keep])

    def allowed(self, mask: Mask) -> Allowed:
        """A mask over the slots, prepared for `search`."""
        return Allowed(mask, mask[~self._hidden.array] if self._n_hidden else mask, mask[self._changed_slots])

    def search(
        self, query: Codes, k: int | None, radius: int | None, allow: Allowed | None
    ) -> tuple[NDArray[np.int32], Slots]:
        """The nearest slots of one query; see `search_many`."""
        return self.search_many(query, k, radius, allow)[0]

    def search_many(
        self, queries: Codes, k: int | None, radius: int | None, allow: Allowed | None
    ) -> list[tuple[NDArray[np.int32], Slots]]:
        """The nearest slots of each query, ordered by (distance, slot).

        Args:
            queries: their codes.
            k: how many; None for all within `radius`.
            radius: greatest distance; None for any.
            allow: what may be found; None for all.
        """
        found = _present(self._main.search(queries, k, radius, None if allow is None else allow.main))
        if len(self._changed_slots):
            if self._changed is None:
                self._changed = self._index(self._changed_packed, self._changed_slots, group=False)
            more = _present(self._changed.search(queries, k, radius, None if allow is None else allow.changed))
            found = [merged([one, other], k) for one, other in zip(found, more)]
        return found

    def search_costs(
        self, costs: NDArray[np.float32], k: int | None, radius: float | None, allow: Allowed | None
    ) -> tuple[NDArray[np.float32], Slots]:
        """The slots at the least asymmetric distance, ordered by (distance, slot).

        Args:
            costs: (n_bits, 2), of `asymmetric.costs_of`.
            k: how many; None for all within `radius`.
            radius: greatest distance; None for any.
            allow: what may be found; None for all.
        """
        most = max(1, self.n_slots) if k is None else k
        may = ~self._hidden.array if allow is None else ~self._hidden.array & allow.slots
        found = asymmetric.nearest(self._packed.array, costs, most, radius, may)
        if len(self._changed_slots):
            here = np.ones(len(self._changed_slots), bool) if allow is None else allow.changed
            distances, at = asymmetric.nearest(self._changed_packed, costs, most, radius, here)
            found = merged([found, (distances, self._changed_slots[at])], k)
        return found


def merged(
    parts: Sequence[tuple[NDArray[Number], Slots]], k: int | None
) -> tuple[NDArray[Number], Slots]:  # fmt: skip
    """The k nearest of several answers over different slots, by (distance, slot)."""
    distances, slots = (np.concatenate(column) for column in zip(*parts))
    order = np.lexsort((slots, distances))[:k]
    return distances[order], slots[order]


def _present(found: tuple[NDArray[np.int32], NDArray[np.int64]]) -> list[tuple[NDArray[np.int32], Slots]]:
    present = found[1] >= 0  # an index fills what it could not find with -1
    return [(distances[here], ids[here]) for distances, ids, here in zip(*found, present)]
