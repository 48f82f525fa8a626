"""Ablation (c): bits against the size of the gallery, with fixed queries and growing distractors, encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse import metrics
from bitfuse.bench import modes as asking
from bitfuse.bench.ablations._drawing import curves
from bitfuse.bench.ablations._findings import PROTOCOL, Findings, fitted, labels_of, setting, world
from bitfuse.bench.histograms import histograms
from bitfuse.bench.scores import score
from bitfuse.bench.sections import Section
from bitfuse.bench.tables import Table, number
from bitfuse.codes import Codes
from bitfuse.data.base import Dataset
from bitfuse.errors import InputError
from bitfuse.hashers import hasher
from bitfuse.hashers.base import Hasher

Reals = NDArray[np.float32]

BITS = (8, 16, 32, 64, 128, 256, 512)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
REAL = 10_000
JITTER = 0.5
"""A jittered picture: the features of one, plus this share of the difference of two others, over the root of 2."""

RANK = 10
_BLOCK = 50_000  # rows that exist at once


def run(
    *,
    data: Dataset | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    bits: tuple[int, ...] = BITS,
    sizes: tuple[int, ...] = SIZES,
) -> Section:
    """Search among ever more distractors with codes of every length.

    Args:
        data: with features of an image and a text view and labels; None is the shapes world, 10,000 gallery scenes.
        seeds: of the methods.
        quick: a trial on small data: one seed, 5 epochs, 8 and 32 bits, up to 1,000 distractors.
        bits: code lengths.
        sizes: numbers of distractors, rising; those beyond the gallery's rows are made by jittering features.
    """
    data = world(data, quick, n_gallery=REAL)
    if not {"image", "text"} <= set(data.gallery.views):
        raise InputError(f"sizes asks for pictures by words; {data.name!r} has the views {list(data.gallery.views)}")
    if quick:
        seeds, bits, sizes = seeds[:1], (8, 32), (100, 200, 1000)
    real = len(data.gallery)
    rendered = [n for n in sizes if n <= real]
    found, labelled = Findings(), Findings()
    words, pictures = _pairs(data)
    rankers: list[tuple[str, _Coded | _Float]] = []
    for n_bits in bits:
        for seed in seeds:
            itq = fitted(hasher("itq", n_bits=n_bits, seed=seed, aligned=True), data.train)
            rankers.append((f"{n_bits} bits", _Coded(itq, words, pictures)))
        changes: dict[str, Any] = {"epochs": 5} if quick else {}
        clipmh = fitted(hasher("clipmh", n_bits=n_bits, seed=seeds[0], **changes), data.train)
        labelled.add(f"{n_bits} bits", _by_label(clipmh, data, rendered))
    rankers.append(("float cosine", _Float(words, pictures, data)))
    for (name, _), shares in zip(rankers, own_pictures([r for _, r in rankers], data, sizes)):
        found.add(name, shares)
    control = f"{real:,} jittered"
    columns = [f"{n:,}" for n in rendered] + [control] + [f"{n:,}*" for n in sizes if n > real]
    rows = []
    for name, values in found.rows.items():
        cells = [number(values[c.rstrip("*")]) for c in columns]
        rows.append((name, *cells, *(number(labelled.rows.get(name, {}).get(f"mAP, {n:,}")) for n in rendered)))
    table = Table(
        f"Own picture among the first {RANK}, asked by words (ITQ, aligned), by number of distractors; mAP (CLIPMH)",
        ("codes", *columns, *(f"mAP, {n:,}" for n in rendered)),
        rows,
    )
    text = "\n\n".join(
        [
            _varied(real, control, sizes),
            setting(data, seeds, "each method's parameters"),
            _said(found, bits, sizes, real),
        ]
    )
    lines = {name: ([float(n) for n in sizes], [found.mean(name, f"{n:,}") for n in sizes]) for name in found.rows}
    figure = curves(lines, "distractors", f"own picture among the first {RANK}", base=10)
    numbers = {"own picture": found.numbers(), "labels": labelled.numbers()}
    return Section("How many bits for how many items?", text, table, (figure,), numbers)


def distractors(images: Reals, n: int, jittered: bool = False) -> Iterator[Reals]:
    """`n` rows in blocks: the rows given, then (or, with `jittered`, only) jittered ones, the same at every call."""
    start = 0 if jittered else min(n, len(images))
    for i in range(0, start, _BLOCK):
        yield images[i : min(i + _BLOCK, start)]
    unit = asking.unit(images)
    for i in range(start, n, _BLOCK):
        rng = np.random.default_rng((i, len(images)))
        a, b, c = rng.integers(0, len(unit), (3, min(_BLOCK, n - i)))
        yield asking.unit(unit[a] + JITTER / 2**0.5 * (unit[b] - unit[c]))


def own_pictures(rankers: Sequence[_Coded | _Float], data: Dataset, sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """Share of queries whose own picture is among the first 10, by number of distractors, for each ranker.

    The last key, `"<n> jittered"`, has as many distractors as the gallery has pictures, none of them real.
    """
    images = data.gallery.views["image"]
    images = images[~np.isnan(images).all(axis=1)]
    for block in distractors(images, len(images), jittered=True):
        for ranker in rankers:
            ranker.add(block)
    control = {f"{len(images):,} jittered": [ranker.recall() for ranker in rankers]}
    found: dict[str, list[float]] = {}
    for ranker in rankers:
        ranker.forget()
    done, ends = 0, sorted(sizes)
    for block in distractors(images, ends[-1]):
        cuts = [n - done for n in ends if done < n < done + len(block)]
        for a, b in pairwise([0, *cuts, len(block)]):
            for ranker in rankers:
                ranker.add(block[a:b])
            if done + b in ends:
                found[f"{done + b:,}"] = [ranker.recall() for ranker in rankers]
        done += len(block)
    return [{column: values[i] for column, values in (found | control).items()} for i in range(len(rankers))]


def _pairs(data: Dataset) -> tuple[Reals, Reals]:
    """Texts and pictures of the queries that have both."""
    words, pictures = data.query.views["text"], data.query.views["image"]
    there = ~np.isnan(words).all(axis=1) & ~np.isnan(pictures).all(axis=1)
    return words[there], pictures[there]


class _Coded:
    """How many distractors lie at each Hamming distance from each query; ties count by their expectation."""

    def __init__(self, hasher: Hasher, words: Reals, pictures: Reals) -> None:
        self._hasher, self._query = hasher, hasher.encode({"text": words})
        own = hasher.encode({"image": pictures})
        distance = np.bitwise_count(self._query.words() ^ own.words()).sum(axis=1, dtype=np.int64)
        self._own = np.zeros((len(words), hasher.n_bits + 1), np.int64)
        self._own[np.arange(len(words)), distance] = 1
        self.forget()

    def forget(self) -> None:
        self._n = self._own.copy()

    def add(self, images: Reals) -> None:
        codes = self._hasher.encode({"image": images})
        blank = np.zeros((len(self._query), 1), bool), np.zeros((len(codes), 1), bool)
        self._n += histograms(self._query, codes, *blank).n

    def recall(self) -> float:
        return metrics.mean(metrics.recall_at(self._n, self._own, min(RANK, int(self._n[0].sum()))))


class _Float:
    """How many distractors are nearer to each query than its own picture, by cosine of the centred features."""

    def __init__(self, words: Reals, pictures: Reals, data: Dataset) -> None:
        text, self._mean = (asking.centre(data.train, view) for view in ("text", "image"))
        self._query = asking.unit(asking.unit(words) - text)
        self._own = (self._query * self._seen(pictures)).sum(axis=1)
        self.forget()

    def _seen(self, images: Reals) -> Reals:
        return asking.unit(asking.unit(images) - self._mean)

    def forget(self) -> None:
        self._nearer = np.zeros(len(self._query), np.int64)

    def add(self, images: Reals) -> None:
        self._nearer += (self._query @ self._seen(images).T > self._own[:, None]).sum(axis=1)

    def recall(self) -> float:
        return float((self._nearer < RANK).mean())


def _by_label(hasher: Hasher, data: Dataset, sizes: list[int]) -> dict[str, float]:
    query, gallery = hasher.encode(data.query.views), hasher.encode(data.gallery.views)
    y_q, y_g = labels_of(data.query), labels_of(data.gallery)
    return {
        f"mAP, {n:,}": score(query, Codes(gallery.packed[:n], gallery.n_bits), y_q, y_g[:n], PROTOCOL).map
        for n in sizes
    }


def _varied(real: int, control: str, sizes: tuple[int, ...]) -> str:
    said = (
        "Varied: the code length, and how many distractors a query's own picture is hidden among. The query is the "
        "item's text alone; every other picture counts as wrong, ties count by their expectation. ITQ with one "
        "rotation for both views learns without labels. Features and codes of a distractor are made once; galleries "
        f"are nested. Up to {real:,} distractors are real gallery items. "
    )
    if max(sizes) > real:
        said += (
            f"Columns with * hold {real:,} real ones and beyond them jittered copies: the unit features of a real one "
            f"plus {JITTER} / sqrt(2) of the difference of two others, at unit length again; they stand for pictures "
            f"that nobody rendered. '{control}' has no real distractor at all: beside the column of as many real ones "
            "it shows what jittering changes. "
        )
    return said + (
        "mAP over the labels (all views on both sides, CLIPMH, the first seed alone) is given for the real galleries "
        "only, since jittered items have no labels."
    )


def _said(found: Findings, bits: tuple[int, ...], sizes: tuple[int, ...], real: int) -> str:
    said = []
    for n in sizes:
        column = f"{n:,}"
        reference = found.mean("float cosine", column)
        enough = next((b for b in bits if found.mean(f"{b} bits", column) >= 0.95 * reference), None)
        reached = f"{enough} bits reach" if enough else f"no length up to {bits[-1]} bits reaches"
        said.append(f"Among {column} {reached} 0.95 of the float features' {reference:.3f}.")
    if real in sizes:
        pairs = [found.mean(f"{b} bits", f"{real:,} jittered") - found.mean(f"{b} bits", f"{real:,}") for b in bits]
        said.append(
            f"Among {real:,} jittered distractors the share is {min(pairs):+.3f} to {max(pairs):+.3f} from that among "
            "real ones, by code length."
        )
    return " ".join(said)
