"""Sums over the orders in which the items of one bucket can stand, in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]

_EXACT = 64  # harmonic numbers up to here come from a table, beyond from the Euler-Maclaurin series (error < 1e-17)
_HARMONIC = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, _EXACT + 1))])


def gained(n: Counts, r: Counts, before_n: Counts, before_r: Counts, places: Counts, ties: str) -> Floats:
    """Sum of precisions at the hits in the first `places` of each bucket: expected, largest or smallest."""
    if ties == "optimistic":
        return hits_in_a_row(before_r, before_n, np.minimum(r, places))
    if ties == "pessimistic":
        misses = n - r
        return hits_in_a_row(before_r, before_n + misses, np.maximum(places - misses, 0))
    # sum_{i=1..m} (r/n) (R + 1 + (i-1)(r-1)/(n-1)) / (N + i), with sum (i-1)/(N+i) = m - (N+1) sum 1/(N+i)
    a = _harmonic_gap(before_n, places)
    slope = (r - 1) / np.maximum(n - 1, 1)
    share = np.divide(r, n, out=np.zeros(n.shape), where=n > 0)
    return np.asarray(share * ((before_r + 1) * a + slope * (places - (before_n + 1) * a)), np.float64)


def first_of_bucket(n: int, r: int, before_n: int, before_r: int, taken: int) -> float:
    """E sum_{t <= taken} (R + t) / (N + position of the t-th of r relevant items among n in random order).

    A hit at place i counts when X, the hits before it, is below `taken`; X is hypergeometric. P(X < t) and
    E[X; X < t] = (i-1)(r-1)/(n-1) P(X' < t - 1) are tails of the place of the t-th hit, so one pass over i is enough.
    """
    i = np.arange(1, n + 1)
    few = _later(n - 1, r - 1, taken)[i - 1]
    fewer = np.zeros(n)
    if taken > 1:
        fewer[1:] = (i[1:] - 1) * (r - 1) / (n - 1) * _later(n - 2, r - 2, taken - 1)[i[1:] - 2]
    return float(r / n * (((before_r + 1) * few + fewer) / (before_n + i)).sum())


def _later(n: int, r: int, t: int) -> Floats:
    """P(the t-th of r relevant items among n stands after place i), for i = 0..n; 1 throughout where t > r."""
    if t > r:
        return np.ones(n + 1)
    s = np.arange(t, n - r + t + 1)
    # P(s) = C(s-1, t-1) C(n-s, r-t) / C(n, r), by the ratio of neighbours
    steps = np.log(s[:-1] * (n - s[:-1] - r + t)) - np.log((s[:-1] + 1 - t) * (n - s[:-1]))
    tail = np.cumsum(_normalised(steps)[::-1])[::-1]
    out = np.zeros(n + 1)
    out[:t] = 1.0
    out[t : n - r + t] = tail[1:]
    return out


def hypergeometric(n: int, r: int, m: int, h: Counts) -> Floats:
    """P(h hits among m drawn from n of which r are hits), for consecutive h that span the support."""
    steps = np.log((r - h[:-1]) * (m - h[:-1])) - np.log((h[:-1] + 1) * (n - r - m + h[:-1] + 1))
    return _normalised(steps)


def _normalised(log_ratios: Floats) -> Floats:
    """Probabilities out of the logarithms of the ratios between neighbours."""
    logs = np.concatenate([[0.0], np.cumsum(log_ratios)])
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum(), np.float64)


def hits_in_a_row(hits: Counts, rank: Counts, t: Counts) -> Floats:
    """Sum_{i=1..t} (hits + i) / (rank + i): t relevant items in a row."""
    return np.asarray(t - (rank - hits) * _harmonic_gap(rank, t), np.float64)


def _harmonic_gap(start: Counts, length: Counts) -> Floats:
    """Sum_{i=1..length} 1 / (start + i), to full relative precision.

    A difference of two harmonic numbers would lose digits, which the factor `start` above brings to light.
    """
    end = start + length
    near = _HARMONIC[np.minimum(end, _EXACT)] - _HARMONIC[np.minimum(start, _EXACT)]
    a, b = np.maximum(start, _EXACT).astype(np.float64), np.maximum(end, _EXACT).astype(np.float64)
    far = np.log1p((b - a) / a) - (b - a) / (2 * a * b)
    a, b = 1 / (a * a), 1 / (b * b)
    far += (a - b) / 12 - (a * a - b * b) / 120 + (a * a * a - b * b * b) / 252
    return np.asarray(near + far, np.float64)
