"""Ablation (f): queries from elsewhere: what they cost, and whether the model's novelty tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.bench.ablations._findings import SMALL, Findings, fitted, labels_of, setting, world
from bitfuse.bench.scores import score
from bitfuse.bench.sections import Section
from bitfuse.bench.tables import Table, number
from bitfuse.data.base import Dataset
from bitfuse.data.scenes import STYLES
from bitfuse.hashers import hasher
from bitfuse.hashers.base import Hasher

Reals = NDArray[np.float32]
Views = Mapping[str, Reals]

HOME, FAR, RANDOM, CONTENT = "as trained", "gallery as trained", "random vectors", "noise and idle words"
OWN, TRAINED = "gallery shifted", "all shifted, trained on it"
AUROC, FLAGGED, NEAREST, VALUES = "AUROC", "flagged", "AUROC, nearest code", "AUROC, size of values"

WORDS = (
    *("quarterly", "revenue", "piano", "sonata", "mountain", "lawyer", "contract", "kitchen", "recipe", "soup"),
    *("winter", "holiday", "train", "station", "football", "match", "novel", "chapter", "garden", "engine"),
)


def run(
    *,
    data: Dataset | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    n_bits: int = 64,
    shifted: Mapping[str, Dataset] | None = None,
) -> Section:
    """Train on one data set and query it from others.

    Args:
        data: with features and labels; None is the shapes world.
        seeds: of the method.
        quick: a trial on small data: one seed, 5 epochs, 16 bits, two styles.
        n_bits: code length.
        shifted: name -> a data set with the same views and labels, in train, query and gallery. None is the shapes
            world drawn in other styles where `data` is None too, and otherwise none: then random vectors alone are far.
    """
    own = data is None
    data = world(data, quick)
    if shifted is None:
        shifted = _styles(quick) if own else {}
    seeds = seeds[:1] if quick else seeds
    n_bits = 16 if quick else n_bits
    changes: dict[str, Any] = {"epochs": 5} if quick else {}
    views = list(data.train.views)
    found = Findings()
    strangers = _random(data, {view: x.shape[1] for view, x in data.train.views.items()})
    for seed in seeds:
        model = fitted(hasher("clipmh", n_bits=n_bits, seed=seed, **changes), data.train)
        for view in views:
            usual = _signals(model, {view: data.query.views[view]}, data)
            found.add(f"{HOME}, {view}", {FAR: _map(model, view, data, data), **_told(usual, usual)})
            for name, other in shifted.items():
                if np.array_equal(other.query.views[view], data.query.views[view], equal_nan=True):
                    continue  # this view did not change
                there = fitted(hasher("clipmh", n_bits=n_bits, seed=seed, **changes), other.train)
                cost = {FAR: _map(model, view, other, data), OWN: _map(model, view, other, other)}
                cost[TRAINED] = _map(there, view, other, other)
                signals = _signals(model, {view: other.query.views[view]}, data)
                found.add(f"{name}, {view}", {**cost, **_told(usual, signals)})
            for name, queries in {**strangers, **(_nonsense(data) if own else {})}.items():
                found.add(f"{name}, {view}", _told(usual, _signals(model, {view: queries[view]}, data)))
    columns = (FAR, OWN, TRAINED, AUROC, FLAGGED, NEAREST, VALUES)
    rows: list[tuple[str, ...]] = [
        (name, *(number(values.get(c)) for c in columns)) for name, values in found.rows.items()
    ]
    headings = ("queries, by view alone", *(f"mAP, {c}" for c in columns[:3]), *columns[3:])
    table = Table(f"CLIPMH, {n_bits} bits: queries from elsewhere", headings, rows)
    varied = (
        "Varied: where the queries come from, one view at a time, against a gallery with all its views. "
        f"'{FAR}': the model and the gallery are those of the data below; '{OWN}': the same model, but the gallery "
        f"comes from where the queries do; '{TRAINED}': so does the model. A query is flagged where `Hasher.novelty` "
        "exceeds 1: it lies further from the training rows than any of the up to 1,000 that were set aside for this; "
        "`Collection.search` then warns of a picture. AUROC: how well the novelty tells these queries from the "
        "ordinary ones (1: always, 0.5: not at all). Beside it the same of two rules that need no more than the codes: "
        "distance to the nearest code of the gallery, and mean size of the values before the sign."
    )
    if own:
        varied += (
            " Styles are other renderers of the same scenes; their captions stay, so only the picture is asked. "
            f"'{CONTENT}': pictures of random pixels, and sentences of eight words that the world does not know."
        )
    text = "\n\n".join([varied, setting(data, seeds, f"CLIPMH at {n_bits} bits, all else"), _said(found, views)])
    return Section("What of queries from elsewhere?", text, table, numbers=found.numbers())


def _styles(quick: bool) -> dict[str, Dataset]:
    from bitfuse.pipeline.datasets import dataset

    listed = STYLES[1:3] if quick else STYLES[1:]
    return {f"style {s}": dataset("shapes", style=s, **(SMALL if quick else {})) for s in listed}


def _random(data: Dataset, widths: Mapping[str, int]) -> dict[str, Views]:
    rng = np.random.default_rng(0)
    n = len(data.query)
    return {RANDOM: {view: rng.standard_normal((n, width), np.float32) for view, width in widths.items()}}


def _nonsense(data: Dataset) -> dict[str, Views]:
    """Pictures and sentences that have nothing to do with the world, through its backbone."""
    from PIL import Image

    from bitfuse.features import backbone

    rng, encoder = np.random.default_rng(0), backbone("pocket")
    n = len(data.query)
    pictures = [Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)) for _ in range(n)]
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(n)]
    return {CONTENT: {"image": encoder.encode("image", pictures), "text": encoder.encode("text", texts)}}


def _map(model: Hasher, view: str, asking_data: Dataset, gallery_data: Dataset) -> float:
    query, gallery = asking_data.query, gallery_data.gallery
    codes = model.encode({view: query.views[view]}), model.encode(gallery.views)
    return score(*codes, labels_of(query), labels_of(gallery)).map


def _signals(model: Hasher, query: Views, data: Dataset) -> dict[str, NDArray[np.floating]]:
    """What could give a strange query away, the greater the stranger, (q,) each."""
    z = model.project(query)
    distance = model.encode(query).hamming(model.encode(data.gallery.views)).min(axis=1)
    return {AUROC: model.novelty(query), NEAREST: distance, VALUES: -np.abs(z).mean(axis=1)}


def _told(usual: Mapping[str, NDArray[Any]], strange: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """AUROC of each signal, and the share that the novelty flags."""
    found = {} if usual is strange else {name: auroc(usual[name], strange[name]) for name in usual}
    return {**found, FLAGGED: float((strange[AUROC] > 1).mean())}


def auroc(usual: NDArray[Any], strange: NDArray[Any]) -> float:
    """The probability that a strange value exceeds a usual one, ties counting half; NaN where a value is."""
    if np.isnan(usual).any() or np.isnan(strange).any():
        return float("nan")
    ordered = np.sort(usual)
    below = np.searchsorted(ordered, strange, "left") + np.searchsorted(ordered, strange, "right")
    return float(below.mean() / (2 * len(usual)))


def _said(found: Findings, views: list[str]) -> str:
    said = []
    for view in views:
        home = f"{HOME}, {view}"
        said.append(f"Of ordinary queries by {view}, {found.mean(home, FLAGGED):.1%} are flagged (false alarms).")
        others = [row for row in found.rows if row.endswith(f", {view}") and row != home]
        for row in others:
            parts = [f"{row}: {found.mean(row, FLAGGED):.0%} flagged, AUROC {found.mean(row, AUROC):.3f}"]
            if FAR in found.rows[row]:
                lost = found.mean(home, FAR) - found.mean(row, FAR)
                parts.append(f"mAP {lost:.3f} lower than ordinary queries'")
            said.append(", ".join(parts) + ".")
    return " ".join(said)
