"""Hamming search, written from the definition, bit by bit and item by item."""

from __future__ import annotations

from collections.abc import Sequence


def search(
    queries: Sequence[Sequence[int]],
    items: Sequence[Sequence[int]],
    ids: Sequence[int],
    k: int | None = None,
    radius: int | None = None,
    allowed: Sequence[bool] | None = None,
) -> tuple[list[list[int]], list[list[int]]]:
    """Distances and ids of each query's nearest items, by (distance, row); padded with -1. Bits are 0 and 1."""
    answers = []
    for query in queries:
        measured = []
        for row, item in enumerate(items):
            distance = 0
            for a, b in zip(query, item, strict=True):
                if a != b:
                    distance += 1
            if allowed is not None and not allowed[row]:
                continue
            if radius is not None and distance > radius:
                continue
            measured.append((distance, row))
        measured.sort()
        answers.append(measured if k is None else measured[:k])
    width = max((len(a) for a in answers), default=0) if k is None else min(k, len(items))
    distances = [[d for d, _ in a] + [-1] * (width - len(a)) for a in answers]
    found = [[ids[row] for _, row in a] + [-1] * (width - len(a)) for a in answers]
    return distances, found


def below(query: int, codes: Sequence[int], bound: int) -> list[bool]:
    """Whether each code differs from the query in fewer than `bound` bits; codes as Python integers."""
    return [bin(query ^ code).count("1") < bound for code in codes]
