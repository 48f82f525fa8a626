"""Answers: what a method makes of each query mode, beside the features themselves and beside floors."""

from __future__ import annotations

import dataclasses
import time
import typing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse import metrics
from bitfuse.bench import modes as asking
from bitfuse.bench.histograms import histograms
from bitfuse.bench.protocol import Protocol
from bitfuse.bench.scores import Scores, plain, score
from bitfuse.codes import Codes
from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import InputError
from bitfuse.hashers.base import Hasher

PAIR_RANKS = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a method makes of one query mode.

    Attributes:
        queries, gallery: rows judged on each side; rows that lack the views of the mode are left out.
        float_map: of the features themselves, by cosine; NaN without labels or where the views have other widths.
        projected_map: of the values before the sign, by cosine; NaN without labels, and where only codes were kept.
        scores: of the codes; its relevance metrics are NaN without labels.
        neighbours: share of the 10 nearest items by the features' cosine that the 10 nearest codes hold, expected
            over ties; NaN where the features cannot be compared.
        pairs: for a mode that goes from one view to another: share of queries whose own other view is among the first
            1, 5, 10 of all queries', `{"binary": {1: ...}, "float": {...}}`.
    """

    queries: int
    gallery: int
    float_map: float
    projected_map: float
    scores: Scores
    neighbours: float
    pairs: dict[str, dict[int, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        return {
            "float_map": plain(self.float_map),
            "projected_map": plain(self.projected_map),
            **self.scores.to_dict(),
            "queries": self.queries,
            "gallery": self.gallery,
            "recall_of_10_neighbours": plain(self.neighbours),
            "paired_recall": plain(self.pairs),
        }


class Coder(typing.Protocol):
    """Where the codes come from: a fitted method, or what a cell of a grid has stored."""

    def code(self, coding: asking.Coding, rows: NDArray[np.intp]) -> tuple[Codes, asking.Reals | None]:
        """Codes of these rows of the part, and the values before the sign where they are known."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted method that codes a data set on the spot."""

    hasher: Hasher
    dataset: Dataset
    device: str = "cpu"

    def code(self, coding: asking.Coding, rows: NDArray[np.intp]) -> tuple[Codes, asking.Reals]:
        """The sign of `project`, and its value."""
        samples = self.dataset.query if coding.part == "query" else self.dataset.gallery
        chosen = {name: samples.views[name][rows] for name in coding.views}
        z = self.hasher.project(chosen, coding.space, device=self.device)
        return Codes.from_real(z), z


@dataclass(eq=False)
class Examination:
    """One method before one data set: codes of the gallery are made once for all modes that share them."""

    subject: asking.Subject
    coder: Coder
    dataset: Dataset
    protocol: Protocol
    views: tuple[str, ...]
    labelled: bool
    threads: int
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "score": 0.0})
    galleries: dict[asking.Coding, Codes] = field(default_factory=dict)
    _values: dict[asking.Coding, asking.Reals | None] = field(default_factory=dict)

    def answer(self, mode: asking.Mode) -> Answer | None:
        """Judge one mode; None where the method cannot answer it."""
        space = asking.spaces(self.subject, mode)
        if space is None:
            return None
        query, gallery = self.dataset.query, self.dataset.gallery
        q_rows = asking.rows_with(query, mode.query, self.subject)
        g_rows = asking.rows_with(gallery, mode.gallery, self.subject)
        if not len(q_rows) or not len(g_rows):
            return None
        key = asking.Coding("gallery", space[1], mode.gallery)
        if key not in self.galleries:
            self.galleries[key], self._values[key] = self._code(key, g_rows)
        codes, z_q = self._code(asking.Coding("query", space[0], mode.query), q_rows)
        z_g = self._values[key]
        started = time.perf_counter()
        labels = (_labels(query, q_rows), _labels(gallery, g_rows)) if self.labelled else None
        blank = np.zeros((len(q_rows), 1), bool), np.zeros((len(g_rows), 1), bool)
        y_q, y_g = labels or blank
        scores = score(codes, self.galleries[key], y_q, y_g, self.protocol, threads=self.threads)
        projected_map = float("nan")
        if z_q is not None and z_g is not None:
            projected_map = asking.rank_reals(asking.unit(z_q), asking.unit(z_g), labels, self.protocol).map
        x = self._references(mode, q_rows, g_rows, gallery)
        float_map = neighbours = float("nan")
        if x is not None:
            real = asking.rank_reals(*x, labels, self.protocol)
            nearest = _at(codes, self.galleries[key], real.nearest)
            float_map = real.map
            neighbours = metrics.mean(metrics.recall_at(scores.counts.n, nearest, real.nearest.shape[1]))
        pairs = self._pairs(mode, space) if mode.crosses else {}
        self.seconds["score"] += time.perf_counter() - started
        return Answer(len(q_rows), len(g_rows), float_map, projected_map, scores, neighbours, pairs)

    def floors(self, first: Answer) -> dict[str, float]:
        """mAP of random codes and of one constant code, on the rows of the first mode that is answered."""
        counts = first.scores.counts
        n, r = counts.n.sum(axis=1, keepdims=True), counts.r.sum(axis=1, keepdims=True)
        ties: metrics.Ties = "expectation"
        constant = metrics.average_precision(n, r, self.protocol.k, self.protocol.divisor, ties)
        rng = np.random.default_rng(0)
        query, gallery = (
            Codes.from_bits(rng.integers(0, 2, (len(part), self.subject.n_bits)))
            for part in (self.dataset.query, self.dataset.gallery)
        )
        everything = np.arange(len(query)), np.arange(len(gallery))
        y_q, y_g = _labels(self.dataset.query, everything[0]), _labels(self.dataset.gallery, everything[1])
        judged = dataclasses.replace(self.protocol, ties=ties)
        random = score(query, gallery, y_q, y_g, judged, threads=self.threads).map
        return {"random codes": random, "constant": metrics.mean(constant, self.protocol.empty)}

    def _code(self, coding: asking.Coding, rows: NDArray[np.intp]) -> tuple[Codes, asking.Reals | None]:
        started = time.perf_counter()
        coded = self.coder.code(coding, rows)
        self.seconds["encode"] += time.perf_counter() - started
        return coded

    def _references(
        self, mode: asking.Mode, q_rows: NDArray[np.intp], g_rows: NDArray[np.intp], gallery: Samples
    ) -> tuple[asking.Reals, asking.Reals] | None:
        query = self.dataset.query
        if not mode.crosses:
            return (
                asking.reference(query, q_rows, mode.query, mode.gallery),
                asking.reference(gallery, g_rows, mode.gallery, mode.gallery),
            )
        (a,), (b,) = mode.query, mode.gallery
        if query.views[a].shape[1] != gallery.views[b].shape[1]:
            return None
        centres = [asking.centre(self.dataset.train, name) for name in (a, b)]
        return asking.centred(query, q_rows, a, centres[0]), asking.centred(gallery, g_rows, b, centres[1])

    def _pairs(self, mode: asking.Mode, space: tuple[str, str]) -> dict[str, dict[int, float]]:
        """How often the other view of the same query row is found among those of all query rows."""
        query = self.dataset.query
        (a,), (b,) = mode.query, mode.gallery
        rows = np.flatnonzero(~np.isnan(query.views[a]).all(axis=1) & ~np.isnan(query.views[b]).all(axis=1))
        if len(rows) < 2:
            return {}
        ranks = tuple(k for k in PAIR_RANKS if k <= len(rows))
        one, other = (self._code(asking.Coding("query", s, (v,)), rows)[0] for s, v in zip(space, (a, b)))
        blank = np.zeros((len(rows), 1), bool)
        n = histograms(one, other, blank, blank, self.threads).n
        own = _at(one, other, np.arange(len(rows))[:, None])
        found = {"binary": {k: metrics.mean(metrics.recall_at(n, own, k)) for k in ranks}}
        x = self._references(mode, rows, rows, query)
        return found if x is None else found | {"float": asking.found_pairs(*x, ranks)}


def _labels(samples: Samples, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    if samples.labels is None:
        raise InputError("queries and gallery must both carry labels, or neither")
    return samples.labels[rows]


def _at(query: Codes, gallery: Codes, rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """(q, n_bits + 1): how many of the gallery rows named for each query lie at each distance from it."""
    a, b = query.words(), gallery.words()
    distance = np.bitwise_count(a[:, None] ^ b[rows]).sum(axis=2, dtype=np.int64)  # (q, m)
    buckets = query.n_bits + 1
    keys = distance + buckets * np.arange(len(query))[:, None]
    return np.bincount(keys.ravel(), minlength=len(query) * buckets).reshape(-1, buckets)
