"""What the supervised methods share that train one network on all views: data in, epochs, the best one, codes out.

A method names its network and the loss of a batch; this module needs torch only inside the hooks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.hashers._inputs import Scaling, learn_scaling, side_by_side
from bitfuse.hashers._views import Batch
from bitfuse.hashers.base import Array, Hasher, State

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bitfuse.hashers._train import Inputs

_SIZES = "sizes"  # of the training data, in the state: rows and labels, which shape some networks


@dataclass(kw_only=True, frozen=True, eq=False)
class FusedNetwork(Hasher):
    """A supervised method whose codes of a row come from one network over all views of that row.

    A network takes x (m, sum of widths), the scaled views side by side, and present (m, views) of 0 and 1, the views
    that it may read; it gives the values before the sign, (m, k).
    """

    scaling: Scaling = "centred"
    view_dropout: float = 0.3
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    validation: float = 0.1
    patience: int = 10

    supervised = True
    at_scale = "stream"

    @abstractmethod
    def _network(self, widths: Mapping[str, int], n: int, c: int) -> nn.Module:
        """The network for views of these widths, n training rows and c labels, with fresh weights."""

    @abstractmethod
    def _loss(self, network: nn.Module, x: Tensor, present: Tensor, y: Tensor) -> Tensor:
        """The loss of one batch: x (m, d), present (m, views), y (m, c) of 0 and 1."""

    def _prepare(self, network: nn.Module, x: Inputs, y: Tensor, rng: np.random.Generator) -> dict[str, Any]:
        """What happens before the epochs, with all training rows and the sample's labels; it goes into the log."""
        return {}

    def _diagnose(self, network: nn.Module, x: Tensor, present: Tensor) -> dict[str, Any]:
        """What a method has to say about its trained network, for the log."""
        return {}

    def _check(self) -> None:
        """Refuse parameters that mean nothing."""
        if not 0 <= self.view_dropout < 1:
            raise InputError(f"view_dropout is a share of rows in [0, 1), got {self.view_dropout!r}")

    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        from bitfuse.hashers import _train  # isort: skip  # says how to install torch where it is absent
        import torch

        self._check()
        schedule = _train.Schedule(self.epochs, self.batch_size, self.learning_rate, self.patience)
        rng = np.random.default_rng(self.seed)
        state = learn_scaling(batch, self.scaling)
        x = _train.Inputs(batch, lambda rows: side_by_side(state, rows, self.scaling), device)  # (n, d)
        y = np.asarray(labels, bool)  # (n, c)
        masks = np.stack(list(batch.masks.values()), axis=1)  # (n, views)
        seen = batch.sample  # all rows, or those that are looked at before and after the epochs

        def floats(flags: NDArray[np.bool_]) -> Tensor:
            return torch.from_numpy(flags.astype(np.float32)).to(device)

        def step(chosen: NDArray[np.intp]) -> Tensor:
            kept = keep_views(masks[chosen], self.view_dropout, rng)
            return self._loss(network, x[chosen], floats(kept), floats(y[chosen]))

        def codes(chosen: NDArray[np.intp]) -> Tensor:
            return network(x[chosen], floats(masks[chosen]))  # type: ignore[no-any-return]

        def ranked(chosen: NDArray[np.intp]) -> list[tuple[Tensor, Tensor]]:
            h = codes(chosen)
            return [(h, h)]

        with _train.seeded(self.seed, device):
            network = self._network(_widths(batch), *y.shape).to(device)
            log = self._prepare(network, x, floats(y[seen]), rng)
            log |= _train.learn(network, step, ranked, y, schedule, self.validation, rng)
        log["weights"] = sum(p.numel() for p in network.parameters())
        h = _train.in_blocks(lambda chosen: codes(seen[chosen]), len(seen), self.n_bits)
        log |= _train.diagnose(h, y[seen], log["losses"]) | self._diagnose(network, x.sampled(), floats(masks[seen]))
        return {_SIZES: np.array(y.shape), **state, **_train.weights_of(network)}, log

    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        return self._values(state, batch, lambda network: network, self.n_bits, device)

    def _values(
        self,
        state: State,
        batch: Batch,
        part: Callable[[Any], Callable[[Tensor, Tensor], Tensor]],
        width: int,
        device: str,
    ) -> NDArray[np.float32]:
        """What a part of the trained network makes of scaled rows and their masks, (n, width)."""
        from bitfuse.hashers import _train  # isort: skip
        import torch

        n, c = (int(size) for size in state[_SIZES])
        weights = {name: array for name, array in state.items() if name != _SIZES and not name.startswith("mean.")}
        answer = part(_train.with_weights(lambda: self._network(_widths(batch), n, c), weights, device))
        present = np.stack(list(batch.masks.values()), axis=1).astype(np.float32)

        def values(chosen: NDArray[np.intp]) -> Tensor:
            x = torch.from_numpy(side_by_side(state, batch.take(chosen), self.scaling))
            return answer(x.to(device), torch.from_numpy(present[chosen]).to(device))

        return _train.in_blocks(values, len(batch), width)


def keep_views(masks: NDArray[np.bool_], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Masks in which about `share` of the rows with several views keep a random part of them, at least one."""
    keys = np.where(masks, rng.random(masks.shape), 2.0)  # absent views come last
    rank = keys.argsort(axis=1).argsort(axis=1)
    present = masks.sum(axis=1)
    fewer = 1 + np.floor(rng.random(len(masks)) * (present - 1)).astype(int)  # 1 to present - 1
    dropped = (rng.random(len(masks)) < share) & (present > 1)
    kept: NDArray[np.bool_] = masks & (rank < np.where(dropped, fewer, present)[:, None])
    return kept


def _widths(batch: Batch) -> dict[str, int]:
    return {name: x.shape[1] for name, x in batch.arrays.items()}
