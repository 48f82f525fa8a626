"""The threads of the pipeline, and how they share the cores with the model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from bitfuse.features.base import Backbone, Parallel

THREADS = min(8, os.cpu_count() or 2)

Made = TypeVar("Made")


class Workers:
    """Threads for one stream, begun by the first job.

    Args:
        backbone: what encodes.

    Attributes:
        backbone: likewise.
        compute: whether jobs are to compute features too, each thread on its share of the cores, beside preparing
            inputs; known inside a job and after the first.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.compute = backbone, False
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, job: Callable[..., Made], *given: Any) -> Future[Made]:
        """Run a job on one of the threads."""
        if self._pool is None:
            cores = self.backbone.cores() if isinstance(self.backbone, Parallel) else 1
            threads, self.compute = (min(THREADS, cores), True) if cores > 1 else (THREADS, False)
            self._pool = ThreadPoolExecutor(threads, "bitfuse-prepare")
            if self.compute:
                _share(self._pool, threads, cores)
        return self._pool.submit(job, *given)

    def close(self) -> None:
        """End the threads; jobs that were not begun are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _share(pool: ThreadPoolExecutor, threads: int, cores: int) -> None:
    """Let each thread of a pool compute on its share of the cores: torch keeps that number for every thread apart."""
    import torch

    met = threading.Barrier(threads)

    def settle() -> None:
        met.wait()  # so that each thread does it
        torch.get_num_threads()  # a thread that never asked would later take the common number again
        torch.set_num_threads(max(1, cores // threads))

    for settled in [pool.submit(settle) for _ in range(threads)]:
        settled.result()
    torch.set_num_threads(cores)  # the threads set the common number too, which those to come begin with
