"""Encoding queries: those that come while a pass through the backbone runs share the next one; results are kept."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import BitfuseError, InputError
from bitfuse.serve.apart import Apart
from bitfuse.serve.metrics import Metrics
from bitfuse.serve.pending import Pending
from bitfuse.serve.problems import Problem

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone

Row = NDArray[np.float32]


class _Asked(NamedTuple):
    view: str
    given: Any
    answer: Pending[Row]


class Batcher:
    """One thread that runs one backbone.

    Args:
        backbone: encodes texts and RGB pictures.
        batch: inputs of one pass at most.
        kept: rows in the cache; a key is a hash, so that no query text stays in memory.
        metrics: measures batches, time and cache.
        apart: does the passes in place of the backbone; ended by `close`.
    """

    def __init__(
        self, backbone: Backbone, batch: int, kept: int, metrics: Metrics, apart: Apart | None = None
    ) -> None:  # fmt: skip
        self.backbone, self._batch, self._kept, self._metrics = backbone, batch, kept, metrics
        self._apart = apart
        self._rows_of = backbone.encode if apart is None else apart.encode
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._rows: OrderedDict[bytes, Row] = OrderedDict()
        self.ready = threading.Event()
        self.failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="bitfuse-encode", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread once what was asked before is answered."""
        self._asked.put(None)
        self._thread.join(timeout=10)
        if self._apart is not None:
            self._apart.close()

    def key(self, view: str, content: bytes) -> bytes:
        """The name of an input in the cache."""
        return hashlib.blake2b(content, digest_size=20, person=view.encode()[:16]).digest()

    def cached(self, key: bytes) -> Row | None:
        """The row of an input, if it is kept. To be called in the event loop."""
        row = self._rows.get(key)
        self._metrics.cache.labels("miss" if row is None else "hit").inc()
        if row is not None:
            self._rows.move_to_end(key)
        return row

    async def encode(self, view: str, given: Any, key: bytes | None) -> Row:
        """The row of one input, (d,) float32.

        Args:
            view: `"text"` or `"image"`.
            given: a text, or a decoded RGB picture.
            key: to keep it under; None for what is no query.
        """
        answer: Pending[Row] = Pending()
        self._asked.put(_Asked(view, given, answer))
        with self._metrics.stage("encode"):
            row = await answer
        if key is not None:
            self._rows[key] = row
            while len(self._rows) > self._kept:
                self._rows.popitem(last=False)
        return row

    def _run(self) -> None:
        try:
            if "text" in self.backbone.views:
                self._rows_of("text", ["a"])  # reads the weights
        except InputError:  # a backbone with a vocabulary of its own, and weights that are there
            pass
        except (BitfuseError, OSError) as error:
            self.failed = error
        self.ready.set()
        while (batch := self._next()) is not None:
            for view in dict.fromkeys(asked.view for asked in batch):
                self._encode(view, [asked for asked in batch if asked.view == view])

    def _next(self) -> list[_Asked] | None:
        first = self._asked.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < self._batch:
            try:
                more = self._asked.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._asked.put(None)
                break
            batch.append(more)
        return batch

    def _encode(self, view: str, batch: Sequence[_Asked]) -> None:
        self._metrics.batches.observe(len(batch))
        try:
            rows = list(self._rows_of(view, [asked.given for asked in batch]))
        except Exception as error:
            if len(batch) > 1:  # one bad input must not fail the others
                for asked in batch:
                    self._encode(view, [asked])
                return
            batch[0].answer.settle(error)
            return
        for asked, row in zip(batch, rows):
            asked.answer.settle(row)


def none_here(view: str) -> Problem:
    """The refusal where a collection cannot encode what it is given."""
    return Problem(
        "invalid",
        f"this collection cannot encode a {view}: its model was fitted on arrays, or its backbone is not on this "
        "machine; search by `like`, `code` or `views`",
    )
