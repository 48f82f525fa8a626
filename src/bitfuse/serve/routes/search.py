"""Searching and encoding."""

from __future__ import annotations

import math
import time
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, File, Form, UploadFile
from pydantic import ValidationError

from bitfuse.codes import Codes
from bitfuse.search.collection import Collection
from bitfuse.search.collection import Hit as FoundHit
from bitfuse.search.encoder import Encoder
from bitfuse.serve import schemas
from bitfuse.serve.problems import Problem
from bitfuse.serve.routes.context import AnyMetrics, AnySettings, Readable, refusals
from bitfuse.serve.settings import Settings
from bitfuse.serve.shelf import Served

router = APIRouter(prefix="/v1/collections/{collection}", tags=["search"], responses=refusals())


@lru_cache(256)
def no_match_from(n_bits: int, n_items: int) -> int:
    """The distance at which one of so many random codes is to be expected: a nearest hit this far means nothing.

    Examples:
        >>> no_match_from(64, 100_000)
        15
    """
    expected = 0.0
    for distance in range(n_bits + 1):
        expected += n_items * math.exp(
            math.lgamma(n_bits + 1)
            - math.lgamma(distance + 1)
            - math.lgamma(n_bits - distance + 1)
            - n_bits * math.log(2)
        )
        if expected >= 1:
            return distance
    return n_bits


def item_of(served: Served, item: dict[str, Any], has_picture: bool) -> schemas.Item:
    """An item as the API shows it; where its picture lies on the server stays there."""
    own = {"id", "text", "image"}
    return schemas.Item(
        id=item["id"],
        text=item["text"],
        thumbnail=f"/v1/collections/{served.name}/thumbnails/{quote(item['id'], safe='')}" if has_picture else None,
        attributes={name: value for name, value in item.items() if name not in own},
    )


async def answer(
    served: Served, asked: schemas.Search, image: bytes | None, settings: Settings, metrics: AnyMetrics
) -> schemas.Found:
    """Encode a query and search."""
    start = time.perf_counter()
    if asked.k > settings.max_k:
        raise Problem("invalid", f"k is at most {settings.max_k} here, got {asked.k}")
    rows: dict[str, Any] = await served.views(asked.text, image)
    rows |= {name: np.array(row, np.float32) for name, row in (asked.views or {}).items()}
    weights = None if asked.weights is None else asked.weights.model_dump()

    def search(collection: Collection) -> tuple[list[FoundHit], list[bool], int, float | None]:
        encoder = collection.encoder
        code = None if asked.code is None else _code(asked.code, encoder.n_bits)
        with metrics.stage("search"):
            hits = collection.search(
                views=rows or None, like=asked.like, code=code, weights=weights, k=asked.k, radius=asked.radius,
                where=asked.where, rerank=asked.rerank, explain=asked.explain,
            )  # fmt: skip
        pictured = collection.pictured([hit.id for hit in hits])
        novelty = _novelty(encoder, rows) if rows else None
        return hits, [hit.id in pictured for hit in hits], encoder.n_bits, novelty

    hits, pictured, n_bits, novelty = await served.read(search)
    nothing = no_match_from(n_bits, await served.size())
    return schemas.Found(
        hits=[
            schemas.Hit(
                id=hit.id,
                distance=hit.distance,
                score=hit.score,
                item=item_of(served, hit.item, has),
                explanation=None if hit.explanation is None else schemas.Explanation(**hit.explanation),
            )
            for hit, has in zip(hits, pictured)
        ],
        n_bits=n_bits,
        no_match_from=nothing,
        good_match=min((hit.distance for hit in hits), default=n_bits) < nothing,
        novelty=novelty,
        took_ms=round(1000 * (time.perf_counter() - start), 3),
    )


def _novelty(encoder: Encoder, rows: dict[str, Any]) -> float | None:
    novelty = encoder.novelty(rows)
    return None if math.isnan(novelty) else round(novelty, 4)  # words alone, or a model of an earlier version


def _code(text: str, n_bits: int) -> Codes:
    packed = bytes.fromhex(text)
    if len(packed) != -(-n_bits // 8) or (n_bits % 8 and packed[-1] & (0xFF >> n_bits % 8)):
        raise Problem("invalid", f"a code of this collection has {n_bits} bits, the last byte filled up with zeros")
    return Codes(np.frombuffer(packed, np.uint8)[None], n_bits)


@router.post("/search", summary="Search by words, picture, both, item or code")
async def search(served: Readable, asked: schemas.Search, settings: AnySettings, metrics: AnyMetrics) -> schemas.Found:
    """Find the nearest items."""
    return await answer(served, asked, asked.image, settings, metrics)


@router.post("/search/picture", summary="Search by an uploaded picture, alone or with words")
async def search_picture(
    served: Readable,
    settings: AnySettings,
    metrics: AnyMetrics,
    image: Annotated[UploadFile, File(description="A picture: JPEG, PNG, WebP, GIF, BMP or TIFF")],
    query: Annotated[
        str, Form(max_length=65_536, description="The rest of the search, as JSON (PictureSearch)")
    ] = "{}",
) -> schemas.Found:
    """Find the items nearest to a picture that is sent as `multipart/form-data`."""
    try:
        rest = schemas.PictureSearch.model_validate_json(query)
    except ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'query'}: {e['msg']}" for e in error.errors())
        raise Problem("invalid", f"the form's field `query` does not fit: {where}") from None
    asked = schemas.Search.model_construct(**dict(rest), views=None, like=None, code=None)
    return await answer(served, asked, await image.read(), settings, metrics)


@router.post("/encode", summary="The code of words, a picture, or both")
async def encode(served: Readable, asked: schemas.Encodable) -> schemas.Encoded:
    """Encode without searching."""
    rows: dict[str, Any] = await served.views(asked.text, asked.image)
    rows |= {name: np.array(row, np.float32) for name, row in (asked.views or {}).items()}
    if not rows:
        raise Problem("invalid", "give text, image or views")
    weights = None if asked.weights is None else asked.weights.model_dump()

    def code(collection: Collection) -> schemas.Encoded:
        encoder = collection.encoder
        coded = encoder.query_codes(encoder.check_rows(rows), weights)
        codes = [one.packed[0].tobytes().hex() for one, _ in coded]
        return schemas.Encoded(n_bits=encoder.n_bits, codes=codes)

    return await served.read(code)
