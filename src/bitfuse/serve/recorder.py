"""The outermost layer: gives each request its id, measures it, logs one line, and turns defects into problems."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitfuse.serve.logs import log, request_id
from bitfuse.serve.metrics import Metrics
from bitfuse.serve.problems import Problem

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Recorder:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry out a request and write it down."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = own
        status, start = 0, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = own
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            log.exception("defect", extra={"facts": {"request_id": own}})
            if status:
                raise
            defect = Problem("internal", f"please report this, with the request id {own}")
            await defect.response(own)(scope, receive, noted)
        finally:
            self._note(scope, own, status, time.perf_counter() - start)

    def _note(self, scope: Scope, own: str, status: int, seconds: float) -> None:
        # the pattern of the route, never the address itself: ids and arguments stay out of the log
        route = str(getattr(scope.get("route"), "path", "(none)"))
        method = scope["method"] if scope["method"] in _METHODS else "(other)"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if not log.isEnabledFor(logging.INFO):
            return
        key = scope["state"].get("key")
        facts = {
            "request_id": own,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "key": None if key is None else key.name,
        }
        log.info("request", extra={"facts": facts})
