"""Features that stay on disk: one file of rows a view, read by row numbers; what training at scale learns from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import DamagedFile, InputError

SAMPLE = 10_000
"""Rows that a method which needs them all at once learns from, where not told otherwise."""


class StoredArray:
    """A (n, d) array in a file of plain rows. It is read, not mapped: mapped pages count as memory of the process.

    Args:
        path: of the file; it may be longer than n rows by none.
        width: d.
        dtype: float16 or float32.
    """

    def __init__(self, path: Path, width: int, dtype: np.dtype[Any]) -> None:
        self.path, self.width, self.dtype = path, width, dtype
        self._descriptor: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def __len__(self) -> int:
        return self.path.stat().st_size // self._row_bytes

    def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """The rows of these numbers, (m, d) float32, in the order given."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        order = np.argsort(rows, kind="stable")
        sorted_rows = np.asarray(rows)[order]
        found = np.empty((len(rows), self.width), self.dtype)
        breaks = np.flatnonzero(np.diff(sorted_rows) != 1) + 1
        target = found.reshape(-1).view(np.uint8).data
        for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)]):
            self._read(target[first * self._row_bytes : last * self._row_bytes], int(sorted_rows[first]))
        out = np.empty(found.shape, np.float32)
        out[order] = found
        return out

    def close(self) -> None:
        """Let go of the file; the next read opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def _read(self, target: memoryview, row: int) -> None:
        assert self._descriptor is not None
        at = row * self._row_bytes
        while len(target):
            got = os.preadv(self._descriptor, [target], at)
            if not got:
                raise DamagedFile(f"{self.path} ends before row {row}: it was changed while in use; begin anew")
            target, at = target[got:], at + got


@dataclass(frozen=True, eq=False)
class StoredViews(Mapping[str, Any]):
    """Views as `Hasher.fit` takes them, of any number of rows: name -> (n, d) on disk.

    Attributes:
        arrays: view name -> file of rows.
        masks: view name -> (n,) bool, which rows have the view; what the file holds for the others is not read.
        rows: (n,) the rows of the files that count, in order.
        draws: (n,) numbers in [0, 1), by hash of id: the lowest are the sample.
        sample: rows that a method learns from when it needs them all at once.
    """

    arrays: Mapping[str, StoredArray]
    masks: Mapping[str, NDArray[np.bool_]]
    rows: NDArray[np.intp]
    draws: NDArray[np.float64]
    sample: int = SAMPLE

    def __post_init__(self) -> None:
        if isinstance(self.sample, bool) or not isinstance(self.sample, int) or self.sample < 1:
            raise InputError(f"the sample must be an integer of at least 1 row, got {self.sample!r}")

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """One view, read into memory; NaN where a row lacks it."""
        found = self.arrays[name][self.rows]
        found[~self.masks[name]] = np.nan
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> StoredViews:
        """The views of these rows (row numbers, or a mask), still on disk."""
        masks = {name: mask[rows] for name, mask in self.masks.items()}
        return replace(self, masks=masks, rows=self.rows[rows], draws=self.draws[rows])

    def of(self, name: str) -> StoredViews:
        """One view alone."""
        return replace(self, arrays={name: self.arrays[name]}, masks={name: self.masks[name]})

    def read(self, rows: NDArray[np.integer]) -> dict[str, NDArray[np.float32]]:
        """Rows in memory: view name -> (m, d), zeros where the view is missing."""
        out = {}
        for name, array in self.arrays.items():
            out[name] = array[self.rows[rows]]
            out[name][~self.masks[name][rows]] = 0
        return out

    def sampled(self) -> NDArray[np.intp]:
        """The numbers, in order, of the `sample` rows whose ids have the lowest hashes, or of all there are."""
        if len(self.rows) <= self.sample:
            return np.arange(len(self.rows))
        return np.sort(np.argsort(self.draws, kind="stable")[: self.sample])


@dataclass(frozen=True, eq=False)
class StoredSamples:
    """Items whose features lie on disk: what `Samples` is, of any number of rows.

    Attributes:
        ids: n distinct strings.
        views: the features.
        labels: (n, c) bool, or None. A row without a True is unlabelled.
        label_names: c strings.
        sources: view name -> facts about where its features came from.
    """

    ids: tuple[str, ...]
    views: StoredViews
    labels: NDArray[np.bool_] | None = None
    label_names: tuple[str, ...] = ()
    sources: Mapping[str, Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(n,) bool: the rows that carry at least one label."""
        return np.zeros(len(self), bool) if self.labels is None else np.asarray(self.labels.any(axis=1))

    @property
    def complete(self) -> NDArray[np.bool_]:
        """(n,) bool: the rows that lack no view."""
        return np.asarray(np.all(list(self.views.masks.values()), axis=0))

    def take(self, rows: NDArray[np.bool_]) -> StoredSamples:
        """The samples of the rows that a mask names."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in np.flatnonzero(rows).tolist()),
            views=self.views.take(rows),
            labels=None if self.labels is None else self.labels[rows],
        )
