"""Images and texts through a backbone: in batches, overlapped with decoding, cached, and never ended by a bad row."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Samples
from bitfuse.errors import InputError
from bitfuse.features.base import Backbone
from bitfuse.features.images import DECODING, header_pixels, open_image, read_bytes
from bitfuse.pipeline.cache import FeatureCache, cache_dir

__all__ = ["Extracted", "cache_dir", "extract", "stream"]

ROWS = 128
"""Rows of a batch where none is asked for; the backbone divides them further as its device wants."""

_PIXELS = 1 << 27
"""Decoded pixels (3 bytes each) held at once: batches of large photographs become shorter."""

_READ_AHEAD = 16
_THREADS = min(8, os.cpu_count() or 2)


@dataclass
class Extracted:
    """Features of consecutive rows.

    Attributes:
        start: number of the first row.
        views: name -> (m, d) float32; a row wholly NaN lacks that view.
        failures: (row number, view, reason) of inputs that gave no features.
    """

    start: int
    views: dict[str, NDArray[np.float32]]
    failures: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass
class _Input:
    """One input of one view on its way: its key, then what the backbone is to encode, or why it cannot be."""

    row: int
    view: str
    name: str | None = None
    key: bytes = b""
    data: bytes = b""
    pixels: int = 0
    decoded: Future[Any] | str | None = None
    reason: str = ""


def extract(
    samples: Samples,
    backbone: Backbone,
    *,
    cache: bool | str | Path | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> tuple[Samples, list[tuple[str, str]]]:
    """Fill `views` and `sources` of samples with the backbone's features of their images and texts.

    A bad image never ends the run and never goes unreported: a row that has another view keeps it (the image view is
    NaN there), a row without any is left out. An empty text is a missing view. Views that the samples already have
    are kept as they are. Beyond the features themselves, memory is bounded by the batch.

    Args:
        samples: with images, texts or both.
        backbone: what encodes them.
        cache: where features are kept by content, so that a second run, or a run after a kill, encodes only what is
            new; True is `cache_dir()`, None or False keeps nothing.
        batch_size: rows at a time; None leaves it to the backbone.
        progress: whether to show a bar on standard error.

    Returns:
        The samples with features, in order, and (id, reason) of every row with an input that could not be used.

    Raises:
        InputError: the samples hold nothing that this backbone encodes, or no row could be used.
    """
    inputs = _inputs(samples, backbone)
    n = len(samples)
    views = {v: np.full((n, backbone.width(v)), np.nan, np.float32) for v in inputs}
    failures: list[tuple[int, str, str]] = []
    items = ({v: values[i] for v, values in inputs.items()} for i in range(n))
    usable = np.zeros(n, bool)
    for known in samples.views.values():
        usable |= ~np.isnan(known).all(axis=1)
    filled_views = set(samples.views)
    for part in _shown(stream(items, backbone, tuple(inputs), cache=cache, batch_size=batch_size), n, progress):
        for view, rows in part.views.items():
            here = slice(part.start, part.start + len(rows))
            present = ~np.isnan(rows).all(axis=1)
            views[view][here] = rows
            usable[here] |= present
            filled_views |= {view} if present.any() else set()
        failures += part.failures
    skipped = _report(samples, usable, failures)
    if not usable.any():
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise InputError(f"none of {n} rows could be used; the first: {shown}")
    views = {**samples.views, **{v: x for v, x in views.items() if v in filled_views}}
    sources = {**samples.sources, **{v: dict(backbone.describe(v)) for v in inputs if v in filled_views}}
    filled = replace(samples, views=views, sources=sources)
    return (filled if usable.all() else filled.take(usable)), skipped


def stream(
    items: Iterable[Mapping[str, Any]],
    backbone: Backbone,
    views: Sequence[str],
    *,
    cache: bool | str | Path | None = None,
    batch_size: int | None = None,
) -> Iterator[Extracted]:
    """Features of items in order, batch by batch; `items` may be endless.

    Args:
        items: view name -> input: for `"image"` a path or the bytes of a file, for others a string; None is missing.
        backbone: what encodes them.
        views: the views to encode.
        cache: as for `extract`.
        batch_size: as for `extract`.

    Yields:
        Consecutive rows with their features; the next ones are read and decoded meanwhile.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    folder = cache_dir() if cache is True else Path(cache) if cache else None
    kept = {v: FeatureCache(folder, _facts(backbone, v), backbone.width(v)) for v in views} if folder else {}
    try:
        for start, batch in _batches(items, views, kept, batch_size or ROWS):
            yield _encode(start, batch, backbone, views, kept, batch_size)
    finally:
        for store in kept.values():
            store.flush()


def _inputs(samples: Samples, backbone: Backbone) -> dict[str, Sequence[Any]]:
    present: dict[str, Sequence[Any] | None] = {"image": samples.images, "text": samples.texts}
    inputs = {
        view: values
        for view, values in present.items()
        if values is not None and view in backbone.views and view not in samples.views
    }
    if not inputs and not samples.views:
        has = [view for view, values in present.items() if values is not None] or ["nothing"]
        raise InputError(f"backbone {backbone.name!r} encodes {backbone.views}, the samples have {', '.join(has)}")
    return inputs


def _facts(backbone: Backbone, view: str) -> dict[str, Any]:
    return {**backbone.describe(view), "view": view, **({"decoding": DECODING} if view == "image" else {})}


def _batches(
    items: Iterable[Mapping[str, Any]], views: Sequence[str], kept: Mapping[str, FeatureCache], size: int
) -> Iterator[tuple[int, list[list[_Input]]]]:
    """Rows with their inputs being decoded, in order. A batch is given out while the next one is in the pool."""
    waiting: deque[list[_Input]] = deque()
    start = pixels = 0
    rows = ([(i, view, item.get(view)) for view in views] for i, item in enumerate(items))
    with ThreadPoolExecutor(_THREADS, "bitfuse-decode") as pool:
        for row in _read_ahead(rows):
            for one in row:
                if one.reason or (one.view in kept and kept[one.view].get(one.key) is not None):
                    one.pixels = 0
                else:
                    image = one.view == "image"
                    one.decoded = pool.submit(open_image, one.data, name=one.name) if image else one.data.decode()
                    pixels += one.pixels
                one.data = b""
            waiting.append(row)
            while len(waiting) >= 2 * size or (pixels > _PIXELS and len(waiting) > 1):
                batch = [waiting.popleft() for _ in range(min(size, (len(waiting) + 1) // 2))]
                pixels -= sum(one.pixels for given in batch for one in given)
                yield start, batch
                start += len(batch)
        while waiting:
            batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            yield start, batch
            start += len(batch)


def _read_ahead(rows: Iterable[list[tuple[int, str, Any]]]) -> Iterator[list[_Input]]:
    """Read and hash a few rows ahead, in order; apart from the decoders, or reading would wait behind them."""
    running: deque[Future[list[_Input]]] = deque()
    with ThreadPoolExecutor(_THREADS, "bitfuse-read") as pool:
        for row in rows:
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
            one.name = value.name if isinstance(value, Path) else None
            one.data = read_bytes(value)
            one.pixels = header_pixels(one.data)
        else:
            one.data = value.encode()
    except (InputError, UnicodeEncodeError) as error:
        one.reason = str(error)
    one.key = hashlib.sha256(one.data).digest()
    return one


def _encode(
    start: int, batch: list[list[_Input]], backbone: Backbone, views: Sequence[str], kept: Mapping[str, FeatureCache],
    batch_size: int | None,
) -> Extracted:  # fmt: skip
    out = Extracted(start, {v: np.full((len(batch), backbone.width(v)), np.nan, np.float32) for v in views})
    for view in views:
        new: dict[bytes, Any] = {}  # equal inputs of a batch are encoded once
        found: dict[bytes, NDArray[np.float32]] = {}
        inputs = [one for row in batch for one in row if one.view == view]
        for one in inputs:
            if not one.reason and view in kept and (row := kept[view].get(one.key)) is not None:
                found[one.key] = row  # by now perhaps from an earlier batch
            elif isinstance(one.decoded, Future):
                try:
                    new[one.key] = one.decoded.result()
                except InputError as error:
                    one.reason = str(error)
            elif one.decoded is not None:
                new[one.key] = one.decoded
            one.decoded = None
        if new:
            rows = np.asarray(backbone.encode(view, list(new.values()), batch_size=batch_size), np.float32)
            for key, row in zip(new, rows, strict=True):
                if np.isfinite(row).all():
                    found[key] = row
                    if view in kept:
                        kept[view].put(key, row)
        for one in inputs:
            if one.key in found and not one.reason:
                out.views[view][one.row - start] = found[one.key]
            else:
                reason = one.reason or "the backbone gave NaN or infinite values"
                out.failures.append((one.row, view, reason))
    return out


def _report(samples: Samples, usable: NDArray[np.bool_], failures: list[tuple[int, str, str]]) -> list[tuple[str, str]]:
    reasons: dict[int, list[str]] = {}
    for row, view, reason in failures:
        reasons.setdefault(row, []).append(f"{view}: {reason}")
    for row in np.flatnonzero(~usable).tolist():
        reasons.setdefault(row, ["no image and no text"])
    return [
        (samples.ids[row], f"{'; '.join(said)} ({'kept with its other views' if usable[row] else 'left out'})")
        for row, said in sorted(reasons.items())
    ]


def _shown(parts: Iterable[Extracted], total: int, progress: bool) -> Iterator[Extracted]:
    if not progress:
        yield from parts
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("features"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("features", total=total)
        for part in parts:
            yield part
            bar.advance(task, len(next(iter(part.views.values()))))
