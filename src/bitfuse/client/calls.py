"""What both clients share: requests as data, answers as objects, refusals as exceptions."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote

import httpx2

from bitfuse.errors import InputError, Overloaded, ServiceError

_INPUT = (400, 413, 415, 422)
_BUSY = (429, 503)
NO_ITEM = "no-item"


@dataclass(frozen=True)
class Hit:
    """One found item.

    Attributes:
        id: of the item.
        distance: Hamming distance.
        text: of the item.
        attributes: of the item.
        thumbnail: address of its picture on the server; None where it has none.
        score: what reranking ordered by.
        explanation: with `explain=True`: both codes, the differing bits, what answered.
    """

    id: str
    distance: float
    text: str | None
    attributes: dict[str, Any]
    thumbnail: str | None
    score: float | None
    explanation: dict[str, Any] | None


@dataclass(frozen=True)
class Found:
    """The answer to a search.

    Attributes:
        hits: nearest first.
        good_match: whether the nearest is nearer than random codes would be.
        no_match_from: the distance from which on a hit means nothing.
        novelty: how far the query's picture or rows lie from the model's training data, words left out; above 1, do not
            trust the hits. None where nobody knows.
    """

    hits: list[Hit]
    good_match: bool
    no_match_from: int
    novelty: float | None


@dataclass(frozen=True)
class Written:
    """What became of one item: `stored`, `unchanged`, `deleted`, `missing` or `refused`, and why."""

    id: str | None
    status: str
    reason: str | None


class Query(TypedDict, total=False):
    """What a search may ask for beside words; see `Collection.search`. Pictures are bytes."""

    image: bytes | None
    views: Mapping[str, Sequence[float]] | None
    like: str | None
    code: str | None
    weights: Mapping[str, float] | None
    k: int
    radius: int | None
    where: str | None
    rerank: bool
    explain: bool


class Parts(TypedDict, total=False):
    """The parts of an item. In a change, None takes a part away."""

    text: str | None
    image: bytes | None
    attributes: Mapping[str, Any]
    views: Mapping[str, Sequence[float]]


T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    json: Any = None
    content: bytes | None = None

    def options(self) -> dict[str, Any]:
        """As httpx2 takes them."""
        if self.content is not None:
            return {"content": self.content, "headers": {"content-type": "application/x-ndjson"}}
        return {} if self.json is None else {"json": self.json}


class Calls:
    """The requests about one collection, as both clients send them."""

    def __init__(self, collection: str) -> None:
        self._base = f"/v1/collections/{quote(collection, safe='')}"

    def search(self, text: str | None, query: Query) -> Call[Found]:
        """The request of a search."""
        body = {"text": text, **query}
        return Call("POST", f"{self._base}/search", _found, {k: v for k, v in _plain(body).items() if v is not None})

    def encode(self, text: str | None, image: bytes | None, weights: Mapping[str, float] | None) -> Call[list[str]]:
        """The request for a code."""
        body = _plain({"text": text, "image": image, "weights": weights})
        return Call("POST", f"{self._base}/encode", lambda answer: list(answer.json()["codes"]), body)

    def put(self, id: str, parts: Parts) -> Call[Written]:
        """The request that stores an item."""
        return Call("PUT", self._item(id), _written, _plain(parts))

    def patch(self, id: str, parts: Parts) -> Call[Written]:
        """The request that changes parts of an item."""
        return Call("PATCH", self._item(id), _written, _plain(parts))

    def delete(self, id: str) -> Call[Written]:
        """The request that deletes an item."""
        return Call("DELETE", self._item(id), _written)

    def get(self, id: str) -> Call[dict[str, Any]]:
        """The request for an item."""
        return Call("GET", self._item(id), _json)

    def bulk(self, lines: Iterable[Mapping[str, Any]], size: int) -> Iterator[Call[list[Written]]]:
        """The requests of many changes, `size` each."""
        rest = iter(lines)
        while part := list(islice(rest, size)):
            content = b"".join(json.dumps(_plain(line)).encode() + b"\n" for line in part)
            yield Call("POST", f"{self._base}/bulk", _all_written, None, content)

    def about(self, what: str = "") -> Call[dict[str, Any]]:
        """The request for facts."""
        return Call("GET", self._base + what, _json)

    def _item(self, id: str) -> str:
        return f"{self._base}/items/{quote(id, safe='')}"


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body as JSON takes it: pictures in base64, views as lists."""
    plain = dict(body)
    if isinstance(plain.get("image"), bytes):
        plain["image"] = base64.b64encode(plain["image"]).decode()
    if plain.get("views") is not None:
        plain["views"] = {name: [float(x) for x in row] for name, row in plain["views"].items()}
    return plain


def _json(answer: httpx2.Response) -> dict[str, Any]:
    return dict(answer.json())


def _found(answer: httpx2.Response) -> Found:
    said = answer.json()
    hits = [
        Hit(
            h["id"], h["distance"], h["item"]["text"], h["item"]["attributes"], h["item"]["thumbnail"], h["score"],
            h["explanation"],
        )
        for h in said["hits"]
    ]  # fmt: skip
    return Found(hits, said["good_match"], said["no_match_from"], said["novelty"])


def _written(answer: httpx2.Response) -> Written:
    said = answer.json()
    return Written(said["id"], said["status"], said["reason"])


def _all_written(answer: httpx2.Response) -> list[Written]:
    lines = (json.loads(line) for line in answer.text.splitlines())
    return [Written(line["id"], line["status"], line["reason"]) for line in lines]


def check(answer: httpx2.Response) -> None:
    """Raise the exception that a refusal stands for."""
    if answer.is_success:
        return
    try:
        said = dict(answer.json())
    except ValueError:
        said = {}
    message = str(said.get("detail") or f"the server answered {answer.status_code}")
    kind, request_id = str(said.get("type", "")).rpartition(":")[2], str(said.get("request_id", ""))
    if answer.status_code in _INPUT:
        raise InputError(message)
    if answer.status_code in _BUSY:
        after = answer.headers.get("retry-after", "1")
        raise Overloaded(message, answer.status_code, kind, request_id, float(after) if after.isdigit() else 1.0)
    raise ServiceError(message, answer.status_code, kind, request_id)


def unreachable(error: httpx2.HTTPError) -> ServiceError:
    """The exception where no answer came."""
    return ServiceError(f"no answer from the server ({type(error).__name__}: {error}); is it running, at this address?")


def headers(key: str | None) -> dict[str, str]:
    """The headers of every request."""
    return {} if key is None else {"authorization": f"Bearer {key}"}
