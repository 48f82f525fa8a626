"""From samples to a fitted model: the default method for what the data holds, the held-out ids, the record of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Dataset, Samples
from bitfuse.data.split import draws, holdout_mask
from bitfuse.data.stored import StoredSamples
from bitfuse.errors import InputError
from bitfuse.features.base import Backbone
from bitfuse.hashers import _persist, hasher
from bitfuse.hashers.base import Hasher

Rows = TypeVar("Rows", Samples, StoredSamples)

IDS = "ids.json"
"""The attachment of a model that lists the ids it was trained on and those that were held out."""


FEWEST_PAIRS = 256
MOST_PAIRS = 10_000
"""Pairs of picture and text that UCMFH learns from: fewer teach it too little, more take minutes (its cost is n^2)."""


@dataclass(frozen=True)
class Choice:
    """A method with its parameters, and why it was chosen."""

    method: str
    parameters: Mapping[str, Any]
    reason: str


def default_choice(samples: Samples | StoredSamples, backbone: Backbone | None) -> Choice:
    """The method for this data where the user names none.

    Labels: CLIPMH. Otherwise, pairs of picture and text: UCMFH (`benchmarks/ucmfh_ablation.py` has it beside ITQ).
    Otherwise, views that share one space: ITQ with one rotation for all of them, learned on the images, so that a
    photo without a text still answers to words. Otherwise: ITQ on the views side by side.
    """
    if samples.labelled.any():
        return Choice("clipmh", {}, f"{int(samples.labelled.sum())} of {len(samples)} rows carry labels")
    pairs = int(complete(samples).sum()) if set(samples.views) == {"image", "text"} else 0
    if pairs >= FEWEST_PAIRS:
        return Choice("ucmfh", {}, f"no labels; {pairs} of {len(samples)} rows have picture and text")
    if backbone is not None and backbone.aligned and "image" in samples.views:
        return Choice("itq", {"aligned": True, "rotation_from": "image"}, f"no labels; views of {backbone.name} align")
    return Choice("itq", {}, "no labels, and views that do not share one space")


def complete(samples: Samples | StoredSamples) -> NDArray[np.bool_]:
    """(n,) bool: the rows that lack no view."""
    if isinstance(samples, StoredSamples):
        return samples.complete
    lacks = np.zeros(len(samples), bool)
    for x in samples.views.values():
        lacks |= np.isnan(x).all(axis=1)
    return ~lacks


def training_rows(samples: Samples | StoredSamples, choice: Choice) -> Samples | StoredSamples:
    """The rows to fit on: for UCMFH those with both views, at most `MOST_PAIRS` of them, drawn by hash of id.

    Of samples on disk it takes their own sample, when it fits.
    """
    if choice.method != "ucmfh":
        return samples
    if isinstance(samples, StoredSamples):
        return samples.take(samples.complete)
    rows = np.flatnonzero(complete(samples))
    if len(rows) > MOST_PAIRS:
        keys = draws([samples.ids[i] for i in rows.tolist()], "pairs")
        rows = np.sort(rows[np.argsort(keys, kind="stable")[:MOST_PAIRS]])
    return samples.take(rows)


def training_views(samples: Samples | StoredSamples, choice: Choice, backbone: Backbone | None) -> Mapping[str, Any]:
    """The views to fit on. Aligned ITQ on pictures alone gets the backbone's prompts as rows, for the text mean."""
    if isinstance(samples, StoredSamples):
        return samples.views
    views = dict(samples.views)
    lacks_text = "text" not in views or bool(np.isnan(views["text"]).all())
    if choice.parameters.get("aligned") and backbone is not None and "text" in backbone.views and lacks_text:
        prompts = backbone.encode("text", list(backbone.prompts))
        image = views["image"]
        views["image"] = np.concatenate([image, np.full((len(prompts), image.shape[1]), np.nan, np.float32)])
        views["text"] = np.concatenate([np.full((len(image), prompts.shape[1]), np.nan, np.float32), prompts])
    return views


def fit(
    samples: Samples | StoredSamples,
    choice: Choice,
    *,
    n_bits: int = 64,
    seed: int = 0,
    preset: str = "default",
    backbone: Backbone | None = None,
    device: str = "cpu",
    processes: int = 1,
) -> Hasher:
    """Fit the chosen method on these samples, whose views must be there; see `training_rows`.

    Args:
        samples: in memory, or on disk (`bitfuse.pipeline.spool`).
        choice: the method.
        n_bits, seed, preset: of the method.
        backbone: what made the views, where the samples do not say.
        device: where a deep method computes.
        processes: that share the batches of a deep method; see `bitfuse.pipeline.processes`.
    """
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise InputError(f"processes must be an integer of at least 1, got {processes!r}")
    if not samples.views:
        raise InputError("these samples have no features; run extract(samples, backbone) first")
    samples = training_rows(samples, choice)
    model = hasher(choice.method, preset=preset, n_bits=n_bits, seed=seed, **choice.parameters)
    views = training_views(samples, choice, backbone)
    sources = dict(samples.sources or {})
    if backbone is not None:
        sources |= {v: backbone.describe(v) for v in views if v in backbone.views and v not in sources}
    labels = samples.labels if model.supervised else None
    if processes > 1:
        from bitfuse.pipeline.processes import fit_in_processes

        return fit_in_processes(model, views, labels, processes=processes, sources=sources, device=device)
    return model.fit(views, labels, sources=sources, device=device)


def hold_out(samples: Rows, share: float = 0.1) -> tuple[Rows, Rows]:
    """Training rows and held-out rows, by a hash of the id: the same id always falls on the same side."""
    out = holdout_mask(samples.ids, share)
    if out.all() or not out.any():
        raise InputError(f"{len(samples)} rows are too few to hold out {share:.0%} of them by id; supply more rows")
    return samples.take(~out), samples.take(out)


def ids_attachment(train: Rows, heldout: Rows) -> dict[str, bytes]:
    """The attachment that `Hasher.save` keeps with the model."""
    return {IDS: json.dumps({"train": list(train.ids), "heldout": list(heldout.ids)}).encode()}


def refuse_trained_queries(model: str | Path, dataset: Dataset) -> None:
    """Refuse to judge a saved model on queries that it was trained on: the data was split otherwise at fit.

    Raises:
        InputError: a query's id is among the model's training ids.
    """
    saved = _persist.attachment(model, IDS)
    trained = set(dataset.query.ids).intersection(json.loads(saved)["train"]) if saved else set()
    if trained:
        raise InputError(
            f"{len(trained)} of {len(dataset.query)} queries were used to train {model}, for example {min(trained)!r}; "
            "evaluate it under the variant and split seed that it was fitted with"
        )


def judged_split(model: str | Path, samples: Samples, name: str) -> Dataset:
    """What a saved model may be judged on: its held-out ids as queries, every other row as the gallery, called `name`.

    Data that shares no id with the model's is other data: a tenth of it, by hash of id, are the queries.

    Raises:
        InputError: the data holds rows that the model was trained on, and none that it was not.
    """
    saved = _persist.attachment(model, IDS)
    ids = json.loads(saved) if saved else {"train": [], "heldout": []}
    given = set(samples.ids)
    queries, trained = given.intersection(ids["heldout"]), given.intersection(ids["train"])
    if not queries and trained:
        raise InputError(
            f"{len(trained)} of these {len(samples)} rows were used to train {model}, and none of its held-out ids is "
            "here; evaluate on the table that it was fitted from, or on other data"
        )
    if queries:
        is_query = np.array([i in queries for i in samples.ids])
    else:
        is_query = holdout_mask(samples.ids, 0.1)
        if is_query.all() or not is_query.any():
            raise InputError(f"{len(samples)} rows are too few to set a tenth apart as queries; supply more rows")
    rest = samples.take(~is_query)
    return Dataset(
        name=name,
        train=rest.take([i for i, name in enumerate(rest.ids) if name in trained]),
        query=samples.take(is_query),
        gallery=rest,
        notes={"queries": "held out at fit" if queries else "other data, a tenth by hash of id"},
    )
