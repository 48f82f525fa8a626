"""Scores of two sets of codes: one pass over all pairs, every metric afterwards from its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse import metrics
from bitfuse.bench.histograms import Histograms, histograms, ranked_by_row
from bitfuse.bench.protocol import Protocol
from bitfuse.codes import Codes, as_array
from bitfuse.errors import InputError
from bitfuse.metrics import Ties

RANKS = (1, 10, 100)
"""The ranks at which precision is reported, as far as the gallery has that many items."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Every metric of one ranking by Hamming distance, computed when it is asked for.

    Attributes:
        protocol: under which the numbers stand.
        counts: items, relevant items and gains by distance, per query.
        ranked_ap: (q,) AP of the ranking with ties in row order, where the protocol asks for it; else None.
    """

    protocol: Protocol
    counts: Histograms
    ranked_ap: NDArray[np.float64] | None = None

    @property
    def n_queries(self) -> int:
        """Queries asked, those without a relevant item included."""
        return len(self.counts.n)

    @property
    def n_gallery(self) -> int:
        """Items searched in."""
        return int(self.counts.grades[0].sum()) if self.n_queries else 0

    @cached_property
    def n_empty(self) -> int:
        """Queries without a relevant item in the gallery."""
        return int((self.counts.r.sum(axis=1) == 0).sum())

    @cached_property
    def relevant_share(self) -> float:
        """Share of relevant pairs among all pairs, 0 to 1."""
        return float(self.counts.r.sum() / max(1, self.counts.n.sum()))

    @cached_property
    def ap(self) -> NDArray[np.float64]:
        """(q,) average precision per query under the protocol; NaN for a query without a relevant item."""
        return self._ap(self.protocol.ties) if self.ranked_ap is None else self.ranked_ap

    @cached_property
    def map(self) -> float:
        """Mean average precision under the protocol, 0 to 1; NaN when no query has a relevant item."""
        return metrics.mean(self.ap, self.protocol.empty)

    @cached_property
    def map_bounds(self) -> tuple[float, float]:
        """The smallest and the largest mAP that any order of the ties attains."""
        low, high = (metrics.mean(self._ap(t), self.protocol.empty) for t in ("pessimistic", "optimistic"))
        return low, high

    def precision_at(self, n: int) -> float:
        """Mean share of relevant items among the first `n`, expected over ties; `n` is at most the gallery's size."""
        return metrics.mean(metrics.precision_at(self.counts.n, self.counts.r, n), self.protocol.empty)

    def recall_at(self, n: int) -> float:
        """Mean share of a query's relevant items that are among the first `n`, expected over ties."""
        return metrics.mean(metrics.recall_at(self.counts.n, self.counts.r, n), self.protocol.empty)

    def precision_within(self, radius: int) -> float:
        """Mean precision inside a Hamming ball; empty balls as the protocol says.

        Args:
            radius: of the ball, from 0 to n_bits.

        Raises:
            InputError: another radius.
        """
        self._check_radius(radius)
        values = self._precisions[:, radius]
        if self.protocol.empty_ball == "omit":
            values = values[self.counts.n[:, : radius + 1].any(axis=1)]
        return metrics.mean(values, self.protocol.empty)

    def recall_within(self, radius: int) -> float:
        """Mean share of a query's relevant items inside a Hamming ball.

        Args:
            radius: of the ball, from 0 to n_bits.

        Raises:
            InputError: another radius.
        """
        self._check_radius(radius)
        return metrics.mean(self._recalls[:, radius], self.protocol.empty)

    @cached_property
    def _precisions(self) -> NDArray[np.float64]:
        return metrics.precision_within(self.counts.n, self.counts.r, self.protocol.empty_ball)

    @cached_property
    def _recalls(self) -> NDArray[np.float64]:
        return metrics.recall_within(self.counts.n, self.counts.r)

    @cached_property
    def pr_curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Recall and precision as the radius grows, means over the queries with a relevant item."""
        return metrics.pr_curve(self.counts.n, self.counts.r)

    def ndcg(self, k: int | None = None, graded: bool = True) -> float:
        """Mean NDCG, expected over ties.

        Args:
            k: ranks that count; None is all of them.
            graded: an item gains 2^(shared labels) - 1; or, if False, 1 when it shares any.
        """
        n, r, grades = self.counts.n, self.counts.r, self.counts.grades
        if graded:
            values = metrics.ndcg(n, self.counts.gains, grades, k)
        else:
            values = metrics.ndcg(n, r, np.stack([grades[:, 0], grades[:, 1:].sum(axis=1)], axis=1), k)
        return metrics.mean(values, self.protocol.empty)

    def to_dict(self) -> dict[str, Any]:
        """The numbers that belong in a table, ready for JSON (None where a number is undefined)."""
        ranks = [k for k in RANKS if k <= self.n_gallery]
        recall, precision = self.pr_curve
        found: dict[str, Any] = {
            "map": self.map,
            "map_bounds": list(self.map_bounds),
            "precision_at": {str(k): self.precision_at(k) for k in ranks},
            "precision_within_2": self.precision_within(min(2, self.counts.n.shape[1] - 1)),
            "ndcg": self.ndcg(),
            "pr_curve": {"recall": recall.tolist(), "precision": precision.tolist()},
            "queries": self.n_queries,
            "empty_queries": self.n_empty,
            "gallery": self.n_gallery,
            "relevant_share": self.relevant_share,
        }
        if self.protocol.k is not None:
            found["ties_at_k"] = self.ties_at(self.protocol.k)
        return {k: plain(v) for k, v in found.items()}

    def ties_at(self, k: int) -> float:
        """Mean number of items at the distance of the item at rank `k`: how much the order of ties decides there."""
        reached = np.cumsum(self.counts.n, axis=1) >= min(k, self.n_gallery)
        return float(self.counts.n[np.arange(self.n_queries), reached.argmax(axis=1)].mean()) if self.n_queries else 0.0

    def _ap(self, ties: Any) -> NDArray[np.float64]:
        rule: Ties = ties
        return metrics.average_precision(self.counts.n, self.counts.r, self.protocol.k, self.protocol.divisor, rule)

    def _check_radius(self, radius: int) -> None:
        if not 0 <= radius < self.counts.n.shape[1]:
            raise InputError(f"a radius must be from 0 to {self.counts.n.shape[1] - 1} bits, got {radius}")


def score(
    query: Codes,
    gallery: Codes,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    protocol: str | Protocol = "strict",
    *,
    threads: int | None = None,
) -> Scores:
    """Judge codes against labels: an item is relevant when it shares a label with the query.

    Args:
        query, gallery: codes of one length.
        query_labels, gallery_labels: (q, c) and (n, c) of 0 and 1; a row without a label is relevant to nothing.
        protocol: a preset's name, or a `Protocol`. The parts that concern two sets of codes apply: K, divisor, ties,
            rules for empty queries and empty balls.
        threads: None is one a processor that this process may use.

    Raises:
        InputError: other lengths or shapes than these.
        UnknownName: no such protocol.

    Examples:
        >>> import numpy as np
        >>> codes = Codes.from_bits(np.array([[0, 0], [0, 1], [1, 1]]))
        >>> labels = np.array([[1, 0], [1, 0], [0, 1]])
        >>> score(codes[:1], codes[1:], labels[:1], labels[1:]).map
        1.0
    """
    protocol = Protocol.of(protocol)
    y_q, y_g = _labels(query_labels, query, "query"), _labels(gallery_labels, gallery, "gallery")
    if y_q.shape[1] != y_g.shape[1]:
        raise InputError(f"{y_q.shape[1]} label columns for the queries and {y_g.shape[1]} for the gallery; need equal")
    counts = histograms(query, gallery, y_q, y_g, threads)
    if protocol.ties != "row order":
        return Scores(protocol, counts)
    parts = [
        metrics.average_precision_of_ranking(block, protocol.k, protocol.divisor)
        for block in ranked_by_row(query, gallery, y_q, y_g)
    ]
    return Scores(protocol, counts, np.concatenate(parts) if parts else np.zeros(0))


def _labels(labels: ArrayLike, codes: Codes, part: str) -> NDArray[np.bool_]:
    if not isinstance(codes, Codes):
        raise InputError(f"the {part} must be bitfuse.Codes, got {type(codes).__name__}; see Codes.from_real")
    y = as_array(labels, f"{part} labels")
    if y.ndim != 2 or len(y) != len(codes) or not (y.dtype == bool or np.isin(y, (0, 1)).all()):
        raise InputError(f"{part} labels must be 0 or 1, of shape ({len(codes)}, c), got {y.dtype} {y.shape}")
    return y.astype(bool)


def plain(value: Any) -> Any:
    """The value with every number as JSON can hold it: NaN becomes None, at any depth."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value
