"""FOMH: flexible online multi-modal hashing, learned chunk by chunk, with weights that each query finds for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.hashers._inputs import Scaling, Width, kernels, learn_scaling, scaled
from bitfuse.hashers._solvers import (
    Real,
    Similarity,
    SimilarityKind,
    clamp,
    inverse_weights,
    kernel_width,
    ratio_weights,
    sign,
)
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State


@dataclass(kw_only=True, frozen=True, eq=False)
class FOMH(Hasher):
    r"""Codes learned from a stream: each chunk is seen once, and a query weighs the views that it has.

    The kernel features phi of every view are regressed onto codes B shared by the views. The codes of a chunk follow
    the similarity S of its labels through a real surrogate D of B; the regressions W_v follow from sums over all chunks
    so far, C1 = B phi^T and C2 = phi phi^T, which are what the stream leaves behind. A query finds its own weights: a
    view whose values lie near its bits counts more, a view that is missing does not count.

    $$ \min_{B_t, W_v, D_t, \mu} \sum_v \tfrac{1}{\mu_v} \lVert B_t - W_v \phi_{v,t} \rVert_F^2
       + \alpha \lVert k S_t - B_t^\top D_t \rVert_F^2 + \beta \lVert B_t - D_t \rVert_F^2
       + \gamma \sum_v \lVert W_v \rVert_F^2
       \quad \text{s.t. } B_t \in \{-1, 1\}^{k \times m},\ \textstyle\sum_v \mu_v = 1 $$

    Parameters:
        scaling: of the views before the kernel; the paper takes raw features.
        anchors: kernel features of a view. The paper takes 1000.
        width: RBF width for all views or by view; None: the root of each view's mean squared distance. The paper takes
            140 (image) and 60 (text), for raw VGG features and word counts.
        similarity: how labels become S; the paper takes "signed".
        alpha: weight of S; None: 4 / (k s), s the mean eigenvalue of the chunk's S. The paper takes 1e-5.
        beta: weight of the surrogate.
        gamma: ridge of the regressions.
        rho: penalty that ties B to its copy Z in the augmented Lagrangian.
        n_iter: rounds on a chunk.
        chunk: rows of a chunk when `fit` makes a stream of its data; the paper takes 1000.
        memory: whether S also ties a chunk to the rows before it, through sums kept beside C1 and C2. The paper's S_t
            lies within the chunk, which is too little for chunks of a few rows a class.
        query_iter: rounds of the weights of a query.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("fomh", n_bits=16, anchors=150).fit(world.train.views, world.train.labels)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.46
        True

    Deviations from the paper: a query's weights are found for its row alone; the published code finds one set for the
    whole query batch, so that a code depends on the other queries. G, Z and D start afresh with a chunk, at the codes
    that the model so far gives it, and the last chunk is used. `fit` shuffles the rows. The balanced similarity, alpha
    from the data and the scaling are ours. A stream whose first chunk has fewer rows than `anchors` goes on collecting
    anchors: until there are enough, the anchors are all the rows seen, so that C1 and C2 are made again exactly.

    References:
        Lu, Zhu, Cheng, Li, Nie and Zhang, Flexible online multi-modal hashing for large-scale multimedia retrieval,
        ACM MM 2019, doi:10.1145/3343031.3350999.
    """

    scaling: Scaling = "centred"
    anchors: int = 500
    width: Width = None
    similarity: SimilarityKind = "balanced"
    alpha: float | None = None
    beta: float = 0.1
    gamma: float = 1e-3
    rho: float = 0.1
    n_iter: int = 10
    chunk: int = 2000
    memory: bool = True
    query_iter: int = 5

    supervised = True
    online = True
    at_scale = "chunks"
    accepts_missing = "query"
    year = 2019
    reference = "doi:10.1145/3343031.3350999"
    presets: ClassVar = {
        "published": {
            "scaling": "raw",
            "anchors": 1000,
            "width": {"image": 140.0, "text": 60.0},
            "similarity": "signed",
            "alpha": 1e-5,
            "chunk": 1000,
            "memory": False,
        }
    }

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        assert labels is not None
        clamp(self.anchors, len(batch), "anchors")
        order = np.random.default_rng(self.seed).permutation(len(batch))
        state: State | None = None
        log: dict[str, Any] = {}
        for rows in np.array_split(order, max(1, round(len(batch) / self.chunk))):
            state, log = self._update(state, batch.take(rows), labels[rows], device=device)
        assert state is not None
        return state, log

    def _update(
        self, state: State | None, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str
    ) -> tuple[State, dict[str, Any]]:
        assert labels is not None
        k, views = self.n_bits, list(batch.arrays)
        chunks = 1 if state is None else int(state["chunks"]) + 1
        rng = np.random.default_rng([self.seed, chunks])
        features, C1, C2 = self._history(state, batch, rng)
        phi = [x.T for x in kernels(features, scaled(features, batch, self.scaling), bias=True).values()]  # (a + 1, m)
        C2 = [c + p @ p.T for c, p in zip(C2, phi)]
        past = self._past(state, labels.shape[1])
        S = Similarity(labels, self.similarity, past.get("gram"))
        alpha = 4 / (k * S.scale) if self.alpha is None else self.alpha
        if state is None or self.memory:
            B = S.start(k, rng, past["BL"] if state is not None else None)  # (k, m)
        else:
            B = sign(self._project(state, batch, "fused", device=device).T)
        mu = np.full(len(phi), 1 / len(phi)) if state is None else state["mu"]
        rows = len(batch) + (0 if state is None else int(state["rows"]))
        Z, G = B, np.zeros_like(B)
        objective: list[float] = []
        for _ in range(self.n_iter):
            W = [regression(c1 + B @ p.T, c2, m, self.gamma) for c1, c2, p, m in zip(C1, C2, phi, mu)]
            P = [w @ p for w, p in zip(W, phi)]
            BL, BB = past["BL"] + B @ S.L1.T, past["BB"] + B @ B.T
            D = surrogate(B, BL, BB, S, alpha, self.beta)
            DL, DD = past["DL"] + D @ S.L1.T, past["DD"] + D @ D.T
            B = update_codes(P, D, DL, DD, S, Z, G, mu, alpha, self.beta, self.rho)
            Z = update_copy(B, DD, G, alpha, self.rho)
            G = G + self.rho * (B - Z)
            mu = ratio_weights(np.array([((B - p) ** 2).sum() for p in P]))
            BL, BB = past["BL"] + B @ S.L1.T, past["BB"] + B @ B.T
            fit = regression_loss([c + B @ p.T for c, p in zip(C1, phi)], C2, rows, W, mu, self.gamma)
            objective.append(fit + alpha * S.loss(k, BL, DL, BB, DD) + self.beta * float(((B - D) ** 2).sum()))
        learned = {**features, "mu": mu, "chunks": np.array(chunks), "rows": np.array(rows)}
        learned |= {"gram": S.gram, "BL": BL, "BB": BB, "DL": DL, "DD": DD}
        for v, w, c1, c2, p in zip(views, W, C1, C2, phi):
            learned |= {f"W.{v}": w, f"C1.{v}": c1 + B @ p.T, f"C2.{v}": c2}
        if f"kept.{views[0]}" in features:
            before = state["codes"] if state is not None else np.empty((0, k), np.int8)
            learned["codes"] = np.concatenate([before, B.T.astype(np.int8)])
        return learned, {"objective": objective, "chunks": chunks, "mu": dict(zip(views, mu.tolist()))}

    def _past(self, state: State | None, classes: int) -> State:
        """What earlier chunks left for S: sums of B L1^T, B B^T and the like for D; zeros without memory."""
        if state is not None and len(state["gram"]) != classes + 1:
            raise InputError(f"this chunk has {classes} label columns, the stream so far {len(state['gram']) - 1}")
        if state is not None and self.memory:
            return {name: state[name] for name in ("gram", "BL", "BB", "DL", "DD")}
        k = self.n_bits
        return {x: np.zeros((k, classes + 1 if x.endswith("L") else k)) for x in ("BL", "BB", "DL", "DD")}

    def _history(
        self, state: State | None, batch: Batch, rng: np.random.Generator
    ) -> tuple[State, list[Array], list[Array]]:
        """The feature map for this chunk, and C1, C2 of the rows before it."""
        views = list(batch.arrays)
        if state is not None and "codes" not in state:
            features = {k: a for k, a in state.items() if k.startswith(("mean.", "anchors.", "width."))}
            return features, [state[f"C1.{v}"] for v in views], [state[f"C2.{v}"] for v in views]
        kept = whole({v: x[:0] if state is None else state[f"kept.{v}"] for v, x in batch.arrays.items()})
        free = self.anchors - len(kept)
        full = len(batch) >= free
        joining = batch.take(np.sort(rng.choice(len(batch), free, replace=False))) if full else batch
        seen, chosen = (
            whole({v: np.concatenate([kept.arrays[v], b.arrays[v]]) for v in views}) for b in (batch, joining)
        )
        features = learn_scaling(seen, self.scaling)
        anchors = scaled(features, chosen, self.scaling)
        for v, x in scaled(features, seen, self.scaling).items():
            features |= {f"anchors.{v}": anchors[v], f"width.{v}": kernel_width(x, self.width, v)}
        phi = kernels(features, scaled(features, kept, self.scaling), bias=True)  # (m', a + 1)
        codes = np.empty((0, self.n_bits)) if state is None else state["codes"].astype(np.float64)
        if not full:
            features |= {f"kept.{v}": x for v, x in chosen.arrays.items()}
        return features, [codes.T @ p for p in phi.values()], [p.T @ p for p in phi.values()]

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        features = kernels(state, scaled(state, batch, self.scaling), bias=True)
        P = np.stack([x @ state[f"W.{v}"].T for v, x in features.items()])  # (M, n, k)
        present = np.stack(list(batch.masks.values()))  # (M, n)
        mu = present / len(P)
        for _ in range(self.query_iter):
            b = sign(np.einsum("vn,vnk->nk", mu, P))
            mu = present * inverse_weights(((b - P) ** 2).sum(axis=2))
        return np.asarray(np.einsum("vn,vnk->nk", mu, P))


def whole(arrays: dict[str, Array]) -> Batch:
    """A batch in which no view is missing."""
    return Batch(arrays, {v: np.ones(len(x), bool) for v, x in arrays.items()})


def regression(C1: Real, C2: Real, mu: float, gamma: float) -> Real:
    """W = C1/mu (C2/mu + gamma I)^-1, the minimiser of ||B - W phi||^2 / mu + gamma ||W||^2. (k, a + 1)."""
    ridge = mu * gamma * np.eye(len(C2))
    return np.asarray(np.linalg.solve(C2 + ridge, C1.T).T, np.float64)


def surrogate(B: Real, BL: Real, BB: Real, S: Similarity, alpha: float, beta: float) -> Real:
    """D = (alpha B B^T + beta I)^-1 (alpha k B S + beta B), (k, m); BL and BB are B L1^T and B B^T over all rows."""
    k = len(B)
    right = alpha * k * S.onto(BL) + beta * B
    return np.asarray(np.linalg.solve(alpha * BB + beta * np.eye(k), right), np.float64)


def update_codes(
    P: list[Real], D: Real, DL: Real, DD: Real, S: Similarity, Z: Real, G: Real, mu: Real,
    alpha: float, beta: float, rho: float,
) -> Real:  # fmt: skip
    """B = sgn(sum_v 2/mu_v W_v phi_v + 2 alpha k D S - alpha D D^T Z + 2 beta D + rho Z - G), (k, m)."""
    pull = np.sum([2 / m * p for m, p in zip(mu, P)], axis=0)
    return sign(pull + 2 * alpha * len(D) * S.onto(DL) - alpha * DD @ Z + 2 * beta * D + rho * Z - G)


def update_copy(B: Real, DD: Real, G: Real, alpha: float, rho: float) -> Real:
    """Z = sgn(-alpha D D^T B + rho B + G), (k, m)."""
    return sign(-alpha * DD @ B + rho * B + G)


def regression_loss(C1: list[Real], C2: list[Real], rows: int, W: list[Real], mu: Real, gamma: float) -> float:
    """sum_v ||B - W_v phi_v||^2 / mu_v + gamma ||W_v||^2, C1 = B phi^T and C2 = phi phi^T and ||B||^2 over all rows."""
    fit = [(len(w) * rows - 2 * (w * c1).sum() + (w @ c2 * w).sum()) / m for w, c1, c2, m in zip(W, C1, C2, mu)]
    return float(sum(fit)) + gamma * sum(float((w**2).sum()) for w in W)
