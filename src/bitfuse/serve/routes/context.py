"""What every route gets: the collection it is about, if the key of the request opens it, and the shared refusals."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from bitfuse.serve.keys import Key
from bitfuse.serve.metrics import Metrics
from bitfuse.serve.problems import KINDS, MEDIA, Problem
from bitfuse.serve.schemas import ProblemBody
from bitfuse.serve.settings import Settings
from bitfuse.serve.shelf import NAME, Served, Shelf

# The dependencies are `async` although they wait for nothing: FastAPI would send each to a thread otherwise.

_SHARED = (400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 431, 503)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for OpenAPI: those that every route shares by default."""
    return {
        status: {
            "model": ProblemBody,
            "description": "; ".join(title for code, title in KINDS.values() if code == status),
            "content": {MEDIA: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
        for status in (statuses or _SHARED)
    }


async def key_of(request: Request) -> Key:
    """The key of this request."""
    key: Key = request.state.key
    return key


async def shelf_of(request: Request) -> Shelf:
    """All collections."""
    shelf: Shelf = request.app.state.shelf
    return shelf


async def settings_of(request: Request) -> Settings:
    """The settings of the server."""
    settings: Settings = request.app.state.settings
    return settings


async def metrics_of(request: Request) -> Metrics:
    """The measures of the server."""
    metrics: Metrics = request.app.state.metrics
    return metrics


AnyKey = Annotated[Key, Depends(key_of)]
AnyShelf = Annotated[Shelf, Depends(shelf_of)]
AnySettings = Annotated[Settings, Depends(settings_of)]
AnyMetrics = Annotated[Metrics, Depends(metrics_of)]
Name = Annotated[str, Path(alias="collection", pattern=f"^{NAME}$", description="Name of a collection")]


async def _readable(name: Name, shelf: AnyShelf, key: AnyKey) -> Served:
    return shelf.get(name, key, "read")


async def _writable(name: Name, shelf: AnyShelf, key: AnyKey) -> Served:
    return shelf.get(name, key, "write")


async def reader(key: AnyKey) -> None:
    """Refuse who may read nothing."""
    if not key.allows("read"):
        raise Problem("forbidden", "this key may not read")


Readable = Annotated[Served, Depends(_readable)]
Writable = Annotated[Served, Depends(_writable)]
Readers = Depends(reader)
