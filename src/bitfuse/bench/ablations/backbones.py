"""Ablation (a): the same methods on the features of other backbones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitfuse.bench.ablations._features import cosine, encoded_by
from bitfuse.bench.ablations._findings import SMALL, Findings, asked, fitted, setting
from bitfuse.bench.sections import Section
from bitfuse.data.base import Dataset
from bitfuse.errors import InputError, MissingWeights
from bitfuse.features import backbone as load
from bitfuse.features.batches import Batched, Rows
from bitfuse.features.bow import Vocabulary
from bitfuse.hashers import hasher

SIZES = {"n_train": 800, "n_query": 300, "n_gallery": 1500}
CONTROL = "pixels and words"
FLOAT, WIDTHS = "float", "widths"
_PUBLISHED = {
    "CLIP": "openai/clip-vit-base-patch32",
    "ViT + BERT": "dual:google/vit-base-patch16-224-in21k+google-bert/bert-base-uncased",
    "VGG-16 + bag of words": "vgg:<weights file>+<vocabulary file>",
}


def run(
    *,
    data: Dataset | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    n_bits: int = 64,
    backbones: tuple[str, ...] = ("pocket",),
) -> Section:
    """Fit ITQ and CLIPMH on the features of each backbone, and of a control that knows only pixels and words.

    Args:
        data: with pictures, texts and labels; None is the shapes world.
        seeds: of the methods.
        quick: a trial on small data: one seed, 5 epochs, 16 bits.
        n_bits: code length.
        backbones: names that `bitfuse.backbone` takes; one whose weights are absent is named in the text.

    Raises:
        InputError: data without pictures, texts or labels; no backbone.
    """
    from bitfuse.pipeline.datasets import dataset

    if not backbones:
        raise InputError("name at least one backbone")
    changes: dict[str, Any] = {"epochs": 5} if quick else {}
    seeds = seeds[:1] if quick else seeds
    n_bits = 16 if quick else n_bits
    if data is None:
        data = dataset("shapes", **(SMALL if quick else SIZES))
    found, widths, absent = Findings(), {}, []
    for name in (*backbones, CONTROL):
        try:
            encoder = PixelsAndWords(data.train.texts or ()) if name == CONTROL else load(name)
        except MissingWeights:
            absent.append(name)
            continue
        encoded = encoded_by(encoder, data)
        widths[name] = " + ".join(str(encoder.width(view)) for view in encoded.query.views)
        for seed in seeds:
            scores = {FLOAT: cosine(encoded)}
            for method, shown in (("itq", "ITQ"), ("clipmh", "CLIPMH")):
                more = changes if method == "clipmh" else {}
                model = fitted(hasher(method, n_bits=n_bits, seed=seed, **more), encoded.train)
                answers = asked(model, encoded.query, encoded.gallery)
                scores |= {f"{shown}, {mode}": value for mode, value in answers.items()}
            found.add(name, scores)
    columns = list(dict.fromkeys(c for row in found.rows.values() for c in row))
    table = found.table(f"mAP by backbone, {n_bits} bits", "backbone", columns)
    rows = [(*row, widths[row[0]]) for row in table.rows]
    table = type(table)(table.title, (*table.headings, WIDTHS), rows)
    text = "\n\n".join(
        [
            _varied(backbones, absent),
            setting(data, seeds, f"{n_bits} bits"),
            " ".join(found.verdict(column) for column in columns),
        ]
    )
    return Section("Which backbone?", text, table, numbers=found.numbers())


def _varied(backbones: tuple[str, ...], absent: list[str]) -> str:
    lacking = f" Weights of {', '.join(absent)} are not on this machine and could not be fetched." if absent else ""
    left_out = [f"{kind} ({name})" for kind, name in _PUBLISHED.items() if name not in backbones]
    asked_for = f" Not asked for, so not measured here: {'; '.join(left_out)}." if left_out else ""
    return (
        f"Varied: the backbone, frozen. {CONTROL!r} is a control that has learned nothing: the picture scaled to 8 x 8 "
        "pixels, and a bag of the words that occur in at least 5 training texts. The pocket backbone was trained on "
        f"other scenes of the shapes world and knows nothing else.{lacking}{asked_for}"
    )


class PixelsAndWords(Batched):
    """A control: the 8 x 8 x 3 values of the picture scaled down, less one half, and a bag of words.

    Args:
        texts: of the training part, from which the vocabulary is learned.
    """

    name = "pixels and words"
    views: tuple[str, ...] = ("image", "text")

    def __init__(self, texts: Any) -> None:
        super().__init__()
        self._vocabulary = Vocabulary.learn(texts, min_count=5)

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; see `Backbone.describe`."""
        how = "8 x 8 pixels" if view == "image" else f"bag of words {self._vocabulary.fingerprint}"
        return {"backbone": self.name, "revision": None, "weights": None, "preprocessing": how}

    def width(self, view: str) -> int:
        """192, or the number of words."""
        self._require(view)
        return 192 if view == "image" else len(self._vocabulary.words)

    def _load(self) -> None:
        """There are no weights."""

    def _batch_size(self, view: str) -> int:
        return 256

    def _encode_batch(self, view: str, batch: list[Any]) -> Rows:
        if view == "text":
            return self._vocabulary.bags(batch)
        small = [np.asarray(picture.resize((8, 8), resample=4), np.float32).ravel() / 255 - 0.5 for picture in batch]
        return np.asarray(np.stack(small), np.float32)
