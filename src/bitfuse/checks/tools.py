"""What the checks share: made hashers, rows in clusters, and comparisons that say what differed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.hashers.base import Hasher

Factory = Callable[..., Hasher]
"""A hasher class, or a function of keyword parameters (`n_bits`, `seed`, ...) that makes an unfitted hasher."""

Arrays = dict[str, NDArray[np.float32]]
Labels = NDArray[np.bool_]
Error = TypeVar("Error", bound=BaseException)

N_BITS = 16
WIDTHS = {"image": 24, "text": 24, "audio": 24}


def made(make: Factory, **parameters: Any) -> Hasher:
    """An unfitted hasher, with two epochs where it counts epochs: for checks that do not judge its codes."""
    hasher = make(**{"n_bits": N_BITS, "seed": 0, **parameters})
    return hasher.clone(epochs=2) if "epochs" in hasher.parameters else hasher


def fitted(make: Factory, views: Arrays, labels: Labels, **parameters: Any) -> Hasher:
    """What `made` makes, fitted."""
    return made(make, **parameters).fit(views, labels)


def view_names(make: Factory) -> list[str]:
    """The views to try a method on: two, or as many as it takes."""
    most = make(n_bits=N_BITS, seed=0).max_views
    return list(WIDTHS)[: 2 if most is None else most]


def clusters(names: list[str], n: int = 128, seed: int = 0) -> tuple[Arrays, Labels]:
    """Rows in six clusters, off the origin, with two labels each: views (n, 24) float32 and labels (n, 6) bool."""
    kind = np.arange(n) % 6
    labels = np.zeros((n, 6), bool)
    labels[np.arange(n), kind] = labels[np.arange(n), (kind + 1) % 6] = True
    where, scatter = np.random.default_rng(1), np.random.default_rng(seed)  # one set of clusters for every seed
    centres = {name: where.standard_normal((6, width)) + 0.5 for name, width in WIDTHS.items()}
    views = {name: centres[name][kind] + 0.5 * scatter.standard_normal((n, WIDTHS[name])) for name in names}
    return {name: x.astype(np.float32) for name, x in views.items()}, labels


def raises(error: type[Error], call: Callable[[], object], when: str) -> Error:
    """The error of that class that `call` raises; an `AssertionError` where it raises none."""
    try:
        call()
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__} {when}")


def same(a: Codes, b: Codes, what: str) -> None:
    """Assert that two sets of codes are equal."""
    different = int((a.bits() != b.bits()).sum())
    assert not different, f"{different} of {a.bits().size} bits differ {what}"


def spaces_of(hasher: Hasher, views: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each space of a hasher, with the views that it reads."""
    return [(s, {s: views[s]} if s in views else dict(views)) for s in hasher.spaces]
