"""Images and texts of samples through a backbone: cached, resumable, and never ended by a bad row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Samples
from bitfuse.errors import InputError
from bitfuse.features.base import Backbone
from bitfuse.pipeline.cache import cache_dir
from bitfuse.pipeline.flow import Extracted, stream

__all__ = ["Extracted", "cache_dir", "extract", "stream"]


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
