"""Ablation (e): what a second, a third and a fourth view of an item add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from bitfuse.bench.ablations._drawing import curves
from bitfuse.bench.ablations._features import cosine
from bitfuse.bench.ablations._findings import (
    PROTOCOL,
    SMALL,
    Findings,
    fitted,
    labels_of,
    setting,
    world,
)
from bitfuse.bench.scores import score
from bitfuse.bench.sections import Section
from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import InputError
from bitfuse.hashers import hasher
from bitfuse.hashers.base import Hasher

VIEWS = ("image", "text", "sound", "frames")
SIZES = {"n_train": 500, "n_query": 300, "n_gallery": 1500}
FLOAT, ITQ, CLIPMH, ASKED = "float", "ITQ", "CLIPMH", "CLIPMH of all views"
_MOST_VIEWS = 5  # 31 choices


def run(
    *, data: Dataset | None = None, seeds: tuple[int, ...] = (0, 1, 2), quick: bool = False, n_bits: int = 64
) -> Section:
    """Fit ITQ and CLIPMH on every choice of views, and ask a CLIPMH of all views with every choice of them.

    Args:
        data: with features of two to five views, and labels; None is the shapes world with picture, caption, sound
            and four frames of every scene.
        seeds: of the methods.
        quick: a trial on small data: one seed, 5 epochs, 16 bits.
        n_bits: code length.

    Raises:
        InputError: data with one view, or with more than five.
    """
    if data is None:
        from bitfuse.pipeline.datasets import dataset

        data = dataset("shapes", views=VIEWS, **(SMALL if quick else SIZES))
    data = world(data, quick)
    views = tuple(data.train.views)
    if not 2 <= len(views) <= _MOST_VIEWS:
        raise InputError(f"this ablation needs data of 2 to {_MOST_VIEWS} views, {data.name!r} has {list(views)}")
    changes: dict[str, Any] = {"epochs": 5} if quick else {}
    seeds = seeds[:1] if quick else seeds
    n_bits = 16 if quick else n_bits
    choices = [kept for m in range(1, len(views) + 1) for kept in combinations(views, m)]
    found = Findings()
    for seed in seeds:
        whole = fitted(hasher("clipmh", n_bits=n_bits, seed=seed, **changes), data.train)
        for kept in choices:
            part = Dataset(data.name, _only(data.train, kept), _only(data.query, kept), _only(data.gallery, kept))
            itq = fitted(hasher("itq", n_bits=n_bits, seed=seed), part.train)
            clipmh = fitted(hasher("clipmh", n_bits=n_bits, seed=seed, **changes), part.train)
            scores = {FLOAT: cosine(part), ITQ: _of_codes(itq, part), CLIPMH: _of_codes(clipmh, part)}
            asked = replace(part, gallery=data.gallery)
            found.add(" + ".join(kept), {**scores, ASKED: _of_codes(whole, asked)})
    by_count = _means(found, choices)
    for m, means in by_count.items():
        for column, value in means.items():
            found.rows.setdefault(f"mean of {m} view{'s' * (m > 1)}", {})[column] = value
    columns = (FLOAT, ITQ, CLIPMH, ASKED)
    table = found.table(f"mAP by choice of views, {n_bits} bits", "views", columns)
    figure = curves(
        {c: (list(by_count), [float(np.mean(means[c])) for means in by_count.values()]) for c in columns},
        "views (mean over the choices)",
        PROTOCOL.metric,
    )
    text = "\n\n".join([_varied(data), setting(data, seeds, f"{n_bits} bits"), _outcome(found, views, by_count)])
    return Section("What does a further view add?", text, table, (figure,), numbers=found.numbers())


def _only(samples: Samples, views: Sequence[str]) -> Samples:
    return replace(samples, views={view: samples.views[view] for view in views})


def _of_codes(model: Hasher, data: Dataset) -> float:
    codes = model.encode(data.query.views), model.encode(data.gallery.views)
    return score(*codes, labels_of(data.query), labels_of(data.gallery), PROTOCOL).map


def _means(found: Findings, choices: Sequence[Sequence[str]]) -> dict[int, dict[str, list[float]]]:
    """Number of views -> column -> the mean over the choices of that many views, one a seed."""
    counts = sorted({len(kept) for kept in choices})
    return {
        m: {
            column: np.mean([found.rows[" + ".join(k)][column] for k in choices if len(k) == m], axis=0).tolist()
            for column in (FLOAT, ITQ, CLIPMH, ASKED)
        }
        for m in counts
    }


def _varied(data: Dataset) -> str:
    about = (
        "The sound of a scene tells number, colours and sizes of its objects under loud noise, nothing of shapes; the "
        "four frames show them moving, under noise. Image, text and frames are encoded by the pocket CLIP (frames: "
        "the mean over the four), the sound by a fixed spectrum. "
        if tuple(data.train.views) == VIEWS and data.name.startswith("shapes")
        else ""
    )
    return (
        f"Varied: the views that an item has. {about}{FLOAT}: cosine of the features side by side. {ITQ} and {CLIPMH}: "
        f"trained, and both sides coded, on these views alone. {ASKED}: one model trained on all views codes a gallery "
        "that has them all; the queries bring these views only."
    )


def _outcome(found: Findings, views: Sequence[str], by_count: dict[int, dict[str, list[float]]]) -> str:
    lines = []
    for column in (CLIPMH, ITQ):
        means = ", ".join(f"{np.mean(scores[column]):.3f} with {m}" for m, scores in by_count.items())
        everything = found.rows[" + ".join(views)][column]
        best = max(views, key=lambda view: found.mean(view, column))
        gap = float(np.mean(everything)) - found.mean(best, column)
        spread = max(float(np.std(everything)), float(np.std(found.rows[best][column])))
        chance = f"the spread of the seeds is {spread:.3f}" if len(everything) > 1 else "of one seed"
        lines.append(
            f"{column}: mean over the choices {means}. All {len(views)} views against the best single one ({best}): "
            f"{gap:+.3f}; {chance}."
        )
    return " ".join(lines)
