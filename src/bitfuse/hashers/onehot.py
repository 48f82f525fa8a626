"""OneHot: a linear classifier whose predicted labels are coded; it shows what a supervised score is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.hashers._inputs import learn_scaling, scaled
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State

_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(kw_only=True, frozen=True, eq=False)
class OneHot(Hasher):
    r"""Ridge regression on the labels; the set of labels that it predicts is hashed by random projection.

    Where the classes of the queries were seen in training, retrieval by label is classification in disguise: a code
    that only says which labels a classifier saw looks like a great hash. A learned method has to beat it on classes
    and rows that it has not seen, or its score says little.

    $$ \min_W \sum_i \lVert y_i - x_i W - b \rVert^2 + \lambda \lVert W \rVert_F^2, \qquad
       z = (\hat y - \bar y) R, \quad |R_{cj}| \sim \mathcal{U}(1/2, 3/2), \text{ half of each column positive} $$

    Parameters:
        coded: `"labels"`: the labels scored above 1/2 and always the best one; `"scores"`: z = s R of the scores
            themselves, which keeps the classifier's doubt; often the stronger rival on rows not seen in training.
        ridge: lambda; None takes the one of nine, 0.01 to 100, with the least leave-one-out error (in closed form).

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("onehot", n_bits=32).fit(world.train.views, world.train.labels)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.5
        True

    Deviations from the paper: it codes one label, as its number in binary or one-hot; a projection of the label vector
    less its mean serves any number of labels and bits. Rows with several views are also seen with each view alone in
    training, so that queries of one view are classified fairly; a missing view is zero.

    References:
        Sablayrolles, Douze, Usunier, Jégou, How should we evaluate supervised hashing?, ICASSP 2017, arXiv:1609.06753.
    """

    coded: str = "labels"
    ridge: float | None = None

    supervised = True
    accepts_missing = "train+query"
    cost = "n"
    year = 2017
    reference = "arXiv:1609.06753"

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        if self.coded not in ("labels", "scores"):
            raise InputError(f"coded must be 'labels' or 'scores', got {self.coded!r}")
        if self.ridge is not None and not self.ridge > 0:
            raise InputError(f"ridge must be above 0, or None to have it chosen, got {self.ridge!r}")
        scaling = learn_scaling(batch, "centred")
        x, y = _each_view_alone(batch, scaled(scaling, batch, "centred"), np.asarray(labels, np.float64))
        w, b, ridge = _ridge(x, y, _RIDGES if self.ridge is None else (self.ridge,))
        r = _label_codes(y.shape[1], self.n_bits, np.random.default_rng(self.seed))
        return {"W": w, "b": b, "R": r, "frequency": y.mean(axis=0), **scaling}, {"ridge": ridge}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        parts = scaled(state, batch, "centred")
        scores = np.concatenate(list(parts.values()), axis=1) @ state["W"] + state["b"]  # (n, c)
        if self.coded == "scores":
            return np.asarray(scores @ state["R"])
        predicted = scores > 0.5
        predicted[np.arange(len(scores)), scores.argmax(axis=1)] = True
        return np.asarray((predicted - state["frequency"]) @ state["R"])


def _label_codes(c: int, k: int, rng: np.random.Generator) -> Array:
    """(c, k) of about -1 and 1: half of the labels set a bit; unequal sizes break the ties of sums of labels."""
    signs = np.repeat(np.where(np.arange(c) % 2 == 0, 1.0, -1.0)[:, None], k, axis=1)
    return rng.permuted(signs, axis=0) * rng.uniform(0.5, 1.5, (c, k))


def _each_view_alone(batch: Batch, parts: dict[str, Array], y: Array) -> tuple[Array, Array]:
    """The training rows as they are and, where a row has several views, once more with each view alone."""
    several = np.sum(list(batch.masks.values()), axis=0) > 1
    xs, ys = [np.concatenate(list(parts.values()), axis=1)], [y]
    for name in parts:
        rows = several & batch.masks[name]
        xs.append(np.concatenate([p[rows] * (other == name) for other, p in parts.items()], axis=1))
        ys.append(y[rows])
    return np.concatenate(xs), np.concatenate(ys)


def _ridge(x: Array, y: Array, ridges: Sequence[float]) -> tuple[Array, Array, float]:
    """Weights (d, c), bias (c,) and the ridge with the least leave-one-out squared error."""
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    xc, yc = x - x_mean, y - y_mean
    values, v = np.linalg.eigh(xc.T @ xc)  # (d,), (d, d)
    rotated, target = xc @ v, v.T @ (xc.T @ yc)  # (n, d), (d, c)
    squared = rotated**2

    def error(ridge: float) -> float:
        shrink = 1 / (np.maximum(values, 0) + ridge)
        leverage = squared @ shrink + 1 / len(x)  # of each row on its own prediction
        residual = yc - rotated @ (shrink[:, None] * target)
        return float(np.mean((residual / np.maximum(1 - leverage, 1e-9)[:, None]) ** 2))

    best = min(ridges, key=error)
    w = v @ (target / (np.maximum(values, 0) + best)[:, None])
    return w, y_mean - x_mean @ w, float(best)
