"""Ablation (g): binary codes beside product quantisation, int8, truncation and float search, at equal bytes an item."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse import metrics
from bitfuse.bench import modes as asking
from bitfuse.bench.ablations._drawing import curves
from bitfuse.bench.ablations._findings import PROTOCOL, Findings, labels_of, setting, world
from bitfuse.bench.ablations._ways import CANDIDATES, NEIGHBOURS, Reals, flat, ways
from bitfuse.bench.histograms import relevance
from bitfuse.bench.sections import Section
from bitfuse.bench.tables import Table, number
from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import MissingDependency

SIZES = (8, 16, 32, 64, 128)
TIMED = 100_000
MAP, RECALL, SPEED = "mAP", "R@10 of the float neighbours", "queries/s"


def run(
    *,
    data: Dataset | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    sizes: tuple[int, ...] = SIZES,
    timed: int = TIMED,
) -> Section:
    """Keep the same items in the same number of bytes in several ways (extra `faiss`).

    Args:
        data: with features and labels; None is the shapes world. Rows that lack a view have zeros there.
        seeds: of the methods.
        quick: a trial on small data: one seed, 5 epochs, 8 and 16 bytes, 2,000 items for the clock.
        sizes: bytes an item.
        timed: items that the clock runs on: the gallery's rows, jittered.

    Raises:
        MissingDependency: FAISS is not installed.
    """
    faiss = _faiss()
    data = world(data, quick)
    if quick:
        seeds, sizes, timed = seeds[:1], (8, 16), 2000
    train, query, gallery = (
        _features(part, tuple(data.train.views)) for part in (data.train, data.query, data.gallery)
    )
    many = _jittered(gallery, timed)
    found, speed = Findings(), Findings()
    whole = f"{4 * train.shape[1]:,} bytes: float32"
    exact = query @ gallery.T
    nearest = np.argpartition(-exact, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for seed in seeds:
            for n in sizes:
                learned = None if seed != seeds[0] else {"epochs": 5} if quick else {}
                for name, way in ways(faiss, data, train, n, seed, learned).items():
                    row = f"{n} bytes: {name}"
                    found.add(row, _judged(way.scores(query, gallery), nearest, data))
                    if seed == seeds[0]:
                        speed.add(row, {SPEED: _speed(way.searcher(many), query)})
            found.add(whole, _judged(exact, nearest, data))
        speed.add(whole, {SPEED: _speed(flat(faiss, many), query)})
    finally:
        faiss.omp_set_num_threads(before)
    rows: list[tuple[str, ...]] = [
        (name, number(values[MAP]), number(values[RECALL]), f"{speed.mean(name, SPEED):,.0f}")
        for name, values in found.rows.items()
    ]
    table = Table(f"Equal bytes an item ({train.shape[1]} float columns)", ("kept as", MAP, RECALL, SPEED), rows)
    said = [_best(found, n) for n in sizes]
    varied = (
        "Varied: what stands for an item, at equal bytes. Features: all views at unit length, side by side. Truncation "
        "keeps the leading principal components of the training rows (as a matryoshka does, without having been "
        "trained for it): as float32, float16 or, scaled by column, int8. Product quantisation: one byte a part, "
        "256 centroids from the training rows, queries as floats. Codes: ITQ and LSH without labels, CLIPMH with "
        "labels (the first seed alone), Hamming distance. "
        f"'Rerank': the {CANDIDATES} nearest by ITQ's code are put in order by their floats, "
        f"which lie on disk: {4 * train.shape[1]:,} bytes more an item, outside the count. R@10: the 10 nearest by "
        f"float, found among the first 10. The clock: 10 nearest of {timed:,} jittered gallery rows, full scan, "
        "one thread, 100 queries at once, best of three, the encoding of the query left out; codes by ScanIndex, the "
        "rest by FAISS, float16 and int8 by its scalar quantiser."
    )
    text = "\n\n".join([varied, setting(data, seeds, "all else"), " ".join(said)])
    names = dict.fromkeys(row.partition(": ")[2] for row in found.rows if row != whole)
    lines = {}
    for name in names:
        at = [n for n in sizes if f"{n} bytes: {name}" in found.rows]
        lines[name] = ([float(n) for n in at], [found.mean(f"{n} bytes: {name}", RECALL) for n in at])
    figure = curves(lines, "bytes an item", RECALL, base=2)
    numbers = {"quality": found.numbers(), "speed": speed.numbers()}
    return Section("What are the bytes best spent on?", text, table, (figure,), numbers)


def _best(found: Findings, n: int) -> str:
    rows = [row for row in found.rows if row.startswith(f"{n} bytes: ")]
    labelled = f"{n} bytes: CLIPMH code"
    return f"{found.verdict(MAP, rows)} {found.verdict(RECALL, [r for r in rows if r != labelled])}"


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingDependency("faiss-cpu", "faiss", "the ablation of equal bytes") from error
    return faiss


def _features(samples: Samples, views: tuple[str, ...]) -> Reals:
    """All views at unit length side by side, at unit length: (n, d) float32."""
    return asking.unit(asking.reference(samples, np.arange(len(samples)), views, views))


def _jittered(gallery: Reals, n: int) -> Reals:
    rng = np.random.default_rng(0)
    rows = gallery[rng.integers(0, len(gallery), n)]
    spread = gallery.std(axis=0) / 2
    return asking.unit(rows + spread * rng.standard_normal(rows.shape, np.float32))


def _speed(search: Callable[[Reals], Any], query: Reals) -> float:
    """Queries a second, best of three, after one for warmth."""
    batch = np.ascontiguousarray(query[:100])
    search(batch)
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        search(batch)
        taken.append(time.perf_counter() - start)
    return len(batch) / min(taken)


def _judged(scores: NDArray[np.floating], nearest: NDArray[np.intp], data: Dataset) -> dict[str, float]:
    """mAP over the labels and recall of the float neighbours, both expected over ties."""
    relevant = relevance(labels_of(data.query), labels_of(data.gallery))
    wanted = np.zeros_like(relevant)
    np.put_along_axis(wanted, nearest, True, axis=1)
    ap, recall = [], []
    for values, yes, near in zip(scores, relevant, wanted):
        _, bucket = np.unique(-values, return_inverse=True)  # equal similarities are one bucket
        n, r, w = (
            np.bincount(bucket, weights=v, minlength=bucket.max() + 1)[None].astype(np.int64)
            for v in (np.ones(len(values)), yes, near)
        )
        ap.append(metrics.average_precision(n, r, PROTOCOL.k, PROTOCOL.divisor, "expectation")[0])
        recall.append(metrics.recall_at(n, w, NEIGHBOURS)[0])
    return {MAP: metrics.mean(np.array(ap), PROTOCOL.empty), RECALL: float(np.mean(recall))}
