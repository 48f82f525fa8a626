"""One Milvus collection as a table of codes: calls that are tried again, exact nearest rows, reading in row order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from bitfuse.errors import CollectionError, InputError, MissingDependency
from bitfuse.search.stores.milvus.address import Address
from bitfuse.search.stores.milvus.capabilities import check_server
from bitfuse.search.stores.milvus.expressions import both, one_of

LIMIT = 16_384
"""Most rows of one answer: the server's own bound."""

_SLACK = 64  # rows beyond k that are asked for at once, to see where the ties end
_TRIES = 6
_PAUSE = 0.5  # seconds before the second try; doubled for each further one
_CONNECT = 20.0
_IDS = 10_000  # ids in one expression
_PASSING = ("unavailable", "timeout", "deadline", "rate limit", "not ready", "connection", "no available", "recovering")

T = TypeVar("T")
Entity = dict[str, Any]


class Near(NamedTuple):
    """One found row; sorts as answers are ordered.

    Attributes:
        distance: Hamming distance.
        row: insertion row number.
        key: primary key.
        entity: the fields that were asked for.
    """

    distance: int
    row: int
    key: Any
    entity: Entity


def _passing(error: Exception) -> bool:
    """Whether an error of the client may be gone in a moment."""
    return any(word in str(error).lower() for word in _PASSING)


class Table:
    """A connection to one Milvus collection with a field `row` (int64), a binary vector `code` and a primary key `id`.

    Args:
        address: of the collection; it need not exist yet.

    Attributes:
        address: as given.
        server: the server's version as it gives it.

    Raises:
        MissingDependency: pymilvus is not installed.
        CollectionError: no server there, or one that is too old.
    """

    def __init__(self, address: Address) -> None:
        try:
            import pymilvus
        except ModuleNotFoundError as error:
            raise MissingDependency("pymilvus", "milvus", "a collection on Milvus") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints every error that it also raises
        self.address, self._failures = address, (pymilvus.MilvusException, OSError)
        self._last = 0
        self._library: Any = pymilvus
        try:
            self._client: Any = pymilvus.MilvusClient(uri=address.uri, token=address.token, timeout=_CONNECT)
            self.server = str(self._client.get_server_version(timeout=_CONNECT))
        except self._failures as error:
            raise CollectionError(f"no Milvus server answers at {address.uri} ({error}); start it, or correct the "
                                  "address") from error  # fmt: skip
        check_server(self.server)

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def call(self, verb: str, *arguments: Any, again: str | None = None, **named: Any) -> Any:
        """Call a method of the client on this collection, up to six times where the server is busy or away.

        Args:
            verb: name of the method.
            arguments: after the name of the collection.
            again: the method for further tries, where a first one whose answer was lost may have done its work.
            named: keyword arguments.

        Raises:
            CollectionError: it failed for good; or the collection is closed.
        """
        if self._client is None:
            raise CollectionError("this collection is closed; open it again")
        for attempt in range(_TRIES):
            try:
                return getattr(self._client, again if attempt and again else verb)(
                    self.address.name, *arguments, **named
                )
            except self._failures as error:
                if "not loaded" in str(error) and verb != "load_collection":  # a server that was killed forgets that
                    self.load()
                elif attempt == _TRIES - 1 or not _passing(error):
                    raise CollectionError(
                        f"{self.address}: {verb} failed after {attempt + 1} tries: {error}"
                    ) from error
                time.sleep(_PAUSE * 2**attempt)
        raise CollectionError(f"{self.address}: {verb} found the collection not loaded, however often it was loaded")

    def exists(self) -> bool:
        """Whether the collection is there."""
        return bool(self.call("has_collection"))

    def create(self, fields: Callable[[Any, Any], None], n_bits: int, description: str) -> None:
        """Make the collection, with an exact index over the codes, loaded.

        Args:
            fields: adds the fields beside `row` and `code` to a schema, given it and pymilvus's `DataType`.
            n_bits: code length; codes are padded with zeros to a multiple of 8.
            description: kept with it.
        """
        if self.exists():
            raise CollectionError(f"{self.address} exists; choose another name, or open it")
        kinds = self._library.DataType
        schema = self._library.MilvusClient.create_schema(
            auto_id=False, enable_dynamic_field=False, description=description
        )
        fields(schema, kinds)
        schema.add_field("row", kinds.INT64)
        schema.add_field("code", kinds.BINARY_VECTOR, dim=8 * -(-n_bits // 8))
        index = self._library.MilvusClient.prepare_index_params()
        index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        self.call("create_collection", schema=schema, index_params=index, consistency_level="Strong")

    def description(self) -> str:
        """What `create` was given."""
        return str(self.call("describe_collection")["description"])

    def load(self) -> None:
        """Have the server hold the collection in memory, as it does after `create`."""
        self.call("load_collection")

    def new_rows(self, n: int) -> range:
        """Row numbers for new entities: nanoseconds of the clock, always ascending for this connection."""
        first = max(self._last + 1, time.time_ns())
        self._last = first + n - 1
        return range(first, first + n)

    def insert(self, entities: Sequence[Mapping[str, Any]]) -> None:
        """Store entities whose keys are new; tried again as an upsert, so that none is there twice."""
        self.call("insert", list(entities), again="upsert")

    def upsert(self, entities: Sequence[Mapping[str, Any]]) -> None:
        """Store entities in place of those of the same keys."""
        self.call("upsert", list(entities))

    def delete(self, keys: Sequence[Any]) -> None:
        """Delete the entities of these keys."""
        for start in range(0, len(keys), _IDS):
            self.call("delete", ids=list(keys[start : start + _IDS]))

    def among(self, keys: Sequence[Any], fields: Sequence[str]) -> list[Entity]:
        """The entities of these keys that there are, in any order."""
        found: list[Entity] = []
        for start in range(0, len(keys), _IDS):
            found += self.query(one_of("id", list(keys[start : start + _IDS])), fields)
        return found

    def query(self, expression: str, fields: Sequence[str], limit: int | None = None) -> list[Entity]:
        """The entities that satisfy an expression, in any order."""
        named: dict[str, Any] = {"output_fields": list(fields), "consistency_level": self._level}
        if limit is not None:
            named["limit"] = limit
        rows = self.call("query", expression, **named)
        return [dict(row) for row in rows]

    def count(self, expression: str = "") -> int:
        """How many entities satisfy an expression; all by default."""
        return int(self.query(expression, ["count(*)"])[0]["count(*)"])

    @property
    def _level(self) -> str:
        return self.address.consistency.capitalize()

    def pages(self, expression: str, fields: Sequence[str]) -> Iterator[list[Entity]]:
        """All entities that satisfy an expression, in row order, at most 16,383 a page; `row` is among the fields."""

        def read(within: str) -> list[Entity]:
            return self.query(both(expression, within), fields, LIMIT)

        for page in _by_windows(read, lambda entity: int(entity["row"])):
            yield sorted(page, key=lambda entity: int(entity["row"]))

    def near(
        self, code: bytes, k: int | None, radius: int | None, expression: str, fields: Sequence[str]
    ) -> list[Near]:
        """The nearest entities, ordered by (distance, row): exactly those that a scan of all of them gives.

        The server breaks ties as it likes. So more than k are asked for until the ties of the k-th end, and where
        more than 16,384 are tied, those of the smallest rows are looked for by halving the range of rows.

        Args:
            code: the packed query.
            k: how many, at most 16,384; None for all within `radius`.
            radius: greatest distance; None for any.
            expression: what may be found; "" for all.
            fields: what to bring of each beside key and row.

        Raises:
            InputError: `k` above the server's bound.
        """
        end = 8 * len(code) + 1 if radius is None else min(radius, 8 * len(code)) + 1
        if k is None:
            return sorted(hit for part in self._rings(code, 0, end, expression, fields) for hit in part)
        if k > LIMIT:
            raise InputError(f"k must be at most {LIMIT} on a Milvus server, got {k}; name a radius without k for more")
        limit = min(LIMIT, k + _SLACK)
        while True:
            hits = self._ask(code, limit, 0, end, expression, fields)
            last = max((hit.distance for hit in hits), default=0)
            closer = [hit for hit in hits if hit.distance < last]
            if len(hits) < limit or len(closer) >= k:
                return sorted(hits)[:k]
            if limit == LIMIT:
                break
            limit = min(LIMIT, 4 * limit)
        tied: list[Near] = []
        for part in self._rings(code, last, last + 1, expression, fields):
            tied += sorted(part)
            if len(closer) + len(tied) >= k:
                break
        return (sorted(closer) + tied)[:k]

    def _rings(self, code: bytes, start: int, end: int, expression: str, fields: Sequence[str]) -> Iterator[list[Near]]:
        """All hits at distances from `start` to below `end`, in parts of ascending rows."""
        return _by_windows(
            lambda within: self._ask(code, LIMIT, start, end, both(expression, within), fields), lambda hit: hit.row
        )

    def _ask(self, code: bytes, limit: int, start: int, end: int, expression: str, fields: Sequence[str]) -> list[Near]:
        bounds: dict[str, int] = {} if end > 8 * len(code) else {"radius": end}
        if start:
            bounds = {"radius": end, "range_filter": start}
        found = self.call(
            "search", [code], filter=expression, limit=limit, output_fields=[*fields, "row"],
            search_params={"metric_type": "HAMMING", "params": bounds}, consistency_level=self._level,
        )  # fmt: skip
        return [
            Near(round(hit["distance"]), int(hit["entity"]["row"]), hit["id"], dict(hit["entity"])) for hit in found[0]
        ]


def _by_windows(read: Callable[[str], list[T]], row_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Everything that `read` finds, in parts of ascending rows: a window of rows whose answer is full is halved.

    Args:
        read: answers an expression that bounds the rows ("" for all) with at most `LIMIT` entities.
        row_of: the row of an entity.
    """
    windows = [(0, 2**63 - 1)]
    while windows:
        first, last = windows.pop()
        found = read(f"row >= {first} and row <= {last}")
        if len(found) < LIMIT or first == last:
            yield found
        else:
            middle = sorted(map(row_of, found))[len(found) // 2]
            middle = min(middle, last - 1)
            windows += [(middle + 1, last), (first, middle)]
