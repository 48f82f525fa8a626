"""From features to codes, one code an item: the same rule for collections, shards and exported graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.data.base import Views
from bitfuse.errors import CollectionError, InputError
from bitfuse.features.base import Backbone
from bitfuse.hashers.base import Hasher

NO_BACKBONE = "arrays only"


def model_digest(directory: Path) -> str:
    """A hash of a model directory, by its card, which holds the hashes of all other files."""
    return "sha256:" + hashlib.sha256((directory / "model.json").read_bytes()).hexdigest()


def check_backbone(backbone: Backbone, sources: Mapping[str, Mapping[str, object]]) -> None:
    """Raise `CollectionError` unless a backbone makes the features that a model was fitted on."""
    if not all(hasattr(backbone, name) for name in ("views", "encode", "describe")):
        raise InputError(f"backbone must be what bitfuse.backbone gives, got {type(backbone).__name__}")
    for view, recorded in sources.items():
        if view not in backbone.views:
            continue
        given = backbone.describe(view)
        # equal weights are the same backbone, wherever it was found
        place = {"backbone", "revision"} if {"weights"} <= {*given} & {*recorded} else set()
        differ = sorted(k for k in {*given, *recorded} - place if given.get(k) != recorded.get(k))
        if differ:
            shown = ", ".join(f"{k}: {recorded.get(k)!r} recorded, {given.get(k)!r} given" for k in differ)
            raise CollectionError(
                f"the model's {view!r} features came from another backbone than {backbone.name!r} ({shown}); "
                "name the recorded one, or fit a model on features of this one"
            )


def recorded_backbone(
    sources: Mapping[str, Mapping[str, object]], name: str | None = None, *, device: str = "cpu"
) -> Backbone:
    """The backbone that a model records, or the one of this name, found to be the same.

    Raises:
        InputError: the model was fitted on arrays, or on several backbones, and none is named.
        CollectionError: the backbone does not make the features that the model was fitted on.
    """
    from bitfuse.features import backbone

    found = {(str(facts.get("backbone", NO_BACKBONE)), facts.get("revision")) for facts in sources.values()}
    recorded, revision = next(iter(found))
    if name is None and (len(found) > 1 or recorded == NO_BACKBONE):
        raise InputError(
            "the model was fitted on arrays, or on several backbones, so it does not say what encodes pictures and "
            "texts; name it with --backbone (backbone=)"
        )
    known = len(found) == 1 and name in (None, recorded)
    loaded = backbone(name or recorded, revision=str(revision) if known and revision else None, device=device)
    if recorded != NO_BACKBONE:
        check_backbone(loaded, sources)
    return loaded


def lacking(hasher: Hasher, present: Container[str]) -> str | None:
    """A view without which this model cannot encode an item that has those present; None where it can."""
    if "fused" not in hasher.spaces:
        return None if any(space in present for space in hasher.spaces) else hasher.spaces[0]
    if hasher.accepts_missing == "none":
        return next((name for name in hasher.widths if name not in present), None)
    return None


def item_codes(hasher: Hasher, views: Views, *, device: str = "cpu") -> Codes:
    """The codes of items, none of which is `lacking` a view: the fused code, or that of the first view they have.

    A cross-modal model gives every view a code in one common space; the first of its spaces stands for the item.

    Args:
        hasher: fitted.
        views: name -> (n, d); a wholly NaN row lacks that view, an absent name is missing for all rows.
        device: where a deep method computes.
    """
    if "fused" in hasher.spaces:
        return hasher.encode(views, "fused", device=device)
    n = len(next(iter(views.values())))
    packed = np.empty((n, -(-hasher.n_bits // 8)), np.uint8)
    left = np.ones(n, bool)
    for space in hasher.spaces:
        here: NDArray[np.bool_] = left & ~np.isnan(views[space]).all(axis=1) if space in views else np.zeros(n, bool)
        if here.any():
            packed[here] = hasher.encode({space: views[space][here]}, space, device=device).packed
            left &= ~here
    return Codes(packed, hasher.n_bits)
