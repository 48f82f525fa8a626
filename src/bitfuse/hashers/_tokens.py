"""The networks of BSTH: prototypes of labels, and a transformer over one token a bit. Needs torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ByGroup(nn.Module):
    """A linear layer of its own for each group, a 1x1 convolution in groups: (m, groups, a) -> (m, groups, b)."""

    def __init__(self, groups: int, a: int, b: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(a)
        self.weight = nn.Parameter(torch.empty(groups, a, b).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, b).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Each group by its layer."""
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class Prototypes(nn.Module):
    """A real code for each label: embedding, one transformer layer over the labels, a layer for each label, tanh."""

    def __init__(self, c: int, k: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(c, k))
        self.encoder = nn.TransformerEncoderLayer(k, 1, k, dropout, "gelu", batch_first=True)
        self.by_class = ByGroup(c, k, k)
        self.classifier = nn.Linear(k, c)

    def forward(self) -> Tensor:
        """P (c, k)."""
        return torch.tanh(self.by_class(self.encoder(self.embedding[None]))[0])


class BitTokens(nn.Module):
    """k concept tokens of each view through a transformer, summed over the views, and one small network a bit."""

    positions: Tensor
    prototypes: Tensor

    def __init__(
        self, widths: Sequence[int], hidden: Sequence[int], d_c: int, layers: int, k: int, c: int, dropout: float
    ) -> None:
        super().__init__()
        self.widths, self.k = list(widths), k
        self.views = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, h), nn.BatchNorm1d(h), nn.Tanh(), nn.Linear(h, d_c), nn.BatchNorm1d(d_c), nn.Tanh()
            )
            for width, h in zip(widths, hidden)
        )
        self.concepts = nn.ModuleList(nn.Linear(d_c, k * d_c) for _ in widths)
        layer = nn.TransformerEncoderLayer(d_c, 1, d_c, dropout, "gelu", batch_first=True)
        self.encoders = nn.ModuleList(
            nn.TransformerEncoder(layer, layers, nn.LayerNorm(d_c), enable_nested_tensor=False) for _ in widths
        )
        self.dropout = nn.Dropout(dropout)
        self.bits = ByGroup(k, d_c, 64)
        self.norm = nn.BatchNorm1d(k * 64)
        self.last = ByGroup(k, 64, 1)
        self.classifier = nn.Linear(k, c)
        self.register_buffer("positions", sinusoids(k, d_c))
        self.register_buffer("prototypes", torch.zeros(c, k))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """h (m, k) in (-1, 1)."""
        parts = torch.split(x, self.widths, dim=1)
        tokens = x.new_zeros(len(x), self.k, self.positions.shape[1])  # (m, k, d_c)
        for v, part in enumerate(parts):
            concepts = self.concepts[v](self.views[v](part)).view(tokens.shape)
            seen = self.encoders[v](self.dropout(concepts + self.positions))
            tokens = tokens + present[:, v, None, None] * seen
        z = self.bits(tokens)  # (m, k, 64)
        z = torch.tanh(self.norm(z.flatten(1)).view(z.shape))
        return torch.tanh(self.last(z)[:, :, 0])


def sinusoids(length: int, width: int) -> Tensor:
    """The positions of a transformer, (length, width)."""
    place = torch.arange(length)[:, None]
    pace = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    waves = torch.stack((torch.sin(place * pace), torch.cos(place * pace)), dim=2)
    return waves.flatten(1)[:, :width]
