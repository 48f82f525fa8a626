"""What the cross-modal methods share that train one network a view: data in, epochs, codes out of each view alone.

A method names its towers' layers, its optimiser and its objective; torch is imported inside the hooks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.hashers._inputs import Scaling, check_space, learn_scaling, scaled
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from bitfuse.hashers._train import Inputs

Rows = NDArray[np.intp]


@dataclass(kw_only=True, frozen=True, eq=False)
class Towers(Hasher):
    """An unsupervised method of exactly two views with a network for each, and a space for each."""

    scaling: Scaling = "centred"
    hidden: int = 1024
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-4

    spaces = ("image", "text")
    at_scale = "stream"
    min_views = 2
    max_views = 2

    @abstractmethod
    def _tower(self, view: str, width: int) -> nn.Module:
        """The network of one view, (m, width) -> (m, k), with fresh weights."""

    @abstractmethod
    def _optimiser(self, network: nn.ModuleDict) -> Optimizer:
        """What minimises the objective."""

    @abstractmethod
    def _objective(
        self, network: nn.ModuleDict, x: Mapping[str, Inputs | Tensor], rng: np.random.Generator
    ) -> Callable[[Rows], Tensor]:
        """The loss of a batch by its row numbers; x gives the training rows, (n, d_v) a view, scaled."""

    def _check(self) -> None:
        """Refuse parameters that mean nothing."""

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        from bitfuse.hashers import _train  # isort: skip  # says how to install torch where it is absent

        self._check()
        schedule = _train.Schedule(self.epochs, self.batch_size, self.learning_rate, patience=self.epochs)
        rng = np.random.default_rng(self.seed)
        state = learn_scaling(batch, self.scaling)
        views = {v: batch.of(v) for v in batch.arrays}
        x = {v: _train.Inputs(part, partial(self._rows, state, v), device) for v, part in views.items()}  # (n, d_v)
        with _train.seeded(self.seed, device):
            network = self._network({v: p.shape[1] for v, p in batch.arrays.items()}).to(device)
            step = self._objective(network, x, rng)
            rows = np.arange(len(batch))
            log = _train.train(network, step, rows, schedule, rng, optimiser=self._optimiser(network))
        return {**state, **_train.weights_of(network)}, log

    def _rows(self, state: State, view: str, batch: Batch) -> NDArray[np.float32]:
        return scaled(state, batch, self.scaling)[view].astype(np.float32)

    def _network(self, widths: dict[str, int]) -> nn.ModuleDict:
        from torch import nn

        return nn.ModuleDict({v: self._tower(v, width) for v, width in widths.items()})

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        from bitfuse.hashers import _train  # isort: skip
        import torch

        check_space(space, batch)
        weights = {k.removeprefix(f"{space}."): a for k, a in state.items() if k.startswith(f"{space}.")}
        tower = _train.with_weights(lambda: self._tower(space, batch.arrays[space].shape[1]), weights, device)

        def codes(chosen: Rows) -> Tensor:
            x = self._rows(state, space, batch.take(chosen))
            return tower(torch.from_numpy(x).to(device))  # type: ignore[no-any-return]

        return _train.in_blocks(codes, len(batch), self.n_bits)
