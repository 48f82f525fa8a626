"""What a closed-form method sees of its views: rows scaled, then, for the kernel methods, features of an RBF kernel.

Both are learned from the training batch, kept in the method's state as `mean.<view>`, `anchors.<view>`, `width.<view>`,
and applied row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.hashers._axes import principal_axes
from bitfuse.hashers._graphs import kmeans
from bitfuse.hashers._solvers import Real, draw_anchors, kernel_width, l2_normalise, procrustes, rbf, sign
from bitfuse.hashers._views import Batch

State = dict[str, NDArray[Any]]
Scaling = Literal["centred", "unit", "mean", "raw"]
"""Rows as given (`raw`), less their mean (`mean`), at unit length (`unit`), or unit, less the mean, and unit again."""

Width = float | Mapping[str, float] | None
"""An RBF width for all views or by view name; None: the root of each view's mean squared distance in training."""


def learn_scaling(batch: Batch, scaling: Scaling) -> State:
    """`mean.<view>` (d,) float64: what `scaled` subtracts, over the rows that have the view."""
    if scaling not in ("centred", "unit", "mean", "raw"):
        raise InputError(f"scaling must be 'centred', 'unit', 'mean' or 'raw', got {scaling!r}")
    state: State = {f"mean.{view}": np.zeros(x.shape[1]) for view, x in batch.arrays.items()}
    if scaling in ("unit", "raw"):
        return state
    sums: State = {}
    for block in batch.blocks():
        for view, x in block.arrays.items():
            rows = x[block.masks[view]].astype(np.float64)
            rows = l2_normalise(rows) if scaling == "centred" else rows
            # one row after the other, whatever the blocks: rows on disk and in memory have the same mean to the bit
            sums[view] = (np.concatenate([sums[view][None], rows]) if view in sums else rows).sum(axis=0)
    for view, mask in batch.masks.items():
        state[f"mean.{view}"] = sums[view] / max(int(mask.sum()), 1)
    return state


def scaled(state: State, batch: Batch, scaling: Scaling) -> dict[str, Real]:
    """View name -> (n, d) float64 rows as the method sees them; rows that lack the view are zero."""
    out = {}
    for view, x in batch.arrays.items():
        rows = l2_normalise(x) if scaling in ("centred", "unit") else x.astype(np.float64)
        rows = (rows - state[f"mean.{view}"]) * batch.masks[view][:, None]
        out[view] = l2_normalise(rows) if scaling == "centred" else rows
    return out


def side_by_side(state: State, batch: Batch, scaling: Scaling) -> NDArray[np.float32]:
    """What a network reads: the scaled views side by side, (n, sum of widths)."""
    return np.concatenate(list(scaled(state, batch, scaling).values()), axis=1).astype(np.float32)


def centred_rows(state: State, batch: Batch) -> Iterator[NDArray[np.float64]]:
    """The rows as PCA reads them, block by block: views centred by `mean.<view>`, side by side, (m, sum of widths)."""
    for block in batch.blocks():
        yield np.concatenate(list(scaled(state, block, "centred").values()), axis=1)


def learn_kernels(
    parts: Mapping[str, Real], anchors: int, width: Width, rng: np.random.Generator, *, centres: bool = False
) -> State:
    """`anchors.<view>` (a, d) and `width.<view>` (): random training rows, or with `centres` k-means centres."""
    state: State = {}
    for view, x in parts.items():
        state[f"anchors.{view}"] = kmeans(x, anchors, rng)[0] if centres else draw_anchors(x, anchors, rng)
        state[f"width.{view}"] = kernel_width(x, width, view)
    return state


def kernels(state: State, parts: Mapping[str, Real], *, bias: bool = False) -> dict[str, Real]:
    """View name -> (n, a) kernel values to the view's anchors; with `bias` a column of ones follows."""
    return {v: rbf(x, state[f"anchors.{v}"], state[f"width.{v}"], bias=bias) for v, x in parts.items()}


def by_presence(batch: Batch) -> Iterator[tuple[NDArray[np.intp], list[str]]]:
    """The rows (numbers) that have the same views, and those views: what a sum over the present views runs over."""
    masks = np.stack(list(batch.masks.values()), axis=1)  # (n, M)
    for present in np.unique(masks, axis=0):
        yield np.flatnonzero((masks == present).all(axis=1)), [v for v, here in zip(batch.masks, present) if here]


def check_space(space: str, batch: Batch) -> None:
    """Raise `InputError` for a space named after a view that the model does not have."""
    if space not in ("fused", *batch.arrays):
        raise InputError(
            f"the space {space!r} reads a view of that name; this model was fitted on {list(batch.arrays)}"
        )


def linear_values(state: State, batch: Batch, scaling: Scaling, space: str) -> Real:
    """x W_v + b_v of the views that a row has, their mean, (n, k): the projection of the linear cross-modal methods.

    Raises:
        InputError: the space is that of a view that the model does not have.
    """
    check_space(space, batch)
    present = np.sum(list(batch.masks.values()), axis=0)[:, None]
    parts = scaled(state, batch, scaling)
    z = np.sum([(x @ state[f"W.{v}"] + state[f"b.{v}"]) * batch.masks[v][:, None] for v, x in parts.items()], axis=0)
    return np.asarray(z / present, np.float64)


def principal_signs(x: Real, k: int, rng: np.random.Generator) -> Real:
    """Where a discrete search starts, (n, k) of -1 and +1: signs of rotated leading principal components."""
    x = x - x.mean(axis=0)
    scores = x @ principal_axes(x, k)  # (n, r)
    return sign(scores @ random_rotation(scores.shape[1], k, rng))


def random_rotation(r: int, k: int, rng: np.random.Generator) -> Real:
    """(r, k) with orthonormal rows where r <= k, else orthonormal columns."""
    q = np.linalg.qr(rng.standard_normal((max(r, k), min(r, k))))[0]
    rotation: Real = q if r >= k else q.T
    return rotation


def nearest_to_signs(Y: Real, k: int, rng: np.random.Generator, rounds: int = 50, *, rotate: bool = True) -> Real:
    """The rotation R (r, k) that brings Y R near to its signs, as ITQ finds it.

    A spectral objective tr(Y^T Q Y) under Y^T Y = I is the same for Y and Y R: of all its minimisers this picks the
    one that loses least by the sign. Where k exceeds the width r of Y, R has orthonormal rows and the k values are
    combinations of the r that exist; only there does it turn anything without `rotate`.
    """
    if not rotate and Y.shape[1] == k:
        return np.eye(k)
    R = random_rotation(Y.shape[1], k, rng)
    for _ in range(rounds):
        R = procrustes(Y.T @ sign(Y @ R))
    return R
