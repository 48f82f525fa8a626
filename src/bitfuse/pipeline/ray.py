"""The shards of a plan on a Ray cluster: actors that hold the backbone, each shard made by one of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bitfuse.errors import InputError, MissingDependency

if TYPE_CHECKING:
    from bitfuse.pipeline.coder import Plan, Record


def coded(
    plan: Plan, missing: Sequence[int], *, actors: int | None = None, address: str | None = None, retries: int = -1,
    cores: float = 1.0,
) -> Iterator[Record]:  # fmt: skip
    """Make shards on a cluster, in any order. A shard that is lost with its node is made again on another.

    All nodes must see sources, model and output by the same paths, and have Bitfuse installed. Shards are the
    checkpoints: what an actor has renamed into place stays, whatever happens to the actor afterwards.

    Args:
        plan: what to make.
        missing: numbers of the shards.
        actors: how many hold the backbone; None is one for each `cores` of the cluster, at most one a shard.
        address: of the cluster, such as `"10.0.0.1:6379"`, or `"auto"`; None starts one on this machine and ends it.
        retries: how often an actor is started again and its shard tried again; -1 is without end, 0 is never.
        cores: of each actor; it computes with so many threads.

    Raises:
        MissingDependency: ray is not installed.
        InputError: bad arguments.
        RuntimeError: of Ray, where the retries do not suffice.
    """
    if actors is not None and actors < 1:
        raise InputError(f"actors must be at least 1, got {actors!r}")
    if cores <= 0 or retries < -1:
        raise InputError(f"cores must be above 0 and retries at least -1, got {cores!r} and {retries!r}")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingDependency("ray", "ray", "the engine 'ray'") from error

    with _cluster(address):
        resources: Any = ray.cluster_resources  # without types
        count = actors or max(1, int(resources().get("CPU", 1) // cores))
        data = ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))
        made = data.map_batches(
            Worker,
            fn_constructor_args=(plan, max(1, int(cores))),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(count, len(missing)), max_tasks_in_flight_per_actor=1),
            num_cpus=cores,
            max_restarts=retries,
            max_task_retries=retries,
        )
        for row in made.iter_rows():
            yield row["record"]


class Worker:
    """Holds the backbone and makes one shard a call.

    Args:
        plan: what to make.
        threads: to compute with.
    """

    def __init__(self, plan: Plan, threads: int) -> None:
        import torch

        from bitfuse.pipeline.coder import Coder

        torch.set_num_threads(threads)
        self.coder = Coder(plan)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """The records of the shards of a batch."""
        return {"record": [dict(record) for record in self.coder.code(batch["shard"].tolist())]}


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    import ray
    import ray.data

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False)
    bars = ray.data.DataContext.get_current().enable_progress_bars
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.data.DataContext.get_current().enable_progress_bars = bars
        if ours:
            ray.shutdown()
