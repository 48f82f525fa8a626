"""Query modes: which views a query and the gallery bring, who can answer that, and the real-valued columns."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfuse import metrics
from bitfuse.bench.histograms import relevance
from bitfuse.bench.protocol import Protocol
from bitfuse.data.base import Samples

Reals = NDArray[np.float32]
Part = Literal["query", "gallery"]
NEIGHBOURS = 10
"""How many neighbours of the real-valued ranking the codes are asked to find again."""

_BLOCK_BYTES = 1 << 27  # of similarities that a ranking of real values holds at once


@dataclass(frozen=True)
class Mode:
    """One way of asking.

    Attributes:
        name: the column of the table: `"both"` (or `"all"`), `"image"`, `"image→text"`.
        query, gallery: the views that each side brings.
    """

    name: str
    query: tuple[str, ...]
    gallery: tuple[str, ...]

    @property
    def crosses(self) -> bool:
        """Whether the two sides have no view in common."""
        return not set(self.query) & set(self.gallery)


class Known(typing.Protocol):
    """What decides which modes a method answers: a `Hasher` has it, and a `Subject`."""

    @property
    def widths(self) -> dict[str, int]:
        """View -> columns that it was fitted on."""

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces that it codes in, the first by default."""

    @property
    def accepts_missing(self) -> str:
        """`"none"`, `"query"` or `"train+query"`."""


@dataclass(frozen=True)
class Subject:
    """What an examination knows of a method: enough to judge codes that it left behind.

    Attributes:
        method: its class, with the parameters that differ from their defaults.
        n_bits, seed: of the hasher.
        widths: view -> columns of the features that it was fitted on.
        spaces, accepts_missing: the class facts of that name (`bitfuse.hashers.base.Hasher`).
    """

    method: str
    n_bits: int
    seed: int
    widths: dict[str, int]
    spaces: tuple[str, ...]
    accepts_missing: str


class Coding(NamedTuple):
    """One set of codes that an examination asks for: a part of the data, coded in a space from these views."""

    part: Part
    space: str
    views: tuple[str, ...]


def modes(views: tuple[str, ...]) -> list[Mode]:
    """All modes of these views: all of them, each alone against all, each against each other."""
    if len(views) == 1:
        return [Mode(views[0], views, views)]
    listed = [Mode("both" if len(views) == 2 else "all", views, views)]
    listed += [Mode(a, (a,), views) for a in views]
    return listed + [Mode(f"{a}→{b}", (a,), (b,)) for a in views for b in views if a != b]


def codings(subject: Known, views: tuple[str, ...]) -> list[Coding]:
    """Every coding that judging a method in all modes of these views needs, each once."""
    found: list[Coding] = []
    for mode in modes(views):
        space = spaces(subject, mode)
        if space is not None:
            found += [Coding("query", space[0], mode.query), Coding("gallery", space[1], mode.gallery)]
            found += [Coding("query", space[1], mode.gallery)] * mode.crosses  # pairs are sought among the queries
    return list(dict.fromkeys(found))


def spaces(subject: Known, mode: Mode) -> tuple[str, str] | None:
    """The spaces in which a method codes the two sides of a mode, or None where it cannot answer.

    A space named after a view reads that view alone; the fused space answers with fewer views than it was trained on
    where the method accepts missing views.
    """
    if mode.crosses and {*mode.query, *mode.gallery} <= set(subject.spaces):
        return mode.query[0], mode.gallery[0]
    named = {*mode.query, *mode.gallery} <= set(subject.spaces)
    if "fused" in subject.spaces:
        whole = set(subject.widths) == set(mode.query) == set(mode.gallery)
        return ("fused", "fused") if whole or subject.accepts_missing != "none" else None
    return (mode.query[0], mode.gallery[0]) if named and len(mode.query) == len(mode.gallery) == 1 else None


def rows_with(samples: Samples, views: tuple[str, ...], subject: Known) -> NDArray[np.intp]:
    """The rows that a method can code from these views: all of them present, or any where it accepts missing views."""
    present = np.array([~np.isnan(samples.views[name]).all(axis=1) for name in views])
    kept = present.all(axis=0) if subject.accepts_missing == "none" else present.any(axis=0)
    return np.flatnonzero(kept)


def reference(samples: Samples, rows: NDArray[np.intp], views: tuple[str, ...], columns: tuple[str, ...]) -> Reals:
    """The features themselves: each view at unit length, side by side, zeros for a view of `columns` not in `views`."""
    parts = [
        _unit(samples.views[name][rows]) if name in views else np.zeros((len(rows), samples.views[name].shape[1]))
        for name in columns
    ]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def centred(samples: Samples, rows: NDArray[np.intp], view: str, mean: Reals) -> Reals:
    """One view at unit length, less its mean, at unit length again: what makes two views of a backbone comparable."""
    return unit(_unit(samples.views[view][rows]) - mean)


def centre(samples: Samples, view: str) -> Reals:
    """Mean of a view's rows at unit length: the views of one backbone lie in cones of their own."""
    return np.asarray(_unit(samples.views[view]).mean(axis=0), np.float32)


def unit(x: NDArray[np.floating]) -> Reals:
    """Rows at unit length; a zero row stays zero."""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), np.float32)


def _unit(x: Reals) -> Reals:
    return unit(np.nan_to_num(x))


@dataclass(frozen=True, eq=False)
class RealScores:
    """A ranking by real-valued similarity, ties in row order.

    Attributes:
        map: mean AP under the protocol's K, divisor and rule for empty queries; NaN without labels.
        nearest: (q, min(10, n)) the rows of the most similar items, in no order.
    """

    map: float
    nearest: NDArray[np.intp]


def rank_reals(
    query: Reals,
    gallery: Reals,
    labels: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
    protocol: Protocol,
) -> RealScores:
    """Rank by inner product, in blocks of queries of bounded size."""
    n_nearest = min(NEIGHBOURS, len(gallery))
    step = max(1, _BLOCK_BYTES // max(1, 16 * len(gallery)))
    nearest, ap = [np.zeros((0, n_nearest), np.intp)], [np.zeros(0)]
    for i in range(0, len(query), step):
        similarity = query[i : i + step] @ gallery.T
        nearest.append(np.argpartition(-similarity, n_nearest - 1, axis=1)[:, :n_nearest])
        if labels is not None:
            order = np.argsort(-similarity, axis=1, kind="stable")
            ranked = np.take_along_axis(relevance(labels[0][i : i + step], labels[1]), order, axis=1)
            ap.append(metrics.average_precision_of_ranking(ranked, protocol.k, protocol.divisor))
    value = metrics.mean(np.concatenate(ap), protocol.empty) if labels is not None else float("nan")
    return RealScores(value, np.concatenate(nearest))


def found_pairs(query: Reals, gallery: Reals, ranks: tuple[int, ...]) -> dict[int, float]:
    """Share of queries whose own row of the gallery is among the first k, by inner product; ties at their mean rank."""
    similarity = query @ gallery.T
    own = np.diagonal(similarity)[:, None]
    before = (similarity > own).sum(axis=1) + ((similarity == own).sum(axis=1) - 1) / 2
    return {k: float((before < k).mean()) for k in ranks}


def views_of(subject: Known, available: Mapping[str, Reals]) -> tuple[str, ...]:
    """The views that the method was fitted on and the data has, in the model's order."""
    return tuple(name for name in subject.widths if name in available)
