"""What a server has, and what can be said about it."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter

from bitfuse.search.collection import Collection
from bitfuse.search.encoder import Encoder
from bitfuse.serve import schemas
from bitfuse.serve.routes.context import AnyKey, AnySettings, AnyShelf, Readable, refusals
from bitfuse.serve.settings import Settings
from bitfuse.serve.shelf import Served, sweep

router = APIRouter(prefix="/v1/collections", tags=["collections"], responses=refusals())


@router.get("", summary="The collections of this server")
async def list_collections(shelf: AnyShelf, key: AnyKey, settings: AnySettings) -> schemas.Collections:
    """Those that the key of this request may read."""
    found = [await _summary(served, key.allows("write", served.name), settings) for served in shelf.visible(key)]
    return schemas.Collections(collections=found)


@router.get("/{collection}", summary="A collection in short")
async def describe(served: Readable, key: AnyKey, settings: AnySettings) -> schemas.Summary:
    """Its size, its model, and which searches it answers."""
    return await _summary(served, key.allows("write", served.name), settings)


async def _summary(served: Served, writable: bool, settings: Settings) -> schemas.Summary:
    def facts(collection: Collection) -> dict[str, Any]:
        encoder = collection.encoder
        answers = _answers(encoder) if served.batcher is not None else []
        return {
            "n_bits": encoder.n_bits,
            "method": encoder.method,
            "views": list(encoder.widths),
            "fused": encoder.fused,
            "answers": answers,
            "weighted": ["text", "image"] in answers and ["text"] in answers and ["image"] in answers,
        }

    return schemas.Summary(
        name=served.name, items=await served.size(), writable=writable, max_k=settings.max_k, **await served.read(facts)
    )


def _answers(encoder: Encoder) -> list[list[str]]:
    there: list[str] = [view for view in ("text", "image") if view in encoder.widths]
    rows = {view: np.zeros(encoder.widths[view], np.float32) for view in there}
    asked = [[view] for view in there] + ([there] if len(there) == 2 else [])
    return [views for views in asked if encoder.lacking({view: rows[view] for view in views}) is None]


@router.get("/{collection}/facets", summary="The attributes that filters can use")
async def facets(served: Readable) -> schemas.Facets:
    """Types, ranges and frequent values of the declared attributes, at most ten seconds old."""
    return schemas.Facets(facets=await served.slowly("facets", lambda collection: collection.facets(50)))


@router.get("/{collection}/stats", summary="Figures")
async def stats(served: Readable) -> schemas.Stats:
    """Sizes, buckets of equal codes, latency of the scan."""
    return schemas.Stats(**await served.slowly("stats", lambda collection: collection.stats()))


@router.get("/{collection}/sweep", summary="Code length against quality")
async def stored_sweep(served: Readable) -> schemas.Sweep:
    """What `fit --sweep` stored with the model."""
    return schemas.Sweep(sweep=await served.slowly("sweep", sweep))
