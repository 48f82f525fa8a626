"""Running the application under uvicorn, with a time limit on the head of a request, which uvicorn does not have."""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from bitfuse.errors import DataWarning
from bitfuse.serve import logs
from bitfuse.serve.settings import Settings

_SWITCH_SECONDS = 0.001  # threads that encode must not keep the one that answers waiting for long


def protocol(seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 that ends a connection whose next request does not begin to be complete within so many seconds."""

    class Timed(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(seconds, self._expire)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting:
                self._stop()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(seconds, self._expire)

        def _stop(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _expire(self) -> None:
            self._head_timer = None
            waiting = self.cycle is None or self.cycle.response_complete
            if waiting and self.transport is not None and not self.transport.is_closing():
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
        app, settings.host, port, http=protocol(settings.header_seconds), ws="none", lifespan="on", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, h11_max_incomplete_event_size=settings.head_bytes,
        timeout_keep_alive=30, timeout_graceful_shutdown=10, limit_concurrency=1000, **more,
    )  # fmt: skip


def run(app: FastAPI, settings: Settings, port: int) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered, accepted changes are stored."""
    logs.configure()
    warnings.filterwarnings("ignore", category=DataWarning)  # a search says `novelty` in its answer
    sys.setswitchinterval(_SWITCH_SECONDS)
    uvicorn.Server(config(app, settings, port)).run()
