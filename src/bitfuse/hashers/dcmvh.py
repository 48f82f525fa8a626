"""DCMVH: deep collaborative multi-view hashing, three linear layers a view and one rotation, trained in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from bitfuse.hashers._inputs import Scaling, learn_scaling, scaled
from bitfuse.hashers._solvers import Real, Similarity, SimilarityKind, power_weights, procrustes, sign
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


@dataclass(kw_only=True, frozen=True, eq=False)
class DCMVH(Hasher):
    r"""Three linear layers a view that pass through the labels, one rotation that fuses the views, no gradient descent.

    The second layer of every view is held near the labels, so that the third makes codes out of predicted labels; H is
    the representation shared by the views and W4 the rotation from it to the codes B, which follow the similarity S of
    the labels. Every step is a closed form: the two equations A W C + D W = R of the first layers through
    eigenvectors, B and W4 under an augmented Lagrangian with copies Zb and Zw. What a new row needs is linear:
    b = sgn(sum_v mu_v W4 W3 W2 W1 x_v).

    $$ \min \sum_v \mu_v^t \left( \lVert H - W_3 W_2 W_1 X \rVert_F^2 + \theta \lVert W_2 W_1 X - L \rVert_F^2
       + \delta ( \lVert W_2 \rVert_F^2 + \lVert W_3 \rVert_F^2 ) + \gamma \lVert W_1 \rVert_{2,1} \right)_v $$
    $$ + \beta \lVert B - W_4 H \rVert_F^2 + \alpha \lVert k S - B^\top W_4 H \rVert_F^2
       \quad \text{s.t. } B \in \{-1, 1\}^{k \times n},\ W_4^\top W_4 = I,\ \textstyle\sum_v \mu_v = 1 $$

    Parameters:
        scaling: of the views; the paper takes raw features, for which its constants are made: on rows of unit length
            they shrink every layer to zero and the codes to chance.
        similarity: how labels become S; the paper takes "signed".
        theta: weight of the labels; the paper takes 1e-3.
        alpha: weight of S; None: 3 / (k s), s the mean eigenvalue of S. The paper takes 1e-5.
        beta: weight of the rotation; the paper takes 1e-5.
        delta: ridge of the second and third layer; the paper takes 10.
        gamma: weight of the row-sparsity of the first layer.
        rho: penalty that ties B to its copy; the paper takes 1e5, which holds B where it starts.
        rho_w: penalty that ties W4 to its copy; None: alpha times the squared largest eigenvalue of B B^T at the
            start, the curvature it has to outweigh. The paper takes 1e5.
        t: exponent of the view weights, above 1.
        n_iter: rounds; the paper takes at most 30.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("dcmvh", n_bits=16).fit(world.train.views, world.train.labels)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.5
        True

    Deviations from the paper: the first and second layer are the exact minimisers (the published code takes a product
    of two inverses that solves another equation); mu^t weighs the whole bracket of a view, as its own update has it;
    the multipliers G grow by rho (B - Z) as in the method of multipliers, where the code sets them to B - Z, and the
    step of W4 has 2 alpha k (B S) H^T, which is the gradient. The norm ||W1||_{2,1} sums all rows. The balanced
    similarity, the start of B at it, the constants and the scaling are ours.

    References:
        Zhu, Lu, Cheng, Li and Zhang, Deep collaborative multi-view hashing for large-scale image search,
        IEEE Transactions on Image Processing 29, 4643-4655, 2020, doi:10.1109/TIP.2020.2974065.
    """

    scaling: Scaling = "centred"
    similarity: SimilarityKind = "balanced"
    theta: float = 1.0
    alpha: float | None = None
    beta: float = 10.0
    delta: float = 1.0
    gamma: float = 10.0
    rho: float = 0.1
    rho_w: float | None = None
    t: float = 3.0
    n_iter: int = 15

    supervised = True
    year = 2020
    reference = "doi:10.1109/TIP.2020.2974065"
    presets: ClassVar = {
        "published": {
            "scaling": "raw",
            "similarity": "signed",
            "theta": 1e-3,
            "alpha": 1e-5,
            "beta": 1e-5,
            "delta": 10.0,
            "rho": 1e5,
            "rho_w": 1e5,
            "n_iter": 30,
        }
    }

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        assert labels is not None
        k, rng = self.n_bits, np.random.default_rng(self.seed)
        L = labels[:, labels.any(axis=0)].T.astype(np.float64)  # (c, n)
        c = len(L)
        S = Similarity(labels, self.similarity)
        alpha = 3 / (k * S.scale) if self.alpha is None else self.alpha
        state = learn_scaling(batch, self.scaling)
        X = [x.T for x in scaled(state, batch, self.scaling).values()]  # (d_v, n) each
        spectra = [np.linalg.eigh(x @ x.T) for x in X]
        d1 = max(1, len(X[0]) // 2)
        W1 = [rng.standard_normal((d1, len(x))) / len(x) ** 0.5 for x in X]
        W2 = [rng.standard_normal((c, d1)) / d1**0.5 for _ in X]
        W3 = [rng.standard_normal((k, c)) / c**0.5 for _ in X]
        B = S.start(k, rng)  # (k, n)
        W4 = np.linalg.qr(rng.standard_normal((k, k)))[0]
        H = W4.T @ B
        Zb, Gb, Zw, Gw = B, np.zeros_like(B), W4, np.zeros_like(W4)
        largest = float(np.linalg.eigvalsh(B @ B.T)[-1])
        rho_w = alpha * largest**2 if self.rho_w is None else self.rho_w
        mu = np.full(len(X), 1 / len(X))
        objective: list[float] = []
        for _ in range(self.n_iter):
            P, Z2 = [], []
            for v, x in enumerate(X):
                W1[v] = first_layer(W1[v], W2[v], W3[v], H, L, x, spectra[v], self.theta, self.gamma)
                Z = W1[v] @ x
                W2[v] = second_layer(W3[v], H, L, Z, self.theta, self.delta)
                Z2.append(W2[v] @ Z)
                W3[v] = third_layer(H, Z2[v], self.delta)
                P.append(W3[v] @ Z2[v])
            h = [bracket(H, L, *of, self.theta, self.delta, self.gamma) for of in zip(W1, W2, W3, Z2, P)]
            mu = power_weights(np.array(h), self.t)
            m = mu**self.t
            W4 = fusion_layer(B, S, H, Zw, Gw, alpha, self.beta, rho_w)
            Zw = fusion_copy(B, H, W4, Gw, alpha, rho_w)
            Gw = Gw + rho_w * (W4 - Zw)
            H = latent(P, m, W4, B, S, alpha, self.beta)
            F = W4 @ H
            B = update_codes(F, S, Zb, Gb, alpha, self.beta, self.rho)
            Zb = update_copy(F, B, Gb, alpha, self.rho)
            Gb = Gb + self.rho * (B - Zb)
            h = [bracket(H, L, *of, self.theta, self.delta, self.gamma) for of in zip(W1, W2, W3, Z2, P)]
            semantic = S.loss(k, B @ S.L1.T, F @ S.L1.T, B @ B.T, F @ F.T)
            objective.append(float(m @ np.array(h)) + self.beta * float(((B - F) ** 2).sum()) + alpha * semantic)
        state |= {f"W.{v}": u * W4 @ w3 @ w2 @ w1 for v, u, w1, w2, w3 in zip(batch.arrays, mu, W1, W2, W3)}  # (k, d_v)
        return state, {"objective": objective, "mu": dict(zip(batch.arrays, mu.tolist()))}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        return np.asarray(sum(x @ state[f"W.{v}"].T for v, x in scaled(state, batch, self.scaling).items()))


def row_norms(W: Real) -> Real:
    """||w_i|| of each row, kept away from 0. (d1,)."""
    return np.asarray(np.maximum(np.linalg.norm(W, axis=1), 1e-8), np.float64)


def bracket(
    H: Real, L: Real, W1: Real, W2: Real, W3: Real, Z2: Real, P: Real, theta: float, delta: float, gamma: float
) -> float:
    """h_v = ||H - P||^2 + theta ||Z2 - L||^2 + delta (||W2||^2 + ||W3||^2) + gamma ||W1||_{2,1}.

    Z2 = W2 W1 X and P = W3 Z2; the last norm sums over all rows of W1.
    """
    squares = ((H - P) ** 2).sum() + theta * ((Z2 - L) ** 2).sum() + delta * ((W2**2).sum() + (W3**2).sum())
    return float(squares + gamma * np.linalg.norm(W1, axis=1).sum())


def sylvester(A: Real, D: Real, spectrum: tuple[Real, Real], R: Real, ridge: float) -> Real:
    """The W of A W C + ridge diag(D) W = R, for A and C = E diag(s) E^T positive semi-definite and D > 0."""
    lam, Q = scipy.linalg.eigh(A, np.diag(D))  # A q = lam D q, Q^T D Q = I
    s, E = spectrum
    inner = (Q.T @ R @ E) / (np.maximum(lam, 0)[:, None] * np.maximum(s, 0) + ridge)
    return np.asarray(Q @ inner @ E.T, np.float64)


def first_layer(
    W1: Real, W2: Real, W3: Real, H: Real, L: Real, X: Real, spectrum: tuple[Real, Real], theta: float, gamma: float
) -> Real:
    """A W1 X X^T + gamma D W1 = W2^T (W3^T H + theta L) X^T.

    A = W2^T (W3^T W3 + theta I) W2 and D = diag(1 / (2 ||w_i||)), w_i the rows of W1 so far. (d1, d_v).
    """
    A = W2.T @ (W3.T @ W3 + theta * np.eye(len(L))) @ W2
    R = W2.T @ ((W3.T @ H + theta * L) @ X.T)
    return sylvester(A, 0.5 / row_norms(W1), spectrum, R, gamma)


def second_layer(W3: Real, H: Real, L: Real, Z: Real, theta: float, delta: float) -> Real:
    """(W3^T W3 + theta I) W2 Z Z^T + delta W2 = (W3^T H + theta L) Z^T, Z = W1 X. (c, d1)."""
    A = W3.T @ W3 + theta * np.eye(len(L))
    return sylvester(A, np.ones(len(L)), np.linalg.eigh(Z @ Z.T), (W3.T @ H + theta * L) @ Z.T, delta)


def third_layer(H: Real, Z2: Real, delta: float) -> Real:
    """W3 = H Z2^T (Z2 Z2^T + delta I)^-1, Z2 = W2 W1 X. (k, c)."""
    ridge = delta * np.eye(len(Z2))
    return np.asarray(np.linalg.solve(Z2 @ Z2.T + ridge, Z2 @ H.T).T, np.float64)


def fusion_layer(B: Real, S: Similarity, H: Real, Zw: Real, Gw: Real, alpha: float, beta: float, rho: float) -> Real:
    """W4 = Procrustes(2 beta B H^T + 2 alpha k (B S) H^T - alpha B B^T Zw H H^T + rho Zw - Gw). (k, k)."""
    HH, pull = H @ H.T, 2 * (beta * B + alpha * len(B) * (B @ S)) @ H.T
    return procrustes(pull - alpha * (B @ B.T) @ Zw @ HH + rho * Zw - Gw)


def fusion_copy(B: Real, H: Real, W4: Real, Gw: Real, alpha: float, rho: float) -> Real:
    """Zw = Procrustes(-alpha B B^T W4 H H^T + rho W4 + Gw). (k, k)."""
    return procrustes(-alpha * (B @ B.T) @ W4 @ (H @ H.T) + rho * W4 + Gw)


def latent(P: list[Real], m: Real, W4: Real, B: Real, S: Similarity, alpha: float, beta: float) -> Real:
    """H = ((sum m + beta) I + alpha W4^T B B^T W4)^-1 (sum m P + beta W4^T B + alpha k W4^T (B S)). (k, n)."""
    k = len(B)
    right = np.sum([w * p for w, p in zip(m, P)], axis=0) + W4.T @ (beta * B + alpha * k * (B @ S))
    A = (m.sum() + beta) * np.eye(k) + alpha * W4.T @ (B @ B.T) @ W4
    return np.asarray(np.linalg.solve(A, right), np.float64)


def update_codes(F: Real, S: Similarity, Zb: Real, Gb: Real, alpha: float, beta: float, rho: float) -> Real:
    """B = sgn(2 alpha k F S - alpha F F^T Zb + 2 beta F + rho Zb - Gb), F = W4 H. (k, n)."""
    return sign(2 * alpha * len(F) * (F @ S) - alpha * (F @ F.T) @ Zb + 2 * beta * F + rho * Zb - Gb)


def update_copy(F: Real, B: Real, Gb: Real, alpha: float, rho: float) -> Real:
    """Zb = sgn(-alpha F F^T B + rho B + Gb). (k, n)."""
    return sign(-alpha * (F @ F.T) @ B + rho * B + Gb)
