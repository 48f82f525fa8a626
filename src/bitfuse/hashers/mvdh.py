"""MvDH: multiview discrete hashing, factorisation and pseudo-labels learned together, codes optimised row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._graphs import anchor_factor, kmeans
from bitfuse.hashers._inputs import Scaling, by_presence, learn_scaling, principal_signs, scaled
from bitfuse.hashers._solvers import Real, dcc, factor, project_simplex, ridge_inverse, settled, sign
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


class Weights(NamedTuple):
    """The constants of the objective, in the paper's letters."""

    alpha: float
    beta: float
    gamma: float
    delta: float


@dataclass(kw_only=True, frozen=True, eq=False)
class MvDH(Hasher):
    r"""Discrete factorisation of all views, codes and soft clusters explaining each other; new rows are optimised too.

    Codes B factorise every view and predict soft cluster indicators F, which are smooth on an anchor graph: codes and
    pseudo-labels are learned together. There is no hash function: a row's code is searched bit by bit, from the signs
    of the linear least-squares code, so that it minimises the row's own factorisation error. `project` returns the
    argument of each bit's last sign, u_j'(x - sum_{i != j} u_i b_i) and the pull: the margin by which the bit holds.

    $$ \min \sum_v \theta_v \left( \lVert X_v - U_v B \rVert_F^2 + \delta \lVert U_v \rVert_F^2 \right)
       + \alpha \left( \lVert F - P^\top B \rVert_F^2 + \delta \lVert P \rVert_F^2 \right)
       + \beta\, \mathrm{tr}(F L F^\top) + \tfrac{\gamma}{2} \lVert F F^\top - I \rVert_F^2
       + \tfrac{\lambda}{2} \lVert \theta \rVert^2 $$

    over B in {-1, 1}, F >= 0, theta on the simplex; L = I - Z Lambda^-1 Z' of an anchor graph.

    Parameters:
        scaling: of the rows; the paper's are raw, less their mean.
        alpha: weight of the pseudo-labels; None takes the energy of a view over the number of clusters, which lets
            them count as much as one view. Published 1e-3.
        beta: smoothness of the pseudo-labels; None takes alpha. Published 1e-3.
        gamma: their orthogonality; None takes the energy of a view. Published 1e6.
        delta: ridge of U and P, 0.01 as published.
        lam: lambda; None takes the energy of a view. The published 1e-3 gives all weight to one view.
        clusters: pseudo-labels; the paper takes the number of classes.
        anchors, r: of the graph, and how many of them a row is tied to; 300 and 5 as published.
        sweeps, query_sweeps: most passes over the bits in training and for a new row; 20 and 10 as published.
        ridge: of a new row's least-squares code, in units of the mean eigenvalue of U'U.
        pull: weight of ||b - linear code||^2 for a new row, in the same units, the linear code at unit mean square. The
            paper's 0 explains a row best and ranks worse, as near rows may get distant codes: mAP .42 against .48.
        n_iter, tol: most rounds (published 100), and the relative change at which it stops.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("mvdh", n_bits=16, anchors=100).fit(world.train.views)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.4
        True

    Deviations from the paper: its text was out of reach, the objective is reconstructed from the authors' updates.
    Their code uses the affinity where the Laplacian belongs. F moves by the multiplicative rule, shortened until the
    objective falls; codes start at signs of rotated principal components, new rows at the linear code instead of random
    signs, so that a row always gets the same code. `pull` is added (0 in `preset="published"`). A view absent at query
    time drops out of the sum.

    References:
        Shen, Shen, Liu, Yuan, Liu, Sun, Multiview discrete hashing for scalable multimedia search, ACM TIST 9(5), 2018,
        doi:10.1145/3178119.
    """

    scaling: Scaling = "centred"
    alpha: float | None = None
    beta: float | None = None
    gamma: float | None = None
    delta: float = 1e-2
    lam: float | None = None
    clusters: int = 24
    anchors: int = 300
    r: int = 5
    sweeps: int = 20
    query_sweeps: int = 10
    ridge: float = 1.0
    pull: float = 4.0
    n_iter: int = 20
    tol: float = 1e-4

    accepts_missing = "query"
    year = 2018
    reference = "doi:10.1145/3178119"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {
            "scaling": "mean",
            "alpha": 1e-3,
            "beta": 1e-3,
            "gamma": 1e6,
            "lam": 1e-3,
            "ridge": 0.0,
            "pull": 0.0,
            "n_iter": 100,
        }
    }

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        rng = np.random.default_rng(self.seed)
        state = learn_scaling(batch, self.scaling)
        X = [x.T for x in scaled(state, batch, self.scaling).values()]  # (d_v, n) each
        H = anchor_factor(np.vstack(X).T, self.anchors, self.r, rng)  # (n, p), L = I - H H'
        F = soft_clusters(H, self.clusters, rng)  # (c, n)
        B = principal_signs(np.vstack(X).T, self.n_bits, rng).T  # (k, n)
        theta = np.full(len(X), 1 / len(X))
        w, lam = self._weights(float(np.mean([(x**2).sum() for x in X])), len(F))
        objective: list[float] = []
        while len(objective) < self.n_iter and not settled(objective, self.tol):
            U = [factor(x, B, w.delta) for x in X]  # (d_v, k) each
            B = update_codes(X, U, F, factor(F, B, w.delta).T, B, theta, w.alpha, self.sweeps)
            F = update_clusters(F, B, H, w)
            h = np.array([((x - u @ B) ** 2).sum() + w.delta * (u**2).sum() for x, u in zip(X, U)])
            theta = project_simplex(-h / lam)  # min theta'h + lam/2 ||theta||^2
            objective.append(float(theta @ h + lam / 2 * theta @ theta) + cluster_loss(F, B, H, w))
        state |= {f"U.{v}": factor(x, B, w.delta) for v, x in zip(batch.arrays, X)}
        state |= {f"theta.{v}": np.array(t) for v, t in zip(batch.arrays, theta)}
        return state, {"objective": objective, "theta": theta.tolist()}

    def _weights(self, energy: float, clusters: int) -> tuple[Weights, float]:
        """The constants of the objective and lambda: those given, or what a view's energy ||X_v||^2 suggests."""
        alpha = energy / clusters if self.alpha is None else self.alpha
        beta = alpha if self.beta is None else self.beta
        gamma = energy if self.gamma is None else self.gamma
        return Weights(alpha, beta, gamma, self.delta), max(energy, 1e-12) if self.lam is None else self.lam

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        X = scaled(state, batch, self.scaling)
        z = np.empty((len(batch), self.n_bits))
        for rows, views in by_presence(batch):
            U, theta = [state[f"U.{v}"] for v in views], [float(state[f"theta.{v}"]) for v in views]
            # A view that training gave no weight must still answer alone.
            theta = theta if sum(theta) > 0 else [1.0] * len(views)
            P = np.sum([t * u.T @ X[v][rows].T for t, u, v in zip(theta, U, views)], axis=0)  # (k, n)
            A = np.sum([t * u.T @ u for t, u in zip(theta, U)], axis=0)  # (k, k)
            linear = ridge_inverse(A, self.ridge) @ P
            linear /= np.maximum(np.sqrt((linear**2).mean(axis=0)), 1e-12)
            # ||b - linear||^2 is a constant less 2 b'linear: the pull only enters the linear term.
            z[rows] = dcc(P + self.pull * np.trace(A) / len(A) * linear, A, sign(linear), self.query_sweeps)[1].T
        return z


def soft_clusters(H: Real, clusters: int, rng: np.random.Generator) -> Real:
    """Landmark spectral clustering: indicators + 0.2, rows of unit length: F F' is near I. (c, n) positive."""
    values, vectors = np.linalg.eigh(H.T @ H)
    top = np.flatnonzero(values > 1e-9)[::-1][:clusters]
    centres, of = kmeans(H @ vectors[:, top] / np.sqrt(values[top]), clusters, rng, iterations=30)
    F = np.eye(len(centres))[of].T + 0.2
    unit: Real = F / np.linalg.norm(F, axis=1, keepdims=True)
    return unit


def update_codes(
    X: list[Real], U: list[Real], F: Real, P: Real, B: Real, theta: Real, alpha: float, sweeps: int
) -> Real:
    """Discrete cyclic coordinate descent for sum_v theta_v ||X_v - U_v B||^2 + alpha ||F - P'B||^2 over B (k, n)."""
    linear = np.sum([t * u.T @ x for t, u, x in zip(theta, U, X)], axis=0) + alpha * P @ F
    gram = np.sum([t * u.T @ u for t, u in zip(theta, U)], axis=0) + alpha * P @ P.T
    return dcc(linear, gram, B, sweeps)[0]


def cluster_loss(F: Real, B: Real, H: Real, w: Weights) -> float:
    """beta tr(F Mx F') + gamma/2 ||F F' - I||^2: the terms in F, P at its minimum; Mx (n, n) is never formed."""
    fit = (F**2).sum() - np.sum(factor(F, B, w.delta) * (F @ B.T))
    smooth = (F**2).sum() - ((F @ H) ** 2).sum()
    return float(w.alpha * fit + w.beta * smooth + w.gamma / 2 * ((F @ F.T - np.eye(len(F))) ** 2).sum())


def update_clusters(F: Real, B: Real, H: Real, w: Weights) -> Real:
    """One multiplicative step on F >= 0 (c, n): the ratio of the gradient's negative to its positive part.

    beta Mx = (alpha + beta) I - beta H H' - alpha B'(B B' + delta I)^-1 B. A full step may overshoot, its roots do not.
    """
    G = factor(F, B, w.delta) @ B
    rises = (w.alpha + w.beta) * F + w.alpha * np.maximum(-G, 0) + w.gamma * (F @ F.T) @ F
    falls = w.beta * (F @ H) @ H.T + w.alpha * np.maximum(G, 0) + w.gamma * F
    ratio, before = falls / np.maximum(rises, 1e-10), cluster_loss(F, B, H, w)
    for halvings in range(6):
        moved: Real = F * ratio**0.5**halvings
        if cluster_loss(moved, B, H, w) <= before:
            return moved
    return F
