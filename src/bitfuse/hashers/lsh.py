"""LSH: signs of random projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._solvers import l2_normalise
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


@dataclass(kw_only=True, frozen=True, eq=False)
class LSH(Hasher):
    r"""Signs of random projections: the floor of every table, and the method for data too small to learn from.

    Each view's rows are brought to unit length and projected on `n_bits` Gaussian directions; the views' projections
    are added. It reads nothing from the training data but the widths of the views, so it does not centre either: on
    features with a large mean, bits are correlated, and that is the method.

    $$ z = \sum_v \frac{x_v}{\lVert x_v \rVert} W_v, \qquad W_v \sim \mathcal{N}(0, 1)^{d_v \times b}, \qquad
       P(\text{bit differs}) = \angle(x, y) / \pi $$

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("lsh", n_bits=32).fit(world.train.views)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.38
        True

    Deviations from the paper: one projection of all views together; a missing view adds nothing.

    References:
        Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002, doi:10.1145/509907.509965.
    """

    data_driven = False
    accepts_missing = "train+query"
    cost = "1"
    at_scale = "statistics"
    year = 2002
    reference = "doi:10.1145/509907.509965"

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        rng = np.random.default_rng(self.seed)
        return {
            f"W.{name}": rng.standard_normal((x.shape[1], self.n_bits)).astype(np.float32)
            for name, x in batch.arrays.items()
        }, {}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        return np.asarray(sum(l2_normalise(x) @ state[f"W.{name}"] for name, x in batch.arrays.items()))
