"""Moving a collection between stores: read as it is, restored as it was, then compared."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitfuse.codes import Codes
from bitfuse.errors import CollectionError
from bitfuse.search.encoder import Encoder
from bitfuse.search.items import Prepared, Stored, unpack_view
from bitfuse.search.session import Session
from bitfuse.search.stores.milvus.address import is_address, parse_address
from bitfuse.search.writing import Record, write

if TYPE_CHECKING:
    from bitfuse.search.collection import Collection

_PAGE = 8192
_NEAREST = 10


@dataclass(frozen=True)
class CopyReport:
    """What a copy did.

    Attributes:
        items: that were copied.
        searches: sampled items whose ten nearest were found alike, ids and distances, in both.
        left_behind: what the target cannot keep: `"stored views"`, `"kept pictures"`.
        model: the directory of the model that the copy is to be opened with.
    """

    items: int
    searches: int
    left_behind: list[str]
    model: Path


def read(session: Session) -> Iterator[list[Stored]]:
    """See `Collection.stored`."""
    with session.reading():
        meta, store = session.mirror.meta, session.store
        tables, last = session.view_tables(), -1
        while True:
            page = store.fetch(
                "SELECT i.row, i.id, i.digest, i.text, i.image, i.attributes, c.code, p.content FROM items i "
                f"JOIN codes_{meta['generation']} c ON c.row = i.row LEFT JOIN pictures p ON p.row = i.row "
                "WHERE i.row > ? ORDER BY i.row LIMIT ?",
                (last, _PAGE),
            )
            if not page:
                return
            first, last = page[0][0], page[-1][0]
            views: dict[int, dict[str, Any]] = {row[0]: {} for row in page}
            for view, table in tables.items():
                for row, blob in store.fetch(
                    f"SELECT row, vector FROM {table} WHERE row BETWEEN ? AND ?", (first, last)
                ):
                    views[row][view] = unpack_view(blob)
            yield [
                Stored(
                    row,
                    Prepared(name, text, image, content, store.attributes(attributes), views[row], code, digest),
                    code,
                )
                for row, name, digest, text, image, attributes, code, content in page
            ]


def restore(session: Session, items: Sequence[Stored]) -> None:
    """See `Collection.restore`."""
    with session.reading():
        generation = session.mirror.meta["generation"]
    if items and not write(session, [Record(s.item, s.code, s.item.views, None) for s in items], generation):
        raise CollectionError("an item of one of these ids is there already; restore into a new collection")


def copy(source: Collection, target: str | os.PathLike[str], searches: int = 20) -> CopyReport:
    """Copy a collection into a new one, in a directory or on a Milvus server, and compare the two.

    Codes, ids, texts, attributes, paths of pictures, and the order of ties are kept. Between directories stored views
    and kept pictures go along.

    Args:
        source: open, with its model.
        target: a directory, or an address; its `?model=` names the model for the copy, by default that of the source.
        searches: how many of its items, evenly spread, are looked for in both: their ten nearest must be equal.

    Raises:
        CollectionError: the target exists or names another model, the copy has another number of items, or a sampled
            search differs (items written meanwhile do that); the target is removed then.
    """
    settings, encoder = source.settings, source.encoder
    if is_address(os.fspath(target)):
        return _to_server(source, os.fspath(target), encoder, settings, searches)
    from bitfuse.search.collection import Collection

    place = Path(target)
    if place.exists():
        raise CollectionError(f"{place} exists; choose a new directory")
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        with Collection.create(partial / "new", model=encoder.directory, **settings) as made:
            items, searched = _fill(source, made, searches)
            made.compact()
        (partial / "new").rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return CopyReport(items, searched, [], place / "models" / "1")


def _to_server(
    source: Collection, target: str, encoder: Encoder, settings: dict[str, Any], searches: int
) -> CopyReport:
    from bitfuse.search.stores.milvus.collection import MilvusCollection

    model = parse_address(target).model or encoder.directory
    if Encoder(model).digest != encoder.digest:
        raise CollectionError(f"{model} is not the model that made the codes of {source}; name that one in ?model=")
    with MilvusCollection.create(target, model=model, filterable=settings["filterable"]) as made:
        try:
            items, searched = _fill(source, made, searches)
        except BaseException:
            made.drop()
            raise
    lost = {"stored views": settings["store_views"], "kept pictures": settings["keep_images"]}
    return CopyReport(items, searched, [name for name, had in lost.items() if had], model)


def _fill(source: Collection, made: Collection, searches: int) -> tuple[int, int]:
    """Copy all items and compare: how many there are, and how many searches were compared."""
    every = max(1, len(source) // max(1, searches))
    asked: list[bytes] = []
    items = 0
    for page in source.stored():
        made.restore(page)
        asked += [each.code for i, each in enumerate(page, items) if i % every == every // 2]
        items += len(page)
    if len(made) != items:
        raise CollectionError(f"{items} items were copied and the copy holds {len(made)}; it was removed, try again")
    n_bits = source.encoder.n_bits
    for packed in asked[:searches]:
        code = Codes(np.frombuffer(packed, np.uint8)[None], n_bits)
        if _nearest(source, code) != _nearest(made, code):
            raise CollectionError(
                "a search of the copy answers otherwise than the same search of the source; the copy was removed; "
                "let nobody write meanwhile and try again"
            )
    return items, min(len(asked), searches)


def _nearest(collection: Collection, code: Codes) -> list[tuple[str, float]]:
    return [(hit.id, hit.distance) for hit in collection.search(code=code, k=_NEAREST)]
