"""Losses on a batch of relaxed codes that deep methods share. Needs torch; imported by methods inside their hooks.

`u` is (m, k) in (-1, 1); `shared` is (m, m), the number of labels that two rows share; s_ij = 1 where it is above 0.
Pairs of a row with itself are left out. Every metric loss is a mean, so that weights do not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from bitfuse.errors import UnknownName


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values, 0 where none is chosen."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def _pairs(shared: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of the similar and the dissimilar pairs, (m, m) each, without the diagonal."""
    similar = (shared > 0).float()
    similar.fill_diagonal_(0)
    dissimilar = (shared == 0).float()
    dissimilar.fill_diagonal_(0)
    return similar, dissimilar


def cosines(u: Tensor) -> Tensor:
    """The cosine of every pair of rows, (m, m)."""
    rows = functional.normalize(u, dim=1)
    return rows @ rows.T


def pairwise(u: Tensor, shared: Tensor) -> Tensor:
    """Pairwise logistic loss: mean of softplus(theta) - s theta, theta = (10 / k) u_i . u_j."""
    similar, dissimilar = _pairs(shared)
    theta = (10 / u.shape[1]) * (u @ u.T)
    return _mean(functional.softplus(theta) - similar * theta, similar + dissimilar)


def balanced(u: Tensor, shared: Tensor) -> Tensor:
    """Pairwise logistic loss in which all similar pairs weigh as much as all dissimilar ones."""
    similar, dissimilar = _pairs(shared)
    theta = (10 / u.shape[1]) * (u @ u.T)
    return (_mean(functional.softplus(-theta), similar) + _mean(functional.softplus(theta), dissimilar)) / 2


def contrastive(u: Tensor, shared: Tensor, margin: float = 0.0, weight: float = 1.0) -> Tensor:
    """Cosine contrastive loss: mean of 1 - cos over similar pairs + weight x mean of max(0, cos - margin) elsewhere."""
    similar, dissimilar = _pairs(shared)
    cos = cosines(u)
    return _mean(1 - cos, similar) + weight * _mean(functional.relu(cos - margin), dissimilar)


def inner_product(u: Tensor, shared: Tensor) -> Tensor:
    """Squared error of u_i . u_j / k against 1 or -1; similar pairs weigh as much as dissimilar ones."""
    similar, dissimilar = _pairs(shared)
    product = u @ u.T / u.shape[1]
    return (_mean((product - 1) ** 2, similar) + _mean((product + 1) ** 2, dissimilar)) / 2


def soft_target(u: Tensor, shared: Tensor) -> Tensor:
    """Squared error of the cosine against 2 sigmoid(l_i . l_j) - 1: more shared labels, nearer (BSTH, ACMVH)."""
    similar, dissimilar = _pairs(shared)
    return _mean((cosines(u) - (2 * torch.sigmoid(shared) - 1)) ** 2, similar + dissimilar)


METRIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "balanced": balanced,
    "contrastive": contrastive,
    "pairwise": pairwise,
    "soft_target": soft_target,
}


def metric(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The metric loss of that name; `UnknownName` suggests the nearest."""
    if name not in METRIC:
        raise UnknownName("loss", name, METRIC)
    return METRIC[name]


def quantisation(u: Tensor) -> Tensor:
    """How far relaxed codes are from the vector of ones in size: mean of (|u| - 1)^2."""
    return ((u.abs() - 1) ** 2).mean()
