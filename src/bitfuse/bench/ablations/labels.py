"""Ablation (i): how many labelled rows a supervised method needs, beside one that needs none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.bench.ablations._drawing import curves
from bitfuse.bench.ablations._findings import Findings, asked, fitted, labels_of, setting, world
from bitfuse.bench.sections import Section
from bitfuse.data.base import Dataset
from bitfuse.hashers import hasher

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIPMH": ("clipmh", {}),
    "OneHot, labels coded": ("onehot", {}),
    "OneHot, scores coded": ("onehot", {"coded": "scores"}),
}
PER_CLASS = (1, 5, 20)
UNLABELLED = "ITQ, every row, no label"


def run(
    *,
    data: Dataset | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    n_bits: int = 64,
    per_class: tuple[int, ...] = PER_CLASS,
) -> Section:
    """Fit supervised methods on a few labelled rows a class and on all, and ITQ on all rows without their labels.

    Args:
        data: with features and labels; None is the shapes world.
        seeds: of the methods, and of the draw of the labelled rows.
        quick: a trial on small data: one seed, 5 epochs, 16 bits.
        n_bits: code length.
        per_class: labelled rows drawn for each class; a row that carries several labels brings all of them.
    """
    data = world(data, quick)
    seeds = seeds[:1] if quick else seeds
    n_bits = 16 if quick else n_bits
    y = labels_of(data.train)
    found = Findings()
    rows: dict[str, list[int]] = {}
    columns = [*(f"{m} a class" for m in per_class), "all"]
    for seed in seeds:
        itq = fitted(hasher("itq", n_bits=n_bits, seed=seed), data.train)
        score = next(iter(asked(itq, data.query, data.gallery).values()))
        found.add(UNLABELLED, dict.fromkeys(columns, score))
        for column, m in zip(columns, [*per_class, None]):
            chosen = np.flatnonzero(data.train.labelled) if m is None else draw(y, m, np.random.default_rng(seed))
            rows.setdefault(column, []).append(len(chosen))
            for name, (method, parameters) in METHODS.items():
                changes: dict[str, Any] = {"epochs": 5} if quick and method == "clipmh" else {}
                model = fitted(
                    hasher(method, n_bits=n_bits, seed=seed, **parameters, **changes), data.train.take(chosen)
                )
                found.add(name, {column: next(iter(asked(model, data.query, data.gallery).values()))})
    table = found.table(f"mAP by labelled training rows, {n_bits} bits, all views", "method", columns)
    mean_rows = {column: float(np.mean(n)) for column, n in rows.items()}
    counts = ("labelled rows, mean", *(f"{mean_rows[c]:,.0f}" for c in columns))
    table = type(table)(table.title, table.headings, [*table.rows, counts])
    varied = (
        f"Varied: the labelled rows that the supervised methods learn from. For each of the {y.shape[1]} classes so "
        "many rows that carry it are drawn; the rows bring all their labels. ITQ learns from every training row and "
        "no label, so its figure is the same in each column: what labels must beat."
    )
    fixed = f"each method's parameters, {n_bits} bits, all views on both sides"
    verdicts = [found.verdict(column) for column in columns]
    enough = next((c for c in columns if found.mean("CLIPMH", c) > found.mean(UNLABELLED, c)), None)
    verdicts.append(
        f"CLIPMH passes ITQ from '{enough}' on."
        if enough
        else "CLIPMH passes ITQ with none of these numbers of labels."
    )
    text = "\n\n".join([varied, setting(data, seeds, fixed), " ".join(verdicts)])
    at = [mean_rows[c] for c in columns]
    lines = {name: (at, [found.mean(name, c) for c in columns]) for name in found.rows}
    figure = curves(lines, "labelled training rows", "mAP", base=10)
    return Section("How many labels are needed?", text, table, (figure,), {**found.numbers(), "labelled rows": rows})


def draw(labels: NDArray[np.bool_], per_class: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Row numbers: for each class, `per_class` of the rows that carry it, or all where there are fewer; sorted."""
    chosen = [rng.permutation(np.flatnonzero(column))[:per_class] for column in labels.T]
    return np.unique(np.concatenate(chosen))
