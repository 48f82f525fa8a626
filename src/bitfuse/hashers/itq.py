"""ITQ: iterative quantisation, over concatenated views or with one rotation for all views of an aligned backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError, UnknownName
from bitfuse.hashers._axes import axes_of_blocks
from bitfuse.hashers._inputs import learn_scaling, nearest_to_signs, scaled
from bitfuse.hashers._solvers import sign
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


@dataclass(kw_only=True, frozen=True, eq=False)
class ITQ(Hasher):
    r"""Principal components under the rotation that brings them nearest to their own signs.

    Each view is brought to unit rows, centred on its mean, and to unit rows again. By default the views stand side by
    side. With `aligned=True`, for backbones whose views share a space (CLIP), every view goes through the same
    projection and rotation, so that a text alone and an image alone get comparable codes; a row with several views
    takes the mean of its views' values.

    $$ \min_{B, R} \lVert B - V R \rVert_F^2 \quad \text{s.t. } B \in \{-1, 1\}^{n \times b},\ R R^\top = I $$

    Parameters:
        n_iter: rounds of B = sgn(V R), R = Procrustes(V'B); the paper takes 50.
        aligned: one projection for all views, which must have the same width.
        rotation_from: with `aligned`, the view whose rows learn the projection; None takes the rows of all views.
            The others then give their mean only: an index of images learns from images, beside a list of prompts
            that says where texts lie.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("itq", n_bits=32, aligned=True).fit(world.train.views)
        >>> query = model.encode({"text": world.query.views["text"]})
        >>> gallery = model.encode({"image": world.gallery.views["image"]})
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.42
        True

    Deviations from the paper: rows are brought to unit length before and after centring. Where `n_bits` exceeds the
    rank r of the data, R is (r, n_bits) with orthonormal rows. A missing view is zero. `aligned` is an extension.

    References:
        Gong and Lazebnik, Iterative quantization: a Procrustean approach to learning binary codes, CVPR 2011,
        doi:10.1109/CVPR.2011.5995432.
    """

    n_iter: int = 50
    aligned: bool = False
    rotation_from: str | None = None

    accepts_missing = "train+query"
    cost = "n"
    at_scale = "statistics"
    year = 2011
    reference = "doi:10.1109/CVPR.2011.5995432"

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        scaling = learn_scaling(batch, "centred")
        if self.rotation_from in batch.masks and not batch.masks[self.rotation_from][batch.sample].any():
            raise InputError(f"no training row has the view {self.rotation_from!r} that rotation_from names")

        def rows(part: Batch) -> Array:
            return self._training_rows(part, scaled(scaling, part, "centred"))  # (n, d)

        axes = axes_of_blocks((rows(block) for block in batch.blocks()), self.n_bits)  # (d, r)
        v = np.concatenate([rows(block) @ axes for block in batch.sampled_blocks()])  # (n, r)
        r = nearest_to_signs(v, self.n_bits, np.random.default_rng(self.seed), self.n_iter)  # (r, b)
        z = v @ r
        loss = float(np.mean((sign(z) - z) ** 2))
        return {"W": axes @ r, **scaling}, {"rank": axes.shape[1], "quantisation_loss": loss}

    def _training_rows(self, batch: Batch, parts: dict[str, Array]) -> Array:
        if not self.aligned:
            if self.rotation_from is not None:
                raise InputError("rotation_from names the view that learns the rotation of aligned=True; set both")
            return np.concatenate(list(parts.values()), axis=1)
        if len({p.shape[1] for p in parts.values()}) > 1:
            widths = {name: p.shape[1] for name, p in parts.items()}
            raise InputError(f"aligned=True needs views of one width, got {widths}; use a backbone that is aligned")
        if self.rotation_from is not None and self.rotation_from not in parts:
            raise UnknownName("view", self.rotation_from, parts, "rotation_from must name a view of the training data")
        chosen = parts if self.rotation_from is None else [self.rotation_from]
        return np.concatenate([parts[name][batch.masks[name]] for name in chosen])

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        parts = list(scaled(state, batch, "centred").values())
        if not self.aligned:
            return np.concatenate(parts, axis=1) @ state["W"]
        present = np.sum(list(batch.masks.values()), axis=0)[:, None]
        return np.asarray(sum(parts) / present @ state["W"])
