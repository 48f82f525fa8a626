"""Principal axes, on the smaller of the two Gram matrices, or by sums over blocks of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._solvers import Real


def principal_axes(x: NDArray[Any], k: int) -> Real:
    """The leading eigenvectors of x'x, (d, r) with orthonormal columns, r = min(k, rank)."""
    n, d = x.shape
    if d <= n:
        return _leading(x.T @ x, k)[1]
    values, vectors = _leading(x @ x.T, k)
    axes: Real = x.T @ vectors / np.sqrt(values)
    return axes


def axes_of_blocks(blocks: Iterable[NDArray[Any]], k: int) -> Real:
    """`principal_axes` of the rows of all blocks (m, d), of which no more than the sum x'x is kept.

    A single block gives the same to the last bit; several differ by rounding.
    """
    remaining = iter(blocks)
    first, second = next(remaining), next(remaining, None)
    if second is None:
        return principal_axes(first, k)
    gram = first.T @ first + second.T @ second
    for x in remaining:
        gram += x.T @ x
    return _leading(gram, k)[1]


def _leading(gram: Real, k: int) -> tuple[Real, Real]:
    """The largest eigenvalues of a Gram matrix that are not rounding, at most k, and their eigenvectors."""
    values, vectors = np.linalg.eigh(gram)
    keep = np.flatnonzero(values > 1e-9 * max(values[-1], 1e-300))[::-1][:k]
    return values[keep], vectors[:, keep]
