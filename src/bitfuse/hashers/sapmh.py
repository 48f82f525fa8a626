"""SAPMH: supervised adaptive partial multi-view hashing, for rows that lack views in training and at query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.hashers._inputs import Scaling, Width, kernels, learn_kernels, learn_scaling, scaled
from bitfuse.hashers._solvers import Real, Similarity, SimilarityKind, inverse_weights, sign
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State

_BLOCK = 4096  # query rows whose latent rows are found at once


@dataclass(kw_only=True, frozen=True, eq=False)
class SAPMH(Hasher):
    r"""A latent row for every item, found from whichever views the item has, and codes regressed on it.

    The kernel features X_v of every view factorise as H_v U_v with latent rows H shared by the views: an item that
    lacks a view still has its row, found from the others. The codes B are regressed on H by W, and the product of
    codes and H W follows the similarity S of the labels. The weights of the views come from their residuals, without a
    parameter. A query finds its latent row, its bits and its weights in turn.

    $$ \min_{B, H, U_v, W} \sum_v \lVert X_v - H_v U_v \rVert_F
       + \lambda \sum_v \lVert U_v \rVert_F^2 + \eta_H \lVert H \rVert_F^2
       + \theta \lVert B - H W \rVert_F^2 + \rho \lVert k S - B (H W)^\top \rVert_F^2
       \quad \text{s.t. } B \in \{-1, 1\}^{n \times k} $$

    Parameters:
        scaling: of the views before the kernel; the paper takes raw features.
        anchors: kernel features of a view.
        width: RBF width for all views or by view; None: the root of each view's mean squared distance. The paper takes
            100 (MIRFlickr) or 88 (NUS-WIDE), for raw VGG features and word counts.
        q: width of the latent rows; None: 192, or a quarter of the training rows where that is less. The paper takes
            128 (MIRFlickr), 500 (NUS-WIDE).
        similarity: how labels become S; the paper takes "signed".
        theta: weight of the regression; None: 0.03 / sqrt(n), as the norms of the views grow with sqrt(n). The paper
            takes 1e-4.
        rho: weight of S; None: 0.002 / (sqrt(n) k s), s the mean eigenvalue of S. The paper takes 1e-6.
        lam: ridge of U; the paper takes 100.
        hold: ridge of H, eta_H; None: `lam`. The paper leaves H free, 0: with its `lam` here too every row would be 0.
        eta: penalty that ties B to its copy Z in the augmented Lagrangian; None: rho k s / 6. The paper takes 0.01.
        n_iter: rounds.
        query_iter: rounds of a query.
        refit: whether W is at last regressed on the latent rows that a query would find; a query then does without
            the term theta ||b - h W||^2. The paper keeps the W of training, where H knows the labels and a query's h
            does not: its codes are then worth far less on new rows.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("sapmh", n_bits=16, anchors=150).fit(world.train.views, world.train.labels)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.4
        True

    Deviations from the paper: a query's weights are found for its row alone; the published code finds one set for the
    whole query batch. Every row's H follows S and B of all rows, the code's only those of its own block. The ridge also
    holds H, which the paper leaves free: a row with one view would otherwise magnify the latent directions that only
    the other view shows. The last regression, the balanced similarity, the start of B at it, the weights from the data
    and the scaling are ours. Any number of views. Rows of a query are solved by conjugate gradients.

    References:
        Zheng, Zhu, Cheng, Li and Liu, Adaptive partial multi-view hashing for efficient social image retrieval,
        IEEE Transactions on Multimedia 23, 2021, doi:10.1109/TMM.2020.3037456.
    """

    scaling: Scaling = "centred"
    anchors: int = 500
    width: Width = None
    q: int | None = None
    similarity: SimilarityKind = "balanced"
    theta: float | None = None
    rho: float | None = None
    lam: float = 3e-6
    hold: float | None = None
    eta: float | None = None
    n_iter: int = 15
    query_iter: int = 3
    refit: bool = True

    supervised = True
    accepts_missing = "train+query"
    year = 2020
    reference = "doi:10.1109/TMM.2020.3037456"
    presets: ClassVar = {
        "published": {
            "scaling": "raw",
            "width": 100.0,
            "q": 128,
            "similarity": "signed",
            "theta": 1e-4,
            "rho": 1e-6,
            "lam": 100.0,
            "hold": 0.0,
            "eta": 0.01,
            "n_iter": 100,
            "query_iter": 10,
            "refit": False,
        }
    }

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        assert labels is not None
        k, n, rng = self.n_bits, len(batch), np.random.default_rng(self.seed)
        q = max(1, min(192, n // 4)) if self.q is None else self.q
        for v, mask in batch.masks.items():
            if not mask.any():
                raise InputError(f"no training row has the view {v!r}; leave that view out")
        state = learn_scaling(batch, self.scaling)
        parts = scaled(state, batch, self.scaling)
        state |= learn_kernels({v: x[batch.masks[v]] for v, x in parts.items()}, self.anchors, self.width, rng)
        masks = list(batch.masks.values())
        X = [x * m[:, None] for x, m in zip(kernels(state, parts).values(), masks)]  # (n, a) each
        S = Similarity(labels, self.similarity)
        theta = 0.03 / n**0.5 if self.theta is None else self.theta
        rho = 2e-3 / (n**0.5 * k * S.scale) if self.rho is None else self.rho
        eta = rho * k * S.scale / 6 if self.eta is None else self.eta
        hold = self.lam if self.hold is None else self.hold
        B, H = S.start(k, rng).T, rng.standard_normal((n, q))
        Z, G = B, np.zeros_like(B)
        mu, energy = np.full(len(X), 1 / len(X)), [float((x**2).sum()) for x in X]
        objective: list[float] = []
        for _ in range(self.n_iter):
            U = [basis(H * m[:, None], x, w, self.lam) for x, m, w in zip(X, masks, mu)]  # (q, a) each
            W = regression(H, B, S, theta, rho)  # (q, k)
            H = latent(X, masks, U, W, B, S, mu, theta, rho, hold)
            HW = H @ W
            B = update_codes(HW, S, Z, G, theta, rho, eta)
            Z = update_copy(HW, B, G, rho, eta)
            G = G + eta * (B - Z)
            squares = np.array([residual(x, e, H * m[:, None], u) for x, e, u, m in zip(X, energy, U, masks)])
            mu = inverse_weights(squares)
            ridge = self.lam * sum(float((u**2).sum()) for u in U) + hold * float((H**2).sum())
            semantic = S.loss(k, B.T @ S.L1.T, HW.T @ S.L1.T, B.T @ B, HW.T @ HW)
            fit = theta * float(((B - HW) ** 2).sum())
            objective.append(float(np.sqrt(squares).sum()) + ridge + fit + rho * semantic)
        state |= {f"U.{v}": u for v, u in zip(batch.arrays, U)}
        state |= {"W": W, "mu": mu, "rows": np.array(n), "theta": np.array(0.0 if self.refit else theta)}
        if self.refit:
            h = self._latent(state, batch)
            HH = h.T @ h
            state["W"] = np.linalg.solve(HH + 1e-3 * np.trace(HH) / q * np.eye(q), h.T @ B)
        return state, {"objective": objective, "mu": dict(zip(batch.arrays, mu.tolist()))}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        return np.asarray(self._latent(state, batch) @ state["W"])

    def _latent(self, state: State, batch: Batch) -> Array:
        """The latent rows of a query, (n, q): h, its bits and its weights in turn."""
        W, theta, n = state["W"], float(state["theta"]), int(state["rows"])
        ridge = (self.lam if self.hold is None else self.hold) * np.eye(len(W))
        masks = np.stack(list(batch.masks.values()))  # (M, n)
        base = ridge + theta * W @ W.T
        H = np.empty((len(batch), len(W)))
        for present in np.unique(masks, axis=1).T:
            used = [v for v, here in zip(batch.arrays, present) if here]
            UU = np.stack([state[f"U.{v}"] @ state[f"U.{v}"].T for v in used])  # (M', q, q)
            mu = state["mu"][present]
            typical = np.asarray(np.linalg.inv(guarded(base + np.einsum("v,vpq->pq", mu, UU))), np.float64)
            first = np.linalg.inv(guarded(ridge + np.einsum("v,vpq->pq", mu, UU)))
            of = np.flatnonzero((masks == present[:, None]).all(axis=0))
            for rows in np.array_split(of, -(-len(of) // _BLOCK)):
                X = kernels(state, scaled(state, batch.take(rows), self.scaling))  # (m, a) each
                XU = np.stack([X[v] @ state[f"U.{v}"].T for v in used])  # (M', m, q)
                norms = np.stack([(X[v] ** 2).sum(axis=1) for v in used])
                h = np.einsum("v,vmq->mq", mu, XU) @ first  # (m, q)
                for _ in range(self.query_iter):
                    fits = norms + (h * (h @ UU - 2 * XU)).sum(axis=2)  # ||x_v - h U_v||^2
                    weights = inverse_weights(np.maximum(fits, 0) * n)  # as in training, for a row that is like all n
                    right = np.einsum("vm,vmq->mq", weights, XU) + theta * sign(h @ W) @ W.T
                    h = solve_rows(weights, UU, base, right, typical, h)
                H[rows] = h
        return H


def basis(H: Real, X: Real, mu: float, lam: float) -> Real:
    """U = (mu H^T H + lam I)^-1 mu H^T X over the rows that have the view. (q, a)."""
    ridge = lam * np.eye(H.shape[1])
    return np.asarray(np.linalg.solve(mu * H.T @ H + ridge, mu * H.T @ X), np.float64)


def residual(X: Real, energy: float, H: Real, U: Real) -> float:
    """||X - H U||_F^2, given ||X||_F^2, without a second array of the size of X."""
    return max(0.0, energy - 2 * float(((H.T @ X) * U).sum()) + float(((H.T @ H) * (U @ U.T)).sum()))


def regression(H: Real, B: Real, S: Similarity, theta: float, rho: float) -> Real:
    """W = (H^T H)^-1 (theta H^T B + rho k H^T S B) (theta I + rho B^T B)^-1. (q, k)."""
    k, HH = B.shape[1], H.T @ H
    right = np.linalg.solve(theta * np.eye(k) + rho * B.T @ B, (theta * H.T @ B + rho * k * H.T @ (B.T @ S).T).T).T
    return np.asarray(np.linalg.solve(guarded(HH), right), np.float64)


def guarded(A: Real) -> Real:
    """A with so little added that it can be inverted where rows or anchors are fewer than latent directions."""
    return np.asarray(A + 1e-10 * np.trace(A) / len(A) * np.eye(len(A)), np.float64)


def latent(
    X: list[Real], masks: list[NDArray[np.bool_]], U: list[Real], W: Real, B: Real, S: Similarity, mu: Real,
    theta: float, rho: float, hold: float,
) -> Real:  # fmt: skip
    """The rows of H that have the views O, for every O: H_O = R (sum_{v in O} mu_v U_v U_v^T + W (..) W^T + hold I)^-1,

    R = sum_{v in O} mu_v X_v U_v^T + theta B W^T + rho k S B W^T, (..) = theta I + rho B^T B. (n, q).
    """
    k, seen = B.shape[1], np.stack(masks)
    right = np.sum([m * x @ u.T for m, x, u in zip(mu, X, U)], axis=0)
    right = right + (theta * B + rho * k * (B.T @ S).T) @ W.T
    base = W @ (theta * np.eye(k) + rho * B.T @ B) @ W.T + hold * np.eye(len(W))
    H: Real = np.empty(right.shape)
    for present in np.unique(seen, axis=1).T:
        rows = (seen == present[:, None]).all(axis=0)
        A = base + np.sum([m * u @ u.T for m, u, here in zip(mu, U, present) if here], axis=0)
        H[rows] = np.linalg.solve(guarded(A), right[rows].T).T
    return H


def update_codes(HW: Real, S: Similarity, Z: Real, G: Real, theta: float, rho: float, eta: float) -> Real:
    """B = sgn(2 theta H W + 2 rho k S H W - rho Z (H W)^T H W + eta Z - G). (n, k)."""
    pull = 2 * theta * HW + 2 * rho * HW.shape[1] * (HW.T @ S).T
    return sign(pull - rho * Z @ (HW.T @ HW) + eta * Z - G)


def update_copy(HW: Real, B: Real, G: Real, rho: float, eta: float) -> Real:
    """Z = sgn(-rho B (H W)^T H W + eta B + G). (n, k)."""
    return sign(-rho * B @ (HW.T @ HW) + eta * B + G)


def solve_rows(weights: Real, UU: Real, base: Real, right: Real, typical: Real, h: Real, steps: int = 12) -> Real:
    """h_i (base + sum_v w_vi U_v U_v^T) = right_i for every row i, (n, q): each row has a matrix of its own.

    Conjugate gradients from h, preconditioned by the inverse at typical weights: a few products of matrices for all
    rows at once, where a solve for each would cost q^3. A row's steps are its own.
    """

    def apply(x: Real) -> Real:
        return np.asarray(x @ base + np.einsum("vn,vnq->nq", weights, x @ UU), np.float64)

    r: Real = right - apply(h)
    p = s = r @ typical
    rs = (r * s).sum(axis=1, keepdims=True)
    for _ in range(steps):
        Ap = apply(p)
        curvature = (p * Ap).sum(axis=1, keepdims=True)
        step = np.divide(rs, curvature, out=np.zeros_like(rs), where=curvature > 0)
        h, r = h + step * p, r - step * Ap
        s = r @ typical
        rs, before = (r * s).sum(axis=1, keepdims=True), rs
        p = s + np.divide(rs, before, out=np.zeros_like(rs), where=before > 0) * p
    return h
