"""What a collection can say about itself: sizes, codes, speed, drift, near-duplicates."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import InputError
from bitfuse.index.scan import ScanIndex
from bitfuse.search import approximate
from bitfuse.search.mirror import CODE_FILE
from bitfuse.search.session import Session, model_directory
from bitfuse.search.stores.sqlite import FILE

_SAMPLE = 2000  # first and last items that are compared for drift
_LEAST = 200  # below which nothing is said about drift
_PROBES = 5
_QUERIES = 256


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(_size(inner) for inner in path.iterdir())
    return path.stat().st_size if path.exists() else 0


def _distinct(codes: Codes) -> tuple[Codes, NDArray[np.intp], NDArray[np.intp]]:
    """The distinct codes, the number of the code of every row, and how often each occurs."""
    void = np.ascontiguousarray(codes.packed).view(f"V{codes.packed.shape[1]}")[:, 0]
    _, first, number, times = np.unique(void, return_index=True, return_inverse=True, return_counts=True)
    return codes[first], number, times


def drift(codes: Codes) -> str | None:
    """Whether the newest items crowd into far fewer codes than the oldest; a sentence of advice, or None.

    Args:
        codes: of all items in the order in which they were added.
    """
    n = min(len(codes) // 2, _SAMPLE)
    if n < _LEAST:
        return None
    first, last = (len(_distinct(part)[2]) for part in (codes[:n], codes[len(codes) - n :]))
    if last >= first / 2:
        return None
    return (
        f"the newest {n} items share {last} distinct codes where the oldest {n} have {first}: the model does not tell "
        "new items apart; fit it again on recent data and re-encode"
    )


def stats(session: Session) -> dict[str, Any]:
    """See `Collection.stats`."""
    directory = session.directory
    with session.reading():
        meta, mirror, encoder = session.mirror.meta, session.mirror, session.encoder()
        codes = Codes(mirror.codes.packed(np.flatnonzero(mirror.codes.alive)), encoder.n_bits)
        tombstones = session.store.value("SELECT count(*) FROM tombstones")
        pending = session.store.value("SELECT count(*) FROM items WHERE seq > ?", (meta["code_seq"],))
        latency = _latency(session, codes) if len(codes) else None
    database = sum(_size(directory / f"{FILE}{end}") for end in ("", "-wal"))
    n, times = len(codes), _distinct(codes)[2]
    return {
        "items": n,
        "n_bits": encoder.n_bits,
        "method": encoder.method,
        "backbone": sorted({str(f.get("backbone", "arrays only")) for f in encoder.sources.values()}),
        "generation": meta["generation"],
        "filterable": meta["filterable"],
        "stored_views": list(meta["views"]),
        "bytes": {
            "database": database,
            "code_file": _size(directory / CODE_FILE),
            "model": _size(model_directory(directory, meta["generation"])),
        },
        "bytes_per_item": round(database / n, 1) if n else None,
        "code_bytes_per_item": -(-encoder.n_bits // 8),
        "distinct_codes": len(times),
        "distinct_share": round(len(times) / n, 4) if n else None,
        "largest_bucket": int(times.max(initial=0)),
        "buckets": _buckets(times),
        "latency_ms": latency,
        "code_file": "none; compact writes it" if mirror.rebuilt is None else mirror.rebuilt or "mapped",
        "not_compacted": pending + tombstones,
        "approximate": approximate.figures(session),
        "drift": drift(codes),
    }


def _buckets(times: NDArray[np.intp]) -> list[list[int]]:
    """[smallest size, number of distinct codes] of buckets of 1, 2 to 3, 4 to 7, ... items; empty ones left out."""
    powers, counts = np.unique(np.frexp(times)[1] - 1, return_counts=True)
    return [[1 << int(power), int(count)] for power, count in zip(powers, counts)]


def _latency(session: Session, codes: Codes) -> float:
    """Median time of a search for ten items among all, in milliseconds."""
    taken = []
    for i in np.linspace(0, len(codes) - 1, _PROBES + 1).astype(int):
        start = time.perf_counter()
        session.mirror.codes.search(codes[int(i)], 10, None, None)
        taken.append(1000 * (time.perf_counter() - start))
    return round(float(np.median(taken[1:])), 3)  # the first search may compile


def dedupe(session: Session, radius: int, where: str | None) -> list[list[str]]:
    """See `Collection.dedupe`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    with session.reading():
        codes, n_bits = session.mirror.codes, session.encoder().n_bits
        if isinstance(radius, bool) or not isinstance(radius, int | np.integer) or not 0 <= radius <= n_bits:
            raise InputError(f"radius must be an integer from 0 to {n_bits}, got {radius!r}")
        allowed = codes.alive if where is None else codes.alive & session.mirror.allowed(where).slots
        slots = np.flatnonzero(allowed)
        if not len(slots):
            return []
        distinct, number, _ = _distinct(Codes(codes.packed(slots), n_bits))
        component = np.arange(len(distinct))
        if radius:
            index = ScanIndex(n_bits)
            index.add(distinct)
            pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
            for start in range(0, len(distinct), _QUERIES):
                _, near = index.search(distinct[start : start + _QUERIES], radius=int(radius))
                query, column = np.nonzero(near >= 0)
                pairs.append((query + start, near[query, column]))
            a, b = (np.concatenate(side) for side in zip(*pairs))
            n = len(distinct)
            _, component = connected_components(
                coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n)), directed=False
            )
        group = component[number]
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        groups = [slots[part] for part in np.split(order, starts[1:]) if len(part) > 1]
        groups.sort(key=lambda part: int(part[0]))
        rows = session.rows_at(np.concatenate(groups)) if groups else []
        found = session.store.among("SELECT row, id FROM items WHERE row IN ({})", rows)
        names: dict[int, str] = dict(found)
        return [[names[row] for row in session.rows_at(part)] for part in groups]
