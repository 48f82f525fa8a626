"""The shapes of requests and answers: what OpenAPI shows, and what a request is checked against."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

MAX_TEXT = 10_000
MAX_WHERE = 20_000
MAX_ATTRIBUTES = 200
MAX_VIEWS = 16
MAX_WIDTH = 16_384

Value = Annotated[str, Field(max_length=65_536)] | bool | int | float | None
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Floats = Annotated[list[Annotated[float, Field(ge=-1e9, le=1e9)]], Field(max_length=MAX_WIDTH)]


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be the bytes of a picture in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be the bytes of a picture in base64") from None


Picture = Annotated[
    bytes,
    BeforeValidator(_bytes),
    Field(json_schema_extra={"type": "string", "format": "byte", "description": "The bytes of a picture in base64"}),
]


class Strict(BaseModel):
    """A request: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Weights(Strict):
    """How much each part of a query counts; without weights a fused model encodes them together."""

    text: float = Field(0.0, ge=0, le=1000)
    image: float = Field(0.0, ge=0, le=1000)


class Encodable(Strict):
    """What can be encoded: words, a picture, precomputed views, alone or together."""

    text: str | None = Field(None, max_length=MAX_TEXT, description="Words to look for")
    image: Picture | None = Field(None, description="The bytes of a picture in base64")
    views: dict[str, Floats] | None = Field(None, max_length=MAX_VIEWS, description="Precomputed views by name")
    weights: Weights | None = None


class Limits(Strict):
    """How many hits, how near, among which items."""

    k: int = Field(10, ge=1, description="Most hits")
    radius: int | None = Field(None, ge=0, le=4096, description="Largest distance")
    where: str | None = Field(
        None, max_length=MAX_WHERE, description="A filter: price < 50 and kind in ('hat', 'shoe')"
    )
    rerank: bool = Field(False, description="Order the nearest 10 k by the stored views")
    explain: bool = Field(False, description="Say of every hit which bits differ and what answered")


class PictureSearch(Limits):
    """What goes with an uploaded picture."""

    text: str | None = Field(None, max_length=MAX_TEXT, description="Words to look for beside the picture")
    weights: Weights | None = None


class Search(Limits, Encodable):
    """A search: by words, picture and views (alone or together), or like an item, or by a code."""

    like: Identifier | None = Field(None, description="Id of an item: more like this")
    code: str | None = Field(None, max_length=1024, pattern="^([0-9a-f]{2})+$", description="A code in hexadecimal")

    @model_validator(mode="after")
    def _one_way(self) -> Search:
        by_views = any(part is not None for part in (self.text, self.image, self.views))
        if by_views + (self.like is not None) + (self.code is not None) != 1:
            raise ValueError("give text, image or views (alone or together), or like, or code: one of the three")
        return self


class ItemBody(Strict):
    """An item as it is to be: what is not given, it has not."""

    text: str | None = Field(None, max_length=MAX_TEXT)
    image: Picture | None = None
    attributes: dict[str, Value] = Field(default_factory=dict, max_length=MAX_ATTRIBUTES)
    views: dict[str, Floats] | None = Field(None, max_length=MAX_VIEWS)


class Patch(ItemBody):
    """The parts of an item that change; null takes a part away."""


class BulkLine(ItemBody):
    """One line of a bulk request."""

    op: str = Field("put", pattern="^(put|patch|delete)$")
    id: Identifier


class Item(BaseModel):
    """An item."""

    id: str
    text: str | None
    thumbnail: str | None = Field(description="Address of its picture, made small; null where it has none")
    attributes: dict[str, Any]


class Explanation(BaseModel):
    """How a hit was found. `query_code` and `code` are hexadecimal, bits from the most significant on."""

    model_config = ConfigDict(extra="allow")

    by: str
    bits: int
    differing_bits: list[int]
    query_code: str
    code: str


class Hit(BaseModel):
    """One found item; the nearest comes first, equally near ones in the order in which they were added."""

    id: str
    distance: float = Field(description="Hamming distance")
    score: float | None = Field(description="What reranking ordered by; greater is nearer")
    item: Item
    explanation: Explanation | None


class Found(BaseModel):
    """The hits of a search."""

    hits: list[Hit]
    n_bits: int
    no_match_from: int = Field(
        description="The nearest of as many random codes would lie about this far: from here on a hit means nothing"
    )
    good_match: bool = Field(description="Whether the nearest hit is nearer than random codes would be")
    novelty: float | None = Field(
        description="How far the query lies from what the model was fitted on, 1 being the edge of that data: above it "
        "the hits are not to be trusted. Null where nobody knows: words alone, like an item, by a code, an older model"
    )
    took_ms: float


class Encoded(BaseModel):
    """One or more codes of a query."""

    n_bits: int
    codes: list[str] = Field(description="In hexadecimal; a cross-modal model gives one for each view")


class Written(BaseModel):
    """What became of an item."""

    id: str
    status: str = Field(description="stored, unchanged or deleted")
    reason: str | None = Field(description="What could not be used, where something could not")


class Summary(BaseModel):
    """A collection in short."""

    name: str
    items: int
    n_bits: int
    method: str
    views: list[str]
    fused: bool = Field(description="Whether words and picture go into one code")
    answers: list[list[str]] = Field(description="The parts that a query may have: [text], [image], [text, image]")
    weighted: bool = Field(description="Whether words and picture can be mixed by weights")
    writable: bool = Field(description="Whether the key of this request may write")
    max_k: int


class Collections(BaseModel):
    """The collections that the key of this request may read."""

    collections: list[Summary]


class Facets(BaseModel):
    """The declared attributes, for filters."""

    facets: dict[str, dict[str, Any]] = Field(
        description="Name -> type, present, distinct; min and max of numbers; values with counts of texts"
    )


class Stats(BaseModel):
    """Figures of a collection, at most ten seconds old."""

    model_config = ConfigDict(extra="allow")

    items: int
    n_bits: int
    distinct_codes: int
    largest_bucket: int
    buckets: list[list[int]] = Field(description="[smallest size, number of distinct codes] by powers of two")
    latency_ms: float | None = Field(description="Median time of the scan alone")


class Sweep(BaseModel):
    """What `fit --sweep` stored with the model: quality by code length."""

    sweep: Any = Field(description="Null where the model was fitted without a sweep")


class Health(BaseModel):
    """Whether the server lives, or can answer."""

    status: str


class ProblemBody(BaseModel):
    """A refusal (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    request_id: str
