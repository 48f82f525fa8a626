"""Running the application under uvicorn, with limits on the head of a request, which uvicorn does not have."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from typing import Any

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bitfuse.errors import DataWarning
from bitfuse.serve import logs
from bitfuse.serve.settings import Settings

_SWITCH_SECONDS = 0.0002  # threads that search and write must not keep the one that answers waiting for long


def protocol(seconds: float, head_bytes: int) -> type[HttpToolsProtocol]:
    """HTTP/1.1 that ends a connection whose next head is not there within so many seconds or bytes."""

    class Timed(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(seconds, self._expire)
            self._head = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._head = self._head + len(data) if self._waiting else 0
            if self._head > head_bytes and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        @property
        def _waiting(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _watch(self) -> None:
            if not self._waiting:
                self._stop()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(seconds, self._expire)

        def _stop(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _expire(self) -> None:
            self._head_timer = None
            if self._waiting and self.transport is not None and not self.transport.is_closing():
                self.transport.close()

    return Timed


def config(app: FastAPI, settings: Settings, port: int, **more: Any) -> uvicorn.Config:
    """How uvicorn is to run the application.

    Args:
        app: from `create_app`.
        settings: the same that the application has.
        port: to listen on; 0 for any that is free.
        more: further settings of uvicorn.
    """
    return uvicorn.Config(
        app, settings.host, port, http=protocol(settings.header_seconds, settings.head_bytes), ws="none",
        lifespan="on", log_config=None, access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=30, timeout_graceful_shutdown=10, limit_concurrency=1000, **more,
    )  # fmt: skip


def run(app: FastAPI, settings: Settings, port: int) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered, accepted changes are stored."""
    logs.configure()
    warnings.filterwarnings("ignore", category=DataWarning)  # a search says `novelty` in its answer
    sys.setswitchinterval(_SWITCH_SECONDS)
    # a query is small: the threads of a product would wait for each other, behind the other requests
    threadpool_limits(1, "blas")
    gc.collect()
    gc.freeze()  # a pass over all that is loaded by now would make every request wait, a tenth of a second each time
    uvicorn.Server(config(app, settings, port)).run()
