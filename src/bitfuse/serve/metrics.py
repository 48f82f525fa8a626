"""What is measured, in the format of Prometheus. A registry of its own, so that two apps in one process do not mix."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The measures of one server.

    Attributes:
        requests: requests by route, method and status.
        seconds: time from the first byte to the answer, by route.
        stages: time by stage: `queue`, `decode`, `encode`, `search`, `write`, `thumbnail`.
        under_way, waiting: requests worked on and waiting, by lane (`search`, `write`).
        batches: queries that shared one pass through the backbone.
        cache: encoded queries looked up, by `hit` and `miss`.
        items, bits: number of items and code length, by collection.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.requests = Counter("bitfuse_requests", "Requests answered", ["route", "method", "status"], registry=here)
        self.seconds = Histogram(
            "bitfuse_request_seconds", "Time of a request", ["route"], buckets=_SECONDS, registry=here
        )
        self.stages = Histogram("bitfuse_stage_seconds", "Time of a stage", ["stage"], buckets=_SECONDS, registry=here)
        self.under_way = Gauge("bitfuse_under_way", "Requests being worked on", ["lane"], registry=here)
        self.waiting = Gauge("bitfuse_waiting", "Requests waiting for a place", ["lane"], registry=here)
        self.batches = Histogram("bitfuse_encode_batch", "Queries that shared a pass", buckets=_SIZES, registry=here)
        self.cache = Counter("bitfuse_query_cache", "Encoded queries looked up", ["outcome"], registry=here)
        self.items = Gauge("bitfuse_collection_items", "Items of a collection", ["collection"], registry=here)
        self.bits = Gauge("bitfuse_collection_bits", "Code length of a collection", ["collection"], registry=here)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside as one stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - start)

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self.registry)
