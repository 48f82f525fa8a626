"""An answer that a thread gives to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """What a coroutine awaits and a thread settles. Made in the event loop that awaits it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[T] = self._loop.create_future()

    def __await__(self) -> Generator[Any, None, T]:
        return self._answer.__await__()

    def settle(self, result: T | Exception) -> None:
        """Give the answer, or raise the error where it is awaited. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._settle, result)
        except RuntimeError:  # the loop has ended, and with it who asked
            return

    def _settle(self, result: T | Exception) -> None:
        if self._answer.done():  # the client gave up
            return
        if isinstance(result, Exception):
            self._answer.set_exception(result)
        else:
            self._answer.set_result(result)
