"""Exact search with numpy alone: the reference for every other index, and the fallback where nothing compiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.codes import Codes, check_n_bits
from bitfuse.index.base import Answer, IdTable, check_codes, check_limits, trim

_DISTANCES = 1 << 22  # measured at once


class LinearIndex:
    """All distances and a stable sort; slow, short, right.

    Args:
        n_bits: code length, 1 to 4096.

    Examples:
        >>> index = LinearIndex(3)
        >>> index.add(Codes.from_bits([[0, 0, 0], [1, 1, 1], [0, 0, 1]]), ids=[10, 11, 12])
        >>> index.search(Codes.from_bits([[0, 1, 1]]), k=2)
        (array([[1, 1]], dtype=int32), array([[11, 12]]))
    """

    def __init__(self, n_bits: int) -> None:
        self.n_bits = check_n_bits(n_bits)
        self._codes = Codes(np.empty((0, -(-self.n_bits // 8)), np.uint8), self.n_bits)
        self._table = IdTable()

    def __len__(self) -> int:
        return len(self._table)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids in row order: (len(self),) int64."""
        return self._table.ids.copy()

    def add(self, codes: Codes, ids: ArrayLike | None = None) -> None:
        """Append codes; see `Index.add`."""
        check_codes(codes, self.n_bits)
        self._table.add(ids, len(codes))
        self._codes = Codes.concatenate([self._codes, codes])

    def remove(self, ids: ArrayLike) -> None:
        """Remove items; see `Index.remove`."""
        self._table.remove(ids)
        self._codes = self._codes[self._table.compact()]

    def search(
        self, codes: Codes, k: int | None = None, radius: int | None = None, allow: ArrayLike | None = None
    ) -> Answer:
        """The nearest items, by (distance, row); see `Index.search`."""
        check_codes(codes, self.n_bits)
        width, bound = check_limits(k, radius, len(self), self.n_bits)
        mask = self._table.allowed(allow)
        distances = np.full((len(codes), width), -1, np.int32)
        ids = np.full((len(codes), width), -1, np.int64)
        step = max(1, _DISTANCES // max(1, len(self)))
        for start in range(0, len(codes) if width else 0, step):
            part = slice(start, start + step)
            measured = codes[part].hamming(self._codes)
            if mask is not None:
                measured[:, ~mask] = self.n_bits + 1
            order = np.argsort(measured, axis=1, kind="stable")[:, :width]
            nearest = np.take_along_axis(measured, order, axis=1)
            distances[part] = np.where(nearest < bound, nearest, -1)
            ids[part] = np.where(nearest < bound, self._table.ids[order], -1)
        return trim(distances, ids, k)
