"""Views and labels as users give them, turned once into arrays and masks that hold no NaN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.codes import as_array
from bitfuse.data.stored import StoredViews
from bitfuse.errors import InputError, MissingView

AtScale = Literal["stream", "statistics", "chunks", "sample"]
"""How a method learns from features on disk; `AT_SCALE` says what each means."""

AT_SCALE: dict[AtScale, str] = {
    "stream": "all rows, batches read from disk; what looks at many rows at once takes the sample",
    "statistics": "sums over all rows, read block by block; what needs rows at once (a rotation) takes the sample",
    "chunks": "all rows, one chunk in memory at a time",
    "sample": "the sample alone: the method needs all of its rows at once",
}
BLOCK = 2048  # rows of features on disk that are in memory at once, in float64 and in several steps of their scaling


@dataclass(frozen=True)
class Batch:
    """Views as a method meets them: no NaN, ever.

    Attributes:
        arrays: view name -> (n, d) float32, zeros where the view is missing; keys in the order of training (sorted).
        masks: view name -> (n,) bool, True where the view is present.
    """

    arrays: dict[str, NDArray[np.float32]]
    masks: dict[str, NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(next(iter(self.masks.values())))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Batch:
        """The batch of these rows."""
        return Batch({k: v[rows] for k, v in self.arrays.items()}, {k: v[rows] for k, v in self.masks.items()})

    def concatenated(self) -> NDArray[np.float32]:
        """All views side by side: (n, sum of widths)."""
        return np.concatenate(list(self.arrays.values()), axis=1)

    def of(self, view: str) -> Batch:
        """One view alone; it stays on disk where it lies there."""
        return Batch({view: self.arrays[view]}, {view: self.masks[view]})

    def only(self, rows: NDArray[np.bool_]) -> Batch:
        """The rows that a mask names; they stay on disk where they lie there."""
        return self.take(rows)

    def blocks(self) -> Iterator[Batch]:
        """All rows in memory, block after block: one block where they are there already."""
        yield self

    @property
    def sample(self) -> NDArray[np.intp]:
        """The numbers of the rows that stand for all where all cannot be looked at once: here, all."""
        return np.arange(len(self))

    def sampled(self) -> Batch:
        """The rows of `sample`, in memory."""
        return self

    def sampled_blocks(self) -> Iterator[Batch]:
        """The rows of `sample`, block after block."""
        yield self

    def report(self, way: AtScale) -> dict[str, Any]:
        """What the log says of features on disk; nothing of those in memory."""
        return {}


@dataclass(frozen=True)
class StoredBatch(Batch):
    """Views on disk. `arrays` are (0, d), for names and widths alone; rows come by `take`, `blocks` and `sampled`.

    Attributes:
        store: the features.
    """

    store: StoredViews

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Batch:
        """The batch of these rows, in memory."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.intp)
        return Batch(self.store.read(rows), {k: v[rows] for k, v in self.masks.items()})

    def of(self, view: str) -> StoredBatch:
        """One view alone, still on disk."""
        return StoredBatch({view: self.arrays[view]}, {view: self.masks[view]}, self.store.of(view))

    def only(self, rows: NDArray[np.bool_]) -> StoredBatch:
        """The rows that a mask names, still on disk."""
        return stored_batch(self.store.take(rows))

    def blocks(self) -> Iterator[Batch]:
        """All rows, at most `BLOCK` of them in memory."""
        for start in range(0, len(self), BLOCK):
            yield self.take(np.arange(start, min(start + BLOCK, len(self))))

    @property
    def sample(self) -> NDArray[np.intp]:
        """The numbers of the sampled rows, drawn by hash of id."""
        return self.store.sampled()

    def sampled(self) -> Batch:
        """The sampled rows, in memory."""
        return self.take(self.sample)

    def sampled_blocks(self) -> Iterator[Batch]:
        """The sampled rows, at most `BLOCK` of them in memory."""
        for start in range(0, len(sample := self.sample), BLOCK):
            yield self.take(sample[start : start + BLOCK])

    def report(self, way: AtScale) -> dict[str, Any]:
        """How many rows were there and how many the sample had, and what that means."""
        return {"at_scale": {"way": way, "rows": len(self), "sampled": len(self.sample), "meaning": AT_SCALE[way]}}


def stored_batch(views: StoredViews, widths: Mapping[str, int] | None = None) -> StoredBatch:
    """Views on disk as methods meet them; names and widths are those of training where they are given."""
    found = {name: array.width for name, array in sorted(views.arrays.items())}
    if widths is not None and found != dict(widths):
        raise InputError(f"the features on disk have the views {found}; this model was fitted on {dict(widths)}")
    lacking = np.flatnonzero(~np.any(list(views.masks.values()), axis=0))
    if len(lacking):
        raise MissingView(" and ".join(found), lacking.tolist(), "every row needs at least one view; drop these rows")
    arrays = {name: np.empty((0, width), np.float32) for name, width in found.items()}
    return StoredBatch(arrays, {name: views.masks[name] for name in found}, views)


def as_batch(views: Mapping[str, ArrayLike], widths: Mapping[str, int] | None = None) -> Batch:
    """Views as arrays and masks. With `widths`, absent views become wholly missing and widths are checked."""
    if isinstance(views, StoredViews):
        return stored_batch(views, widths)
    if not isinstance(views, Mapping) or not views:
        raise InputError(f"views must be a non-empty mapping of name -> (n, d) array, got {type(views).__name__}")
    if not all(isinstance(name, str) for name in views):
        raise InputError(f"views must be named by strings, got {list(views)!r:.80}")
    if widths is not None and (unknown := set(views) - set(widths)):
        raise InputError(f"unknown view(s) {sorted(unknown)}; this model was fitted on {list(widths)}")
    given = {k: np.atleast_1d(as_array(v, f"view {k!r}")) for k, v in views.items()}
    arrays: dict[str, NDArray[np.float32]] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    n = len(next(iter(given.values())))
    for name in widths or sorted(given):
        if name not in given:
            arrays[name] = np.zeros((n, (widths or {})[name]), np.float32)
            masks[name] = np.zeros(n, bool)
            continue
        x = given[name]
        if x.ndim != 2 or not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x) or len(x) != n or not x.shape[1]:
            raise InputError(f"view {name!r} must be real numbers of shape ({n}, d), got {x.dtype} {x.shape}")
        if widths is not None and x.shape[1] != widths[name]:
            raise InputError(f"view {name!r} has {x.shape[1]} columns, the model was fitted on {widths[name]}")
        x = x.astype(np.float32)
        missing = np.isnan(x).all(axis=1)
        bad = ~np.isfinite(x).all(axis=1) & ~missing
        if bad.any():
            raise InputError(
                f"view {name!r} has {bad.sum()} row(s) with some NaN or infinite values, the first is row "
                f"{np.flatnonzero(bad)[0]}; make a row wholly NaN to say that the view is missing there"
            )
        x[missing] = 0
        arrays[name], masks[name] = x, ~missing
    empty = np.flatnonzero(~np.any(list(masks.values()), axis=0))
    if len(empty):
        raise MissingView(" and ".join(arrays), empty.tolist(), "every row needs at least one view; drop these rows")
    return Batch(arrays, masks)


def as_labels(labels: ArrayLike | None, n: int, method: str) -> NDArray[np.bool_]:
    """Labels as (n, c) bool; at least one row carries one."""
    if labels is None:
        raise InputError(f"{method} is supervised and needs labels of shape ({n}, c) at fit")
    y = as_array(labels, "labels")
    if y.ndim != 2 or len(y) != n or not y.shape[1] or not (y.dtype == bool or np.isin(y, (0, 1)).all()):
        raise InputError(f"labels must be 0 or 1, of shape ({n}, c), got {y.dtype} {y.shape}")
    if not y.any():
        raise InputError("no row carries a label; a supervised method needs some")
    return y.astype(bool)


def check_view_count(n: int, least: int, most: int | None, method: str) -> None:
    """Raise `InputError` unless `n` views are what the method takes."""
    if n < least or (most is not None and n > most):
        wanted = f"exactly {most}" if most == least else f"{least} to {most or 'any number of'}"
        raise InputError(f"{method} takes {wanted} view(s), got {n}")


def require(batch: Batch, names: list[str], method: str, when: str) -> None:
    """Raise `MissingView` for the first of these views that some rows lack."""
    for name in names:
        rows = np.flatnonzero(~batch.masks[name])
        if len(rows):
            raise MissingView(
                name,
                rows.tolist(),
                f"{method} cannot do without it {when}: drop these rows, supply the view, or use a method "
                "whose `accepts_missing` allows it (see `bitfuse methods`)",
            )
