"""UCCH: unsupervised contrastive cross-modal hashing, a memory of binary codes and a robust ranking loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bitfuse.errors import InputError
from bitfuse.hashers._towers import Rows, Towers

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from bitfuse.hashers._train import Inputs


@dataclass(kw_only=True, frozen=True, eq=False)
class UCCH(Towers):
    r"""Contrast with a memory of binary codes, and a ranking loss that goes easy on rows that may be of the same kind.

    Each training row has a remembered code, a running mean of what its two views gave, of which the sign is used: the
    networks meet the quantisation that they will be judged by. Both views of a row are to pick its code among many.
    Across the views of a batch, pairs far below the true pair are taken for certain negatives and moved out of the way.

    $$ \mathcal{L}_c = -\sum_v \log \frac{e^{s(v_i, h_v)}}{\sum_{j \in K} e^{s(v_j, h_v)}}, \quad
       s(v, h) = \operatorname{sgn}(v)^\top h / (T \sqrt{k}) $$
    $$ \mathcal{L}_r = \tfrac1m \sum_i \Big( m_0 - s_{ii} + \log \sum_j e^{s'_{ij}} \Big) + (I \leftrightarrow T), \quad
       s = H_I H_T^\top, \quad s'_{ij} = s_{ij} - \delta\, [s_{ij} < s_{ii} - m_0] $$
    $$ \min\ \alpha \mathcal{L}_c + (1 - \alpha) \mathcal{L}_r $$

    Parameters:
        alpha: weight of the memory's contrast.
        margin, shift: m_0 and delta.
        temperature: T.
        momentum: how much of a remembered code stays when its row is met.
        negatives: size of K, codes of other rows drawn anew for each batch, clamped to the rows there are.
        hidden: of each layer of ReLU; published 8192.
        image_layers, text_layers: how many; published 3 and 2.
        scaling, epochs, batch_size, learning_rate: of the rows; of Adam.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("ucch", n_bits=16, learning_rate=1e-3).fit(world.train.views)
        >>> bf.evaluate(model, world).map > 0.35
        True

    Deviations from the paper: fixed features of any backbone in place of VGG and word counts, so that one layer a view
    does for the default. The negatives of a batch are the same for all of its rows.

    References:
        Hu, Zhu, Lin, Peng, Unsupervised contrastive cross-modal hashing, IEEE TPAMI 45(3), 2023,
        doi:10.1109/TPAMI.2022.3177356.
    """

    alpha: float = 0.7
    margin: float = 0.2
    shift: float = 0.1
    temperature: float = 0.9
    momentum: float = 0.4
    negatives: int = 4096
    image_layers: int = 1
    text_layers: int = 1

    year = 2023
    reference = "doi:10.1109/TPAMI.2022.3177356"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"scaling": "raw", "hidden": 8192, "image_layers": 3, "text_layers": 2}
    }

    def _check(self) -> None:
        for name in ("alpha", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a weight in [0, 1], got {getattr(self, name)!r}")
        if not self.temperature > 0 or self.negatives < 1:
            raise InputError(
                f"temperature must be above 0 and negatives at least 1, got {self.temperature!r} and {self.negatives!r}"
            )

    def _tower(self, view: str, width: int) -> nn.Module:
        from torch import nn

        depth = self.image_layers if view == "image" else self.text_layers
        sizes = [width] + depth * [self.hidden]
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], self.n_bits), nn.Tanh())

    def _optimiser(self, network: nn.ModuleDict) -> Optimizer:
        import torch

        return torch.optim.Adam(network.parameters(), lr=self.learning_rate)

    def _objective(
        self, network: nn.ModuleDict, x: Mapping[str, Inputs | Tensor], rng: np.random.Generator
    ) -> Callable[[Rows], Tensor]:
        import torch
        from torch.nn.functional import normalize

        from bitfuse.hashers._parallel import remembered

        device = next(network.parameters()).device
        n = len(next(iter(x.values())))
        memory = normalize(torch.randn(n, self.n_bits), dim=1).to(device)  # v (n, k)

        def loss(chosen: Rows) -> Tensor:
            h = [normalize(network[v](p[chosen]), dim=1) for v, p in x.items()]  # (m, k) each
            others = rng.choice(n, min(self.negatives, n), replace=False)
            known = torch.from_numpy(np.concatenate([chosen, np.setdiff1d(others, chosen)]))
            signs = torch.where(memory[known] > 0, 1.0, -1.0)  # (m + |K|, k)
            L_c = self.contrast(h[0], signs) + self.contrast(h[1], signs)
            with torch.no_grad():
                rows, mean = remembered(chosen, (h[0] + h[1]) / 2)
                memory[rows] = normalize(self.momentum * memory[rows] + (1 - self.momentum) * mean, dim=1)
            s = h[0] @ h[1].T
            return self.alpha * L_c + (1 - self.alpha) * (self.ranking(s) + self.ranking(s.T))

        return loss

    def contrast(self, h: Tensor, signs: Tensor) -> Tensor:
        """L_c of one view: rows h (m, k) against remembered signs (m + |K|, k), the first m of which are their own."""
        import torch
        from torch.nn.functional import cross_entropy

        scores = h @ signs.T / (self.temperature * self.n_bits**0.5)
        return cross_entropy(scores, torch.arange(len(h), device=h.device))

    def ranking(self, s: Tensor) -> Tensor:
        """L_r of one direction, of similarities s (m, m) whose diagonal holds the true pairs."""
        true = s.diagonal()[:, None]
        moved = s - self.shift * (s < true - self.margin)
        return (self.margin - s.diagonal() + moved.logsumexp(dim=1)).mean()
