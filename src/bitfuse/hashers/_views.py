"""Views and labels as users give them, turned once into arrays and masks that hold no NaN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.errors import InputError, MissingView


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


def as_batch(views: Mapping[str, ArrayLike], widths: Mapping[str, int] | None = None) -> Batch:
    """Views as arrays and masks. With `widths`, absent views become wholly missing and widths are checked."""
    if not isinstance(views, Mapping) or not views:
        raise InputError(f"views must be a non-empty mapping of name -> (n, d) array, got {type(views).__name__}")
    if widths is not None and (unknown := set(views) - set(widths)):
        raise InputError(f"unknown view(s) {sorted(unknown)}; this model was fitted on {list(widths)}")
    given = {k: np.asarray(v) for k, v in views.items()}
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
    y = np.asarray(labels)
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
