"""Searching a collection: one query or many, by words, by pictures, by both, by an item or by a code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import BitfuseError, DamagedFile, InputError
from bitfuse.index import asymmetric
from bitfuse.search import approximate
from bitfuse.search.encoder import Encoder, ViewRows
from bitfuse.search.query import Hit, Query, warn_of_the_unfamiliar
from bitfuse.search.resident import Allowed, Slots
from bitfuse.search.scoring import explanations, scores
from bitfuse.search.session import Session

OVERSAMPLE = 10
"""Hamming candidates that a reranking looks at, for each hit that is asked for."""

Near = tuple[NDArray[np.number[Any]], Slots]


class _Coded(NamedTuple):
    """What a query is looked for by.

    `parts` are codes, each with the weight of its distance: several for several views of a cross-modal model. `costs`
    are what each bit costs, (n_bits, 2), for an asymmetric search. `own` is the slot of the item of `like`.
    """

    rows: ViewRows
    parts: list[tuple[Codes, float]]
    costs: NDArray[np.float32] | None = None
    own: int | None = None


def search(session: Session, queries: Sequence[Query]) -> list[list[Hit]]:
    """The hits of each query, nearest first; ties in the order in which the items were first added.

    The queries differ in what they look for alone: limits, filter and options are those of the first.
    """
    while True:
        with session.reading():
            encoder = session.encoder()
            for query in queries[:1]:
                if query.where is not None:
                    session.mirror.allowed(query.where)  # a bad filter is reported before the backbone is loaded
        for query in queries:
            query.check(encoder.n_bits)
        try:
            views = _views(encoder, queries)
            for rows in filter(None, views):
                warn_of_the_unfamiliar(encoder, rows)
            coded = [_code(encoder, query, rows) for query, rows in zip(queries, views)]
        except BitfuseError:
            with session.reading():
                if session.encoder() is encoder:
                    raise
            continue  # its model was replaced and removed before it was read
        with session.reading():
            if session.encoder() is encoder:  # otherwise the collection was re-encoded while the queries were
                return _answer(session, encoder, queries, coded) if queries else []


def _views(encoder: Encoder, queries: Sequence[Query]) -> list[ViewRows]:
    """The views of each query: those that are given, and those of texts and pictures, made in one pass for all."""
    found = [{} if query.views is None else encoder.check_rows(query.views) for query in queries]
    for rows, more in zip(found, encoder.query_views_of([(query.text, query.image) for query in queries])):
        rows |= more
    return found


def _code(encoder: Encoder, query: Query, rows: ViewRows) -> _Coded:
    if not rows:
        return _Coded(rows, [] if query.code is None else [(query.code, 1.0)])
    values = encoder.query_values(rows, query.weights)
    parts = [(Codes.from_real(z[None]), weight) for z, weight in values]
    costs = None
    if query.asymmetric:
        costs = np.zeros((encoder.n_bits, 2), np.float32)
        for z, weight in values:
            costs += weight * asymmetric.costs_of(z)
    return _Coded(rows, parts, costs)


def _like(session: Session, encoder: Encoder, query: Query) -> _Coded:
    row = session.row_of(query.like) if isinstance(query.like, str) else None
    if row is None:
        raise InputError(f"like={query.like!r}: there is no item of this id")
    own = session.mirror.codes.slots_of(np.array([row]))
    code = Codes(session.mirror.codes.packed(own), encoder.n_bits)
    return _Coded(session.stored_views([row])[row] if query.rerank else {}, [(code, 1.0)], None, int(own[0]))


def _answer(
    session: Session, encoder: Encoder, queries: Sequence[Query], coded: Sequence[_Coded]
) -> list[list[Hit]]:  # fmt: skip
    one = queries[0]
    coded = [_like(session, encoder, q) if q.like is not None else c for q, c in zip(queries, coded)]
    k = None if one.k is None else min(int(one.k), max(1, session.mirror.codes.n_slots))
    wanted = None if k is None else k * (OVERSAMPLE if one.rerank else 1) + any(c.own is not None for c in coded)
    hits, named = [], []
    for query, part, (distances, slots) in zip(queries, coded, _nearest(session, one, coded, wanted)):
        if part.own is not None:
            others = slots != part.own
            distances, slots = distances[others], slots[others]
        values = None
        if query.rerank:
            values = scores(session, encoder, part.rows, query.weights, session.rows_at(slots))
            order = np.lexsort((slots, distances, -values))
            distances, slots, values = distances[order], slots[order], values[order]
        hits.append((distances[:k], slots[:k], values))
        named += session.rows_at(slots[:k])
    items = session.items(list(dict.fromkeys(named)))
    if len(items) < len(set(named)):
        raise DamagedFile(f"{session.store.path} has codes without items; run `bitfuse verify`")
    return [_hits(session, encoder, query, part, items, *found) for query, part, found in zip(queries, coded, hits)]


def _hits(
    session: Session, encoder: Encoder, query: Query, coded: _Coded, items: dict[int, dict[str, Any]],
    distances: NDArray[np.number[Any]], slots: Slots, values: NDArray[np.float64] | None,
) -> list[Hit]:  # fmt: skip
    reasons = None
    if query.explain:
        reasons = explanations(session, encoder, query, coded.rows, coded.parts[0][0], slots)
    whole = len(coded.parts) == 1 and coded.costs is None
    return [
        Hit(
            items[row]["id"],
            int(distances[i]) if whole else float(distances[i]),
            items[row],
            None if values is None else float(values[i]),
            None if reasons is None else reasons[i],
        )
        for i, row in enumerate(session.rows_at(slots))
    ]


def _nearest(session: Session, one: Query, coded: Sequence[_Coded], k: int | None) -> list[Near]:
    """The nearest slots of each query: those of one code in one pass, the others by one."""
    codes = session.mirror.codes
    allow = None if one.where is None else session.mirror.allowed(one.where)
    plain = [i for i, part in enumerate(coded) if len(part.parts) == 1 and part.costs is None]
    found: dict[int, Near] = {}
    if plain:
        asked = Codes.concatenate([coded[i].parts[0][0] for i in plain])
        if one.approximate and allow is None:
            answers = approximate.search(session, asked, k, one.radius)
        else:
            answers = codes.search_many(asked, k, one.radius, allow)
        found.update(zip(plain, answers))
    for i, part in enumerate(coded):
        if part.costs is not None:
            found[i] = codes.search_costs(part.costs, k, one.radius, allow)
        elif i not in found:
            found[i] = _summed(session, part, k, one.radius, allow)
    return [found[i] for i in range(len(coded))]


def _summed(session: Session, coded: _Coded, k: int | None, radius: int | None, allow: Allowed | None) -> Near:
    codes = session.mirror.codes
    among = np.flatnonzero(codes.alive if allow is None else codes.alive & allow.slots)
    packed = Codes(codes.packed(among), codes.n_bits)
    total = np.zeros(len(among))
    for code, weight in coded.parts:
        total += weight * code.hamming(packed)[0]
    if radius is not None:
        among, total = among[total <= radius], total[total <= radius]
    order = np.argsort(total, kind="stable")[:k]
    return total[order], among[order]
