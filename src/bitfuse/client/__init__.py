"""A small client of the service, with and without asyncio. Needs httpx2 alone: pip install 'bitfuse[client]'.

    with Client("http://127.0.0.1:8000", "shop") as shop:
        shop.put("p1", text="a red dress", image=Path("p1.jpg").read_bytes(), attributes={"price": 40})
        for hit in shop.search(text="red dress", where="price < 50").hits:
            print(hit.id, hit.distance, hit.attributes)

Refusals become exceptions of `bitfuse.errors`: `InputError` for what the server cannot take, `Overloaded` where it is
busy, `ServiceError` for the rest. Busy servers are asked again a few times; changes are safe to repeat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar, Unpack

from bitfuse.errors import MissingDependency, Overloaded, ServiceError

try:
    import httpx2
except ImportError as error:
    raise MissingDependency("httpx2", "client", "bitfuse.client") from error

from bitfuse.client.calls import NO_ITEM, Call, Calls, Found, Hit, Parts, Query, Written, check, headers, unreachable

__all__ = ["AsyncClient", "Client", "Found", "Hit", "Written"]

T = TypeVar("T")


class Client:
    """A client of one collection of a server.

    Args:
        url: of the server, such as `http://127.0.0.1:8000`.
        collection: its name there.
        key: an API key, where the server wants one.
        timeout: seconds to wait for an answer.
        retries: how often a busy server is asked again, each time after the seconds that it names.
        transport: of httpx2, in place of the network; for tests.
    """

    def __init__(
        self, url: str, collection: str, *, key: str | None = None, timeout: float = 30.0, retries: int = 3,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._calls, self._retries = Calls(collection), retries
        self._http = httpx2.Client(base_url=url, headers=headers(key), timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, call: Call[T]) -> T:
        left = self._retries
        while True:
            try:
                answer = self._http.request(call.method, call.path, **call.options())
                check(answer)
                return call.read(answer)
            except Overloaded as error:
                if left <= 0:
                    raise
                left -= 1
                time.sleep(error.retry_after)
            except httpx2.HTTPError as error:
                raise unreachable(error) from error

    def search(self, text: str | None = None, **query: Unpack[Query]) -> Found:
        """The nearest items; the arguments are those of `Collection.search`, pictures as bytes, a code in hex."""
        return self._send(self._calls.search(text, query))

    def encode(
        self, text: str | None = None, image: bytes | None = None, weights: Mapping[str, float] | None = None
    ) -> list[str]:
        """The code of a query in hexadecimal; a cross-modal model gives one for each view.

        Args:
            text: words.
            image: the bytes of a picture.
            weights: how much each view counts, name -> 0 or more.
        """
        return self._send(self._calls.encode(text, image, weights))

    def put(self, id: str, **parts: Unpack[Parts]) -> Written:
        """Store an item, in the place of one with the same id.

        Args:
            id: 1 to 512 bytes.
            parts: `text`, `image` (the bytes of a picture), `views` (name -> (d,) numbers), `attributes`.
        """
        return self._send(self._calls.put(id, parts))

    def patch(self, id: str, **parts: Unpack[Parts]) -> Written:
        """Change parts of an item; None takes a part away.

        Args:
            id: of an item that is there.
            parts: those to change, as for `put`; the others stay.
        """
        return self._send(self._calls.patch(id, parts))

    def delete(self, id: str) -> Written:
        """Delete the item of this `id`."""
        return self._send(self._calls.delete(id))

    def get(self, id: str) -> dict[str, Any] | None:
        """The item of this `id`, or None."""
        try:
            return self._send(self._calls.get(id))
        except ServiceError as error:
            if error.kind == NO_ITEM:
                return None
            raise

    def bulk(self, lines: Iterable[Mapping[str, Any]], size: int = 500) -> list[Written]:
        """Many changes, `size` a request: `{"op": "put" (default), "patch" or "delete", "id", ...}` as for `put`."""
        return [one for call in self._calls.bulk(lines, size) for one in self._send(call)]

    def describe(self) -> dict[str, Any]:
        """The collection in short."""
        return self._send(self._calls.about())

    def facets(self) -> dict[str, Any]:
        """The attributes that filters can use."""
        return dict(self._send(self._calls.about("/facets"))["facets"])

    def stats(self) -> dict[str, Any]:
        """Figures of the collection."""
        return self._send(self._calls.about("/stats"))


class AsyncClient:
    """As `Client`, for asyncio; the arguments are the same."""

    def __init__(
        self, url: str, collection: str, *, key: str | None = None, timeout: float = 30.0, retries: int = 3,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._calls, self._retries = Calls(collection), retries
        self._http = httpx2.AsyncClient(base_url=url, headers=headers(key), timeout=timeout, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Client.close`."""
        await self._http.aclose()

    async def _send(self, call: Call[T]) -> T:
        left = self._retries
        while True:
            try:
                answer = await self._http.request(call.method, call.path, **call.options())
                check(answer)
                return call.read(answer)
            except Overloaded as error:
                if left <= 0:
                    raise
                left -= 1
                await asyncio.sleep(error.retry_after)
            except httpx2.HTTPError as error:
                raise unreachable(error) from error

    async def search(self, text: str | None = None, **query: Unpack[Query]) -> Found:
        """See `Client.search`."""
        return await self._send(self._calls.search(text, query))

    async def encode(
        self, text: str | None = None, image: bytes | None = None, weights: Mapping[str, float] | None = None
    ) -> list[str]:
        """See `Client.encode`."""
        return await self._send(self._calls.encode(text, image, weights))

    async def put(self, id: str, **parts: Unpack[Parts]) -> Written:
        """See `Client.put`."""
        return await self._send(self._calls.put(id, parts))

    async def patch(self, id: str, **parts: Unpack[Parts]) -> Written:
        """See `Client.patch`."""
        return await self._send(self._calls.patch(id, parts))

    async def delete(self, id: str) -> Written:
        """See `Client.delete`."""
        return await self._send(self._calls.delete(id))

    async def get(self, id: str) -> dict[str, Any] | None:
        """See `Client.get`."""
        try:
            return await self._send(self._calls.get(id))
        except ServiceError as error:
            if error.kind == NO_ITEM:
                return None
            raise

    async def bulk(self, lines: Iterable[Mapping[str, Any]], size: int = 500) -> list[Written]:
        """See `Client.bulk`."""
        return [one for call in self._calls.bulk(lines, size) for one in await self._send(call)]

    async def describe(self) -> dict[str, Any]:
        """See `Client.describe`."""
        return await self._send(self._calls.about())

    async def facets(self) -> dict[str, Any]:
        """See `Client.facets`."""
        return dict((await self._send(self._calls.about("/facets")))["facets"])

    async def stats(self) -> dict[str, Any]:
        """See `Client.stats`."""
        return await self._send(self._calls.about("/stats"))
