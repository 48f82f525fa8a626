"""Derivatives by central differences: what a closed form must make vanish."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]


def gradient(f: Callable[[Real], float], at: Real, step: float = 1e-5) -> Real:
    """df/dx at x, entry by entry, of the shape of x."""
    x, slope = np.array(at, float), np.empty(np.shape(at))
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + step
        up = f(x)
        x[i] = kept - step
        slope[i] = (up - f(x)) / (2 * step)
        x[i] = kept
    return slope


def stationary(f: Callable[[Real], float], at: Real, tolerance: float = 1e-4) -> bool:
    """Whether the slope of f at x is small beside its slope a little way off."""
    away = np.abs(gradient(f, at + 0.1)).max()
    return bool(np.abs(gradient(f, at)).max() <= tolerance * away)
