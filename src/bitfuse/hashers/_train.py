"""The one training loop of the deep methods, and what belongs to it. Needs torch; imported inside their hooks.

Nothing global is touched: weights are drawn inside a fork of torch's random state, batches from a generator of their
own, and the number of threads stays what it was.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import ConvergenceWarning, InputError, MissingDependency
from bitfuse.hashers._views import Batch, StoredBatch

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingDependency("torch", "clip", "a deep hashing method") from error

from bitfuse.hashers import _parallel

Rows = NDArray[np.intp]
Network = TypeVar("Network", bound=nn.Module)

BLOCK = 1024  # rows that go through a network at once: a transformer's tokens of more leave the cache and cost twice
_LEAST_HELD = 24  # fewer held-out rows say nothing about the best epoch
_MOST_JUDGES, _MOST_FOUND = 256, 2048  # held-out rows, and rows they are ranked against, after each epoch


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Torch's random state set from `seed` inside the block and put back after it."""
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        epochs: passes over the training rows, at most.
        batch_size: rows a step, about: batches of one epoch differ by at most one row, none is dropped.
        learning_rate: of Adam.
        patience: epochs without a better validation score before training stops; the best weights are restored.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate!r}")


class Inputs:
    """The training rows as a network reads them: `x[rows]` is a tensor on the device, (m, d).

    Of a batch in memory all rows are made once; of one on disk, those asked for, each time.

    Args:
        batch: the training rows.
        make: what turns a batch into the (m, d) rows that the network reads, row by row.
        device: where to.
    """

    def __init__(self, batch: Batch, make: Callable[[Batch], NDArray[np.float32]], device: str) -> None:
        self.batch, self.device = batch, device
        self._make = make
        self._whole = None if isinstance(batch, StoredBatch) else torch.from_numpy(make(batch)).to(device)

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, rows: Rows) -> Tensor:
        if self._whole is not None:
            return self._whole[rows]
        return torch.from_numpy(self._make(self.batch.take(rows))).to(self.device)

    def sampled(self) -> Tensor:
        """The rows that stand for all where all cannot be looked at once."""
        return self[self.batch.sample] if self._whole is None else self._whole


def hold_out(n: int, share: float, least: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Row numbers to train on and to validate on; none are held out where they would be fewer than `least`."""
    if not 0 <= share < 1:
        raise InputError(f"the share of rows to validate on must be in [0, 1), got {share!r}")
    order = rng.permutation(n)
    held = round(share * n)
    held = held if held >= least else 0
    return order[held:], order[:held]


def train(
    network: nn.Module,
    loss: Callable[[Rows], Tensor],
    rows: Rows,
    schedule: Schedule,
    rng: np.random.Generator,
    validate: Callable[[], float] | None = None,
    *,
    optimiser: torch.optim.Optimizer | None = None,
) -> dict[str, Any]:
    """Minimise `loss` over batches of `rows`, in place; among several processes (`_parallel`), each its part of them.

    Args:
        network: its parameters are trained and, with `validate`, set back to those of its best epoch.
        loss: row numbers of one batch -> scalar.
        rows: the training rows' numbers.
        schedule: epochs, batch size, step size, patience.
        rng: draws the batches.
        validate: a value after each epoch, the lower the better; called in evaluation mode without gradients.
        optimiser: None is Adam over all of the network's parameters.

    Returns:
        `epochs` run, `best_epoch` (the last without `validate`), `losses` and `validation` by epoch.
    """
    group = _parallel.current()
    if optimiser is None:
        optimiser = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate, fused=True)
    batches = max(1, round(len(rows) / schedule.batch_size))
    if group is not None:
        if len(rows) // batches < 2 * group.size:
            raise InputError(
                f"batches of {len(rows) // batches} rows are too small for {group.size} processes, each of which takes "
                "its part; use a larger batch_size or fewer processes"
            )
        rows = group.same(rows)
        group.part_ways(rng)
    losses: list[float] = []
    validation: list[float] = []
    best, best_epoch, best_weights = math.inf, -1, {}
    for epoch in range(schedule.epochs):
        network.train()
        total = 0.0
        order = rng.permutation(rows)
        for chosen in np.array_split(order if group is None else group.same(order), batches):
            part = chosen if group is None else group.part(chosen)
            value = loss(part)
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            mean = None if group is None else group.mean(network, value, len(part), len(chosen))
            optimiser.step()
            total += (value.item() if mean is None else mean) * len(chosen)
        losses.append(total / len(rows))
        if not math.isfinite(total):
            raise InputError(f"the training loss became {total} in epoch {epoch + 1}; use a smaller learning_rate")
        if group is not None:
            group.settle(network)
        if validate is None:
            continue
        network.eval()
        with torch.no_grad():
            found = validate() if group is None or group.rank == 0 else 0.0
        validation.append(found if group is None else float(group.same(np.array([found]))[0]))
        if validation[-1] < best:
            best, best_epoch = validation[-1], epoch
            best_weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        elif epoch - best_epoch >= schedule.patience:
            break
    if best_weights:
        network.load_state_dict(best_weights)
    network.eval()
    kept = best_epoch if best_weights else len(losses) - 1
    return {"epochs": len(losses), "best_epoch": kept + 1, "losses": losses, "validation": validation}


def learn(
    network: nn.Module,
    loss: Callable[[Rows], Tensor],
    ranked: Callable[[Rows], list[tuple[Tensor, Tensor]]],
    labels: NDArray[np.bool_],
    schedule: Schedule,
    share: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Train on most rows and keep the epoch that ranks the held-out rows best.

    Args:
        network, loss, schedule, rng: as for `train`.
        ranked: row numbers -> relaxed codes as queries and as gallery, (m, k) each; several pairs are averaged.
        labels: (n, c).
        share: of the rows that are held out; 0 trains to the end.

    Returns:
        The log of `train`, and `held_out`, the number of rows.
    """
    rows, held = hold_out(len(labels), share, _LEAST_HELD, rng)
    judges, found = held[:_MOST_JUDGES], rows[:_MOST_FOUND]

    def validate() -> float:
        shared = torch.from_numpy(labels[judges].astype(np.float32) @ labels[found].T.astype(np.float32))
        pairs = [(q[0], g[1]) for q, g in zip(ranked(judges), ranked(found))]
        return sum(misranking(query, gallery, (shared > 0).to(query.device)) for query, gallery in pairs) / len(pairs)

    return train(network, loss, rows, schedule, rng, validate if len(held) else None) | {"held_out": len(held)}


def misranking(query: Tensor, gallery: Tensor, relevant: Tensor) -> float:
    """1 - mean average precision of relaxed codes, by inner product: what the best epoch is chosen by.

    A metric loss on held-out rows rises as soon as the network grows sure of itself, long before it ranks worse.

    Args:
        query, gallery: (q, k) and (n, k).
        relevant: (q, n) bool; queries with nothing relevant are left out.
    """
    hits = relevant.gather(1, (query @ gallery.T).argsort(dim=1, descending=True)).float()
    hits = hits[hits.any(dim=1)]
    if not len(hits):
        return 1.0
    precision = hits.cumsum(dim=1) / torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return 1 - float(((precision * hits).sum(dim=1) / hits.sum(dim=1)).mean())


def in_blocks(values: Callable[[Rows], Tensor], n: int, k: int) -> NDArray[np.float32]:
    """The values of rows 0 to n - 1, block by block, without gradients: row numbers -> (m, k); (n, k) in all."""
    out = np.empty((n, k), np.float32)
    with torch.no_grad():
        for i in range(0, n, BLOCK):
            out[i : i + BLOCK] = values(np.arange(i, min(i + BLOCK, n))).cpu().numpy()
    return out


def diagnose(h: NDArray[np.float32], labels: NDArray[np.bool_], losses: list[float]) -> dict[str, int]:
    """What the codes of the training rows are worth, with a `ConvergenceWarning` for each bad sign; called by `_fit`.

    Args:
        h: (n, k) values before the sign.
        labels: (n, c).
        losses: by epoch.
    """
    bits = Codes.from_real(h).bits()
    share = bits.mean(axis=0)
    distinct, dead = len(np.unique(bits, axis=0)), int(((share == 0) | (share == 1)).sum())
    wanted = min(int(labels.any(axis=0).sum()), len(h))
    bad = []
    if distinct < wanted:
        bad.append(f"the training rows have {distinct} distinct codes for {wanted} labels; use more bits")
    if dead:
        bad.append(f"{dead} of {bits.shape[1]} bits are the same in all training rows; train longer")
    if not losses[-1] < losses[0]:
        bad.append(f"the training loss did not fall ({losses[0]:.3g} to {losses[-1]:.3g}); change learning_rate")
    for message in bad:
        warnings.warn(message, ConvergenceWarning, stacklevel=4)
    return {"distinct_codes": distinct, "dead_bits": dead}


def weights_of(network: nn.Module) -> dict[str, NDArray[Any]]:
    """The network's named arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def with_weights(build: Callable[[], Network], state: Mapping[str, NDArray[Any]], device: str) -> Network:
    """The network that `build` makes, with these named arrays, in evaluation mode, on the device."""
    with torch.device("meta"):  # no weights are drawn that these would replace
        network = build()
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    network.load_state_dict(arrays, assign=True)
    return network.to(device).eval()
