"""FDMH: flexible discrete multi-view hashing with collective latent features and a correntropy for the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._inputs import Width, kernels, learn_kernels
from bitfuse.hashers._solvers import Real, mean_and_scale, power_weights, procrustes, settled, sign
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


@dataclass(kw_only=True, frozen=True, eq=False)
class FDMH(Hasher):
    r"""Balanced codes that are a rotation of a latent space shared by the views and, bit by bit, agree with the labels.

    Every view has a dictionary W_v that leads from its kernel features to common latent features V; a rotation R turns
    V towards the codes B. The labels enter through a projection P with orthonormal columns, under a correntropy: a bit
    that the labels explain badly is trusted less (z_j) instead of bending the others. New rows take the latent
    features of their views through one last regression T onto the codes.

    $$ \min_{B, V, R, P, W_v, \alpha} \sum_v \alpha_v^r \left( \lVert V - W_v \phi_v \rVert_F^2
       + \lambda \lVert W_v \rVert_F^2 \right) + \beta \lVert B - R V \rVert_F^2
       + \gamma \sum_{j=1}^{k} \sigma^2 \left( 1 - e^{-\lVert b_j - p_j L \rVert^2 / \sigma^2} \right) $$
    $$ \text{s.t. } B \in \{-1, 1\}^{k \times n},\ B 1 = 0,\ R^\top R = I,\ P \text{ semi-orthogonal},\
       \textstyle\sum_v \alpha_v = 1 $$

    Parameters:
        anchors: kernel features of a view.
        width: RBF width for all views or by view; None: the root of each view's mean squared distance, as in the paper.
        beta: weight of the rotation.
        gamma: weight of the labels.
        lam: ridge of the dictionaries; the paper takes 0.01.
        r: exponent of the view weights, above 1.
        sigma: width of the correntropy; None: the root of the mean ||b_j - p_j L||^2 at the start, so that z lies about
            exp(-1). The paper takes 5 for 2,173 rows of Wiki, which makes every z vanish on other data.
        n_iter: most rounds; the paper takes 5.
        tol: relative change of the objective at which it stops.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("fdmh", n_bits=16, anchors=150).fit(world.train.views, world.train.labels)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.45
        True

    Deviations from the paper: R and P are the minimisers, R = Q U^T of V B^T = U S Q^T (the published code takes the
    transpose, which leaves ||B - R V|| ten times as large), P by majorisation steps that cannot raise the objective
    (one Procrustes step is exact only where all z_j are equal). The last regression has the codes in {-1, 1} as its
    target and the weights alpha^r on both sides. Anchors, mean and scale come from the training rows. alpha includes
    the ridge in h_v, as its objective does.

    References:
        Liu, Zhang and Huang, Flexible discrete multi-view hashing with collective latent feature learning,
        Neural Processing Letters 52(3), 2020, doi:10.1007/s11063-020-10221-y.
    """

    anchors: int = 500
    width: Width = None
    beta: float = 0.5
    gamma: float = 100.0
    lam: float = 1e-3
    r: float = 3.0
    sigma: float | None = None
    n_iter: int = 10
    tol: float = 1e-5

    supervised = True
    year = 2020
    reference = "doi:10.1007/s11063-020-10221-y"
    presets: ClassVar = {"published": {"sigma": 5.0, "lam": 0.01, "n_iter": 5, "tol": 0.0}}

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        assert labels is not None
        k, n, rng = self.n_bits, len(batch), np.random.default_rng(self.seed)
        L = labels[:, labels.any(axis=0)].T.astype(np.float64)  # (c, n)
        state: State = {}
        for v, x in batch.arrays.items():
            state[f"mean.{v}"], state[f"scale.{v}"] = mean_and_scale(x)
        state |= learn_kernels(standardised(state, batch), self.anchors, self.width, rng)
        phi = [x.T for x in kernels(state, standardised(state, batch), bias=True).values()]  # (a + 1, n) each
        inverse = [np.linalg.inv(p @ p.T + self.lam * np.eye(len(p))) for p in phi]
        B = balanced_signs(rng.standard_normal((k, n)))
        V, P = B, procrustes(B @ L.T)
        errors = ((B - P @ L) ** 2).sum(axis=1)
        sigma2 = float(errors.mean()) if self.sigma is None else self.sigma**2
        z, alpha = np.ones(k), np.full(len(phi), 1 / len(phi))
        objective: list[float] = []
        while len(objective) < self.n_iter and not settled(objective, self.tol):
            W = [V @ p.T @ i for p, i in zip(phi, inverse)]
            h = np.array([((V - w @ p) ** 2).sum() + self.lam * (w**2).sum() for w, p in zip(W, phi)])
            alpha = power_weights(h, self.r)
            R = update_rotation(B, V)
            P = update_projection(P, B, L, z)
            V = update_latent(W, phi, alpha**self.r, R, B, self.beta)
            B = balanced_signs(self.beta * R @ V + self.gamma * z[:, None] * (P @ L))
            errors = ((B - P @ L) ** 2).sum(axis=1)
            z = np.exp(-errors / sigma2)
            h = np.array([((V - w @ p) ** 2).sum() + self.lam * (w**2).sum() for w, p in zip(W, phi)])
            rotation = self.beta * float(((B - R @ V) ** 2).sum())
            objective.append(float(alpha**self.r @ h) + rotation + self.gamma * float((sigma2 * (1 - z)).sum()))
        V0 = np.sum([w * a @ p for w, a, p in zip(alpha**self.r, W, phi)], axis=0)
        T = np.linalg.solve(V0 @ V0.T + np.eye(k), V0 @ B.T)
        state |= {f"W.{v}": a * T.T @ w for v, a, w in zip(batch.arrays, alpha**self.r, W)}  # (k, a + 1)
        log = {"objective": objective, "alpha": dict(zip(batch.arrays, alpha.tolist())), "sigma": sigma2**0.5}
        return state, log | {"z": [float(z.min()), float(z.max())]}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        features = kernels(state, standardised(state, batch), bias=True)
        return np.asarray(sum(x @ state[f"W.{v}"].T for v, x in features.items()))


def standardised(state: State, batch: Batch) -> dict[str, Real]:
    """View name -> (n, d) rows, each column centred and at unit variance over the training rows."""
    return {v: (x - state[f"mean.{v}"]) / state[f"scale.{v}"] for v, x in batch.arrays.items()}


def balanced_signs(A: Real) -> Real:
    """The B with B 1 = 0 (half of each row +1) that maximises tr(B^T A): sgn(A - row median). (k, n)."""
    return sign(A - np.median(A, axis=1, keepdims=True))


def update_rotation(B: Real, V: Real) -> Real:
    """The R with R^T R = I that minimises ||B - R V||_F: R = Q U^T of V B^T = U S Q^T. (k, k)."""
    return procrustes(B @ V.T)


def update_latent(W: list[Real], phi: list[Real], weights: Real, R: Real, B: Real, beta: float) -> Real:
    """V = (sum_v alpha_v^r I + beta R^T R)^-1 (sum_v alpha_v^r W_v phi_v + beta R^T B), with R^T R = I. (k, n)."""
    pull = np.sum([a * w @ p for a, w, p in zip(weights, W, phi)], axis=0) + beta * R.T @ B
    return np.asarray(pull / (weights.sum() + beta), np.float64)


def update_projection(P: Real, B: Real, L: Real, z: Real, steps: int = 5) -> Real:
    """Lowers sum_j z_j ||b_j - p_j L||^2 over semi-orthogonal P (k, c).

    With M = L L^T and m = max(z) max eig(M), tr(Z P M P^T) - m ||P||^2 is concave, so its tangent lies above it: the
    Procrustes solution of Z B L^T + m P - Z P M cannot raise the sum.
    """
    M, target = L @ L.T, z[:, None] * (B @ L.T)
    m = float(z.max()) * float(np.linalg.eigvalsh(M)[-1])
    for _ in range(steps):
        P = procrustes(target + m * P - z[:, None] * (P @ M))
    return P
