"""The network of UCMFH and its contrast. Needs torch; imported inside the hooks of `bitfuse.hashers.ucmfh`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def contrast(a: Tensor, b: Tensor, P: Tensor, tau: float) -> Tensor:
    """NT-Xent between rows a, b (m, k) and back, by cosines over tau; P (m, m) spreads each row's positive."""
    logits = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T / tau
    there, back = (P * logits.log_softmax(dim=1)).sum(dim=1), (P * logits.T.log_softmax(dim=1)).sum(dim=1)
    return -(there + back).mean() / 2


class Fusion(nn.Module):
    """Tokens of the views of one row through a transformer; rows do not meet.

    Args:
        widths: view -> columns.
        kind: `"tokens"`, a token of `width` for each view; `"joint"`, all views side by side as one token; `"none"`.
        width: of a token of its own.
        layers, heads, feed_forward: of the transformer; `heads` is lowered to what divides the token.
        learned: whether a learned token, or zeros, stand for a missing view.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        kind: str,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        learned: bool,
    ) -> None:
        super().__init__()
        own = kind == "tokens"
        self.kind, self.parts = kind, {v: width if own else d for v, d in widths.items()}
        self.enter = nn.ModuleDict({v: nn.Linear(d, width) if own else nn.Identity() for v, d in widths.items()})
        self.absent = nn.ParameterDict(
            {v: nn.Parameter(0.02 * torch.randn(d), requires_grad=learned) for v, d in self.parts.items()}
        )
        if not learned:
            for token in self.absent.values():
                nn.init.zeros_(token)
        if kind != "none":
            size = width if own else sum(widths.values())
            layer = nn.TransformerEncoderLayer(size, math.gcd(heads, size), feed_forward, batch_first=True)
            self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Mapping[str, Tensor], seen: Sequence[str]) -> dict[str, Tensor]:
        """Unit features of the seen views, (m, width) each; the other views of x, (m, d_v), are not read."""
        m = next(iter(x.values())).shape[0]  # len() would tie an exported graph to one batch size
        tokens = [self.enter[v](x[v]) if v in seen else self.absent[v].expand(m, -1) for v in self.parts]
        if self.kind == "tokens":
            tokens = list(self.transformer(torch.stack(tokens, dim=1)).unbind(dim=1))  # (m, views, width)
        elif self.kind == "joint":
            fused = self.transformer(torch.cat(tokens, dim=1)[:, None])[:, 0]  # (m, 1, d) -> (m, d)
            tokens = list(torch.split(functional.normalize(fused, dim=1), list(self.parts.values()), dim=1))
        return {v: functional.normalize(f, dim=1) for v, f in zip(self.parts, tokens) if v in seen}


class FusionHash(nn.Module):
    """Fusion, then an MLP a view; with `still` it begins at zero, so that what it is added to stays as it was."""

    def __init__(self, fusion: Fusion, hidden: int, k: int, dropout: float, *, still: bool) -> None:
        super().__init__()
        self.fusion = fusion
        self.hash = nn.ModuleDict(
            {
                v: nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, k))
                for v, d in fusion.parts.items()
            }
        )
        if still:
            for name, parameter in self.hash.named_parameters():
                if name.split(".")[1] == "3":
                    nn.init.zeros_(parameter)

    def forward(self, x: Mapping[str, Tensor], seen: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of the seen views: their fused features (m, width), and what the MLPs make of them (m, k)."""
        f = self.fusion(x, seen)
        return f, {v: self.hash[v](features) for v, features in f.items()}
