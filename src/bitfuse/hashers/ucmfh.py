"""UCMFH: a fusion transformer and one hash layer a view, trained by contrast between an image and its text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bitfuse.errors import InputError, UnknownName
from bitfuse.hashers._axes import principal_axes
from bitfuse.hashers._graphs import nearest
from bitfuse.hashers._inputs import Scaling, by_presence, check_space, learn_scaling, nearest_to_signs, scaled
from bitfuse.hashers._solvers import Real, clamp, l2_normalise
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State
from bitfuse.hashers.itq import ITQ

if TYPE_CHECKING:
    from torch import Tensor

    from bitfuse.hashers._ucmfh import FusionHash

Start = Literal["neighbours", "aligned", "none"]
FusionKind = Literal["tokens", "joint", "none"]
Missing = Literal["token", "zeros"]

STARTS, FUSIONS, MISSING = get_args(Start), get_args(FusionKind), get_args(Missing)
_MOST_NEIGHBOURS = 500
_MOST_COMPARED = 2000  # rows on which views are compared to choose the guide


@dataclass(kw_only=True, frozen=True, eq=False)
class UCMFH(Hasher):
    r"""CLIP-based unsupervised cross-modal fusion hashing: fuse the views of a row, hash each, contrast the two.

    A transformer reads the views of one row as tokens; a learned token stands for a view that is missing, so that an
    image alone, a text alone and both have codes, and a code never reads a view that was not asked for. A hash layer a
    view adds to a start in closed form. Trained on three readings of every row (image, text, both), which must agree.

    $$ z_v = W_v^\top x_v + \mathrm{MLP}_v(f_v), \quad (f_I, f_T) = \mathrm{Transformer}(t_I, t_T), \quad
       \text{code} = \operatorname{sgn} \operatorname{mean}_v z_v $$
    $$ \min\ \lambda_f\, \mathcal{C}(f_I, f_T) + \lambda_h\, \mathcal{C}(\tanh z_I, \tanh z_T), \quad \mathcal{C}(a, b)
       = -\tfrac1{2m} \sum_{ij} P_{ij} \log \frac{e^{\cos(a_i, b_j) / \tau}}{\sum_l e^{\cos(a_i, b_l) / \tau}}
       + (a \leftrightarrow b) $$

    Parameters:
        start: what W is. `"neighbours"`: each view regresses on the guide view's rows, each averaged with its nearest
            neighbours; `"aligned"`: one ITQ rotation learned on the guide (views of one width); `"none"`, as published.
        guide: the view whose geometry the codes shall keep; None takes all side by side. `"auto"` takes the view that
            keeps most of its variance when each row is averaged with its nearest neighbours: where neighbours have
            nothing in common, the average is the same everywhere.
        neighbours: how many are averaged; None is a tenth of the rows, at most 500.
        ridge: of the regression, in units of the mean eigenvalue of a view's covariance.
        targets: temperature of P, the softmax of the guide's averaged rows; 0: P = I, the pair alone, as published.
        fusion: `"tokens"`, a token a view; `"joint"`, as published: one token of both views, of one width; `"none"`.
        missing: what stands for a missing view's token: the learned `"token"`, or `"zeros"`.
        single_views: train on each view alone as well; False, as published: on pairs alone.
        fusion_loss, hash_loss: the weights lambda_f and lambda_h.
        temperature: tau; published .5.
        width: of a token of `fusion="tokens"`; a joint token is as wide as the views together.
        layers, heads, feed_forward: of the transformer; published 2, 4, 2048.
        hidden: of the hash MLP; published 4096.
        dropout: within the hash MLP; .3 in the paper.
        scaling: of the rows, as for CLIPMH; `"raw"`, as published.
        epochs, batch_size: published 100 and 128.
        learning_rate, fusion_rate: of Adam, for the hash layers (published 1e-3) and for the transformer.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("ucmfh", n_bits=16, epochs=2).fit(world.train.views)
        >>> bf.evaluate(model, world).map > 0.42
        True

    Deviations from the paper: the public code makes a pair's two codes from both of its views, for queries and gallery
    alike, and lets a row attend to the 128 rows of its batch when it is judged (not when it is trained). Neither can be
    asked for here: the space `"image"` sees no text, and a row sees no other row; under `preset="published"` a missing
    view is zeros, which that network never met in training. The default trains on single views, starts in closed form
    and spreads the positives over neighbours. The start decides (`benchmarks/ucmfh_ablation.py`): on FashionCLIP's
    clothes training stays at its level, on shapes it adds .03 mAP, where the contrast of pairs alone ends below it; a
    learned token and zeros are worth the same. The fused code is not in the paper, which drops incomplete batches and
    changes one learning rate at a step number; neither is done.

    References:
        Xia, Dong, Li, Zhu, Ying, When CLIP meets cross-modal hashing retrieval: a new strong baseline, Information
        Fusion 100, 2023, doi:10.1016/j.inffus.2023.101968.
    """

    start: Start = "neighbours"
    guide: str | None = "auto"
    neighbours: int | None = None
    ridge: float = 0.1
    targets: float = 0.2
    fusion: FusionKind = "tokens"
    missing: Missing = "token"
    single_views: bool = True
    fusion_loss: float = 1.0
    hash_loss: float = 0.5
    temperature: float = 0.2
    width: int = 128
    layers: int = 1
    heads: int = 4
    feed_forward: int = 256
    hidden: int = 512
    dropout: float = 0.3
    scaling: Scaling = "centred"
    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 3e-4
    fusion_rate: float = 1e-4

    spaces = ("fused", "image", "text")
    accepts_missing = "query"
    min_views = 2
    max_views = 2
    cost = "n^2"
    year = 2023
    reference = "doi:10.1016/j.inffus.2023.101968"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {
            "start": "none", "targets": 0.0, "fusion": "joint", "missing": "zeros", "single_views": False,
            "temperature": 0.5, "layers": 2, "feed_forward": 2048, "hidden": 4096, "scaling": "raw", "epochs": 100,
            "batch_size": 128, "learning_rate": 1e-3,
        }
    }  # fmt: skip

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        from bitfuse.hashers import _train  # isort: skip  # says how to install torch where it is absent
        import torch

        from bitfuse.hashers._ucmfh import contrast

        self._check(batch)
        schedule = _train.Schedule(self.epochs, self.batch_size, self.learning_rate, patience=self.epochs)
        state = learn_scaling(batch, self.scaling)
        parts = scaled(state, batch, self.scaling)
        guide = self._chosen(parts)
        E = self._averaged(parts, guide) if self.start == "neighbours" or self.targets > 0 else None  # (n, d)
        state |= self._start(batch, parts, E, guide)
        rng = np.random.default_rng(self.seed)
        x, z_0 = _tensors(parts, device), _tensors(_linear(state, parts, self.n_bits), device)  # (n, d_v), (n, k)
        e = None if E is None or self.targets == 0 else torch.from_numpy(E.astype(np.float32)).to(device)
        a, b = x

        def values(chosen: NDArray[np.intp], *seen: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            f, change = network({v: p[chosen] for v, p in x.items()}, seen)
            return f, {v: z_0[v][chosen] + change[v] for v in seen}

        def step(chosen: NDArray[np.intp]) -> Tensor:
            P = torch.eye(len(chosen), device=device)
            if e is not None:
                P = torch.softmax(e[chosen] @ e[chosen].T / self.targets, dim=1)
            f, z = values(chosen, a, b)
            codes = [z[a], z[b]]
            if self.single_views:
                codes.append((z[a] + z[b]) / 2)
                (f_a, z_a), (f_b, z_b) = values(chosen, a), values(chosen, b)
                f, codes[:2] = f_a | f_b, [z_a[a], z_b[b]]
            h = [torch.tanh(code) for code in codes]  # (m, k) each
            agree = torch.stack([contrast(p, q, P, self.temperature) for p, q in itertools.combinations(h, 2)]).sum()
            if self.fusion == "none":  # features that nothing has fused stay as they are
                return self.hash_loss * agree
            return self.fusion_loss * contrast(f[a], f[b], P, self.temperature) + self.hash_loss * agree

        with _train.seeded(self.seed, device):
            network = self._network({v: p.shape[1] for v, p in parts.items()}).to(device)
            rates = {network.fusion: self.fusion_rate, network.hash: self.learning_rate}
            groups = [{"params": part.parameters(), "lr": rate} for part, rate in rates.items()]
            optimiser = torch.optim.Adam(groups, betas=(0.5, 0.999))
            log = _train.train(network, step, np.arange(len(batch)), schedule, rng, optimiser=optimiser)
        return {**state, **_train.weights_of(network)}, {**log, "guide": guide}

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        from bitfuse.hashers import _train  # isort: skip
        import torch

        check_space(space, batch)
        weights = {k: array for k, array in state.items() if k.startswith(("fusion.", "hash."))}
        network = _train.with_weights(lambda: self._network(self.widths), weights, device)
        z = np.empty((len(batch), self.n_bits), np.float32)
        for rows, seen in by_presence(batch):

            def values(chosen: NDArray[np.intp], rows: NDArray[np.intp] = rows, seen: list[str] = seen) -> Tensor:
                part = scaled(state, batch.take(rows[chosen]), self.scaling)
                start = _tensors(_linear(state, part, self.n_bits), device)
                change = network(_tensors(part, device), seen)[1]
                return torch.stack([start[v] + change[v] for v in seen]).mean(dim=0)

            z[rows] = _train.in_blocks(values, len(rows), self.n_bits)
        return z

    def _check(self, batch: Batch) -> None:
        if self.guide not in (None, "auto", *batch.arrays):
            allowed = "guide must name a view of the training data, or be 'auto' or None"
            raise UnknownName("view", str(self.guide), batch.arrays, allowed)
        for name, known in (("start", STARTS), ("fusion", FUSIONS), ("missing", MISSING)):
            if getattr(self, name) not in known:
                raise UnknownName(f"value of {name}", getattr(self, name), known)
        if self.hash_loss == 0 and (self.fusion_loss == 0 or self.fusion == "none"):
            raise InputError("hash_loss=0 leaves nothing to train unless there are a transformer and a fusion_loss")
        widths = {view: x.shape[1] for view, x in batch.arrays.items()}
        if self.fusion == "joint" and self.fusion_loss > 0 and len(set(widths.values())) > 1:
            raise InputError(
                f"fusion='joint' leaves each view its width, and the fusion loss compares them: got {widths}; "
                "use fusion='tokens', or fusion_loss=0"
            )
        if not self.temperature > 0 or self.targets < 0 or self.ridge < 0:
            raise InputError(
                "temperature must be above 0, targets and ridge at least 0; "
                f"got {self.temperature!r}, {self.targets!r} and {self.ridge!r}"
            )

    def _chosen(self, parts: Mapping[str, Real]) -> str | None:
        """The guide that was asked for, or the view that keeps most of its variance in the mean of its neighbours."""
        if self.guide != "auto":
            return self.guide
        rows = np.random.default_rng(self.seed).permutation(len(next(iter(parts.values()))))[:_MOST_COMPARED]

        def kept(x: Real) -> float:
            x = l2_normalise(l2_normalise(x[rows]) - l2_normalise(x[rows]).mean(axis=0))
            index, _ = nearest(x, x, max(len(x) // 10, 1))
            mean = np.zeros_like(x)
            for column in index.T:
                mean += x[column] / index.shape[1]
            return float(mean.var(axis=0).sum())

        return max(parts, key=lambda view: kept(parts[view]))

    def _averaged(self, parts: Mapping[str, Real], guide: str | None) -> Real:
        """E (n, d): the guide's rows, each the mean of its neighbours weighed by cosine; centred, at unit length."""
        x = l2_normalise(np.concatenate(list(parts.values()), axis=1) if guide is None else parts[guide])
        n = len(x)
        k = (
            min(max(n // 10, 1), _MOST_NEIGHBOURS)
            if self.neighbours is None
            else clamp(self.neighbours, n, "neighbours")
        )
        index, distance = nearest(x, x, k)  # a row is its own nearest neighbour
        weights = np.maximum(1 - distance / 2, 0)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        A = sparse.csr_matrix((weights.ravel(), (np.repeat(np.arange(n), k), index.ravel())), (n, n))
        E = A @ x
        return l2_normalise(E - E.mean(axis=0))

    def _start(self, batch: Batch, parts: Mapping[str, Real], E: Real | None, guide: str | None) -> State:
        """`start.<view>` (d_v, k) and `offset.<view>` (k,), such that x W + c has unit variance in training."""
        if self.start == "none":
            return {}
        if E is None or self.start == "aligned":
            itq = ITQ(n_bits=self.n_bits, seed=self.seed, aligned=True, rotation_from=guide)
            W = dict.fromkeys(parts, itq._fit(batch, None, device="cpu")[0]["W"])
        else:
            Y = E @ principal_axes(E, self.n_bits)  # (n, r)
            W = {v: _regression(x, Y, self.ridge) for v, x in parts.items()}
        c = {v: -(x.mean(axis=0) @ W[v]) for v, x in parts.items()}
        z = np.concatenate([x @ W[v] + c[v] for v, x in parts.items()])
        R = np.eye(self.n_bits)
        if self.start == "neighbours":
            R = nearest_to_signs(z, self.n_bits, np.random.default_rng(self.seed))
        R = R / max(float((z @ R).std()), 1e-12)
        return {f"start.{v}": W[v] @ R for v in parts} | {f"offset.{v}": c[v] @ R for v in parts}

    def _network(self, widths: Mapping[str, int]) -> FusionHash:
        from bitfuse.hashers._ucmfh import Fusion, FusionHash

        transformer = (self.fusion, self.width, self.layers, self.heads, self.feed_forward)
        fusion = Fusion(widths, *transformer, self.missing == "token")
        return FusionHash(fusion, self.hidden, self.n_bits, self.dropout, still=self.start != "none")


def _tensors(arrays: Mapping[str, Real], device: str) -> dict[str, Tensor]:
    import torch

    return {v: torch.from_numpy(x.astype(np.float32)).to(device) for v, x in arrays.items()}


def _linear(state: State, parts: Mapping[str, Real], k: int) -> dict[str, Real]:
    """The start's values x W + c, (n, k) a view; zeros where there is no start."""
    if not any(name.startswith("start.") for name in state):
        return {v: np.zeros((len(x), k)) for v, x in parts.items()}
    return {v: x @ state[f"start.{v}"] + state[f"offset.{v}"] for v, x in parts.items()}


def _regression(x: Real, Y: Real, ridge: float) -> Real:
    """W (d, r) of the ridge regression of centred Y (n, r) on centred x (n, d)."""
    x = x - x.mean(axis=0)
    C = x.T @ x
    rho = max(ridge * float(np.trace(C)) / len(C), 1e-9)
    W: Real = np.linalg.solve(C + rho * np.eye(len(C)), x.T @ (Y - Y.mean(axis=0)))
    return W
