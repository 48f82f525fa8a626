"""DJSRH: deep joint-semantics reconstructing hashing, one network a view, taught by one similarity of both views."""

from __future__ import annotations

import math
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
class DJSRH(Towers):
    r"""One similarity of the two views of a batch, reconstructed by the cosines of the codes within and across views.

    The views' similarities are averaged, and two rows grow more similar when they are similar to the same rows of the
    batch. The networks' codes shall have these similarities, stretched by mu so that they lie nearer to the ends, where
    signs lose less. tanh(alpha h) sharpens as the epochs go by.

    $$ S_v = 2 C(F_v, F_v) - 1, \quad \tilde S = \beta S_I + (1 - \beta) S_T, \quad
       S = (1 - \eta) \tilde S + \eta \tilde S \tilde S^\top / m $$
    $$ \min\ \lambda \lVert \mu S - C(H_I, H_I) \rVert^2 + \lVert \mu S - C(H_I, H_T) \rVert^2
       + \lambda \lVert \mu S - C(H_T, H_T) \rVert^2, \quad H_v = \tanh(\sqrt{t}\, h_v) \text{ in epoch } t $$

    Parameters:
        beta: weight of the image's similarity; .9 for MIR-Flickr25K, .6 for NUS-WIDE.
        eta: weight of the second-order similarity.
        mu: what S is multiplied by.
        lam: weight lambda of the losses within a view.
        scaling: of the rows; on centred rows cosines spread over [-1, 1] as they are, and S_v = C(F_v, F_v).
        hidden: of each view's two layers of ReLU; the paper's 4096.
        epochs, batch_size: 80 and 32 in the public code.
        learning_rate, image_rate: of SGD for the text's and for the image's network; .01 and .001 in the public code.
        momentum, weight_decay: of SGD.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=200, n_query=40, n_gallery=200)
        >>> model = bf.hasher("djsrh", n_bits=16).fit(world.train.views)
        >>> bf.evaluate(model, world).map > 0.35
        True

    Deviations from the paper: fixed features and a network of two layers in place of AlexNet, for both views.

    References:
        Su, Zhong, Zhang, Deep joint-semantics reconstructing hashing for large-scale unsupervised cross-modal
        retrieval, ICCV 2019, doi:10.1109/ICCV.2019.00312.
    """

    beta: float = 0.9
    eta: float = 0.4
    mu: float = 1.5
    lam: float = 0.1
    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 0.01
    image_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    year = 2019
    reference = "doi:10.1109/ICCV.2019.00312"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {
            "scaling": "raw", "hidden": 4096, "epochs": 80, "batch_size": 32, "learning_rate": 0.01,
            "image_rate": 0.001,
        }
    }  # fmt: skip

    def _check(self) -> None:
        for name in ("beta", "eta"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a weight in [0, 1], got {getattr(self, name)!r}")

    def _tower(self, view: str, width: int) -> nn.Module:
        from torch import nn

        return nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.n_bits))

    def _optimiser(self, network: nn.ModuleDict) -> Optimizer:
        import torch

        rates = {v: self.image_rate if v == "image" else self.learning_rate for v in network}
        groups = [{"params": tower.parameters(), "lr": rates[v]} for v, tower in network.items()]
        return torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)

    def _objective(
        self, network: nn.ModuleDict, x: Mapping[str, Inputs | Tensor], rng: np.random.Generator
    ) -> Callable[[Rows], Tensor]:
        import torch

        image, text = x if "image" not in x else ("image", next(v for v in x if v != "image"))
        seen = 0

        def loss(chosen: Rows) -> Tensor:
            nonlocal seen
            alpha = math.sqrt(1 + seen // len(x[image]))
            seen += len(chosen)
            S = self.mu * self.similarity(x[image][chosen], x[text][chosen])  # (m, m)
            H_I, H_T = (torch.tanh(alpha * network[v](x[v][chosen])) for v in (image, text))
            weighed = ((H_I, H_I, self.lam), (H_I, H_T, 1.0), (H_T, H_T, self.lam))
            return torch.stack([w * ((S - cosines(a, b)) ** 2).mean() for a, b, w in weighed]).sum()

        return loss

    def similarity(self, F_I: Tensor, F_T: Tensor) -> Tensor:
        """S of a batch of scaled rows (m, d_I), (m, d_T), before mu: (m, m)."""
        C_I, C_T = cosines(F_I, F_I), cosines(F_T, F_T)
        if self.scaling != "centred":
            C_I, C_T = 2 * C_I - 1, 2 * C_T - 1
        S = self.beta * C_I + (1 - self.beta) * C_T
        return (1 - self.eta) * S + self.eta * S @ S.T / len(S)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """C(a, b), (m, m), of rows a (m, k) and b (m, k)."""
    from torch.nn.functional import normalize

    return normalize(a, dim=1) @ normalize(b, dim=1).T
