"""PCARR: principal components under a random rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._axes import axes_of_blocks
from bitfuse.hashers._inputs import centred_rows, learn_scaling, random_rotation, scaled
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


@dataclass(kw_only=True, frozen=True, eq=False)
class PCARR(Hasher):
    r"""Principal components, rotated at random, then the sign: ITQ without its iterations.

    The signs of raw principal components waste bits on directions of little variance; a random rotation spreads the
    variance over all bits. Each view is brought to unit rows, centred on its mean, and to unit rows again; the views
    stand side by side.

    $$ z = (x - \bar x)\, V R, \qquad V = \text{leading eigenvectors of the covariance}, \quad
       R \text{ random orthogonal} $$

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("pcarr", n_bits=32).fit(world.train.views)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.42
        True

    Deviations from the paper: where `n_bits` exceeds the rank of the data, R is a random (rank, n_bits) matrix with
    orthonormal rows. A missing view is zero.

    References:
        Jégou, Douze, Schmid, Pérez, Aggregating local descriptors into a compact image representation, CVPR 2010,
        doi:10.1109/CVPR.2010.5540039; as a baseline in Gong and Lazebnik, CVPR 2011.
    """

    accepts_missing = "train+query"
    cost = "n"
    at_scale = "statistics"
    year = 2010
    reference = "doi:10.1109/CVPR.2010.5540039"

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        scaling = learn_scaling(batch, "centred")
        v = axes_of_blocks(centred_rows(scaling, batch), self.n_bits)  # (d, r)
        w = v @ random_rotation(v.shape[1], self.n_bits, np.random.default_rng(self.seed))  # (d, b)
        return {"W": w, **scaling}, {"rank": v.shape[1]}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        parts = scaled(state, batch, "centred")
        return np.concatenate(list(parts.values()), axis=1) @ state["W"]
