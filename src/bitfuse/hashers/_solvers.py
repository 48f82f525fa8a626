"""What two closed-form methods or more share: kernels of the data, discrete and constrained solvers.

Samples are rows (n, d) in everything about data; the solvers keep the orientation of the papers, (k, n) with a sample a
column, where their letters are used. Everything is float64: a row alone and in a batch then agree far below 1e-5.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import DataWarning, InputError

Real = NDArray[np.float64]


def sign(z: Real) -> Real:
    """-1 or +1, by the one sign rule of `Codes.from_real`: +1 where z > 0. Never 0, unlike `numpy.sign`."""
    return np.where(z > 0, 1.0, -1.0)


def settled(objective: Sequence[float], tolerance: float) -> bool:
    """Whether the last step changed the objective by less than `tolerance`, relative to its value."""
    return len(objective) > 1 and abs(objective[-2] - objective[-1]) <= tolerance * max(abs(objective[-2]), 1e-12)


def l2_normalise(x: NDArray[Any]) -> Real:
    """Rows of length 1; a row of zeros stays. (n, d)."""
    x = np.asarray(x, np.float64)
    norm: Real = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)


def mean_and_scale(x: NDArray[Any]) -> tuple[Real, Real]:
    """Mean and standard deviation of each column, (d,) each; a constant column has the scale 1."""
    x = np.asarray(x, np.float64)
    scale = x.std(axis=0)
    return x.mean(axis=0), np.where(scale > 1e-12, scale, 1.0)


def squared_distances(x: NDArray[Any], z: NDArray[Any]) -> Real:
    """||x_i - z_j||^2, (n, a), never negative."""
    x, z = np.asarray(x, np.float64), np.asarray(z, np.float64)
    d: Real = (x**2).sum(axis=1)[:, None] - 2 * (x @ z.T) + (z**2).sum(axis=1)
    np.maximum(d, 0, out=d)
    return d


def mean_squared_distance(x: NDArray[Any]) -> float:
    """Mean of ||x_i - x_j||^2 over all ordered pairs, by the identity 2 tr(Cov): O(n d). 1 where all rows are equal."""
    value = 2 * float(np.asarray(x, np.float64).var(axis=0).sum())
    return value if value > 1e-12 else 1.0


def clamp(count: int, rows: int, what: str) -> int:
    """`count`, or the number of rows with a `DataWarning` where it is larger."""
    if count < 1:
        raise InputError(f"the number of {what} must be at least 1, got {count}")
    if count > rows:
        warnings.warn(f"{count} {what} asked for, {rows} training rows given: using {rows}", DataWarning, stacklevel=3)
    return min(count, rows)


def draw_anchors(x: NDArray[Any], count: int, rng: np.random.Generator) -> Real:
    """`count` distinct training rows (a, d), clamped to the rows there are with a `DataWarning`."""
    picked = rng.choice(len(x), clamp(count, len(x), "anchors"), replace=False)
    return np.asarray(x[np.sort(picked)], np.float64)


def kernel_width(x: NDArray[Any], width: float | Mapping[str, float] | None, view: str) -> Real:
    """The RBF width sigma of a view as a 0-d array: the one given, or the root of the mean squared distance of `x`.

    Raises:
        InputError: a width for some views but not for this one, or a width that is not positive.
    """
    if isinstance(width, Mapping) and view not in width:
        raise InputError(f"no kernel width for view {view!r}, only for {sorted(width)}; add it, or leave `width` out")
    sigma = width[view] if isinstance(width, Mapping) else width
    if sigma is not None and not sigma > 0:
        raise InputError(f"the kernel width of view {view!r} must be positive, got {sigma}")
    return np.array(mean_squared_distance(x) ** 0.5 if sigma is None else sigma, np.float64)


def rbf(x: NDArray[Any], anchors: NDArray[Any], width: NDArray[Any] | float, *, bias: bool = False) -> Real:
    """exp(-||x - z||^2 / (2 width^2)) to each anchor, (n, a); with `bias` a column of ones follows, (n, a + 1)."""
    phi = np.exp(squared_distances(x, anchors) / (-2 * float(width) ** 2))
    return np.hstack([phi, np.ones((len(phi), 1))]) if bias else phi


SimilarityKind = Literal["balanced", "signed"]


class Similarity:
    """S (n, n) between labelled rows, kept as S = L1^T M L1 with L1 = [L; 1] and never formed: `A @ S` costs O(n k c).

    `"signed"` is S = 2 L^T L - 1 1^T, as published. Where many classes of unequal size exclude one another its -1 are
    nearly all of S: small classes then share one code. `"balanced"` is S = s F^T F, F = L with each row divided by the
    root of its sum, less its mean: every class weighs the same, and s = n / c makes the mean of the diagonal about 1.

    Args:
        labels: (n, c) of 0 and 1; a class without a row is left out.
        kind: which of the two.
        past: sum of L1 L1^T over earlier rows of a stream, (c + 1, c + 1): the classes are then weighed by all rows.

    Attributes:
        L1: (c + 1, n) float64. M: (c + 1, c + 1). gram: L1 L1^T over all rows, the earlier ones included.
        scale: tr(S^2) / tr(S), a mean of the eigenvalues: n for one label a row (signed), n / c (balanced).
    """

    __array_ufunc__ = None  # so that `array @ similarity` comes here

    def __init__(self, labels: NDArray[Any], kind: SimilarityKind = "balanced", past: Real | None = None) -> None:
        if kind not in ("balanced", "signed"):
            raise InputError(f"similarity must be 'balanced' or 'signed', got {kind!r}")
        n, c = np.shape(labels)
        self.L1: Real = np.vstack([np.asarray(labels, np.float64).T, np.ones((1, n))])
        self.gram: Real = self.L1 @ self.L1.T + (0 if past is None else past)
        if kind == "signed":
            self.M: Real = np.diag(np.append(np.full(c, 2.0), -1.0))
        else:
            count, rows = np.diag(self.gram)[:-1], self.gram[-1, -1]
            root = np.sqrt(count)
            F = np.hstack([np.diag(np.divide(1, root, out=np.zeros(c), where=count > 0)), -root[:, None] / rows])
            self.M = rows / max(1, np.count_nonzero(count)) * F.T @ F
        GM = self.gram @ self.M
        self.square = float((GM * GM.T).sum())  # ||S||_F^2 over all rows
        trace = float(np.trace(GM))
        self.scale = self.square / trace if trace > 1e-9 * self.gram[-1, -1] else 1.0

    def __rmatmul__(self, A: Real) -> Real:
        return self.onto(A @ self.L1.T)

    def onto(self, AL: Real) -> Real:
        """A S for these rows, given A L1^T (k, c + 1) summed over whatever rows A has: (k, n)."""
        product: Real = AL @ self.M @ self.L1
        return product

    def loss(self, k: int, BL: Real, DL: Real, BB: Real, DD: Real) -> float:
        """||k S - B^T D||_F^2 over all rows, given B L1^T, D L1^T, B B^T and D D^T."""
        return k**2 * self.square - 2 * k * float((BL @ self.M * DL).sum()) + float((BB * DD).sum())

    def start(self, k: int, rng: np.random.Generator, BL: Real | None = None) -> Real:
        """Where a discrete search starts, (k, n): sgn of random values carried along S, so that rows of a class agree.

        Args:
            k: code length.
            rng: of the random values.
            BL: B L1^T over earlier rows: their classes then start at the codes they have.
        """
        random = rng.standard_normal((k, self.L1.shape[1]))
        AL = random @ self.L1.T
        if BL is not None:
            new = np.diag(self.gram) == self.L1.sum(axis=1)  # classes without earlier rows
            AL = BL + AL * new
        return sign(self.onto(AL) + 1e-9 * random)  # the second term decides where S is zero: a single class


def combine(weights: NDArray[Any], parts: Sequence[Any]) -> Any:
    """sum_v w_v A_v of arrays or of sparse matrices of one shape."""
    return sum(w * part for w, part in zip(weights, parts))


def procrustes(C: Real) -> Real:
    """The R with orthonormal rows or columns that maximises tr(R^T C): U V^T of C = U S V^T. Same shape as C."""
    U, _, Vt = np.linalg.svd(C, full_matrices=False)
    product: Real = U @ Vt
    return product


def factor(X: Real, B: Real, ridge: float) -> Real:
    """X B^T (B B^T + ridge I)^-1 (d, k), the minimiser of ||X - U B||_F^2 + ridge ||U||_F^2. X (d, n), B (k, n)."""
    U: Real = ridge_inverse(B @ B.T + ridge * np.eye(len(B)), 0) @ (B @ X.T)
    return U.T


def ridge_inverse(A: Real, ridge: float) -> Real:
    """(A + r I)^-1 of a positive semi-definite A (k, k), r = ridge times its mean eigenvalue; a pseudo-inverse at 0."""
    inverse: Real = np.linalg.pinv(A + ridge * np.trace(A) / len(A) * np.eye(len(A)), rcond=1e-10, hermitian=True)
    return inverse


def dcc(P: Real, A: Real, B: Real, sweeps: int = 20) -> tuple[Real, Real]:
    """Discrete cyclic coordinate descent for min tr(B^T A B) - 2 tr(B^T P) over B in {-1, +1}.

    For ||Q - G B||_F^2 this is P = G^T Q and A = G^T G. Row j becomes its exact minimiser, the other rows fixed;
    every column is solved on its own, until a sweep changes nothing in it.

    Args:
        P: (k, n). A: (k, k), symmetric. B: (k, n), where to start; not changed.
        sweeps: most passes over the rows.

    Returns:
        B, and the argument of the sign at each row's last update: (k, n) each, sgn(argument) = B.
    """
    B, Z = B.copy(), np.empty_like(P)
    active = np.arange(B.shape[1])  # columns that the last sweep changed: only they can change again
    for _ in range(sweeps):
        if not len(active):
            break
        before, b, p = B[:, active], B[:, active], P[:, active]
        for j in range(len(B)):
            z = p[j] - A[j] @ b + A[j, j] * b[j]
            Z[j, active] = z
            b[j] = sign(z)
        B[:, active] = b
        active = active[(b != before).any(axis=0)]
    return B, Z


def project_simplex(v: NDArray[Any]) -> Real:
    """The point of {x >= 0, 1^T x = 1} nearest to v, (m,)."""
    u = np.sort(np.asarray(v, np.float64))[::-1]
    excess = (np.cumsum(u) - 1) / np.arange(1, len(u) + 1)
    projected: Real = np.maximum(v - excess[np.flatnonzero(u > excess)[-1]], 0)
    return projected


def simplex_qp(E: NDArray[Any], h: NDArray[Any], steps: int = 10_000) -> Real:
    """argmin of 1/2 x^T E x + h^T x over {x >= 0, 1^T x = 1}, E (m, m) positive semi-definite; pairwise exact steps."""
    x = np.full(len(h), 1 / len(h))
    scale = max(float(np.abs(E).max()), float(np.abs(h).max()), 1e-300)
    for _ in range(steps):
        gradient = E @ x + h
        up = int(gradient.argmin())
        down = int(np.where(x > 0, gradient, -np.inf).argmax())
        gap = gradient[down] - gradient[up]
        if gap <= 1e-12 * scale:
            break
        curvature = E[up, up] + E[down, down] - 2 * E[up, down]
        step = x[down] if curvature * x[down] <= gap else gap / curvature
        x[up] += step
        x[down] = 0.0 if step == x[down] else x[down] - step
    return x


def _positive(h: NDArray[Any]) -> Real:
    """h over its maximum, kept away from 0: a view that is fitted perfectly must not turn its weight into NaN."""
    top = float(np.max(h))
    return np.maximum(np.asarray(h, np.float64) / top, 1e-12) if top > 0 else np.ones(len(h))


def power_weights(h: NDArray[Any], t: float) -> Real:
    """argmin of sum mu_v^t h_v over the simplex, t > 1: mu_v = h_v^(1/(1-t)) / sum. h (m,) positive -> (m,)."""
    w = _positive(h) ** (1 / (1 - t))
    return np.asarray(w / w.sum(), np.float64)


def ratio_weights(h: NDArray[Any]) -> Real:
    """argmin of sum h_v / mu_v over the simplex, h_v a squared norm: mu_v = sqrt(h_v) / sum. (m,) -> (m,)."""
    root = np.sqrt(_positive(h))
    return np.asarray(root / root.sum(), np.float64)


def inverse_weights(h: NDArray[Any]) -> Real:
    """Reweighting of min sum sqrt(h_v): mu_v = 1 / (2 sqrt(h_v)), h_v a squared norm, kept away from 0. Same shape."""
    return np.asarray(0.5 / np.sqrt(np.maximum(h, 1e-12)), np.float64)
