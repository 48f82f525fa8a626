"""The one pipeline: read, decode, prepare, forward. While the model works on a batch, the next one is made ready.

On a GPU, one thread runs the model and others make its inputs ready. On several cores of a CPU, every thread takes
chunks all the way, each on its share of the cores: a model shared by two threads computes more than one that divides
every small product among them and waits at its end.

`extract` fills samples by it, `bitfuse.pipeline.shards` writes codes by it, and so does every actor of a cluster.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.features.base import Backbone, Staged
from bitfuse.features.images import DECODING, header_pixels, open_image, read_bytes
from bitfuse.pipeline.cache import FeatureCache, cache_dir
from bitfuse.pipeline.workers import THREADS, Workers

ROWS = 256
"""Rows of a batch where none is asked for; the backbone divides them further as its device wants."""

PIXELS = 1 << 27
"""Decoded pixels (3 bytes each) held at once: batches of large photographs become shorter."""

BYTES = 1 << 28
"""Bytes of undecoded inputs held at once, likewise."""

_READ_AHEAD = 16
_DECODED_TOGETHER = 16

Row = NDArray[np.float32]


class Fetched(Protocol):
    """An input that lies elsewhere, such as in object storage."""

    name: str

    def fetch(self) -> bytes:
        """The bytes; raises `InputError`."""
        ...


@dataclass
class Extracted:
    """Features of consecutive rows.

    Attributes:
        start: number of the first row.
        views: name -> (m, d) float32; a row wholly NaN lacks that view.
        failures: (row number, view, reason) of inputs that gave no features.
    """

    start: int
    views: dict[str, Row]
    failures: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(eq=False)
class _Input:
    """One input of one view on its way: what was read of it, then its features, or why there are none."""

    row: int
    view: str
    name: str | None = None
    key: bytes = b""
    data: bytes = b""
    pixels: int = 0
    same: _Input | None = None  # an equal input before it, whose features it takes
    found: Row | None = None
    reason: str = ""


@dataclass
class _Batch:
    start: int
    rows: list[list[_Input]]
    chunks: list[tuple[str, list[Future[tuple[list[_Input], Any]]]]] = field(default_factory=list)
    """View, and its inputs being made ready; each chunk is one call of the backbone."""


def stream(
    items: Iterable[Mapping[str, Any]],
    backbone: Backbone,
    views: Sequence[str],
    *,
    cache: bool | str | Path | None = None,
    batch_size: int | None = None,
    every: int | None = None,
) -> Iterator[Extracted]:
    """Features of items in order, batch by batch; `items` may be endless.

    Without a cache, how the rows of a stretch of `every` are divided into batches depends on these rows alone, so that
    their features are the same to the last bit wherever the stream began.

    Args:
        items: view name -> input: for `"image"` a path, the bytes of a file or a `Fetched`, for others a string; None
            is missing.
        backbone: what encodes them.
        views: the views to encode.
        cache: as for `extract`.
        batch_size: as for `extract`.
        every: no batch spans a multiple of so many rows.

    Yields:
        Consecutive rows with their features; the next ones are read, decoded and prepared meanwhile.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    folder = cache_dir() if cache is True else Path(cache) if cache else None
    kept = {v: FeatureCache(folder, _facts(backbone, v), backbone.width(v)) for v in views} if folder else {}
    underway: dict[tuple[str, bytes], _Input] = {}
    workers = Workers(backbone)
    waiting: deque[_Batch] = deque()
    try:
        for batch in _batches(items, views, batch_size or ROWS, every):
            _start(batch, workers, kept, underway, batch_size)
            waiting.append(batch)
            if len(waiting) > 1:
                yield _finish(waiting.popleft(), workers, views, kept, underway, batch_size)
        while waiting:
            yield _finish(waiting.popleft(), workers, views, kept, underway, batch_size)
    finally:
        workers.close()
        for store in kept.values():
            store.flush()


def _facts(backbone: Backbone, view: str) -> dict[str, Any]:
    return {**backbone.describe(view), "view": view, **({"decoding": DECODING} if view == "image" else {})}


def _batches(
    items: Iterable[Mapping[str, Any]], views: Sequence[str], size: int, every: int | None
) -> Iterator[_Batch]:
    """Rows that were read, in batches that hold little enough for two of them to be in memory."""
    batch, pixels, n_bytes = _Batch(0, []), 0, 0
    given = ([(i, view, item.get(view)) for view in views] for i, item in enumerate(items))
    for number, row in enumerate(_read_ahead(given)):
        more, longer = sum(one.pixels for one in row), sum(len(one.data) for one in row)
        full = len(batch.rows) >= size or pixels + more > PIXELS // 2 or n_bytes + longer > BYTES // 2
        if batch.rows and (full or (every is not None and number % every == 0)):
            yield batch
            batch, pixels, n_bytes = _Batch(number, []), 0, 0
        batch.rows.append(row)
        pixels, n_bytes = pixels + more, n_bytes + longer
    if batch.rows:
        yield batch


def _read_ahead(rows: Iterable[list[tuple[int, str, Any]]]) -> Iterator[list[_Input]]:
    """Read and hash a few rows ahead, in order; apart from the decoders, or reading would wait behind them.

    What is in memory already, such as members of a tar, is not handed around: that would cost more than hashing it.
    """
    running: deque[Future[list[_Input]]] = deque()
    with ThreadPoolExecutor(THREADS, "bitfuse-read") as pool:
        for row in rows:
            if not running and all(value is None or isinstance(value, bytes | str) for _, _, value in row):
                yield _read(row)
                continue
            running.append(pool.submit(_read, row))
            if len(running) >= _READ_AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _read(row: list[tuple[int, str, Any]]) -> list[_Input]:
    return [_read_one(*one) for one in row if one[2] is not None and (one[1] == "image" or one[2].strip())]


def _read_one(row: int, view: str, value: Any) -> _Input:
    one = _Input(row, view)
    try:
        if view == "image":
            one.name = None if isinstance(value, bytes) else value.name
            one.data = read_bytes(value) if isinstance(value, bytes | Path) else read_bytes(value.fetch())
            one.pixels = header_pixels(one.data)
        else:
            one.data = value.encode()
    except (InputError, UnicodeEncodeError) as error:
        one.reason = str(error)
    one.key = hashlib.sha256(one.data).digest()
    return one


def _start(
    batch: _Batch, workers: Workers, kept: Mapping[str, FeatureCache],
    underway: dict[tuple[str, bytes], _Input], batch_size: int | None,
) -> None:  # fmt: skip
    """Hand what must be encoded to the threads, cut into chunks; equal inputs once."""
    known: dict[tuple[str, bytes], _Input] = {}
    fresh: dict[str, list[_Input]] = {}
    for one in (one for row in batch.rows for one in row if not one.reason):
        mark = (one.view, one.key)
        store = kept.get(one.view)
        one.found = None if store is None else store.get(one.key)
        one.same = known.get(mark) or (None if store is None else underway.get(mark))
        if one.found is None and one.same is None:
            known[mark] = one
            fresh.setdefault(one.view, []).append(one)
        else:
            one.data = b""
    underway |= known if kept else {}
    backbone = workers.backbone
    staged = isinstance(backbone, Staged)
    for view, inputs in fresh.items():
        if view == "text":  # a chunk of texts is as slow as its longest one, so like lengths go together
            inputs.sort(key=lambda one: len(one.data))
        size = (batch_size or backbone.at_once(view)) if isinstance(backbone, Staged) else len(inputs)
        for chunk in _cut(inputs, size):
            parts = [chunk] if staged else _cut(chunk, _DECODED_TOGETHER)
            batch.chunks.append((view, [workers.submit(_make_ready, workers, view, part) for part in parts]))


def _cut(inputs: list[_Input], size: int) -> list[list[_Input]]:
    return [inputs[at : at + size] for at in range(0, len(inputs), size)]


def _make_ready(workers: Workers, view: str, inputs: list[_Input]) -> tuple[list[_Input], Any]:
    """What the backbone takes of these inputs, or their features already, and which inputs these are."""
    good, values = [], []
    for one in inputs:
        try:
            values.append(open_image(one.data, name=one.name) if view == "image" else one.data.decode())
            good.append(one)
        except InputError as error:
            one.reason = str(error)
        one.data = b""
    backbone = workers.backbone
    if not (values and isinstance(backbone, Staged)):
        return good, values
    ready = backbone.stage(view, values)
    return good, backbone.forward(view, ready) if workers.compute else ready


def _finish(
    batch: _Batch, workers: Workers, views: Sequence[str], kept: Mapping[str, FeatureCache],
    underway: dict[tuple[str, bytes], _Input], batch_size: int | None,
) -> Extracted:  # fmt: skip
    backbone = workers.backbone
    for view, parts in batch.chunks:
        ready = [part.result() for part in parts]
        inputs = [one for good, _ in ready for one in good]
        if not inputs:
            continue
        if workers.compute:
            rows = ready[0][1]
        elif isinstance(backbone, Staged):
            rows = backbone.forward(view, ready[0][1])
        else:
            values = [value for _, values in ready for value in values]
            rows = backbone.encode(view, values, batch_size=batch_size)
        for one, row in zip(inputs, np.asarray(rows, np.float32), strict=True):
            if not np.isfinite(row).all():
                one.reason = "the backbone gave NaN or infinite values"
                continue
            one.found = row
            if view in kept:
                kept[view].put(one.key, row)
    batch.chunks.clear()
    out = Extracted(batch.start, {v: np.full((len(batch.rows), backbone.width(v)), np.nan, np.float32) for v in views})
    for one in (one for row in batch.rows for one in row):
        source = one.same or one
        if source.found is not None:
            out.views[one.view][one.row - batch.start] = source.found
        else:
            out.failures.append((one.row, one.view, source.reason))
        if underway.get((one.view, one.key)) is one:
            del underway[one.view, one.key]
    return out
