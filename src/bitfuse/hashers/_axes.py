"""Principal axes, on the smaller of the two Gram matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._solvers import Real


def principal_axes(x: NDArray[Any], k: int) -> Real:
    """The leading eigenvectors of x'x, (d, r) with orthonormal columns, r = min(k, rank)."""
    n, d = x.shape
    gram = x.T @ x if d <= n else x @ x.T
    values, vectors = np.linalg.eigh(gram)
    keep = np.flatnonzero(values > 1e-9 * max(values[-1], 1e-300))[::-1][:k]
    axes: Real = vectors[:, keep] if d <= n else x.T @ vectors[:, keep] / np.sqrt(values[keep])
    return axes
