"""Ablation (h): what CLIPMH's hash layer does: its loss, its quantisation weight, others in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitfuse.bench.ablations._drawing import curves
from bitfuse.bench.ablations._findings import Findings, fitted, labels_of, quietly, real_map, setting, world
from bitfuse.bench.facts import diagnose
from bitfuse.bench.modes import Reals
from bitfuse.bench.scores import score
from bitfuse.bench.sections import Section
from bitfuse.codes import Codes
from bitfuse.data.base import Dataset
from bitfuse.hashers import hasher
from bitfuse.hashers.clipmh import CLIPMH

LOSSES = ("pairwise", "balanced", "contrastive", "soft_target")
WEIGHTS = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)
REAL, BINARY, LOST, GAP, DISTINCT = "before the sign", "binary", "lost by the sign", "from ±1", "distinct"
DEFAULT = "pairwise, quantisation 0.05 (default)"
ROTATED, RANDOM, PLAIN = "ITQ on the gated features", "LSH on the gated features", "ITQ on the features, no gate"


def run(
    *, data: Dataset | None = None, seeds: tuple[int, ...] = (0, 1, 2), quick: bool = False, n_bits: int = 64
) -> Section:
    """Fit CLIPMH with each loss and quantisation weight, and put ITQ and LSH in the place of its hash layer.

    Args:
        data: with features and labels; None is the shapes world.
        seeds: of the methods.
        quick: a trial on small data: one seed, 5 epochs, 16 bits.
        n_bits: code length.
    """
    data = world(data, quick)
    seeds = seeds[:1] if quick else seeds
    changes: dict[str, Any] = {"epochs": 5} if quick else {}
    n_bits = 16 if quick else n_bits
    variants: dict[str, dict[str, Any]] = {DEFAULT: {}}
    variants |= {f"{loss}, quantisation 0.05": {"loss": loss} for loss in LOSSES[1:]}
    variants |= {f"pairwise, quantisation {w:g}": {"quantisation": w} for w in WEIGHTS if w != 0.05}
    found, default = Findings(), []
    for name, parameters in variants.items():
        for seed in seeds:
            model = fitted(hasher("clipmh", n_bits=n_bits, seed=seed, **parameters, **changes), data.train)
            query, gallery = model.project(data.query.views), model.project(data.gallery.views)
            gap = float(np.abs(np.abs(gallery) - 1).mean())
            found.add(name, {**_judged(query, gallery, query, gallery, data), GAP: gap})
            if name == DEFAULT:
                default.append(model)
    for model in default:
        _replace(model, data, found)
    columns = (REAL, BINARY, LOST, GAP, DISTINCT)
    table = found.table(f"CLIPMH's hash layer, {n_bits} bits, mAP, all views", "hash layer", columns)
    by_weight = [(w, DEFAULT if w == 0.05 else f"pairwise, quantisation {w:g}") for w in WEIGHTS]
    lines = {c: ([w for w, _ in by_weight], [found.mean(name, c) for _, name in by_weight]) for c in (REAL, BINARY)}
    varied = (
        "Varied: the metric loss (the paper leaves it open), the weight of the quantisation loss from 0 to 1, and what "
        "makes bits of the features behind the trained gate: the hash layer itself, ITQ learned on the training rows' "
        "gated features, or random projections of them (LSH). The last row has no training with labels at all. "
        f"'{REAL}' is the cosine of the values before the sign (for ITQ and LSH: of the features that they read), "
        f"'{LOST}' the difference, '{GAP}' how far the relaxed codes are from -1 and 1 on average, "
        f"'{DISTINCT}' the share of distinct codes in the gallery."
    )
    fixed = f"CLIPMH's network, scaling and choice of the best epoch, {n_bits} bits; all views on both sides"
    losses = [DEFAULT, *(f"{loss}, quantisation 0.05" for loss in LOSSES[1:])]
    said = [
        "Losses, " + found.verdict(BINARY, losses),
        "Quantisation weights, " + found.verdict(BINARY, [name for _, name in by_weight]),
        "In place of the hash layer, " + found.verdict(BINARY, [DEFAULT, ROTATED, RANDOM, PLAIN]),
        f"The sign costs {found.mean('pairwise, quantisation 0', LOST):.3f} without a quantisation loss, "
        f"{found.mean(DEFAULT, LOST):.3f} at weight 0.05, {found.mean('pairwise, quantisation 1', LOST):.3f} at 1.",
    ]
    text = "\n\n".join([varied, setting(data, seeds, fixed), " ".join(said)])
    figure = curves(lines, "weight of the quantisation loss", "mAP")
    return Section("What does the hash layer do?", text, table, (figure,), found.numbers())


def _replace(model: Any, data: Dataset, found: Findings) -> None:
    """Put ITQ and LSH behind the trained gate, and ITQ before everything."""
    assert isinstance(model, CLIPMH)
    train, query, gallery = ({"gated": model.fused(p.views)} for p in (data.train, data.query, data.gallery))
    for name, method in ((ROTATED, "itq"), (RANDOM, "lsh")):
        with quietly():
            other = hasher(method, n_bits=model.n_bits, seed=model.seed).fit(train)
        pair = other.project(query), other.project(gallery)
        found.add(name, _judged(query["gated"], gallery["gated"], *pair, data))
    plain = fitted(hasher("itq", n_bits=model.n_bits, seed=model.seed), data.train)
    pair = plain.project(data.query.views), plain.project(data.gallery.views)
    found.add(PLAIN, _judged(*pair, *pair, data))


def _judged(real_query: Reals, real_gallery: Reals, query: Reals, gallery: Reals, data: Dataset) -> Mapping[str, float]:
    codes = Codes.from_real(gallery)
    binary = score(Codes.from_real(query), codes, labels_of(data.query), labels_of(data.gallery)).map
    real = real_map(real_query, real_gallery, data)
    return {REAL: real, BINARY: binary, LOST: real - binary, DISTINCT: diagnose(codes)["distinct"]}
