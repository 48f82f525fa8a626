"""What is worked out for the hits of a query: how near their stored views are, and why they were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import InputError
from bitfuse.search.encoder import Encoder, ViewRows, check_weights
from bitfuse.search.query import Query
from bitfuse.search.resident import Slots
from bitfuse.search.session import Session


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def scores(
    session: Session, encoder: Encoder, query: ViewRows, weights: Mapping[str, float] | None, rows: list[int]
) -> NDArray[np.float64]:
    """How near the stored views of candidates are to the query's: a weighted mean of cosines, greater is nearer.

    A view of the query is compared with the same view of an item, and with every view of it where the backbone has one
    space for all. Cosines of each pair of views are centred on their mean over the candidates, because texts lie
    further from pictures than from texts; a view that an item lacks counts as average.
    """
    tables = session.view_tables()
    if not tables:
        raise InputError("rerank needs the stored views, and this collection was made without them (store_views=False)")
    if not query:
        raise InputError("rerank compares stored views with the query's, and the item given as like= has none")
    pairs = [(q, v) for q in query for v in tables if q == v]
    if any(q not in tables for q in query) or len(query) < len(tables):
        pairs = [(q, v) for q in query for v in tables if q == v or encoder.aligned]
    stored = session.stored_views(rows)
    weight_of = dict.fromkeys(query, 1.0) if weights is None else check_weights(weights, query, encoder.widths)
    total, weight_sum = np.zeros(len(rows)), 0.0
    for q, v in pairs:
        weight = weight_of[q]
        present = np.array([v in stored[row] for row in rows], bool)
        if weight and present.any():
            candidates = np.stack([stored[row][v] for row, here in zip(rows, present) if here])
            cosines = (_unit(candidates) @ _unit(query[q])).astype(np.float64)
            total[present] += weight * (cosines - cosines.mean())
            weight_sum += weight
    return total / (weight_sum or 1.0)


def explanations(
    session: Session, encoder: Encoder, query: Query, rows: ViewRows, code: Codes, slots: Slots
) -> list[dict[str, Any]]:
    """For each hit: both codes (hexadecimal), the bits in which they differ, each view's own distance, the filter."""
    found = Codes(session.mirror.codes.packed(slots), encoder.n_bits)
    single: dict[str, NDArray[np.int32]] = {}
    for name, row in rows.items() if query.like is None else ():
        space = "fused" if encoder.fused else name
        if space in encoder.hasher.spaces and encoder.lacking({name: row}) is None:
            single[name] = encoder.hasher.encode({name: row[None]}, space).hamming(found)[0]
    common: dict[str, Any] = {"by": "code" if query.code is not None else "item" if query.like else "views"}
    if rows and query.like is None:
        common["views"] = list(rows)
        common["novelty"] = encoder.novelty(rows)
    if query.weights is not None:
        common["weights"] = {name: float(query.weights.get(name, 0.0)) for name in rows}
    if query.where is not None:
        common["filter"] = session.mirror.plan(query.where)
    if query.asymmetric:
        common["asymmetric"] = True
    made = []
    asked, bits, theirs = code.packed[0], code.bits()[0], found.bits()
    for i in range(len(slots)):
        differ = bits != theirs[i]
        reason = {**common, "bits": encoder.n_bits, "differing_bits": np.flatnonzero(differ).tolist()}
        reason["query_code"], reason["code"] = (each.tobytes().hex() for each in (asked, found.packed[i]))
        if single:
            reason["distance_by_view"] = {name: int(d[i]) for name, d in single.items()}
            reason["answered"] = min(single, key=lambda name: single[name][i])
        made.append(reason)
    return made
