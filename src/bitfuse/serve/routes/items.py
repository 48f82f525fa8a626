"""Items: one by one, and many at once as NDJSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ValidationError

from bitfuse.errors import InputError
from bitfuse.search.collection import Collection
from bitfuse.search.items import RESERVED
from bitfuse.serve import schemas
from bitfuse.serve.batching import none_here
from bitfuse.serve.problems import Problem
from bitfuse.serve.routes.context import AnySettings, Readable, Writable, refusals
from bitfuse.serve.routes.search import item_of
from bitfuse.serve.shelf import Served
from bitfuse.serve.writing import Outcome

router = APIRouter(prefix="/v1/collections/{collection}", tags=["items"], responses=refusals())
Id = Annotated[str, Path(alias="id", min_length=1, max_length=512, description="Id of an item")]
CHUNK = 128
"""Lines of a bulk request that go to the writer together, so that other changes come in between."""
NDJSON = "application/x-ndjson"
_VERBS = {"put": "add", "patch": "update", "delete": "delete"}


@router.get("/items/{id:path}", summary="An item")
async def get_item(served: Readable, id: Id) -> schemas.Item:
    """An item with its attributes."""

    def get(collection: Collection) -> schemas.Item | None:
        item = collection.get(id)
        return None if item is None else item_of(served, item, bool(collection.pictured([id])))

    found = await served.read(get)
    if found is None:
        raise _no_item()
    return found


@router.put("/items/{id:path}", summary="Add an item, or put another in its place")
async def put_item(served: Writable, id: Id, body: schemas.ItemBody) -> schemas.Written:
    """Store an item; the answer comes once it is safe on disk."""
    [outcome] = await served.writer.change("add", [await _item(served, id, body, whole=True)])
    return _written(id, outcome)


@router.patch("/items/{id:path}", summary="Change parts of an item")
async def patch_item(served: Writable, id: Id, body: schemas.Patch) -> schemas.Written:
    """Change the parts that are given; the others stay."""
    [outcome] = await served.writer.change("update", [await _item(served, id, body, whole=False)])
    return _written(id, outcome)


@router.delete("/items/{id:path}", summary="Delete an item")
async def delete_item(served: Writable, id: Id) -> schemas.Written:
    """Delete an item."""
    [outcome] = await served.writer.change("delete", [id])
    return _written(id, outcome)


@router.get(
    "/thumbnails/{id:path}",
    summary="The picture of an item, made small",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def thumbnail(
    served: Readable, id: Id, size: Annotated[int, Query(ge=32, le=1024, description="Longest side in pixels")] = 256
) -> Response:
    """A JPEG made anew from the pixels; never the stored file."""
    content = await served.thumbnail(id, size)
    if content is None:
        raise Problem("not-found", "this item has no picture that can be shown")
    return Response(content, 200, {"cache-control": "private, max-age=60"}, "image/jpeg")


@router.post(
    "/bulk",
    summary="Add, change and delete many items",
    response_class=Response,
    responses={
        200: {
            "description": "For each line one, in order: line, id, status, reason",
            "content": {NDJSON: {"schema": {"type": "string"}}},
        }
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One JSON object a line: op (put, patch or delete), id, text, image, attributes, views",
            "content": {NDJSON: {"schema": {"type": "string"}}},
        }
    },
)
async def bulk(served: Writable, request: Request, settings: AnySettings) -> Response:
    """Carry out every line that can be; a bad one is reported and ends nothing. Repeating a request is harmless."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != NDJSON:
        raise Problem("wrong-media", f"a bulk request is {NDJSON}: one JSON object a line")
    lines = (await request.body()).split(b"\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(numbered) > settings.bulk_lines:
        raise Problem("too-large", f"a bulk request has at most {settings.bulk_lines:,} lines, got {len(numbered):,}")
    results: dict[int, dict[str, Any]] = {}
    for chunk in _chunks(numbered, results):
        await _carry_out(served, chunk, results)
    text = "".join(json.dumps(results[number]) + "\n" for number, _ in numbered)
    return Response(text, 200, media_type=NDJSON)


Lines = list[tuple[int, schemas.BulkLine]]
Results = dict[int, dict[str, Any]]


def _chunks(numbered: list[tuple[int, bytes]], results: Results) -> Iterator[Lines]:
    """Consecutive lines of one sort, none of whose ids repeats; lines that cannot be read go to `results`."""
    chunk: Lines = []
    names: set[str] = set()
    for number, line in numbered:
        try:
            parsed = schemas.BulkLine.model_validate_json(line)
        except ValidationError as error:
            why = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'line'}: {e['msg']}" for e in error.errors()[:5])
            results[number] = {"line": number, "id": None, "status": "refused", "reason": why}
            continue
        if chunk and (chunk[0][1].op != parsed.op or parsed.id in names or len(chunk) >= CHUNK):
            yield chunk
            chunk, names = [], set()
        chunk.append((number, parsed))
        names.add(parsed.id)
    if chunk:
        yield chunk


async def _carry_out(served: Served, chunk: Lines, results: Results) -> None:
    verb = chunk[0][1].op
    items: list[Any] = [line.id for _, line in chunk]
    if verb != "delete":
        items = await asyncio.gather(
            *(_item(served, line.id, line, whole=verb == "put") for _, line in chunk), return_exceptions=True
        )
    good = []
    for (number, line), item in zip(chunk, items):
        if isinstance(item, Problem | InputError):
            results[number] = {"line": number, "id": line.id, "status": "refused", "reason": str(item)}
        elif isinstance(item, BaseException):
            raise item
        else:
            good.append((number, line.id, item))
    outcomes = await served.writer.change(_VERBS[verb], [item for _, _, item in good]) if good else []
    for (number, name, _), outcome in zip(good, outcomes):
        results[number] = {"line": number, "id": name, **outcome._asdict()}


async def _item(served: Served, id: str, body: schemas.ItemBody, whole: bool) -> dict[str, Any]:
    """The item, or the change, as `Collection` takes it, its views encoded together with the queries of others."""
    clash = sorted(set(body.attributes) & set(RESERVED))
    if clash:
        raise Problem("invalid", f"{clash} are parts of every item, not attributes; put them beside `attributes`")
    if whole and body.text is None and body.image is None and body.views is None:
        raise Problem("invalid", "an item needs a text, an image or views")
    item: dict[str, Any] = {"id": id, **body.attributes}
    for part in ("text", "image"):
        if whole or part in body.model_fields_set:
            item[part] = getattr(body, part)
    if body.views is not None:
        item["views"] = body.views
    elif body.text or body.image is not None:
        if served.batcher is None:
            raise none_here("text" if body.text else "image")
        named = served.model_views
        given = body.text or None if "text" in named else None, body.image if "image" in named else None
        views = await served.views(*given, kept=False)
        if views:
            item["views"] = views
    return item


def _no_item() -> Problem:
    return Problem("no-item", "there is no item of this id")


def _written(id: str, outcome: Outcome) -> schemas.Written:
    if outcome.status == "missing":
        raise _no_item()
    if outcome.status == "refused":
        raise Problem("invalid", outcome.reason or "the item cannot be stored")
    return schemas.Written(id=id, status=outcome.status, reason=outcome.reason)
