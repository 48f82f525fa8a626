"""Searching a collection: by words, by a picture, by both, by an item or by a code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import DamagedFile, InputError
from bitfuse.search.encoder import Encoder, ViewRows
from bitfuse.search.resident import Allowed, Slots
from bitfuse.search.session import Session

OVERSAMPLE = 10
"""Hamming candidates that a reranking looks at, for each hit that is asked for."""


@dataclass(frozen=True)
class Hit:
    """One found item.

    Attributes:
        id: of the item.
        distance: Hamming distance, 0 to n_bits; a weighted mean of distances for several views of a cross-modal model.
        item: `{"id", "text", "image", **attributes}`.
        score: what the hits were reranked by, greater is nearer; None without reranking.
        explanation: with `explain=True`: what answered, which bits differ, how the filter was read.
    """

    id: str
    distance: float
    item: dict[str, Any]
    score: float | None = None
    explanation: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The hit as plain values, for JSON."""
        return {k: v for k, v in asdict(self).items() if v is not None}


@dataclass(frozen=True)
class Query:
    """What is asked for; see `Collection.search`."""

    text: str | None
    image: str | os.PathLike[str] | bytes | None
    views: Mapping[str, Any] | None
    like: str | None
    code: Codes | None
    weights: Mapping[str, float] | None
    k: int | None
    radius: int | None
    where: str | None
    rerank: bool
    explain: bool

    def check(self, n_bits: int) -> None:
        """Raise `InputError` for a query that asks for nothing, or for two things at once."""
        by_views = any(part is not None for part in (self.text, self.image, self.views))
        if by_views + (self.like is not None) + (self.code is not None) != 1:
            raise InputError(
                "search by text, image and views (alone or together), or by like=, the id of an item, or by code=; "
                "one of the three"
            )
        if self.k is None and self.radius is None:
            raise InputError("name k, how many hits, or radius, the largest distance, or both")
        for name, value, least in (("k", self.k, 1), ("radius", self.radius, 0)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 2**31
            ):
                raise InputError(f"{name} must be an integer from {least} on, got {value!r}")
        if self.code is not None and (
            not isinstance(self.code, Codes) or len(self.code) != 1 or self.code.n_bits != n_bits
        ):
            raise InputError(f"code must be one code of {n_bits} bits (bitfuse.Codes), got {self.code!r}")
        if self.weights is not None and not by_views:
            raise InputError("weights say how much each view of a query counts; give text, image or views with them")
        if self.rerank and self.code is not None:
            raise InputError("rerank compares stored views with the query's, and a code has none; search without it")


Coded = list[tuple[Codes, float]]


def search(session: Session, query: Query) -> list[Hit]:
    """The hits of a query, nearest first; ties in the order in which the items were first added."""
    while True:
        with session.reading():
            encoder = session.encoder()
            if query.where is not None:
                session.mirror.allowed(query.where)  # a bad filter is reported before the backbone is loaded
        query.check(encoder.n_bits)
        rows: ViewRows = {}
        if query.views is not None:
            rows |= encoder.check_rows(query.views)
        rows |= encoder.query_views(query.text, query.image)
        coded = encoder.query_codes(rows, query.weights) if rows else [] if query.code is None else [(query.code, 1.0)]
        with session.reading():
            if session.encoder() is encoder:  # otherwise the collection was re-encoded while the query was
                return _answer(session, encoder, query, rows, coded)


def _answer(session: Session, encoder: Encoder, query: Query, rows: ViewRows, coded: Coded) -> list[Hit]:
    codes, own = session.mirror.codes, None
    if query.like is not None:
        row = session.row_of(query.like)
        if row is None:
            raise InputError(f"like={query.like!r}: there is no item of this id")
        own = codes.slots_of(np.array([row]))
        coded = [(Codes(codes.packed(own), encoder.n_bits), 1.0)]
        rows = session.stored_views([row])[row] if query.rerank else {}
    allow = None if query.where is None else session.mirror.allowed(query.where)
    k = None if query.k is None else min(int(query.k), max(1, codes.n_slots))
    wanted = None if k is None else k * (OVERSAMPLE if query.rerank else 1) + (own is not None)
    distances, slots = _nearest(session, coded, wanted, query.radius, allow)
    if own is not None:
        others = slots != own[0]
        distances, slots = distances[others], slots[others]
    scores = None
    if query.rerank:
        scores = _scores(session, encoder, rows, query.weights, session.rows_at(slots))
        order = np.lexsort((slots, distances, -scores))
        distances, slots, scores = distances[order], slots[order], scores[order]
    distances, slots = distances[:k], slots[:k]
    numbers = session.rows_at(slots)
    items = session.items(numbers)
    if len(items) < len(numbers):
        raise DamagedFile(f"{session.store.path} has codes without items; run `bitfuse verify`")
    reasons = _explanations(session, encoder, query, rows, coded, slots) if query.explain else None
    whole = len(coded) == 1
    return [
        Hit(
            items[row]["id"],
            int(distances[i]) if whole else float(distances[i]),
            items[row],
            None if scores is None else float(scores[i]),
            None if reasons is None else reasons[i],
        )
        for i, row in enumerate(numbers)
    ]


def _nearest(
    session: Session, coded: Coded, k: int | None, radius: int | None, allow: Allowed | None
) -> tuple[NDArray[np.number[Any]], Slots]:
    codes = session.mirror.codes
    if len(coded) == 1:
        return codes.search(coded[0][0], k, radius, allow)
    among = np.flatnonzero(codes.alive if allow is None else codes.alive & allow.slots)
    packed = Codes(codes.packed(among), codes.n_bits)
    total = np.zeros(len(among))
    for code, weight in coded:
        total += weight * code.hamming(packed)[0]
    if radius is not None:
        among, total = among[total <= radius], total[total <= radius]
    order = np.argsort(total, kind="stable")[:k]
    return total[order], among[order]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def _scores(
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
    total, weight_sum = np.zeros(len(rows)), 0.0
    for q, v in pairs:
        weight = 1.0 if weights is None else float(weights.get(q, 0.0))
        present = np.array([v in stored[row] for row in rows], bool)
        if weight and present.any():
            candidates = np.stack([stored[row][v] for row, here in zip(rows, present) if here])
            cosines = (_unit(candidates) @ _unit(query[q])).astype(np.float64)
            total[present] += weight * (cosines - cosines.mean())
            weight_sum += weight
    return total / (weight_sum or 1.0)


def _explanations(
    session: Session, encoder: Encoder, query: Query, rows: ViewRows, coded: Coded, slots: Slots
) -> list[dict[str, Any]]:
    """For each hit: the bits in which it differs, each view's own distance where the model can tell, the filter."""
    found = Codes(session.mirror.codes.packed(slots), encoder.n_bits)
    single: dict[str, NDArray[np.int32]] = {}
    for name, row in rows.items() if query.like is None else ():
        space = "fused" if encoder.fused else name
        if space in encoder.hasher.spaces and encoder.lacking({name: row}) is None:
            single[name] = encoder.hasher.encode({name: row[None]}, space).hamming(found)[0]
    common: dict[str, Any] = {"by": "code" if query.code is not None else "item" if query.like else "views"}
    if rows and query.like is None:
        common["views"] = list(rows)
    if query.weights is not None:
        common["weights"] = {name: float(query.weights.get(name, 0.0)) for name in rows}
    if query.where is not None:
        common["filter"] = session.mirror.plan(query.where)
    explanations = []
    for i in range(len(slots)):
        differ = coded[0][0].bits()[0] != found.bits()[i]
        reason = {**common, "bits": encoder.n_bits, "differing_bits": np.flatnonzero(differ).tolist()}
        if single:
            reason["distance_by_view"] = {name: int(d[i]) for name, d in single.items()}
            reason["answered"] = min(single, key=lambda name: single[name][i])
        explanations.append(reason)
    return explanations
