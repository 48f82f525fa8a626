"""What every ablation needs: the data it runs on, scores by row, column and seed, and sentences made of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.bench import modes as asking
from bitfuse.bench.protocol import Protocol
from bitfuse.bench.scores import plain, score
from bitfuse.bench.tables import Table, number
from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import BitfuseWarning, InputError
from bitfuse.hashers.base import Hasher

PROTOCOL = Protocol.of("strict")
SMALL = {"n_train": 200, "n_query": 40, "n_gallery": 200}
"""The shapes world of a quick trial."""


def world(data: Dataset | None, quick: bool, **sizes: Any) -> Dataset:
    """The data given, or the shapes world with pocket features, from the cache on disk where it is known."""
    from bitfuse.pipeline.datasets import dataset

    if data is None:
        data = dataset("shapes", **(SMALL if quick else sizes))
    if not data.train.views or not data.query.labelled.any() or not data.gallery.labelled.any():
        raise InputError(f"an ablation needs features and labels; {data.name!r} lacks them")
    return data


def labels_of(samples: Samples) -> NDArray[np.bool_]:
    """The labels, which `world` has checked for."""
    return samples.labels if samples.labels is not None else np.zeros((len(samples), 0), bool)


@contextmanager
def quietly() -> Iterator[None]:
    """No `BitfuseWarning`s: an ablation goes where a method is not meant to go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)
        yield


def fitted(hasher: Hasher, samples: Samples) -> Hasher:
    """The hasher, fitted on these samples."""
    with quietly():
        return hasher.fit(samples.views, samples.labels if hasher.supervised else None)


def asked(hasher: Hasher, query: Samples, gallery: Samples) -> dict[str, float]:
    """mAP (`strict`) by query mode: all views, and each view alone, against a gallery with all its views."""
    codes = hasher.encode(gallery.views)
    found = {}
    for mode in asking.modes(asking.views_of(hasher, query.views)):
        if not mode.crosses:
            given = hasher.encode({name: query.views[name] for name in mode.query})
            found[mode.name] = score(given, codes, labels_of(query), labels_of(gallery), PROTOCOL).map
    return found


def real_map(query: asking.Reals, gallery: asking.Reals, data: Dataset) -> float:
    """mAP (`strict`) of real values by cosine, queries against the gallery."""
    labels = labels_of(data.query), labels_of(data.gallery)
    return asking.rank_reals(asking.unit(query), asking.unit(gallery), labels, PROTOCOL).map


@dataclass
class Findings:
    """Scores by row and column, one a seed."""

    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, scores: Mapping[str, float]) -> None:
        """Note the scores of one seed."""
        for column, value in scores.items():
            self.rows.setdefault(row, {}).setdefault(column, []).append(float(value))

    def mean(self, row: str, column: str) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.rows[row][column]))

    def table(self, title: str, first: str, columns: Sequence[str], digits: int = 3) -> Table:
        """Rows down, columns across: the mean, with the deviation where there are several seeds."""
        rows = [(name, *(number(found.get(c), digits) for c in columns)) for name, found in self.rows.items()]
        return Table(title, (first, *columns), rows)

    def verdict(self, column: str, rows: Iterable[str] | None = None) -> str:
        """Which row is best in a column, by how much, and whether that is more than the seeds differ."""
        known = [name for name in rows or self.rows if column in self.rows[name]]
        best, *others = sorted(known, key=lambda name: -self.mean(name, column))
        if not others:
            return f"{column}: {best} {number(self.rows[best][column])}."
        second = others[0]
        values = [self.rows[name][column] for name in (best, second)]
        said = f"{column}: best is {best} ({number(values[0])}), then {second} ({number(values[1])})"
        if min(map(len, values)) < 2:
            return f"{said}; one seed says nothing about chance."
        spread = max(float(np.std(v, ddof=1)) for v in values)
        gap = self.mean(best, column) - self.mean(second, column)
        judged = "more" if gap > spread else "no more"
        return f"{said}; the difference of {gap:.3f} is {judged} than the spread of the seeds ({spread:.3f})."

    def numbers(self) -> dict[str, Any]:
        """All values, unrounded, ready for JSON."""
        found: dict[str, Any] = plain(self.rows)
        return found


def setting(data: Dataset, seeds: Sequence[int], fixed: str) -> str:
    """The paragraph on what stayed the same: data, protocol, seeds."""
    sizes = f"{len(data.train):,} training rows, {len(data.query):,} queries, {len(data.gallery):,} gallery rows"
    listed = ", ".join(map(str, seeds))
    return f"Fixed: {fixed}. Data: {data.name}: {sizes}. Seeds of the methods: {listed}. {PROTOCOL.describe()}"
