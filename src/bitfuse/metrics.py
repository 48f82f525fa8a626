"""Retrieval metrics as pure functions of counts: how many items lie at each distance, and how many are relevant.

Two histograms per query say all there is to know about a ranking by an integer distance, ties included: `n` (q, m),
the items in each bucket, nearest bucket first, and `r` (q, m), the relevant ones among them. No function here sorts.

The order inside a bucket is open. `ties` closes it: `"expectation"` is the mean over all orders, `"optimistic"` and
`"pessimistic"` are the largest and smallest value that any order attains. A metric of a query that has no relevant
item is NaN; `mean` says what becomes of those.

References: McSherry & Najork, "Computing information retrieval performance measures efficiently in the presence of
tied scores", ECIR 2008; He, Cakir, Bargal & Sclaroff, "Hashing as tie-aware learning to rank", CVPR 2018.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bitfuse import _ties
from bitfuse.errors import InputError, UnknownName

Counts = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Divisor = Literal["R", "min(R,K)", "hits", "first-K-relevant"]
Ties = Literal["expectation", "optimistic", "pessimistic"]
Empty = Literal["omit", "zero"]

DIVISORS: tuple[str, ...] = get_args(Divisor)
TIES: tuple[str, ...] = get_args(Ties)
EMPTY: tuple[str, ...] = get_args(Empty)


def average_precision(
    n: Counts, r: Counts, k: int | None = None, divisor: Divisor = "R", ties: Ties = "expectation"
) -> Floats:
    """Average precision per query, tie-aware, in closed form per bucket.

    Args:
        n, r: (q, m) items and relevant items per bucket, nearest first.
        k: ranks that count; None is the whole ranking, where all divisors agree.
        divisor: what the sum of precisions at the hits is divided by. `"R"`: all relevant items; `"min(R,K)"`;
            `"hits"`: the relevant items within the top K (0 hits give 0); `"first-K-relevant"`: no cut at rank K,
            but the mean over the first K relevant items wherever they stand.
        ties: see the module. With `"hits"` the expectation is that of the ratio, not a ratio of expectations.

    Returns:
        (q,) from 0 to 1; NaN for a query without a relevant item.

    Examples:
        >>> import numpy as np
        >>> n, r = np.array([[1, 3]]), np.array([[0, 1]])
        >>> [round(float(average_precision(n, r, ties=t)[0]), 4) for t in ("pessimistic", "expectation", "optimistic")]
        [0.25, 0.3611, 0.5]
    """
    n, r = _checked(n, r)
    _known("divisor", divisor, DIVISORS)
    _known("tie rule", ties, TIES)
    before_n, before_r = _before(n), _before(r)
    total = r.sum(axis=1)
    out = np.full(len(n), np.nan)
    if k is None:
        places, divided = n, total
    else:
        _check_rank(k)
        if divisor == "first-K-relevant":
            return _first_relevant(n, r, before_n, before_r, np.minimum(total, k), ties)
        places = np.clip(k - before_n, 0, n)
        divided = np.minimum(total, k) if divisor == "min(R,K)" else total
    gained = _ties.gained(n, r, before_n, before_r, places, ties)
    if k is not None and divisor == "hits":
        whole = np.where(places == n, gained, 0).sum(axis=1)
        return _per_hit(n, r, before_n, before_r, places, whole, total, ties)
    np.divide(gained.sum(axis=1), divided, out=out, where=total > 0)
    return out


def average_precision_of_ranking(relevant: NDArray[np.bool_], k: int | None = None, divisor: Divisor = "R") -> Floats:
    """Average precision of rankings that are given item by item, best first.

    Args:
        relevant: (q, n) bool, whether the item at each rank is relevant.
        k, divisor: as for `average_precision`.

    Returns:
        (q,) from 0 to 1; NaN for a query without a relevant item.

    Raises:
        InputError: not two-dimensional, or a rank below 1.
        UnknownName: no such divisor.
    """
    relevant = np.asarray(relevant, bool)
    if relevant.ndim != 2:
        raise InputError(f"rankings must be of shape (q, n), got {relevant.shape}")
    _known("divisor", divisor, DIVISORS)
    hits = np.cumsum(relevant, axis=1)
    total = relevant.sum(axis=1)
    precision = np.where(relevant, hits / np.arange(1, relevant.shape[1] + 1), 0.0)
    divided = total
    if k is not None:
        _check_rank(k)
        inside = hits <= k if divisor == "first-K-relevant" else np.arange(relevant.shape[1])[None] < k
        precision = np.where(inside, precision, 0.0)
        if divisor == "hits":
            divided = np.maximum(hits[:, min(k, relevant.shape[1]) - 1], 1)
        elif divisor != "R":
            divided = np.minimum(total, k)
    out = np.full(len(relevant), np.nan)
    np.divide(precision.sum(axis=1), divided, out=out, where=total > 0)
    return out


def mean(values: Floats, empty: Empty = "omit") -> float:
    """Mean over queries; NaN when nothing is left.

    Args:
        values: (q,) one a query, NaN where it is undefined.
        empty: undefined values are left out (`"omit"`) or count as 0 (`"zero"`).

    Raises:
        UnknownName: no such rule.
    """
    _known("rule for empty queries", empty, EMPTY)
    kept = values[~np.isnan(values)] if empty == "omit" else np.nan_to_num(values)
    return float(kept.mean()) if len(kept) else float("nan")


def hits_at(n: Counts, r: Counts, k: int, ties: Ties = "expectation") -> Floats:
    """Relevant items among the first `k`, (q,).

    Args:
        n, r: (q, m) items and relevant items per bucket.
        k: from 1 to the number of items.
        ties: `"expectation"` over the orders of a bucket, or what the best (`"optimistic"`) or worst
            (`"pessimistic"`) order gives.

    Raises:
        InputError: counts that cannot be, a rank below 1 or beyond the gallery.
        UnknownName: no such tie rule.
    """
    n, r = _checked(n, r)
    _check_rank(k)
    _known("tie rule", ties, TIES)
    if (n.sum(axis=1) < k).any():
        raise InputError(f"precision or recall at {k} needs at least {k} items, the gallery has {n.sum(axis=1).min()}")
    ends, rows = np.cumsum(n, axis=1), np.arange(len(n))
    cut = (ends >= k).argmax(axis=1)  # the bucket that holds rank k
    size, hits = n[rows, cut], r[rows, cut]
    places = k - (ends[rows, cut] - size)
    if ties == "expectation":
        inside = places * hits / size
    else:
        inside = np.minimum(hits, places) if ties == "optimistic" else np.maximum(places - (size - hits), 0)
    return np.asarray(np.cumsum(r, axis=1)[rows, cut] - hits + inside, np.float64)


def precision_at(n: Counts, r: Counts, k: int, ties: Ties = "expectation") -> Floats:
    """Share of relevant items among the first `k`, (q,) from 0 to 1; NaN without a relevant item in the gallery.

    Args:
        n, r, k, ties: as for `hits_at`, with its errors.
    """
    return np.where(r.sum(axis=1) > 0, hits_at(n, r, k, ties) / k, np.nan)


def recall_at(n: Counts, r: Counts, k: int, ties: Ties = "expectation") -> Floats:
    """Share of the relevant items that are among the first `k`, (q,) from 0 to 1; NaN without any.

    Args:
        n, r, k, ties: as for `hits_at`, with its errors.
    """
    return _share(hits_at(n, r, k, ties), r.sum(axis=1))


def precision_within(n: Counts, r: Counts, empty_ball: Empty) -> Floats:
    """Share of relevant items within every radius: (q, m), column d for the buckets 0 to d.

    Args:
        n, r: (q, m) items and relevant items per bucket.
        empty_ball: a radius that holds no item counts as precision 0 (`"zero"`) or as NaN (`"omit"`); both are in
            use, and at small radii they differ much, so there is no default.
    """
    n, r = _checked(n, r)
    _known("rule for empty balls", empty_ball, EMPTY)
    inside = _share(np.cumsum(r, axis=1), np.cumsum(n, axis=1))
    if empty_ball == "zero":
        inside = np.nan_to_num(inside)
    return np.where(r.sum(axis=1, keepdims=True) > 0, inside, np.nan)


def recall_within(n: Counts, r: Counts) -> Floats:
    """Share of the relevant items within every radius: (q, m) from 0 to 1; NaN for a query without any.

    Args:
        n, r: (q, m) items and relevant items per bucket.
    """
    n, r = _checked(n, r)
    return _share(np.cumsum(r, axis=1), r.sum(axis=1, keepdims=True))


def pr_curve(n: Counts, r: Counts, empty_ball: Empty = "omit") -> tuple[Floats, Floats]:
    """Recall and precision as the radius grows, both averaged over the queries that have a relevant item.

    Args:
        n, r: (q, m) items and relevant items per bucket.
        empty_ball: as for `precision_within`.

    Returns:
        recall, precision: two arrays of equal length (p,), one point for each radius whose ball holds an item of at
        least one query; recall rises to 1.
    """
    precision, recall = precision_within(n, r, empty_ball), recall_within(n, r)
    asked = ~np.isnan(recall[:, -1]) if recall.size else np.zeros(len(recall), bool)
    reached = np.cumsum(n[asked], axis=1).any(axis=0) if asked.any() else np.zeros(n.shape[1], bool)
    precision, recall = precision[asked][:, reached], recall[asked][:, reached]
    defined = ~np.isnan(precision)
    if not reached.any():
        return np.zeros(0), np.zeros(0)
    return recall.mean(axis=0), np.where(defined, precision, 0).sum(axis=0) / defined.sum(axis=0)


def ndcg(n: Counts, gains: NDArray[Any], grades: Counts, k: int | None = None) -> Floats:
    """Normalised discounted cumulative gain, its expectation over ties: each place of a bucket holds the mean gain.

    Args:
        n: (q, m) items per bucket.
        gains: (q, m) sum of the gains 2^grade - 1 per bucket (`gain` is that function).
        grades: (q, g) items of the gallery by grade 0..g-1 (the number of shared labels, or 0 and 1).
        k: ranks that count; None is all of them.

    Returns:
        (q,) from 0 to 1; NaN for a query whose items all have grade 0.
    """
    n, _ = _checked(n, np.zeros_like(n))
    if k is not None:
        _check_rank(k)
    ranks = int(n.sum(axis=1).max(initial=0))
    discount = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, ranks + 2)))])
    cut = ranks if k is None else min(k, ranks)

    def discounted(counts: Counts, mean_gain: Floats) -> Floats:
        start = _before(counts)
        some = slice(0, int((start < cut).any(axis=0).sum()))  # starts grow: the buckets beyond add nothing
        start, counts = start[:, some], counts[:, some]
        inside = discount[np.minimum(start + counts, cut)] - discount[start.clip(max=cut)]
        return np.asarray(np.einsum("qm,qm->q", mean_gain[:, some], inside), np.float64)

    best_first = np.asarray(grades)[:, ::-1]
    ideal = discounted(best_first, np.broadcast_to(gain(best_first.shape[1])[::-1], best_first.shape))
    got = discounted(n, np.divide(gains, n, out=np.zeros(n.shape), where=n > 0))
    return _share(got, ideal)


def gain(n_grades: int) -> Floats:
    """The gains 2^g - 1 of the grades 0 to n_grades - 1."""
    return np.exp2(np.arange(n_grades)) - 1


def _per_hit(
    n: Counts, r: Counts, before_n: Counts, before_r: Counts, places: Counts, whole: Floats, total: Counts, ties: str
) -> Floats:
    """AP@K divided by the hits in the top K; the bucket that K cuts holds a varying number of hits h."""
    out = np.full(len(n), np.nan)
    cut = (places > 0) & (places < n)
    hits = np.where(places == n, r, 0).sum(axis=1)
    for q in np.flatnonzero(total > 0):
        d = np.flatnonzero(cut[q])
        if not len(d):
            out[q] = whole[q] / hits[q] if hits[q] else 0.0
            continue
        n_d, r_d, m = n[q, d[0]], r[q, d[0]], places[q, d[0]]
        h = np.arange(max(0, m - (n_d - r_d)), min(r_d, m) + 1)
        same = np.ones_like(h)
        inside = _ties.gained(same * m, h, same * before_n[q, d[0]], same * before_r[q, d[0]], same * m, ties)
        ratio = np.divide(whole[q] + inside, hits[q] + h, out=np.zeros(len(h)), where=hits[q] + h > 0)
        if ties == "expectation":
            out[q] = ratio @ _ties.hypergeometric(n_d, r_d, m, h)
        else:
            out[q] = ratio.max() if ties == "optimistic" else ratio.min()
    return out


def _first_relevant(n: Counts, r: Counts, before_n: Counts, before_r: Counts, wanted: Counts, ties: str) -> Floats:
    """Mean of precision at the first `wanted` relevant items of each query."""
    taken = np.clip(wanted[:, None] - before_r, 0, r)
    if ties == "optimistic":
        gained = _ties.hits_in_a_row(before_r, before_n, taken)
    elif ties == "pessimistic":
        gained = _ties.hits_in_a_row(before_r, before_n + n - r, taken)
    else:
        gained = np.where(taken == r, _ties.gained(n, r, before_n, before_r, n, ties), 0.0)
        for q, d in zip(*np.nonzero((taken > 0) & (taken < r))):
            gained[q, d] = _ties.first_of_bucket(n[q, d], r[q, d], before_n[q, d], before_r[q, d], taken[q, d])
    return _share(gained.sum(axis=1), wanted)


def _checked(n: Counts, r: Counts) -> tuple[Counts, Counts]:
    n, r = np.asarray(n, np.int64), np.asarray(r, np.int64)
    if n.ndim != 2 or n.shape != r.shape or (r < 0).any() or (r > n).any():
        raise InputError(f"counts must be two arrays of one shape (q, m) with 0 <= r <= n, got {n.shape} and {r.shape}")
    return n, r


def _check_rank(k: int) -> None:
    if k < 1:
        raise InputError(f"a rank K must be at least 1, got {k}; None judges the whole ranking")


def _known(kind: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise UnknownName(kind, name, names)


def _before(counts: Counts) -> Counts:
    return np.asarray(np.cumsum(counts, axis=1) - counts)


def _share(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Part / whole, NaN where whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))
