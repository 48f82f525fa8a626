"""What one request may take: bytes, time, a place. Who comes too many is told when to come again."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitfuse.serve.metrics import Metrics
from bitfuse.serve.problems import Problem
from bitfuse.serve.settings import Settings

_BULK = re.compile(r"/v1/collections/[^/]*/bulk")
_FREE = re.compile(r"/|/favicon\.ico|/page/.*|/v1/health/.*|/metrics|/docs|/openapi\.json")


class Lane:
    """Places for requests of one sort, and a queue before them, first come first served.

    Args:
        name: in metrics.
        active: places.
        waiting: places in the queue.
        seconds: longest wait.
    """

    def __init__(self, name: str, active: int, waiting: int, seconds: float, metrics: Metrics) -> None:
        self._active, self._waiting, self._seconds = active, waiting, seconds
        self._queue: deque[asyncio.Future[None]] = deque()
        self._taken = 0
        self._clients: Counter[str] = Counter()
        self._metrics = metrics
        self._under_way, self._in_queue = metrics.under_way.labels(name), metrics.waiting.labels(name)

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Hold a place, as soon as there is one.

        Args:
            client: who asks; while others wait, one client has at most three quarters of all places.

        Raises:
            Problem: `overloaded` where the queue is full or too slow, `too-many` where this client fills it.
        """
        total = self._active + self._waiting
        if self._clients[client] >= max(1, total * 3 // 4) and total > 1:
            raise Problem("too-many", "this client has too many requests under way; send fewer at once", retry_after=1)
        self._clients[client] += 1
        try:
            await self._enter()
            try:
                yield
            finally:
                self._leave()
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    async def _enter(self) -> None:
        if self._taken < self._active:
            self._taken += 1
            self._under_way.inc()
            return
        if len(self._queue) >= self._waiting:
            raise Problem("overloaded", "all places are taken; try again in a moment", retry_after=1)
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._in_queue.inc()
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self._seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the place came at the moment of giving up
                self._hand_on()
            elif turn in self._queue:
                self._queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise Problem("overloaded", "no place became free in time; try again", retry_after=1) from None
            raise
        finally:
            self._in_queue.dec()
            self._metrics.stages.labels("queue").observe(time.perf_counter() - start)
        self._under_way.inc()

    def _leave(self) -> None:
        self._under_way.dec()
        self._hand_on()

    def _hand_on(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1


class Limits:
    """ASGI middleware: reads the body in limits, waits for a place, and ends what takes too long."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings = app, settings
        s = settings
        self._search = Lane("search", s.active, s.waiting, s.wait_seconds, metrics)
        self._write = Lane("write", s.writes, s.writes, s.wait_seconds, metrics)
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, in its limits."""
        if scope["type"] != "http" or _FREE.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        s, bulk = self._settings, _BULK.fullmatch(scope["path"]) is not None
        limit, seconds = (s.bulk_bytes, s.bulk_seconds) if bulk else (s.body_bytes, s.request_seconds)
        held, sent = 0, False

        def hold(more: int) -> None:
            nonlocal held
            if held + more > limit:
                raise Problem("too-large", f"a body here is at most {limit:,} bytes")
            if self._buffered + more > s.buffered_bytes:
                raise Problem("overloaded", "too many large requests at one time; try again", retry_after=2)
            self._buffered += more
            held += more

        async def watched(message: Message) -> None:
            nonlocal sent
            sent = True
            await send(message)

        lane = self._write if bulk or scope["method"] in ("PUT", "PATCH", "DELETE") else self._search
        client = scope["client"][0] if scope.get("client") else ""
        try:
            body = await self._body(scope, receive, hold, limit)
            async with lane.place(client), asyncio.timeout(seconds):
                await self._app(scope, _replayed(body, receive), watched)
        except Problem as problem:
            # what was not read of the body cannot be told from the next request: the connection ends
            ending = {"connection": "close"} if problem.kind in ("too-large", "slow-body") else {}
            await problem.response(scope["state"]["request_id"], ending)(scope, receive, send)
        except TimeoutError:
            if sent:
                raise
            late = Problem("overloaded", f"no answer within {seconds:g} s; ask for less, or later", retry_after=5)
            await late.response(scope["state"]["request_id"])(scope, receive, send)
        finally:
            self._buffered -= held

    async def _body(self, scope: Scope, receive: Receive, hold: Callable[[int], None], limit: int) -> bytes:
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or len(declared) > 15:
            raise Problem("bad-request", "content-length must be a number of bytes")
        if int(declared) > limit:
            raise Problem("too-large", f"a body here is at most {limit:,} bytes, this one has {int(declared):,}")
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem("bad-request", "the client went away")
                    part = message.get("body", b"")
                    hold(len(part))
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Problem("slow-body", f"the body was not there within {self._settings.body_seconds:g} s") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
