"""Ablation (b): how CLIPMH makes one vector of several views."""

from __future__ import annotations

from typing import Any

from bitfuse.bench.ablations._findings import Findings, asked, fitted, setting, world
from bitfuse.bench.sections import Section
from bitfuse.data.base import Dataset
from bitfuse.hashers import hasher

FUSIONS: dict[str, dict[str, Any]] = {
    "context gate": {},
    "context gate, a layer for each view": {"variant": "code"},
    "concatenation": {"fusion": "concatenation"},
    "concatenation, a layer for each view": {"fusion": "concatenation", "variant": "code"},
    "attention among the views": {"fusion": "attention"},
    "low-rank bilinear": {"fusion": "bilinear"},
    "sum": {"fusion": "sum"},
}
WEIGHTS, EPOCHS = "weights", "best epoch"


def run(
    *, data: Dataset | None = None, seeds: tuple[int, ...] = (0, 1, 2), quick: bool = False, n_bits: int = 64
) -> Section:
    """Fit CLIPMH with each fusion, everything else at its defaults.

    Args:
        data: with features and labels; None is the shapes world.
        seeds: of the method.
        quick: a trial on small data: one seed, 5 epochs, 16 bits.
        n_bits: code length.
    """
    data = world(data, quick)
    seeds = seeds[:1] if quick else seeds
    changes: dict[str, Any] = {"epochs": 5} if quick else {}
    n_bits = 16 if quick else n_bits
    found = Findings()
    for name, parameters in FUSIONS.items():
        for seed in seeds:
            model = fitted(hasher("clipmh", n_bits=n_bits, seed=seed, **parameters, **changes), data.train)
            scores = asked(model, data.query, data.gallery)
            found.add(name, {**scores, WEIGHTS: model.log["weights"], EPOCHS: model.log["best_epoch"]})
    modes = list(scores)
    table = found.table(f"CLIPMH by fusion, {n_bits} bits: mAP by query mode", "fusion", modes)
    rows = [(*row, f"{found.mean(row[0], WEIGHTS):,.0f}", f"{found.mean(row[0], EPOCHS):.0f}") for row in table.rows]
    table = type(table)(table.title, (*table.headings, WEIGHTS, EPOCHS), rows)
    varied = (
        "Varied: what stands between the scaled views and the hash layer. The context gate is the paper's; with a "
        "layer for each view (256, tanh) it is the network of the authors' file. Attention, low-rank bilinear and sum "
        "bring each view to 256 by such a layer of their own, so that they are to be compared with the rows that have "
        "it. Weights are those of the whole network."
    )
    fixed = f"CLIPMH's loss, scaling, view dropout and choice of the best epoch, {n_bits} bits"
    verdicts = " ".join(found.verdict(mode) for mode in modes)
    text = "\n\n".join([varied, setting(data, seeds, fixed), verdicts])
    return Section("How are the views fused?", text, table, numbers=found.numbers())
