"""What a server may do and how much of it: limits, names, keys. Every default suits one machine of two cores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bitfuse.errors import InputError
from bitfuse.serve.keys import Key

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """The settings of one server.

    Attributes:
        host: address that it listens on; decides which `Host` headers are its own.
        allowed_hosts: further names under which clients may reach it, such as `search.example.org`.
        allowed_origins: pages of other origins that may call it from a browser, such as `https://example.org`.
        keys: who may do what; empty for anybody who reaches it.
        picture_roots: folders whose pictures may be shown as thumbnails; None for any folder that an item names.
        head_bytes: largest address and headers of a request together.
        body_bytes: largest body of a request.
        bulk_bytes: largest body of a bulk request.
        buffered_bytes: all bodies together that are held at one time.
        header_seconds, body_seconds: how long a client may take to send the head and the body of a request.
        request_seconds, bulk_seconds: how long the answer may take.
        image_pixels: width times height of the largest picture.
        max_k: most hits of one search.
        bulk_lines: most lines of one bulk request.
        active: searches that are worked on at one time.
        waiting: searches that may wait for a place.
        wait_seconds: how long one may wait before it is refused.
        writes: changes that may be under way or wait at one time.
        readers: threads, each with the collection open, that search.
        batch: queries that share one pass through the backbone at most.
        cached_queries: encoded queries that are kept.
        apart: run every backbone in a process of its own, as `bitfuse serve` does; see `bitfuse.serve.apart`.
    """

    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    keys: tuple[Key, ...] = field(default=(), repr=False)
    picture_roots: tuple[Path, ...] | None = None
    head_bytes: int = 32_768
    body_bytes: int = 16 * MIB
    bulk_bytes: int = 64 * MIB
    buffered_bytes: int = 256 * MIB
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    request_seconds: float = 20.0
    bulk_seconds: float = 600.0
    image_pixels: int = 25_000_000
    max_k: int = 1000
    bulk_lines: int = 10_000
    active: int = 16
    waiting: int = 64
    wait_seconds: float = 0.5
    writes: int = 64
    readers: int = 2
    batch: int = 16
    cached_queries: int = 1024
    apart: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and value <= 0
                and name not in ("cached_queries", "waiting")
            ):
                raise InputError(f"setting {name} must be above 0, got {value!r}")
