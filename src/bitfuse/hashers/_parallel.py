"""Several processes that train one network: each takes its part of every batch, and all take the mean of the gradients.

They begin with the same weights, since all draw them from the same seed, and stay equal, since all take the same steps.
What one process decides for all (the order of rows, when to stop) the first decides. Needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

Kind = TypeVar("Kind", bound=np.generic)

_current: Group | None = None


class Group:
    """The processes that train together.

    Args:
        rank: the number of this one, from 0.
        size: how many there are.
        device: where tensors that are exchanged lie.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    def part(self, batch: NDArray[Kind]) -> NDArray[Kind]:
        """This process's share of a batch; shares differ by at most one row."""
        share: NDArray[Kind] = np.array_split(batch, self.size)[self.rank]
        return share

    def same(self, values: NDArray[Kind]) -> NDArray[Kind]:
        """The first process's values, for all; every process gives an array of the same shape."""
        tensor = torch.from_numpy(values.copy()).to(self.device)
        dist.broadcast(tensor, 0)
        shared: NDArray[Kind] = tensor.cpu().numpy()
        return shared

    def mean(self, network: nn.Module, loss: Tensor, rows: int, of: int) -> float:
        """Set the gradients to their mean over all processes, each weighed by its rows; the mean of the losses."""
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), loss.detach().flatten().to(gradients[0].dtype)])
        flat *= rows / of
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, torch.split(flat, [*(g.numel() for g in gradients), 1])):
            gradient.copy_(part.view_as(gradient))
        return float(flat[-1])

    def settle(self, network: nn.Module) -> None:
        """Set running means, which each process keeps of its own rows, to their mean over the processes."""
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.size

    def gathered(self, rows: NDArray[np.intp], values: Tensor) -> tuple[NDArray[np.intp], Tensor]:
        """The row numbers and values (m, k) of all processes, whose parts of a batch differ by at most one row."""
        counts = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        most, each = int(counts.max()), [int(c) for c in counts]
        numbers = torch.zeros(most, dtype=torch.int64, device=self.device)
        numbers[: len(rows)] = torch.from_numpy(rows)
        padded = values.new_zeros((most, values.shape[1]))
        padded[: len(rows)] = values
        all_numbers = [torch.empty_like(numbers) for _ in each]
        all_values = [torch.empty_like(padded) for _ in each]
        dist.all_gather(all_numbers, numbers)
        dist.all_gather(all_values, padded)
        joint = torch.cat([n[:c] for n, c in zip(all_numbers, each)])
        return joint.cpu().numpy(), torch.cat([v[:c] for v, c in zip(all_values, each)])

    def part_ways(self, rng: np.random.Generator) -> None:
        """Let dropout and dropped views differ from one process to the next. Within a fork of torch's random state."""
        torch.manual_seed(torch.initial_seed() + self.rank)
        if isinstance(rng.bit_generator, np.random.PCG64):
            rng.bit_generator.advance(self.rank << 64)


def current() -> Group | None:
    """The processes that this one trains with; None where it is alone."""
    return _current


def remembered(rows: NDArray[np.intp], values: Tensor) -> tuple[NDArray[np.intp], Tensor]:
    """What a method keeps of a batch from step to step: in one process as given, in several that of all of them."""
    return (rows, values) if _current is None else _current.gathered(rows, values)


@contextmanager
def together(group: Group) -> Iterator[None]:
    """Train with these processes inside the block, in all of which `fit` is called alike."""
    global _current
    _current = group
    try:
        yield
    finally:
        _current = None
