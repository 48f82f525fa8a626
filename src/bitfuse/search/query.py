"""What can be asked of a collection, and what is found."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from bitfuse.codes import Codes
from bitfuse.errors import DataWarning, InputError
from bitfuse.search.encoder import Encoder, ViewRows

_SOUGHT = ("text", "image", "views", "like", "code", "weights")


@dataclass(frozen=True)
class Hit:
    """One found item.

    Attributes:
        id: of the item.
        distance: Hamming distance, 0 to n_bits; a weighted mean of distances for several views of a cross-modal model;
            a real number from 0 to n_bits of an asymmetric search.
        item: `{"id", "text", "image", **attributes}`.
        score: what the hits were reranked by, greater is nearer; None without reranking.
        explanation: with `explain=True`: what answered, which bits differ, how the filter was read.
    """

    id: str
    distance: float
    item: dict[str, Any]
    score: float | None = None
    explanation: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The hit as plain values, for JSON."""
        return {k: v for k, v in asdict(self).items() if v is not None}


@dataclass(frozen=True)
class Query:
    """What is asked for; see `Collection.search`."""

    text: str | None
    image: str | os.PathLike[str] | bytes | None
    views: Mapping[str, Any] | None
    like: str | None
    code: Codes | None
    weights: Mapping[str, float] | None
    k: int | None
    radius: int | None
    where: str | None
    rerank: bool
    explain: bool
    asymmetric: bool = False
    approximate: bool = False

    def check(self, n_bits: int) -> None:
        """Raise `InputError` for a query that asks for nothing, or for two things at once."""
        by_views = any(part is not None for part in (self.text, self.image, self.views))
        if by_views + (self.like is not None) + (self.code is not None) != 1:
            raise InputError(
                "search by text, image and views (alone or together), or by like=, the id of an item, or by code=; "
                "one of the three"
            )
        for name in ("rerank", "explain", "asymmetric", "approximate"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r:.80}")
        if self.k is None and self.radius is None:
            raise InputError("name k, how many hits, or radius, the largest distance, or both")
        for name, value, least in (("k", self.k, 1), ("radius", self.radius, 0)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 2**31
            ):
                raise InputError(f"{name} must be an integer from {least} on, got {value!r}")
        if self.code is not None and (
            not isinstance(self.code, Codes) or len(self.code) != 1 or self.code.n_bits != n_bits
        ):
            raise InputError(f"code must be one code of {n_bits} bits (bitfuse.Codes), got {self.code!r}")
        if self.weights is not None and not by_views:
            raise InputError("weights say how much each view of a query counts; give text, image or views with them")
        if self.rerank and self.code is not None:
            raise InputError("rerank compares stored views with the query's, and a code has none; search without it")
        if self.asymmetric and not by_views:
            raise InputError("asymmetric needs the query's values before the sign: search by text, image or views")
        if self.asymmetric and self.approximate:
            raise InputError("asymmetric distances are exact, by a scan of all codes; leave approximate out")


def each(queries: Any, common: Query) -> list[Query]:
    """Several mappings, each with what it looks for, as queries that share limits and options.

    Raises:
        InputError: something else.
    """
    if not isinstance(queries, Iterable) or isinstance(queries, str | bytes | Mapping):
        raise InputError(f"queries must be several mappings such as {{'text': ...}}, got {type(queries).__name__}")
    found = []
    for number, query in enumerate(queries):
        if not isinstance(query, Mapping) or not set(query) <= set(_SOUGHT):
            given = sorted(map(str, query)) if isinstance(query, Mapping) else type(query).__name__
            raise InputError(f"query {number} must be a mapping with some of {list(_SOUGHT)}, got {given}")
        found.append(replace(common, **query))
    return found


def warn_of_the_unfamiliar(encoder: Encoder, rows: ViewRows) -> None:
    """Warn of a query that is far from all that the model was fitted on."""
    novelty = encoder.novelty(rows)
    if novelty > 1:
        warnings.warn(
            f"this query lies {novelty:.2f} times as far from the model's training data as the furthest of such data; "
            "mistrust the hits, or fit the model on data like it",
            DataWarning,
            stacklevel=4,
        )
