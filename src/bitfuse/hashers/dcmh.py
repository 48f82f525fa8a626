"""DCMH: deep cross-modal hashing, a network for pictures and one for texts, taught by a pairwise likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.hashers._inputs import Scaling, learn_scaling, scaled
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State

if TYPE_CHECKING:
    from torch import Tensor, nn

_VIEWS = ("image", "text")


@dataclass(kw_only=True, frozen=True, eq=False)
class DCMH(Hasher):
    r"""An image network F and a text network G whose inner products tell how likely two items share a label.

    Every image of a batch is compared with the texts, and every text with the images: their inner product is the
    logit of sharing a label. Both networks are drawn to one code B of the pair, the sign of their sum, and to bits
    that are +1 as often as -1. Queries of either view search codes of the other.

    $$ \min_{F, G, B} - \sum_{i,j} \bigl( S_{ij} \Theta_{ij} - \log(1 + e^{\Theta_{ij}}) \bigr)
       + \gamma (\lVert B - F \rVert^2 + \lVert B - G \rVert^2) + \eta (\lVert F 1 \rVert^2 + \lVert G 1 \rVert^2),
       \quad \Theta = \tfrac12 F^\top G, \quad B = \operatorname{sgn}(F + G) $$

    Parameters:
        gamma: weight of the distance to B, in the sums above.
        eta: weight of the balance of bits. The paper takes 1, which here holds the likelihood back.
        balanced: whether similar pairs weigh as much as dissimilar ones in the likelihood; the paper's weigh 1 each.
        hidden: width of the layer between features and code.
        columns: rows of the other view that a batch is compared with, drawn anew each step; the paper takes all.
        scaling: of the rows.
        scale: what the scaled rows are multiplied by.
        epochs, batch_size, learning_rate: of Adam. The paper takes 500 epochs of gradient descent.
        validation: share of the training rows that are held out to choose the best epoch; 0 trains to the end.
        patience: epochs without a better ranking of the held-out rows before training stops.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("dcmh", n_bits=16, epochs=20).fit(world.train.views, world.train.labels)
        >>> query = model.encode({"text": world.query.views["text"]}, "text")
        >>> gallery = model.encode({"image": world.gallery.views["image"]}, "image")
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.45
        True

    Deviations from the paper: it learns from pixels and word counts, this from features: a network of two layers for
    each view stands in for its CNN. Both networks step on each batch against the values remembered from earlier
    batches, by Adam, where the paper's take turns; B follows at every step. `columns` makes the cost linear. The
    weighing of pairs, the scaling and the choice of the best epoch on held-out rows are ours; `preset="published"` has
    the paper's likelihood, weights and epochs.

    References:
        Jiang, Li, Deep Cross-Modal Hashing, CVPR 2017, doi:10.1109/CVPR.2017.348, arXiv:1602.02255.
    """

    gamma: float = 1.0
    eta: float = 0.01
    balanced: bool = True
    hidden: int = 512
    columns: int = 2048
    scaling: Scaling = "centred"
    scale: float = 10.0
    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 1e-3
    validation: float = 0.1
    patience: int = 10

    spaces = ("image", "text")
    supervised = True
    at_scale = "stream"
    min_views = 2
    max_views = 2
    year = 2017
    reference = "arXiv:1602.02255"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {
            "gamma": 1.0,
            "eta": 1.0,
            "balanced": False,
            "scaling": "raw",
            "scale": 1.0,
            "epochs": 500,
            "validation": 0.0,
        }
    }

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        from bitfuse.hashers import _parallel, _train  # isort: skip  # says how to install torch where it is absent
        import torch
        from torch import nn

        self._check(batch)
        schedule = _train.Schedule(self.epochs, self.batch_size, self.learning_rate, self.patience)
        rng = np.random.default_rng(self.seed)
        state = learn_scaling(batch, self.scaling)
        views = {view: batch.of(view) for view in _VIEWS}
        x = {v: _train.Inputs(part, partial(self._inputs, state, v), device) for v, part in views.items()}  # (n, d_v)
        y = np.asarray(labels, bool)  # (n, c)
        n, kept = len(y), batch.sample
        values: dict[str, Tensor] = {}  # F and G as last seen, (n, k)

        def step(chosen: _train.Rows) -> Tensor:
            seen = {view: codes(view, chosen) for view in _VIEWS}  # (m, k)
            for view, f in seen.items():
                rows, known = _parallel.remembered(chosen, f.detach())
                values[view][rows] = known
            b = nearest_codes(values["image"][chosen], values["text"][chosen])
            columns = rng.choice(n, min(self.columns, n), replace=False)
            shared = y[chosen].astype(np.float32) @ y[columns].T.astype(np.float32)
            S = torch.from_numpy(shared > 0).to(device).float()
            loss = torch.zeros((), device=device)
            for view, other in (_VIEWS, _VIEWS[::-1]):
                f = seen[view]
                related = likelihood(f, values[other][columns], S, balanced=self.balanced)
                apart = (b - f).square().sum(dim=1).mean() / n  # the paper's sums over n^2, like the likelihood
                unbalanced = f.mean(dim=0).square().sum()
                loss = loss + related + self.gamma * apart + self.eta * unbalanced
            return loss

        def codes(view: str, chosen: _train.Rows) -> Tensor:
            return networks[view](x[view][chosen])  # type: ignore[no-any-return]

        def seen_codes(view: str, chosen: _train.Rows) -> Tensor:
            return codes(view, kept[chosen])

        def ranked(chosen: _train.Rows) -> list[tuple[Tensor, Tensor]]:
            f, g = (codes(view, chosen) for view in _VIEWS)
            return [(f, g), (g, f)]

        with _train.seeded(self.seed, device):
            networks = nn.ModuleDict({view: self._network(batch.arrays[view].shape[1]) for view in _VIEWS}).to(device)
            for view in _VIEWS:
                values[view] = torch.from_numpy(_train.in_blocks(partial(codes, view), n, self.n_bits)).to(device)
            log = _train.learn(networks, step, ranked, y, schedule, self.validation, rng)
        for view in _VIEWS:
            f = _train.in_blocks(partial(seen_codes, view), len(kept), self.n_bits)
            log[view] = _train.diagnose(f, y[kept], log["losses"])
        return {**state, **_train.weights_of(networks)}, log

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        from bitfuse.hashers import _train  # isort: skip
        import torch

        start = f"{space}."
        weights = {name.removeprefix(start): array for name, array in state.items() if name.startswith(start)}
        network = _train.with_weights(lambda: self._network(batch.arrays[space].shape[1]), weights, device)

        def values(chosen: _train.Rows) -> Tensor:
            rows = self._inputs(state, space, batch.take(chosen))
            return network(torch.from_numpy(rows).to(device))  # type: ignore[no-any-return]

        return _train.in_blocks(values, len(batch), self.n_bits)

    def _check(self, batch: Batch) -> None:
        if set(batch.arrays) != set(_VIEWS):
            raise InputError(f"DCMH reads the views {list(_VIEWS)}, got {list(batch.arrays)}; rename yours")
        for name in ("hidden", "columns"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if not self.scale > 0:
            raise InputError(f"scale must be above 0, got {self.scale!r}")

    def _inputs(self, state: State, view: str, batch: Batch) -> NDArray[np.float32]:
        return (self.scale * scaled(state, batch, self.scaling)[view]).astype(np.float32)

    def _network(self, width: int) -> nn.Sequential:
        from torch import nn

        return nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.n_bits))


def nearest_codes(f: Tensor, g: Tensor) -> Tensor:
    """B = sgn(F + G), the codes that minimise ||B - F||^2 + ||B - G||^2. (m, k)."""
    import torch

    return torch.where(f + g > 0, 1.0, -1.0)


def likelihood(f: Tensor, G: Tensor, S: Tensor, *, balanced: bool) -> Tensor:
    """Mean of log(1 + exp(theta)) - S theta, theta = f G^T / 2; balanced: similar pairs weigh as much as the others.

    f (m, k), G (columns, k), S (m, columns) of 0 and 1.
    """
    from torch.nn.functional import softplus

    theta = f @ G.T / 2  # (m, columns)
    cost = softplus(theta) - S * theta
    if not balanced:
        return cost.mean()
    share = S.mean().clamp(1e-6, 1 - 1e-6)
    return (cost * (S / share + (1 - S) / (1 - share))).mean() / 2
