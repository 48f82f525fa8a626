"""What the training rows looked like, kept in a few numbers a view, so that a query unlike them can be told.

A view's rows at unit length are described by their mean, their leading principal axes with the variance along each,
and one variance for all that lies outside (probabilistic PCA). Half of the rows learn this, the other half say how far
from it an ordinary row may lie: distances are divided by the largest among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._solvers import l2_normalise
from bitfuse.hashers._views import Batch

State = dict[str, NDArray[Any]]

_AXES = 64  # more change little on the shapes world and on FashionCLIP's features, and cost d numbers each
_ROWS = 2000
_LEAST = 100
_FLOOR = 1e-3  # of the mean variance: axes along which the training rows hardly move do not decide alone


def learn(batch: Batch, seed: int) -> State:
    """`mean.<view>` (d,), `axes.<view>` (r, d), `variance.<view>` (r + 1,), the last outside the axes, `limit.<view>`.

    A view that fewer than 100 rows have, or that does not vary, is left out.
    """
    state: State = {}
    rng = np.random.default_rng(seed)
    for view, x in batch.arrays.items():
        rows = rng.permutation(np.flatnonzero(batch.masks[view]))[:_ROWS]
        if len(rows) < _LEAST:
            continue
        unit = l2_normalise(batch.take(rows).arrays[view])
        half = len(rows) // 2
        mean = unit[:half].mean(axis=0)
        _, spread, axes = np.linalg.svd(unit[:half] - mean, full_matrices=False)
        variance = spread**2 / (half - 1)
        total, width, r = float(variance.sum()), x.shape[1], min(_AXES, len(variance))
        if not total > 0:
            continue
        outside = float(variance[r:].sum()) / max(width - r, 1)
        kept = np.maximum(np.append(variance[:r], outside), _FLOOR * total / width)
        state |= {f"mean.{view}": mean, f"axes.{view}": axes[:r], f"variance.{view}": kept}
        furthest = _distance(state, view, unit[half:]).max()
        state[f"limit.{view}"] = np.array(1.001 * furthest)  # rounding must not put that row beyond the limit
    return {name: array.astype(np.float32) for name, array in state.items()}


def novelty(state: Mapping[str, NDArray[Any]], batch: Batch) -> NDArray[np.float32]:
    """(n,) each row's distance in units of the limit, for the view where it is greatest; NaN where none is known."""
    found = np.full(len(batch), np.nan)
    for view, x in batch.arrays.items():
        if f"limit.{view}" in state:
            here = batch.masks[view]
            distance = _distance(state, view, l2_normalise(x[here])) / state[f"limit.{view}"]
            found[here] = np.fmax(found[here], distance)
    return found.astype(np.float32)


def _distance(state: Mapping[str, NDArray[Any]], view: str, unit: NDArray[np.floating]) -> NDArray[np.float64]:
    """The Mahalanobis distance of rows of unit length, (n,)."""
    variance = np.asarray(state[f"variance.{view}"], np.float64)
    c = np.asarray(unit, np.float64) - state[f"mean.{view}"]
    along = (c @ np.asarray(state[f"axes.{view}"], np.float64).T) ** 2  # (n, r)
    outside = np.maximum((c**2).sum(axis=1) - along.sum(axis=1), 0)
    return np.asarray(np.sqrt(along @ (1 / variance[:-1]) + outside / variance[-1]))
