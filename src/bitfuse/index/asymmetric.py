"""Asymmetric distance: a query that keeps its real values against codes that are bits.

A query's values before the sign say how sure it is of every bit. The distance to a code is the sum of |z_j| over the
bits in which the code differs from the sign of z, scaled so that it is the Hamming distance where all |z_j| are equal.
It orders codes as the inner product of z with their signs does (Gordo and Perronnin, "Asymmetric distances for binary
embeddings", 2011), and is summed from a table for each byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitfuse import kernels


def costs_of(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a 0 and a 1 at each bit cost a query.

    Args:
        z: (n_bits,) values before the sign.

    Returns:
        (n_bits, 2) float32, of every row one is 0; the others sum up to n_bits.

    Examples:
        >>> costs_of(np.array([3.0, -1.0], np.float32)).tolist()
        [[1.5, 0.0], [0.0, 0.5]]
    """
    size = np.abs(z.astype(np.float64))
    total = size.sum()
    size = size * (len(z) / total) if total > 0 else np.ones(len(z))
    return np.where((z > 0)[:, None] == np.array([True, False]), size[:, None], 0.0).astype(np.float32)


def nearest(
    packed: NDArray[np.uint8], costs: NDArray[np.float32], k: int, radius: float | None, allow: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k rows at the least asymmetric distance, at most `radius`: distances and rows, ordered by (distance, row).

    Args:
        packed: (n, ceil(n_bits / 8)) uint8.
        costs: (n_bits, 2), of `costs_of`, or a weighted sum of several.
        k: at least 1.
        radius: greatest distance; None for any.
        allow: (n,) which rows may be found.
    """
    width = packed.shape[1]
    by_byte = np.zeros((width * 8, 2), np.float64)
    by_byte[: len(costs)] = costs
    by_byte = by_byte.reshape(width, 8, 2)
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float64)  # (256, 8)
    table = (by_byte[:, :, 0] @ (1 - bits).T + by_byte[:, :, 1] @ bits.T).astype(np.float32)
    bound = np.inf if radius is None else np.nextafter(np.float32(radius), np.float32(np.inf))
    return kernels.lightest(packed, np.ascontiguousarray(table), k, float(bound), allow)
