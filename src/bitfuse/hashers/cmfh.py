"""CMFH: collective matrix factorisation hashing, one latent code of all views and a linear map from each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._inputs import Scaling, learn_scaling, linear_values, nearest_to_signs, scaled
from bitfuse.hashers._solvers import Real, settled
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


@dataclass(kw_only=True, frozen=True, eq=False)
class CMFH(Hasher):
    r"""A latent matrix that factorises every view, and a linear map from each view to it: one code space for all views.

    All views of a row share its latent vector; factorisation gives it the structure of the views, regression ties it to
    what a single view can foretell, so that any view alone gets nearly the code of all. The fused space takes the mean
    of the views that a row has.

    $$ \min \sum_v a_v \left( \lVert X_v - Y U_v \rVert_F^2 + \mu \lVert Y - X_v W_v \rVert_F^2
       + \gamma \left( \lVert U_v \rVert_F^2 + \lVert W_v \rVert_F^2 + \lVert Y \rVert_F^2 \right) \right) $$

    Parameters:
        scaling: of the rows; the paper's are raw, less their mean.
        mu: weight of the linear maps; published 100, which leaves little of the factorisation (.17 on CLIP features).
        gamma: ridge, 0.01 as published.
        rotate: turn Y towards its signs, which the objective does not see. The paper takes Y as it comes.
        n_iter: rounds, 25 as published.
        tol: relative change of the objective at which it stops.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("cmfh", n_bits=16).fit(world.train.views)
        >>> query = model.encode({"text": world.query.views["text"]}, "text")
        >>> gallery = model.encode({"image": world.gallery.views["image"]}, "image")
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.38
        True

    Deviations from the paper: any number of views, each with the same weight a_v; `rotate` (off in
    `preset="published"`); the fused space. In the public code W_v is mu^2 too small.

    References:
        Ding, Guo, Zhou, Collective matrix factorization hashing for multimodal data, CVPR 2014,
        doi:10.1109/CVPR.2014.267.
    """

    scaling: Scaling = "centred"
    mu: float = 0.1
    gamma: float = 0.01
    rotate: bool = True
    n_iter: int = 25
    tol: float = 1e-4

    spaces = ("fused", "image", "text")
    accepts_missing = "query"
    min_views = 2
    year = 2014
    reference = "doi:10.1109/CVPR.2014.267"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"scaling": "mean", "mu": 100.0, "rotate": False}
    }

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        rng = np.random.default_rng(self.seed)
        state = learn_scaling(batch, self.scaling)
        X = list(scaled(state, batch, self.scaling).values())  # (n, d_v) each
        maps = [regressor(x, self.mu, self.gamma) for x in X]  # (d_v, n) each: W_v = maps_v Y
        Y = rng.standard_normal((len(batch), self.n_bits))
        objective: list[float] = []
        while len(objective) < self.n_iter and not settled(objective, self.tol):
            U = [loadings(x, Y, self.gamma) for x in X]  # (k, d_v) each
            W = [m @ Y for m in maps]  # (d_v, k) each
            Y = latent(X, U, W, self.mu, self.gamma)
            objective.append(loss(X, Y, U, W, self.mu, self.gamma))
        mean = Y.mean(axis=0)
        # Only the signs matter; unit variance keeps values readable whatever the scale of the features was.
        R = nearest_to_signs(Y - mean, self.n_bits, rng, rotate=self.rotate) / max(float(Y.std()), 1e-12)
        for v, m in zip(batch.arrays, maps):
            state |= {f"W.{v}": m @ Y @ R, f"b.{v}": -(mean @ R)}
        return state, {"objective": objective}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        return linear_values(state, batch, self.scaling, space)  # x W_v - mean(Y)


def regressor(X: Real, mu: float, gamma: float) -> Real:
    """mu (mu X'X + gamma I)^-1 X', (d, n): W = regressor Y minimises mu ||Y - X W||^2 + gamma ||W||^2."""
    if len(X) < X.shape[1]:
        return np.asarray(X.T @ np.linalg.inv(X @ X.T + gamma / mu * np.eye(len(X))), np.float64)
    return np.asarray(np.linalg.solve(X.T @ X + gamma / mu * np.eye(X.shape[1]), X.T), np.float64)


def loadings(X: Real, Y: Real, gamma: float) -> Real:
    """U = (Y'Y + gamma I)^-1 Y'X, (k, d)."""
    return np.asarray(np.linalg.solve(Y.T @ Y + gamma * np.eye(Y.shape[1]), Y.T @ X), np.float64)


def latent(X: list[Real], U: list[Real], W: list[Real], mu: float, gamma: float) -> Real:
    """Y = (sum_v X_v (U_v' + mu W_v)) (sum_v U_v U_v' + (mu + gamma) I)^-1, (n, k)."""
    right = np.sum([x @ (u.T + mu * w) for x, u, w in zip(X, U, W)], axis=0)
    left = np.sum([u @ u.T + (mu + gamma) * np.eye(len(u)) for u in U], axis=0)
    return np.asarray(np.linalg.solve(left, right.T).T, np.float64)


def loss(X: list[Real], Y: Real, U: list[Real], W: list[Real], mu: float, gamma: float) -> float:
    """The objective, a_v = 1 / M."""
    terms = [
        ((x - Y @ u) ** 2).sum() + mu * ((Y - x @ w) ** 2).sum() + gamma * ((u**2).sum() + (w**2).sum() + (Y**2).sum())
        for x, u, w in zip(X, U, W)
    ]
    return float(np.mean(terms))
