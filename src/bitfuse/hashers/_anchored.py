"""The network of FGCMH: graph convolutions over a row and saved training rows, in time linear in the rows. Needs torch.

A batch is never a graph of its own. The nodes are the anchors, a fixed sample of the training rows, and each row sees
only itself and them; anchors see one another. So a row's values are the same alone and among others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def edges(x: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """The normalised edges from the anchors (a, d) to each row (m, d): softmax of the cosine / temperature, (m, a)."""
    cos = functional.normalize(x, dim=1) @ functional.normalize(anchors, dim=1).T
    return torch.softmax(cos / temperature, dim=1)


class Convolution(nn.Module):
    """Two graph convolutions of rows and anchors: (m, d), (a, d) -> (m, hidden), (a, hidden).

    Each is relu((p x + (1 - p) A Z) Theta): what a row keeps of itself, and its share of the anchors Z.
    """

    def __init__(self, d: int, hidden: int, own: float, temperature: float) -> None:
        super().__init__()
        layers = (nn.Linear(d, hidden), nn.Linear(hidden, hidden))
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # or four layers would fade what they are given
        self.own, self.temperature = own, temperature

    def forward(self, x: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden features of the rows and of the anchors."""
        to_rows, to_anchors = edges(x, anchors, self.temperature), edges(anchors, anchors, self.temperature)
        for layer in self.layers:
            rows = self.own * x + (1 - self.own) * to_rows @ anchors
            nodes = self.own * anchors + (1 - self.own) * to_anchors @ anchors
            x, anchors = functional.relu(layer(rows)), functional.relu(layer(nodes))
        return x, anchors


class AnchoredGraphs(nn.Module):
    """A convolution and a label head for each view, their weighted sum, and one convolution with two heads on it."""

    anchors: Tensor
    residuals: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        a: int,
        hidden: int,
        k: int,
        c: int,
        *,
        own: float,
        temperature: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.widths, self.scale = list(widths), scale
        self.views = nn.ModuleList(Convolution(width, hidden, own, temperature) for width in widths)
        self.view_labels = nn.ModuleList(nn.Linear(hidden, c) for _ in widths)
        self.fused = Convolution(hidden, hidden, own, temperature)
        self.hash = nn.Linear(hidden, k)
        self.semantic = nn.Linear(hidden, c)
        self.register_buffer("anchors", torch.zeros(a, sum(widths)))
        self.register_buffer("residuals", torch.ones(len(widths)))  # mean |l - lhat_v|^2 of each view so far

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """h (m, k) in (-1, 1)."""
        return torch.tanh(self.hash(self.features(x, present)[1]))

    def features(self, x: Tensor, present: Tensor) -> tuple[list[Tensor], Tensor]:
        """F_v (m, hidden) of each view, and the fused features (m, hidden)."""
        parts = torch.split(self.scale * x, self.widths, dim=1)
        nodes = torch.split(self.scale * self.anchors, self.widths, dim=1)
        seen = [view(part, node) for view, part, node in zip(self.views, parts, nodes)]
        mu = 0.5 / self.residuals.sqrt().clamp(min=1e-6)  # (views,)
        weights = present * mu
        weights = weights / weights.sum(dim=1, keepdim=True)
        rows = sum(weights[:, v, None] * row for v, (row, _) in enumerate(seen))
        anchors = sum(mu[v] / mu.sum() * node for v, (_, node) in enumerate(seen))
        return [row for row, _ in seen], self.fused(rows, anchors)[0]
