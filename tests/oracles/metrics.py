"""The metrics written loop by loop from their definitions: every order of the ties is listed and judged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator


def ap_of_ranking(relevant: list[bool], k: int | None, divisor: str) -> float:
    total = sum(relevant)
    if total == 0:
        return math.nan
    hits, gained, counted = 0, 0.0, 0
    for rank, hit in enumerate(relevant, start=1):
        if not hit:
            continue
        hits += 1
        if divisor == "first-K-relevant":
            if k is not None and hits > k:
                break
        elif k is not None and rank > k:
            break
        gained += hits / rank
        counted += 1
    if k is None or divisor == "R":
        return gained / total
    if divisor == "hits":
        return gained / counted if counted else 0.0
    return gained / min(total, k)


def orders(n: list[int], r: list[int]) -> Iterator[list[bool]]:
    """Every ranking that keeps the buckets in order: each choice of places for the relevant items, equally likely."""
    per_bucket = [
        [[i in chosen for i in range(size)] for chosen in itertools.combinations(range(size), hits)]
        for size, hits in zip(n, r)
    ]
    for parts in itertools.product(*per_bucket):
        yield [item for part in parts for item in part]


def over_ties(n: list[int], r: list[int], metric: Callable[[list[bool]], float], ties: str) -> float:
    values = [metric(order) for order in orders(n, r)]
    if ties == "optimistic":
        return max(values)
    if ties == "pessimistic":
        return min(values)
    return math.fsum(values) / len(values)


def average_precision(n: list[int], r: list[int], k: int | None, divisor: str, ties: str) -> float:
    return over_ties(n, r, lambda order: ap_of_ranking(order, k, divisor), ties)


def precision_at(n: list[int], r: list[int], k: int, ties: str) -> float:
    return over_ties(n, r, lambda order: sum(order[:k]) / k, ties) if sum(r) else math.nan


def recall_at(n: list[int], r: list[int], k: int, ties: str) -> float:
    return over_ties(n, r, lambda order: sum(order[:k]) / sum(order), ties) if sum(r) else math.nan


def precision_within(n: list[int], r: list[int], radius: int, empty_ball: str) -> float:
    if sum(r) == 0:
        return math.nan
    items, hits = sum(n[: radius + 1]), sum(r[: radius + 1])
    if items == 0:
        return 0.0 if empty_ball == "zero" else math.nan
    return hits / items


def recall_within(n: list[int], r: list[int], radius: int) -> float:
    return sum(r[: radius + 1]) / sum(r) if sum(r) else math.nan


def mean(values: list[float], empty: str) -> float:
    if empty == "omit":
        values = [v for v in values if not math.isnan(v)]
    else:
        values = [0.0 if math.isnan(v) else v for v in values]
    return math.fsum(values) / len(values) if values else math.nan


def dcg(grades: list[int], k: int | None) -> float:
    return math.fsum(
        (2**grade - 1) / math.log2(1 + rank) for rank, grade in enumerate(grades, start=1) if k is None or rank <= k
    )


def ndcg(buckets: list[list[int]], k: int | None) -> float:
    """`buckets` holds the grades of the items at each distance; the mean is over all orders within the buckets."""
    ideal = dcg(sorted((g for bucket in buckets for g in bucket), reverse=True), k)
    if ideal == 0:
        return math.nan
    values = [
        dcg([g for part in parts for g in part], k)
        for parts in itertools.product(*(list(itertools.permutations(bucket)) for bucket in buckets))
    ]
    return math.fsum(values) / len(values) / ideal


def counts(query_bits, gallery_bits, query_labels, gallery_labels):  # type: ignore[no-untyped-def]
    """Items and items by number of shared labels at each distance, pair by pair."""
    n_bits, most = len(query_bits[0]), len(query_labels[0])
    n = [[0] * (n_bits + 1) for _ in query_bits]
    shared = [[[0] * (most + 1) for _ in range(n_bits + 1)] for _ in query_bits]
    for q, (bits, labels) in enumerate(zip(query_bits, query_labels)):
        for other_bits, other_labels in zip(gallery_bits, gallery_labels):
            d = sum(int(a != b) for a, b in zip(bits, other_bits))
            n[q][d] += 1
            shared[q][d][sum(int(a and b) for a, b in zip(labels, other_labels))] += 1
    return n, shared
