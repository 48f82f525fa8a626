"""MAH: multiview alignment hashing, non-negative factors of a combined kernel, read off by logistic regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from bitfuse.hashers._graphs import knn_graph, laplacian
from bitfuse.hashers._inputs import Scaling, Width, kernels, learn_kernels, learn_scaling, scaled
from bitfuse.hashers._solvers import Real, combine, mean_squared_distance, settled, simplex_qp
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State

_MIXED = 5  # kernel columns or rows averaged into one starting factor


@dataclass(kw_only=True, frozen=True, eq=False)
class MAH(Hasher):
    r"""Regularised kernel non-negative matrix factorisation over all views, binarised by logistic regression.

    The views' kernels are combined with learned weights and factorised into non-negative U V; columns of V vary
    smoothly on the views' neighbour graphs. A bit says whether a row's coordinate lies above that coordinate's median,
    and a logistic regression foretells it from the least-squares coordinates P k(x) of any row.

    $$ \min_{U, V \ge 0, \alpha} \Big\lVert \sum_v \alpha_v K_v - U V \Big\rVert_F^2
       + \gamma \sum_v \alpha_v \mathrm{tr}(V L_v V^\top) + \eta \lVert U^\top U - I \rVert_F^2
       \quad \text{s.t. } \alpha \ge 0,\ 1^\top \alpha = 1 $$

    Parameters:
        scaling: of the rows; the paper's are of unit length.
        anchors: rows that the kernels are taken to; the paper takes all (published: 5000).
        width: RBF width, a number or by view name; None takes half the root of each view's mean squared distance: at
            the whole root kernel values are much alike and factors follow the few largest groups of rows. Published
            exp(-1e-4 d^2).
        neighbours: of a row in its view's graph; 5 as published.
        gamma: smoothness on the graphs; 10 as published.
        eta: orthogonality of U, 1 as published.
        ridge: of the logistic regression.
        n_iter: rounds, 10 as published. The factors sharpen with every round, the codes do not.
        tol: relative change of the objective at which it stops.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("mah", n_bits=16, anchors=100).fit(world.train.views)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.37
        True

    Deviations from the paper: kernels to anchors (R, n) instead of (n, n); factors start at means of a few columns and
    rows of the kernel instead of at random, since ten rounds do not forget their start; the weights alpha solve the
    quadratic programme under alpha >= 0, where the paper solves its linear system only; the regression learns from
    P k(x), which is what a new row offers, instead of from V. The public code thresholds V at zero, where it is never
    negative, and multiplies the weights up from round to round; neither is followed.

    References:
        Liu, Yu, Shao, Multiview alignment hashing for efficient image search, IEEE TIP 24(3), 2015,
        doi:10.1109/TIP.2015.2390975.
    """

    scaling: Scaling = "centred"
    anchors: int = 300
    width: Width = None
    neighbours: int = 5
    gamma: float = 10.0
    eta: float = 1.0
    ridge: float = 1e-2
    n_iter: int = 10
    tol: float = 1e-5

    cost = "n^2"
    year = 2015
    reference = "doi:10.1109/TIP.2015.2390975"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"scaling": "unit", "anchors": 5000, "width": 5000**0.5}
    }

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        rng = np.random.default_rng(self.seed)
        state = learn_scaling(batch, self.scaling)
        parts = scaled(state, batch, self.scaling)
        width = {v: mean_squared_distance(x) ** 0.5 / 2 for v, x in parts.items()} if self.width is None else self.width
        state |= learn_kernels(parts, self.anchors, width, rng)
        K_v = [x.T for x in kernels(state, parts).values()]  # (R, n) each
        W_v = [knn_graph(x, self.neighbours) for x in parts.values()]  # (n, n) sparse each
        alpha = np.full(len(K_v), 1 / len(K_v))
        K, W = combine(alpha, K_v), combine(alpha, W_v)
        U, V = start(K, self.n_bits, rng)
        objective: list[float] = []
        while len(objective) < self.n_iter and not settled(objective, self.tol):
            V = update_v(K, W, U, V, self.gamma)
            U = update_u(K, U, V, self.eta)
            alpha = kernel_weights(K_v, W_v, U, V, self.gamma)
            K, W = combine(alpha, K_v), combine(alpha, W_v)
            objective.append(loss(K, W, U, V, self.gamma, self.eta))
        P = np.linalg.pinv(U, rcond=1e-6)  # (U'U)^-1 U'   (k, R)
        X = (P @ K).T  # (n, k)
        mean, scale = X.mean(axis=0), np.maximum(X.std(axis=0), 1e-12)
        theta = logistic((X - mean) / scale, (V - np.median(V, axis=1, keepdims=True) > 0).T, self.ridge)
        T = theta[:-1] / scale[:, None]  # (k, k)
        state |= {"T": P.T @ T, "b": theta[-1] - mean @ T, "alpha": alpha}
        return state, {"objective": objective, "alpha": alpha.tolist()}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        K_v = kernels(state, scaled(state, batch, self.scaling))
        k = combine(state["alpha"], list(K_v.values()))  # sum_v alpha_v k_v(x)   (n, R)
        return np.asarray(k @ state["T"] + state["b"])


def start(K: Real, k: int, rng: np.random.Generator) -> tuple[Real, Real]:
    """Means of five random columns of K as U (R, k), of five random rows as V (k, n), scaled to the mean of K."""
    U = np.stack([K[:, rng.choice(K.shape[1], _MIXED)].mean(axis=1) for _ in range(k)], axis=1)
    V = np.stack([K[rng.choice(len(K), _MIXED)].mean(axis=0) for _ in range(k)])
    scale = np.sqrt(K.mean() / (U.mean(axis=0) @ V.mean(axis=1)))
    return U * scale, V * scale


def update_v(K: Real, W: Any, U: Real, V: Real, gamma: float) -> Real:
    """V <- V * (U'K + gamma V W) / (U'U V + gamma V D)."""
    degree = np.asarray(W.sum(axis=1)).ravel()
    moved: Real = V * (U.T @ K + gamma * (W @ V.T).T) / np.maximum(U.T @ U @ V + gamma * V * degree, 1e-12)
    return moved


def update_u(K: Real, U: Real, V: Real, eta: float) -> Real:
    """U <- U * (K V' + 2 eta U) / (U V V' + 2 eta U U'U)."""
    moved: Real = U * (K @ V.T + 2 * eta * U) / np.maximum(U @ (V @ V.T) + 2 * eta * U @ (U.T @ U), 1e-12)
    return moved


def kernel_weights(K_v: list[Real], W_v: list[Any], U: Real, V: Real, gamma: float) -> Real:
    """The alpha on the simplex that minimises the objective with U and V fixed, (M,)."""
    E = np.array([[2 * np.sum(a * b) for b in K_v] for a in K_v])
    h = [gamma * np.sum(V * (laplacian(W) @ V.T).T) - 2 * np.sum((U.T @ K) * V) for K, W in zip(K_v, W_v)]
    return simplex_qp(E, np.array(h))


def loss(K: Real, W: Any, U: Real, V: Real, gamma: float, eta: float) -> float:
    """The objective for the combined kernel K and graph W."""
    smooth = np.sum(V * (laplacian(W) @ V.T).T)
    return float(((K - U @ V) ** 2).sum() + gamma * smooth + eta * ((U.T @ U - np.eye(len(V))) ** 2).sum())


def logistic(X: Real, Y: NDArray[np.bool_], ridge: float) -> Real:
    """k logistic regressions at once, X (n, k) on the bits Y (n, k): weights and, last, intercepts, (k + 1, k)."""
    X = np.hstack([X, np.ones((len(X), 1))])
    S = np.where(Y, 1.0, -1.0)

    def value_and_gradient(flat: Real) -> tuple[float, Real]:
        T = flat.reshape(X.shape[1], -1)
        M = S * (X @ T)
        slope = S / (1 + np.exp(np.clip(M, -500, 500)))
        gradient = ridge * T - X.T @ slope / len(X)
        return float(np.logaddexp(0, -M).sum() / len(X) + ridge / 2 * (T**2).sum()), gradient.ravel()

    found = minimize(value_and_gradient, np.zeros(X.shape[1] * Y.shape[1]), jac=True, method="L-BFGS-B")
    theta: Real = found.x.reshape(X.shape[1], -1)
    return theta
