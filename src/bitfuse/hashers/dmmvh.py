"""DMMVH: deep metric multi-view hashing, a network for each view, context gating, and a margin between labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitfuse.errors import InputError
from bitfuse.hashers._deep import FusedNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bitfuse.hashers._fusion import Gated


@dataclass(kw_only=True, frozen=True, eq=False)
class DMMVH(FusedNetwork):
    r"""Views from any backbones, brought to one size by networks of their own, gated together, hashed by a metric loss.

    Two layers with tanh bring each view to the same width. Context gating fuses them: every feature is weighed by what
    all say. The metric loss draws rows that share a label together by cosine and, this is the paper's point, learns
    from dissimilar rows too, which it drives apart until their cosine is below a margin. CLIPMH, its successor, leaves
    the networks of the views out, as CLIP's features need none.

    $$ x_v = \tanh(U_v \tanh(V_v X_v)), \quad x = [x_1, \dots, x_M], \quad x' = \sigma(W x + b) \circ x, \quad
       h = \tanh(W_h x' + b_h) $$
    $$ \min\ \operatorname*{mean}_{s_{ij} = 1} (1 - \cos(h_i, h_j)) + \lambda \operatorname*{mean}_{s_{ij} = 0}
       \max(0, \cos(h_i, h_j) - m) + \mu \operatorname{mean} (|h| - 1)^2 $$

    Parameters:
        hidden, width: of the two layers of each view.
        margin: m, the cosine below which dissimilar rows are far enough apart.
        lam: weight lambda of the dissimilar pairs.
        quantisation: its weight mu.
        scaling: of the views.
        scale: what the scaled rows are multiplied by; it decides how bent the tanh of the first layer is.
        view_dropout: share of the rows of a batch that lose some of their views, so that a part alone is answered.
        epochs, batch_size, learning_rate: of Adam.
        validation: share of the training rows that are held out to choose the best epoch; 0 trains to the end.
        patience: epochs without a better ranking of the held-out rows before training stops.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("dmmvh", n_bits=16, epochs=20).fit(world.train.views, world.train.labels)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.5
        True

    Deviations from the paper: **the loss is a reconstruction.** The abstract names a deep metric loss that learns from
    dissimilar samples and a quantisation loss; neither its formula nor a constant is public, so there is no
    `preset="published"`. Scaling, dropped views (a missing view is filled with zeros) and the choice of the best epoch
    on held-out training rows are ours, as for CLIPMH. Any number of views.

    References:
        Zhu, Huang, Ruan, Cui, Cheng, Zeng, Deep Metric Multi-View Hashing for Multimedia Retrieval, ICME 2023,
        arXiv:2304.06358.
    """

    hidden: int = 512
    width: int = 256
    margin: float = 0.0
    lam: float = 4.0
    quantisation: float = 0.01
    scale: float = 10.0

    accepts_missing = "train+query"
    year = 2023
    reference = "arXiv:2304.06358"

    def _check(self) -> None:
        super()._check()
        if not self.scale > 0:
            raise InputError(f"scale must be above 0, got {self.scale!r}")
        if min(self.hidden, self.width) < 1:
            raise InputError(f"hidden and width must be at least 1, got {self.hidden!r} and {self.width!r}")
        if not -1 <= self.margin < 1:
            raise InputError(f"margin is a cosine in [-1, 1), got {self.margin!r}")

    def _network(self, widths: Mapping[str, int], n: int, c: int) -> Gated:
        from torch import nn

        from bitfuse.hashers._fusion import ContextGate, Gated, PerView

        network = Gated(list(widths.values()), self.scale)
        network.add_module("first", PerView(list(widths.values()), self.hidden))
        network.add_module("second", PerView([self.hidden] * len(widths), self.width))
        d = self.width * len(widths)
        network.add_module("gate", ContextGate(d))
        network.add_module("hash", nn.Linear(d, self.n_bits))
        network.add_module("tanh", nn.Tanh())
        return network

    def _loss(self, network: nn.Module, x: Tensor, present: Tensor, y: Tensor) -> Tensor:
        from bitfuse.hashers import _losses

        h = network(x, present)  # (m, k)
        metric = _losses.contrastive(h, y @ y.T, self.margin, self.lam)
        return metric + self.quantisation * _losses.quantisation(h)

    def _diagnose(self, network: nn.Module, x: Tensor, present: Tensor) -> dict[str, Any]:
        from bitfuse.hashers._fusion import Gated

        assert isinstance(network, Gated)
        return {"saturated_gates": network.saturated(x, present)}
