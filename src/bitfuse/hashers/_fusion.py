"""Networks that make one vector of several views, shared by deep methods. Needs torch; imported inside their hooks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitfuse.errors import ConvergenceWarning


class PerView(nn.Module):
    """A layer with tanh for each view: views side by side (n, sum of widths) -> (n, views x hidden)."""

    def __init__(self, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.widths = list(widths)
        self.layers = nn.ModuleList(nn.Linear(width, hidden) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """The views' hidden features side by side."""
        parts = torch.split(x, self.widths, dim=1)
        return torch.cat([torch.tanh(layer(part)) for layer, part in zip(self.layers, parts)], dim=1)


class ContextGate(nn.Module):
    """Context gating: every feature is weighed by what all features say, sigmoid(W x + b) * x; (n, d) -> (n, d)."""

    def __init__(self, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Linear(width, width, bias=bias)

    def gates(self, x: Tensor) -> Tensor:
        """The weights in (0, 1), (n, d)."""
        return torch.sigmoid(self.weight(x))

    def forward(self, x: Tensor) -> Tensor:
        """The gated features, (n, d)."""
        return self.gates(x) * x


class ViewSum(nn.Module):
    """A layer with tanh for each view that is there, and their sum: (n, sum of widths) -> (n, hidden)."""

    def __init__(self, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.views, self.count = PerView(widths, hidden), len(widths)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each view's hidden features (n, views, hidden), and (n, views, 1) whether it is there: not all zeros."""
        present = torch.stack([(part != 0).any(dim=1) for part in torch.split(x, self.views.widths, dim=1)], dim=1)
        present = present | ~present.any(dim=1, keepdim=True)  # a row of zeros is read as it is
        tokens = self.views(x).view(x.shape[0], self.count, -1)  # len(x) would tie an exported graph to one batch size
        return tokens, present[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        """The sum over the views that are there."""
        hidden, present = self.parts(x)
        return (hidden * present).sum(dim=1)


class LowRankBilinear(ViewSum):
    """Low-rank bilinear fusion: tanh(U x) * tanh(V y), elementwise; a view that is not there counts as ones.

    With the linear layer after it, each bit is a bilinear form of the views of rank `hidden` (Kim et al., Hadamard
    Product for Low-rank Bilinear Pooling, ICLR 2017, arXiv:1610.04325).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The product over the views that are there."""
        hidden, present = self.parts(x)
        return torch.where(present, hidden, torch.ones_like(hidden)).prod(dim=1)


class ViewAttention(ViewSum):
    """Self-attention among the views of one row, each view a token; residual, then the mean of the tokens."""

    def __init__(self, widths: Sequence[int], hidden: int, heads: int = 4) -> None:
        super().__init__(widths, hidden)
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the attended tokens of the views that are there."""
        tokens, present = self.parts(x)
        absent = ~present[:, :, 0]
        mixed: Tensor = self.attention(tokens, tokens, tokens, key_padding_mask=absent, need_weights=False)[0]
        return ((tokens + mixed) * present).sum(dim=1) / present.sum(dim=1)


BY_VIEW: dict[str, type[ViewSum]] = {"attention": ViewAttention, "bilinear": LowRankBilinear, "sum": ViewSum}
"""Fusions that bring each view to one width of their own."""


class Gated(nn.Module):
    """Modules one after the other over the views that are present, each times `scale`: what CLIPMH and DMMVH build.

    The scale sets how sharply gate and hash layer can turn within the epochs given.
    """

    def __init__(self, widths: Sequence[int], scale: float) -> None:
        super().__init__()
        self.widths, self.scale = list(widths), scale

    def seen(self, x: Tensor, present: Tensor) -> Tensor:
        """The scaled input without the absent views: x (m, d), present (m, views) -> (m, d)."""
        widths = torch.tensor(self.widths, device=x.device)
        return self.scale * x * present.repeat_interleave(widths, dim=1)

    def fused(self, x: Tensor, present: Tensor) -> Tensor:
        """What the module named `hash` reads, (m, d)."""
        features = self.seen(x, present)
        for name, module in self.named_children():
            if name == "hash":
                break
            features = module(features)
        return features

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """The relaxed codes, (m, k)."""
        features = self.seen(x, present)
        for module in self.children():
            features = module(features)
        return features

    def saturated(self, x: Tensor, present: Tensor, block: int = 8192) -> float:
        """The share of gates below .01 or above .99, with a `ConvergenceWarning` above .9; called by `_diagnose`."""
        stuck = 0.0
        with torch.no_grad():
            for part, here in zip(torch.split(x, block), torch.split(present, block)):
                features = self.seen(part, here)
                for module in self.children():
                    if isinstance(module, ContextGate):
                        gates = module.gates(features)
                        stuck += float(((gates < 0.01) | (gates > 0.99)).float().mean()) * len(part) / len(x)
                    features = module(features)
        if stuck > 0.9:
            message = f"{stuck:.0%} of the gates are stuck at 0 or 1; use a smaller scale or learning_rate"
            warnings.warn(message, ConvergenceWarning, stacklevel=5)
        return stuck
