"""FGCMH: flexible graph convolutional multi-modal hashing, reconstructed with a graph of saved anchors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bitfuse.errors import InputError
from bitfuse.hashers._deep import FusedNetwork

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bitfuse.hashers._anchored import AnchoredGraphs
    from bitfuse.hashers._train import Inputs


@dataclass(kw_only=True, frozen=True, eq=False)
class FGCMH(FusedNetwork):
    r"""Graph convolutions in each view, then on the fused views, over a row and its anchors; missing views at query.

    Every view has a graph convolutional network of its own, taught by the labels. Their features are summed, each
    view weighed by how well it tells the labels, the weights shared out among the views that a row has. On the graph of
    the fused features a hash head and a semantic head share two more layers. The nodes are a row and a fixed sample Z
    of the training rows, so that training is linear in n and a query's code does not depend on other queries.

    $$ Y \leftarrow \operatorname{relu}\bigl( (p Y + (1 - p) A Y_Z) \Theta \bigr), \quad
       A = \operatorname{softmax}(\cos(x, Z) / t), \quad F = \sum_v w_v F_v, \quad
       w_v \propto 1 / (2 \lVert L - \hat L_v \rVert_F) $$
    $$ \min \sum_v \mathrm{CE}(\hat L_v, L) + \lambda_1 \operatorname{mean} (S_{ij} - h_i \cdot h_j / k)^2
       + \lambda_2 \mathrm{CE}(\hat L, L) + \lambda_3 \operatorname{mean} (|h| - 1)^2, \quad S_{ij} \in \{-1, 1\} $$

    Parameters:
        anchors: training rows that are kept as the graph, at most all.
        hidden: width of every layer.
        own: p, how much of itself a row keeps in a convolution.
        temperature: t; the smaller, the fewer anchors count.
        scale: what the scaled rows are multiplied by.
        lam_1, lam_2, lam_3: weights of similarity, labels and quantisation.
        scaling: of the views.
        view_dropout: share of the rows of a batch that lose some of their views, so that a part alone is answered.
        epochs, batch_size, learning_rate: of Adam.
        validation: share of the training rows that are held out to choose the best epoch; 0 trains to the end.
        patience: epochs without a better ranking of the held-out rows before training stops.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("fgcmh", n_bits=16, epochs=20).fit(world.train.views, world.train.labels)
        >>> query, gallery = model.encode(world.query.views), model.encode(world.gallery.views)
        >>> bf.score(query, gallery, world.query.labels, world.gallery.labels).map > 0.5
        True

    Deviations from the paper: **this is a reconstruction from the abstract**; text and code are out of reach. The
    abstract fixes the networks of the views under semantic guidance, the adaptive fusion, the hash and semantic
    networks on the fusion graph (that they share their first two layers), linear cost, and queries with views missing.
    Ours are the formulas, every constant (so there is no `preset="published"`), the anchors in place of the graph of a
    batch, edges normalised by row (a symmetric normalisation would let rows change their anchors), similar and
    dissimilar pairs weighed alike, and dropped views in training. Any number of views.

    References:
        Lu, Zhu, Liu, Nie, Zhang, Graph Convolutional Multi-modal Hashing for Flexible Multimedia Retrieval, ACM
        Multimedia 2021, doi:10.1145/3474085.3475598.
    """

    anchors: int = 256
    hidden: int = 256
    own: float = 0.8
    temperature: float = 0.1
    scale: float = 20.0
    lam_1: float = 1.0
    lam_2: float = 1.0
    lam_3: float = 0.05
    epochs: int = 60

    accepts_missing = "query"
    year = 2021
    reference = "doi:10.1145/3474085.3475598"

    def _check(self) -> None:
        super()._check()
        for name in ("anchors", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("temperature", "scale"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)!r}")
        if not 0 <= self.own <= 1:
            raise InputError(f"own must be in [0, 1], got {self.own!r}")

    def _network(self, widths: Mapping[str, int], n: int, c: int) -> AnchoredGraphs:
        from bitfuse.hashers._anchored import AnchoredGraphs

        return AnchoredGraphs(
            list(widths.values()),
            min(self.anchors, n),
            self.hidden,
            self.n_bits,
            c,
            own=self.own,
            temperature=self.temperature,
            scale=self.scale,
        )

    def _prepare(self, network: nn.Module, x: Inputs, y: Tensor, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the anchors, and start each bit at +1 for about half of them: features after relu have a mean."""
        import torch

        from bitfuse.hashers._anchored import AnchoredGraphs

        assert isinstance(network, AnchoredGraphs)
        network.anchors.copy_(x[rng.choice(len(x), len(network.anchors), replace=False)])
        with torch.no_grad():
            fused = network.features(network.anchors, y.new_ones(len(network.anchors), len(network.widths)))[1]
            network.hash.bias.sub_(network.hash(fused).mean(dim=0))
        return {"anchors": len(network.anchors)}

    def _loss(self, network: nn.Module, x: Tensor, present: Tensor, y: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        from bitfuse.hashers import _losses
        from bitfuse.hashers._anchored import AnchoredGraphs

        assert isinstance(network, AnchoredGraphs)
        views, fused = network.features(x, present)
        guesses = [head(part) for head, part in zip(network.view_labels, views)]  # (m, c) each
        with torch.no_grad():
            wrong = torch.stack([(torch.sigmoid(guess) - y).square().mean() for guess in guesses])
            network.residuals.lerp_(wrong, 0.1)
        h = torch.tanh(network.hash(fused))  # (m, k)
        guided = torch.stack([cross_entropy(guess, y) for guess in guesses]).sum()
        similar = _losses.inner_product(h, y @ y.T)
        semantic = cross_entropy(network.semantic(fused), y)
        return guided + self.lam_1 * similar + self.lam_2 * semantic + self.lam_3 * _losses.quantisation(h)

    def _diagnose(self, network: nn.Module, x: Tensor, present: Tensor) -> dict[str, Any]:
        from bitfuse.hashers._anchored import AnchoredGraphs

        assert isinstance(network, AnchoredGraphs)
        return {"view_residuals": network.residuals.tolist()}
