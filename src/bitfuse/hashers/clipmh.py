"""CLIPMH: CLIP features of all views, concatenated, gated by their context, and hashed with a deep metric loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.errors import InputError, UnknownName
from bitfuse.hashers._deep import FusedNetwork
from bitfuse.hashers._views import as_batch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bitfuse.hashers._fusion import Gated

HIDDEN = 256  # width of each view's layer in the authors' file
FUSIONS = ("gate", "concatenation", "attention", "bilinear", "sum")


@dataclass(kw_only=True, frozen=True, eq=False)
class CLIPMH(FusedNetwork):
    r"""CLIP multi-modal hashing: concatenate, gate by context, hash; trained on pairs that share a label or do not.

    Frozen features of all views stand side by side. A gate weighs each feature by what all features say, and one
    layer makes the code. A deep metric loss draws rows that share a label together and pushes the others apart; a
    quantisation loss draws the relaxed code to the vector of ones in size.

    $$ X_f = \sigma(W X + b) \circ X, \qquad h = \tanh(W_h X_f + b_h), \qquad \text{code} = \operatorname{sgn}(h) $$
    $$ \min\ \mathcal{L}_{metric}(h_i, h_j, s_{ij}) + \mu \operatorname{mean} (|h| - 1)^2 $$

    Parameters:
        variant: `"text"`, the network of the paper's text; `"code"`, that of the authors' file: first a layer of 256
            with tanh for each view, then a gate without bias.
        fusion: how the views become one vector: `"gate"`, the paper's; `"concatenation"`, the same without a gate; or,
            for comparison, `"attention"` among a row's views, `"bilinear"` (low rank: a product) or `"sum"`, each
            after a layer of 256 with tanh for each view.
        loss: the metric loss, which the paper leaves open: `"pairwise"` (logistic), `"balanced"` (the same, similar and
            dissimilar pairs weighing alike), `"contrastive"` (cosine) or `"soft_target"` (squared error of the cosine
            against 2 sigmoid(number of shared labels) - 1).
        quantisation: its weight mu.
        scaling: `"centred"`: unit rows less the view's mean, at unit length again; `"unit"`: unit rows; `"raw"`: as
            they are, as published.
        scale: what the scaled rows are multiplied by. It decides more than the loss does: it sets how sharply gate
            and hash layer can turn within the epochs given.
        view_dropout: share of the rows of a batch that lose some of their views, so that a part alone is answered.
        epochs, batch_size, learning_rate: of Adam.
        validation: share of the training rows that are held out to choose the best epoch; 0 trains to the end.
        patience: epochs without a better ranking of the held-out rows before training stops.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("clipmh", n_bits=32, epochs=20).fit(world.train.views, world.train.labels)
        >>> query, gallery = model.encode({"image": world.query.views["image"]}), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.5
        True

    Deviations from the paper: where it is silent, the choices are those of its sister papers. Rows are scaled, views
    are dropped in training, and the best epoch is chosen on held-out training rows; `preset="published"` turns these
    off. A missing view is filled with zeros.

    References:
        Zhu, Huang, Ruan, Cui, Cheng, Zeng, CLIP Multi-modal Hashing: a new baseline CLIPMH, 2023, arXiv:2308.11797.
    """

    variant: str = "text"
    fusion: str = "gate"
    loss: str = "pairwise"
    quantisation: float = 0.05
    scale: float = 40.0

    accepts_missing = "train+query"
    cost = "n"
    year = 2023
    reference = "arXiv:2308.11797"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"scaling": "raw", "scale": 1.0, "view_dropout": 0.0, "validation": 0.0}
    }

    def _check(self) -> None:
        from bitfuse.hashers import _losses

        super()._check()
        _losses.metric(self.loss)
        if self.variant not in ("text", "code"):
            raise InputError(f"variant must be 'text' or 'code', got {self.variant!r}")
        if self.fusion not in FUSIONS:
            raise UnknownName("fusion", self.fusion, FUSIONS)
        if self.variant == "code" and self.fusion in FUSIONS[2:]:
            raise InputError(f"fusion {self.fusion!r} has a layer for each view already; leave variant='code' out")
        if not self.scale > 0:
            raise InputError(f"scale must be above 0, got {self.scale!r}")

    def _network(self, widths: Mapping[str, int], n: int, c: int) -> Gated:
        from torch import nn

        from bitfuse.hashers._fusion import BY_VIEW, ContextGate, Gated, PerView

        each = list(widths.values())
        network, d = Gated(each, self.scale), sum(each)
        if self.variant == "code":
            network.add_module("views", PerView(each, HIDDEN))
            d = HIDDEN * len(widths)
        if self.fusion == "gate":
            network.add_module("gate", ContextGate(d, bias=self.variant == "text"))
        elif self.fusion != "concatenation":
            network.add_module("fusion", BY_VIEW[self.fusion](each, HIDDEN))
            d = HIDDEN
        network.add_module("hash", nn.Linear(d, self.n_bits))
        network.add_module("tanh", nn.Tanh())
        return network

    def _loss(self, network: nn.Module, x: Tensor, present: Tensor, y: Tensor) -> Tensor:
        from bitfuse.hashers import _losses

        h = network(x, present)  # (m, k)
        return _losses.metric(self.loss)(h, y @ y.T) + self.quantisation * _losses.quantisation(h)

    def fused(self, views: Mapping[str, ArrayLike], *, device: str = "cpu") -> NDArray[np.float32]:
        """What the hash layer reads: the fused features X_f, (n, d) float32.

        Args:
            views: as for `project`.
            device: where the network computes.

        Raises:
            NotFitted: `fit` has not run.
        """
        state = self._get("state")
        width = state["hash.weight"].shape[1]
        return self._values(state, as_batch(views, self.widths), lambda network: network.fused, width, device)

    def _diagnose(self, network: nn.Module, x: Tensor, present: Tensor) -> dict[str, Any]:
        from bitfuse.hashers._fusion import Gated

        assert isinstance(network, Gated)
        return {"saturated_gates": network.saturated(x, present)} if self.fusion == "gate" else {}
