"""MFH: multiple feature hashing, one spectral code that is smooth on every view's graph and linear in the features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._graphs import anchor_factor
from bitfuse.hashers._inputs import Scaling, learn_scaling, nearest_to_signs, scaled
from bitfuse.hashers._solvers import Real
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


@dataclass(kw_only=True, frozen=True, eq=False)
class MFH(Hasher):
    r"""Spectral embedding that is smooth on the graph of every view and predicted by one linear map of all features.

    Each view has a neighbour graph and a relaxed code Y_v of its own; a shared Y agrees with all of them and with a
    ridge regression on the features side by side. Everything but Y has a closed form, and Y is the smallest
    eigenvectors of one matrix Q, the constant one left out. The graphs are anchor graphs, so Q is a multiple of I less
    a matrix of low rank, and its eigenvectors cost O(n).

    $$ \min \sum_v \mathrm{tr}(Y_v^\top L_v Y_v) + \gamma \sum_v \lVert Y - Y_v \rVert_F^2
       + \alpha \left( \lVert X^\top W + 1 b^\top - Y \rVert_F^2 + \beta \lVert W \rVert_F^2 \right)
       \quad \text{s.t. } Y^\top Y = I $$

    Parameters:
        scaling: of the rows; the paper's are raw.
        anchors, r: of each view's graph, and how many anchors a row is tied to.
        gamma: agreement of Y_v with Y; published 1e-3.
        alpha: weight of the regression, 1 as published.
        beta: ridge; None takes a tenth of the scatter tr(X C X'). The published 0.01 lets 64 bits follow directions of
            almost no variance.
        rotate: turn Y towards its signs; the objective does not see rotations. The paper takes Y as it comes.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("mfh", n_bits=16, anchors=100).fit(world.train.views)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.4
        True

    Deviations from the paper: anchor graphs instead of k-nearest-neighbour graphs with a dense eigenproblem, and
    `rotate` (off in `preset="published"`). The public code gives the affinity for the Laplacian and takes rows of the
    eigenvector matrix; here Y is smooth and the trivial eigenvector is gone.

    References:
        Song, Yang, Huang, Shen, Hong, Multiple feature hashing for real-time large scale near-duplicate video
        retrieval, MM 2011, doi:10.1145/2072298.2072354.
    """

    scaling: Scaling = "centred"
    anchors: int = 300
    r: int = 5
    gamma: float = 1.0
    alpha: float = 1.0
    beta: float | None = None
    rotate: bool = True

    year = 2011
    reference = "doi:10.1145/2072298.2072354"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"scaling": "raw", "gamma": 1e-3, "beta": 1e-2, "rotate": False}
    }

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        rng = np.random.default_rng(self.seed)
        state = learn_scaling(batch, self.scaling)
        views = list(scaled(state, batch, self.scaling).values())
        X = np.hstack(views).T  # (d, n)
        mean = X.mean(axis=1, keepdims=True)
        X = X - mean  # X C
        beta = max(0.1 * float((X**2).sum()), 1e-12) if self.beta is None else self.beta
        graphs = [anchor_factor(x, self.anchors, self.r, rng) for x in views]
        A, c = low_rank(X, graphs, self.gamma, self.alpha, beta)  # Q = c I - A A' on what is orthogonal to 1
        Y, values = leading(A, self.n_bits)  # (n, min(k, rank))
        objective = c * len(values) - float(values.sum())  # tr(Y'Q Y)
        # Entries of Y are of size n^-1/2; the factor gives every bit unit variance and leaves the signs.
        Y = Y * len(Y) ** 0.5 @ nearest_to_signs(Y, self.n_bits, rng, rotate=self.rotate)
        W = regression(X, Y, beta)  # (d, k)
        return state | {"W": W, "b": -(W.T @ mean)[:, 0]}, {"objective": [objective], "rank": len(values)}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        X = np.hstack(list(scaled(state, batch, self.scaling).values()))  # (n, d)
        return np.asarray(X @ state["W"] + state["b"])


def low_rank(X: Real, graphs: list[Real], gamma: float, alpha: float, beta: float) -> tuple[Real, float]:
    """A (n, m) and c with Q = c I - A A' on the complement of 1, for centred X (d, n) and graph factors H_v (n, p).

    Of L = I - H H', H = U S V': gamma I - gamma^2 (L + gamma I)^-1 = gamma/(1 + gamma) I
    - U diag(gamma^2 (1/(1 + gamma - s^2) - 1/(1 + gamma))) U'. The regression: alpha I - alpha X'(X X' + beta I)^-1 X.
    """
    parts = []
    for H in graphs:
        s2, V = np.linalg.eigh(H.T @ H)
        kept = s2 > 1e-9
        s2, U = np.minimum(s2[kept], 1), H @ V[:, kept] / np.sqrt(s2[kept])
        parts.append(U * (gamma * np.sqrt(1 / (1 + gamma - s2) - 1 / (1 + gamma))))
    s2, E = np.linalg.eigh(X @ X.T)
    kept = s2 > 1e-9 * s2[-1]
    parts.append(X.T @ E[:, kept] * np.sqrt(alpha / (s2[kept] + beta)))
    A = np.hstack(parts)
    return A - A.mean(axis=0), len(graphs) * gamma / (1 + gamma) + alpha


def regression(X: Real, Y: Real, beta: float) -> Real:
    """W = (X C X' + beta I)^-1 X C Y (d, k) for centred X (d, n)."""
    return np.asarray(np.linalg.solve(X @ X.T + beta * np.eye(len(X)), X @ Y), np.float64)


def leading(A: Real, k: int) -> tuple[Real, Real]:
    """The leading eigenvectors of A A' (n, r), r = min(k, rank), and their eigenvalues; by the smaller Gram matrix."""
    tall = len(A) > A.shape[1]
    values, V = np.linalg.eigh(A.T @ A if tall else A @ A.T)
    top = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:k]
    Y: Real = A @ V[:, top] / np.sqrt(values[top]) if tall else V[:, top]
    return Y, values[top]
