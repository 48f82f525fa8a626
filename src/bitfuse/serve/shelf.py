"""The collections that a server has open: each with one writer, several readers, and the backbone that they share."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from bitfuse.errors import BitfuseError, InputError
from bitfuse.features.images import open_image
from bitfuse.hashers._persist import attachment
from bitfuse.search.collection import Collection
from bitfuse.serve.apart import Apart, suited
from bitfuse.serve.batching import Batcher, Row, none_here
from bitfuse.serve.keys import Key
from bitfuse.serve.logs import log
from bitfuse.serve.metrics import Metrics
from bitfuse.serve.problems import Problem
from bitfuse.serve.settings import Settings
from bitfuse.serve.writing import Writer

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone
    from bitfuse.search.encoder import Encoder

T = TypeVar("T")

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SWEEP = "sweep.json"
_FACTS_SECONDS = 10.0  # how long figures that take a pass over the collection are kept


def recorded(encoder: Encoder) -> tuple[str, str | None] | None:
    """Name and revision of the backbone that a model records; None where it records none, or several."""
    found = {(str(f.get("backbone", "arrays only")), f.get("revision")) for f in encoder.sources.values()}
    return None if len(found) != 1 or "arrays only" in {name for name, _ in found} else found.pop()


class Served:
    """One collection that a server has open.

    Attributes:
        name: in addresses.
        writer: carries out changes.
        batcher: encodes its queries; None where its model names no backbone that is here.
        model_views: the views that its model takes.
    """

    def __init__(
        self, name: str, path: Path, backbone: Backbone | None, batcher: Batcher | None, settings: Settings,
        metrics: Metrics, decoding: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self.name, self.batcher, self._settings, self._metrics, self._decoding = (
            name, batcher, settings, metrics, decoding,
        )  # fmt: skip
        self._readers: SimpleQueue[Collection] = SimpleQueue()
        self._pool = ThreadPoolExecutor(settings.readers, f"bitfuse-read-{name}")
        opened = [Collection.open(path, backbone=backbone) for _ in range(settings.readers + 1)]
        self.writer = Writer(opened.pop(), metrics)
        for reader in opened:
            self._readers.put(reader)
        self._facts: dict[str, tuple[float, Any]] = {}
        encoder = self.writer.collection.encoder
        self.model_views = tuple(encoder.widths)
        metrics.bits.labels(name).set(encoder.n_bits)

    def close(self) -> None:
        """End its threads and close what is open."""
        self.writer.close()
        self._pool.shutdown()
        while not self._readers.empty():
            self._readers.get().close()

    async def read(self, call: Callable[[Collection], T]) -> T:
        """The result of a call on one of the readers, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(self._with_reader, call))

    def _with_reader(self, call: Callable[[Collection], T]) -> T:
        reader = self._readers.get()
        try:
            return call(reader)
        finally:
            self._readers.put(reader)

    async def slowly(self, name: str, call: Callable[[Collection], T]) -> T:
        """As `read`, for figures that take a pass over the collection: kept for ten seconds."""
        moment, kept = self._facts.get(name, (-_FACTS_SECONDS, None))
        if time.monotonic() - moment < _FACTS_SECONDS:
            found: T = kept
            return found
        result = await self.read(call)
        self._facts[name] = (time.monotonic(), result)
        return result

    async def size(self) -> int:
        """The number of items, for figures: at most a second old."""
        moment, kept = self._facts.get("size", (-1.0, 0))
        if time.monotonic() - moment < 1.0:
            return int(kept)
        n = await self.read(len)
        self._metrics.items.labels(self.name).set(n)
        self._facts["size"] = (time.monotonic(), n)
        return n

    async def views(self, text: str | None, image: bytes | None, kept: bool = True) -> dict[str, Row]:
        """The views of words and a picture that a client sent.

        Args:
            text: words.
            image: the bytes of a picture.
            kept: whether they are a query, which may come again.
        """
        given = {name: part for name, part in (("text", text), ("image", image)) if part is not None}
        rows = await asyncio.gather(*(self._encoded(name, part, kept) for name, part in given.items()))
        return dict(zip(given, rows))

    async def _encoded(self, view: str, given: str | bytes, kept: bool) -> Row:
        if isinstance(given, str) and not given.strip():
            raise Problem("invalid", "text must not be empty")
        if self.batcher is None or self.batcher.failed is not None or view not in self.batcher.backbone.views:
            raise none_here(view)
        key = self.batcher.key(view, given.encode() if isinstance(given, str) else given) if kept else None
        row = None if key is None else self.batcher.cached(key)
        if row is not None:
            return row
        picture = await self.decoded(given) if isinstance(given, bytes) else given
        return await self.batcher.encode(view, picture, key)

    async def decoded(self, image: bytes) -> Any:
        """A picture that a client sent, decoded in limits."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, self._decode, image)

    def _decode(self, image: bytes) -> Any:
        with self._metrics.stage("decode"):
            return open_image(image, max_pixels=self._settings.image_pixels, name="the picture")

    async def thumbnail(self, id: str, size: int) -> bytes | None:
        """The picture of an item, made small and encoded anew as JPEG; None where there is none to show."""
        picture = await self.read(lambda collection: collection.picture(id))
        if picture is None or (isinstance(picture, Path) and not self._may_show(picture)):
            return None
        return await asyncio.get_running_loop().run_in_executor(self._decoding, self._thumbnail, picture, size)

    def _may_show(self, path: Path) -> bool:
        roots = self._settings.picture_roots
        real = path.resolve()
        return roots is None or any(real.is_relative_to(root.resolve()) for root in roots)

    def _thumbnail(self, picture: Path | bytes, size: int) -> bytes | None:
        import io

        with self._metrics.stage("thumbnail"):
            try:
                image = open_image(picture)
            except InputError:
                return None
            image.thumbnail((size, size))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=85)  # nothing of the original but its pixels
            return buffer.getvalue()

    @property
    def ready(self) -> bool:
        """Whether it answers: its backbone has read its weights, its writer runs."""
        return self.writer.alive and (self.batcher is None or self.batcher.ready.is_set())


def sweep(collection: Collection) -> Any:
    """What `fit --sweep` stored with the model: quality by code length; None where nothing is stored."""
    content = attachment(collection.encoder.directory, SWEEP)
    return None if content is None else json.loads(content)


class Shelf:
    """All collections of a server.

    Args:
        collections: name -> directory.
        settings: of the server.
        metrics: of the server.

    Raises:
        InputError: a name that cannot stand in an address, or no collection at all.
        BitfuseError: a collection cannot be opened.
    """

    def __init__(self, collections: Mapping[str, str | Path], settings: Settings, metrics: Metrics) -> None:
        if not collections:
            raise InputError("a server needs a collection; `bitfuse index` makes one")
        for name in collections:
            if not re.fullmatch(NAME, name):
                raise InputError(
                    f"{name!r} cannot stand in an address; name it with letters, digits, dots and dashes: NAME=PATH"
                )
        self._settings, self._metrics = settings, metrics
        self._decoding = ThreadPoolExecutor(2, "bitfuse-decode")
        self._batchers: dict[tuple[str, str | None], Batcher] = {}
        self._served: dict[str, Served] = {}
        try:
            for name, path in collections.items():
                self._served[name] = self._open(name, Path(path))
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, path: Path) -> Served:
        with Collection.open(path) as collection:
            encoder = collection.encoder
        facts, backbone, batcher = recorded(encoder), None, None
        if facts is not None:
            batcher = self._batchers.get(facts)
            try:
                batcher = self._batchers[facts] = batcher or self._batcher(*facts)
                backbone = batcher.backbone
            except BitfuseError as error:  # likes, codes and views can still be searched for
                log.warning("no backbone", extra={"facts": {"collection": name, "reason": str(error)}})
        return Served(name, path, backbone, batcher, self._settings, self._metrics, self._decoding)

    def _batcher(self, name: str, revision: str | None) -> Batcher:
        backbone, s = suited(name, revision), self._settings
        apart = Apart(name, revision) if s.apart else None
        return Batcher(backbone, s.batch, s.cached_queries, self._metrics, apart)

    def close(self) -> None:
        """Carry out what was accepted, then close everything."""
        for served in self._served.values():
            served.close()
        for batcher in self._batchers.values():
            batcher.close()
        self._decoding.shutdown()

    def get(self, name: str, key: Key, scope: str) -> Served:
        """The collection of this name, for one who may use it so.

        Raises:
            Problem: it does not exist, or the key does not open it; without the right to read, both look alike.
        """
        served = self._served.get(name)
        if served is None or not any(key.allows(s, name) for s in key.scopes):
            raise Problem("not-found", f"there is no collection {name!r} here")
        if not key.allows(scope, name):
            raise Problem("forbidden", f"this key may not {scope} in {name!r}")
        return served

    @property
    def all(self) -> list[Served]:
        """Every collection, whoever asks."""
        return list(self._served.values())

    def visible(self, key: Key) -> list[Served]:
        """The collections that a key may read."""
        return [served for name, served in self._served.items() if key.allows("read", name)]

    @property
    def ready(self) -> bool:
        """Whether all collections answer."""
        return all(served.ready for served in self._served.values())
