"""The model of a collection and the backbone before it: loaded when something is first to be encoded."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import CollectionError, DamagedFile, InputError, MissingView
from bitfuse.hashers import _persist
from bitfuse.pipeline.coding import check_backbone, item_codes, lacking, model_digest
from bitfuse.search.paths import check_path
from bitfuse.search.stores.codefile import sync_directory

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone
    from bitfuse.hashers.base import Hasher
    from bitfuse.search.items import Prepared

ViewRows = dict[str, NDArray[np.float32]]
"""View name -> (d,) float32: the views that one item has."""

_NO_BACKBONE = "arrays only"


def copy_model(model: Hasher | str | os.PathLike[str], target: Path) -> None:
    """Put a model (fitted, or a model directory with its attachments) into a new directory, synced."""
    if isinstance(model, str | os.PathLike):
        source = check_path(model, "model")
        try:
            names = ["model.json", *_persist.read_card(source)["files"]]
        except OSError as error:
            raise InputError(f"{source} cannot be read as a model: {error.strerror or error}") from error
        target.mkdir(parents=True)
        for name in names:
            with open(target / name, "wb") as file:
                file.write((source / name).read_bytes())
                file.flush()
                os.fsync(file.fileno())
    elif not hasattr(model, "save"):
        raise InputError(f"model must be a fitted hasher or the directory of one, got {type(model).__name__}")
    else:
        model.save(target)
    sync_directory(target)
    sync_directory(target.parent)


class Encoder:
    """Turns items and queries into codes.

    Args:
        directory: of the model.
        backbone: used instead of the one that the model records, once it is found to be the same.

    Attributes:
        card: the model's `model.json`.
        digest: hash of the model.
        n_bits: code length.
        widths: view name -> number of columns, in the order in which views are stored.
        sources: view name -> where the features came from.
    """

    def __init__(self, directory: Path, backbone: Backbone | None = None) -> None:
        try:
            self.card = _persist.read_card(directory)
        except InputError as error:
            raise DamagedFile(f"the collection's model is missing: {error}") from error
        self.directory, self._given = directory, backbone
        self.digest = model_digest(directory)
        self.n_bits: int = self.card["parameters"]["n_bits"]
        self.widths: dict[str, int] = self.card["widths"]
        self.sources: dict[str, dict[str, Any]] = self.card["sources"]
        if backbone is not None:
            check_backbone(backbone, self.sources)

    @property
    def method(self) -> str:
        """The class name of the model's method."""
        return str(self.card["method"]).rpartition(":")[2]

    @cached_property
    def hasher(self) -> Hasher:
        """The model itself."""
        return _persist.load(self.directory)

    @property
    def fused(self) -> bool:
        """Whether all views of an item go into one code; otherwise each has its own, in a space they share."""
        return "fused" in self.hasher.spaces

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone that the model records.

        Raises:
            CollectionError: the model was fitted on arrays, on several backbones, or its backbone has changed.
        """
        return self._recorded(light=False)

    @property
    def query_backbone(self) -> Backbone:
        """The same for a few queries: without torch, whose import takes seconds, where it is not there already."""
        return self.backbone if "torch" in sys.modules or "backbone" in self.__dict__ else self._light

    @cached_property
    def _light(self) -> Backbone:
        return self._recorded(light=True)

    def _recorded(self, *, light: bool) -> Backbone:
        if self._given is not None:
            return self._given
        found = {(str(facts.get("backbone", _NO_BACKBONE)), facts.get("revision")) for facts in self.sources.values()}
        names = {name for name, _ in found}
        if len(found) != 1 or names == {_NO_BACKBONE}:
            raise CollectionError(
                "this collection's model was fitted on arrays, so texts and pictures cannot be encoded here; "
                "give views=, or fit with sources= (as `bitfuse fit` does)"
                if names == {_NO_BACKBONE}
                else f"this collection's model uses several backbones ({', '.join(sorted(names))}); give backbone="
            )
        from bitfuse.features import backbone

        name, revision = found.pop()
        loaded = backbone(name, revision=revision, light=light)
        check_backbone(loaded, self.sources)
        return loaded

    @property
    def aligned(self) -> bool:
        """Whether a row of one view can be compared with a row of another."""
        if any(facts.get("backbone", _NO_BACKBONE) == _NO_BACKBONE for facts in self.sources.values()):
            return False
        return len(set(self.widths.values())) == 1 and self.query_backbone.aligned

    def check_rows(self, views: Mapping[str, Any]) -> ViewRows:
        """Precomputed views of one item or query, checked: each (d,) or (1, d), finite; a wholly NaN row is dropped.

        Raises:
            InputError: unknown names, wrong widths, no numbers, no view at all.
        """
        if type(views) is not dict and not isinstance(views, Mapping):
            raise InputError(f"views must map names to rows, got {type(views).__name__}")
        rows: ViewRows = {}
        for name, value in views.items():
            if name not in self.widths:
                raise InputError(f"unknown view {name!r}; the model of this collection has {list(self.widths)}")
            try:
                row = np.asarray(value)
            except ValueError as error:  # nested lists of unequal lengths
                raise InputError(f"view {name!r} must be {self.widths[name]} numbers: {error}") from error
            if row.ndim == 2 and len(row) == 1:
                row = row[0]
            if row.shape != (self.widths[name],) or row.dtype.kind not in "iuf":
                raise InputError(f"view {name!r} must be {self.widths[name]} numbers, got {row.dtype} {row.shape}")
            row = row.astype(np.float32)
            # a finite square sum has finite terms; the long way is for what overflows, or is not finite
            if math.isfinite(row.dot(row)) or np.isfinite(row).all():
                rows[name] = row
            elif not np.isnan(row).all():
                raise InputError(f"view {name!r} holds NaN or infinite values; leave the view out if it is missing")
        if not rows:
            raise InputError(f"no view has a value; give at least one of {list(self.widths)}")
        return rows

    def extract(self, items: Sequence[Prepared]) -> tuple[dict[str, ViewRows], dict[str, str]]:
        """The views of items with pictures or texts: id -> rows, and id -> reason of all that could not be used.

        An item with a bad picture keeps its text, and is among both; one without any view is among the reasons alone.
        """
        from bitfuse.pipeline.extract import stream

        wanted = [view for view in ("image", "text") if view in self.widths and view in self.backbone.views]
        views: dict[str, ViewRows] = {item.id: {} for item in items}
        reasons: dict[str, str] = {}
        for part in stream(({"image": i.source, "text": i.text} for i in items), self.backbone, wanted):
            for view, rows in part.views.items():
                for item, row in zip(items[part.start :], rows):
                    if not np.isnan(row).all():
                        views[item.id][view] = row
            for at, view, reason in part.failures:
                name = items[at].id
                reasons[name] = f"{reasons[name]}; {view}: {reason}" if name in reasons else f"{view}: {reason}"
        for name, rows_of in views.items():
            if not rows_of:
                reasons.setdefault(name, f"it has none of the views {wanted}")
            elif name in reasons:
                reasons[name] += " (kept with its other views)"
        return {k: v for k, v in views.items() if v}, reasons

    def lacking(self, rows: ViewRows) -> str | None:
        """A view without which this model cannot encode an item that has `rows`; None where it can."""
        return lacking(self.hasher, rows)

    def encode(self, rows: Sequence[ViewRows]) -> Codes:
        """The codes of items, none of which is `lacking` a view; see `bitfuse.pipeline.coding.item_codes`."""
        return item_codes(self.hasher, self._stack(rows))

    def _stack(self, rows: Sequence[ViewRows]) -> ViewRows:
        stacked = {}
        for name, width in self.widths.items():
            if any(name in r for r in rows):
                absent = np.full(width, np.nan, np.float32)
                stacked[name] = np.stack([r.get(name, absent) for r in rows])
        return stacked

    def query_views(self, text: str | None, image: str | os.PathLike[str] | bytes | None) -> ViewRows:
        """Encode what a person searches with.

        Raises:
            InputError: an empty text, or a picture that cannot be opened.
        """
        return self.query_views_of([(text, image)])[0]

    def query_views_of(
        self, asked: Sequence[tuple[str | None, str | os.PathLike[str] | bytes | None]]
    ) -> list[ViewRows]:
        """The same for several queries, (text, image) each: one pass for all texts and one for all pictures."""
        texts = {i: text for i, (text, _) in enumerate(asked) if text is not None}
        pictures = {i: image for i, (_, image) in enumerate(asked) if image is not None}
        for view, given in (("text", texts), ("image", pictures)):
            if given and view not in self.widths:
                raise InputError(f"this collection's model has no {view!r} view, only {list(self.widths)}")
        for text in texts.values():
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"text must be a non-empty string, got {text!r:.80}")
        rows: list[ViewRows] = [{} for _ in asked]
        if texts:
            for i, row in zip(texts, self.query_backbone.encode("text", list(texts.values()))):
                rows[i]["text"] = row
        if pictures:
            from bitfuse.features.images import open_image

            sources = [p if isinstance(p, bytes) else check_path(p, "image") for p in pictures.values()]
            backbone = self.query_backbone
            for i, row in zip(pictures, backbone.encode("image", [open_image(source) for source in sources])):
                rows[i]["image"] = row
        return rows

    def query_codes(self, rows: ViewRows, weights: Mapping[str, float] | None) -> list[tuple[Codes, float]]:
        """One or more codes of a query, each with the weight of its distance: the signs of `query_values`.

        Raises:
            MissingView: the model cannot encode these views alone.
        """
        return [(Codes.from_real(z[None]), weight) for z, weight in self.query_values(rows, weights)]

    def query_values(
        self, rows: ViewRows, weights: Mapping[str, float] | None
    ) -> list[tuple[NDArray[np.float32], float]]:
        """What a query has before the sign, (n_bits,), once or more, each with the weight of its distance.

        A fused model gives one: of all views together, or with weights the weighted sum of what each view gives alone.
        A cross-modal model gives one for each view.

        Raises:
            MissingView: the model cannot encode these views alone.
        """
        wanted = dict.fromkeys(rows, 1.0) if weights is None else check_weights(weights, rows, self.widths)
        if not self.fused:
            total = sum(wanted.values())
            return [(self.hasher.project({k: rows[k][None]}, k)[0], w / total) for k, w in wanted.items() if w]
        if weights is None:
            self._require(rows)
            return [(self.hasher.project({k: v[None] for k, v in rows.items()}, "fused")[0], 1.0)]
        z = np.zeros(self.n_bits, np.float32)
        for name, weight in wanted.items():
            if weight:
                self._require({name: rows[name]})
                z += weight * self.hasher.project({name: rows[name][None]}, "fused")[0]
        return [(z, 1.0)]

    def novelty(self, rows: ViewRows) -> float:
        """How unlike the training rows a query is (`Hasher.novelty`), its words left out; NaN where nothing is known.

        What people type is unlike the descriptions that a model learned from, whatever they ask for.
        """
        seen = {name: row[None] for name, row in rows.items() if name != "text"}
        return float(self.hasher.novelty(seen)[0]) if seen else math.nan

    def _require(self, rows: ViewRows) -> None:
        missing = self.lacking(rows)
        if missing is not None:
            raise MissingView(
                missing,
                [0],
                f"{self.method} codes need {list(self.widths)} together: search with all of them and without weights, "
                "or re-encode the collection with a model that answers single views (`bitfuse methods` lists them; "
                "clipmh and itq with aligned=True do)",
            )


def check_weights(weights: Mapping[str, float], rows: ViewRows, known: Iterable[str]) -> dict[str, float]:
    """The weights of the views that a query has: numbers of 0 or more, not all zero; the greatest becomes .5 to 1.

    Args:
        weights: view name -> weight; views that the query lacks may be among them, and do not count.
        rows: the views of the query.
        known: the views of the model.

    Raises:
        InputError: something else, or a view that the model does not know.
    """
    if not isinstance(weights, Mapping) or not all(
        isinstance(w, int | float | np.integer | np.floating) for w in weights.values()
    ):
        raise InputError(f"weights must map views to numbers, got {weights!r:.80}")
    strange = [name for name, weight in weights.items() if weight and name not in known]
    if strange:
        raise InputError(f"weights name {strange!r:.80}, and the model of this collection has the views {list(known)}")
    try:
        found = {name: float(weights.get(name, 0.0)) for name in rows}
    except OverflowError:  # an integer beyond all floats
        found = {}
    largest = max(found.values(), default=0.0)
    if not 0 < largest < math.inf or not all(w >= 0 for w in found.values()):
        raise InputError(
            f"weights must be 0 or more, one of them above 0, for the views {list(rows)}, got {dict(weights)!r:.200}"
        )
    power = math.frexp(largest)[1]  # by a power of two, which rounds nothing: sums neither overflow nor vanish
    return {name: math.ldexp(w, -power) for name, w in found.items()}
