"""A collection whose items and codes lie on a Milvus server, with the methods and the answers of one in a directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from bitfuse.codes import Codes
from bitfuse.errors import CollectionError, InputError, UnknownFormat
from bitfuse.search.collection import Collection
from bitfuse.search.columns import comparable
from bitfuse.search.creating import check_filterable
from bitfuse.search.encoder import Encoder
from bitfuse.search.filters import parse
from bitfuse.search.items import Stored, check_id, check_ids
from bitfuse.search.query import Hit, Query, each, warn_of_the_unfamiliar
from bitfuse.search.stores.milvus import writing
from bitfuse.search.stores.milvus.address import Address, parse_address
from bitfuse.search.stores.milvus.capabilities import refuse
from bitfuse.search.stores.milvus.expressions import to_expression
from bitfuse.search.stores.milvus.index import read_facts
from bitfuse.search.stores.milvus.items import FIELDS, item_of, shown, stored_of
from bitfuse.search.stores.milvus.table import Near, Table
from bitfuse.search.writing import AddReport, OnCommit

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone
    from bitfuse.hashers.base import Hasher

FORMAT = 1
KIND = "collection"
BATCH = 4096

_APPROXIMATE = "approximate tier (build_approximate, approximate=True)"


class MilvusCollection(Collection):
    """See `Collection`; made by `Collection.create` or `Collection.open` with an address `milvus://host:port/name`.

    The server keeps ids, codes, texts, the paths of pictures and attributes. The model stays in its directory, which
    the address names (`?model=DIR`): its hash must be the one that the collection recorded when it was made. Without a
    model everything works that encodes nothing: search by `like=` and `code=`, filters, get, count, delete.

    One process writes at a time. A batch is acknowledged when the server has it in its log; a read is as fresh as the
    address asks (`?consistency=strong`, the default, waits for all that was acknowledged before it).
    What Milvus cannot do, or is not asked to, raises `CollectionError`: see `capabilities.CAPABILITIES`.
    """

    def __init__(self, address: Address, backbone: Backbone | None) -> None:
        self._table = Table(address)
        try:
            if not self._table.exists():
                raise InputError(f"{address} does not exist; Collection.create or `bitfuse index --store` makes it")
            facts = read_facts(self._table.description())
            if facts.get("kind") != KIND:
                raise CollectionError(f"{address} is no collection that Bitfuse made; choose another name")
            if facts["format"] > FORMAT:
                raise UnknownFormat(f"{address} has format {facts['format']}, this version reads up to {FORMAT}")
            self._facts = facts
            self.n_bits: int = facts["n_bits"]
            self._types: dict[str, str] = facts["filterable"]
            self._encoder = None if address.model is None else Encoder(address.model, backbone)
            if self._encoder is not None and self._encoder.digest != facts["model"]:
                raise CollectionError(
                    f"{address.model} is not the model that made the codes of {address} ({facts['method']}, "
                    f"{facts['model'][:19]}...); name that one in ?model="
                )
            self._table.load()
        except BaseException:
            self._table.close()
            raise

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, model: Hasher | str | os.PathLike[str], backbone: Backbone | None = None,
        filterable: Mapping[str, str] | None = None, store_views: bool | None = None, keep_images: bool = False,
    ) -> Self:  # fmt: skip
        """Make an empty collection on a server; `model` must be a directory, which stays where it is."""
        address = parse_address(os.fspath(path))
        if not isinstance(model, str | os.PathLike):
            raise InputError(
                "a Milvus collection does not hold its model; save it (model.save(DIR)) and give the directory, which "
                "every process that searches by words or pictures needs"
            )
        types = check_filterable(filterable)
        encoder = Encoder(Path(model), backbone)
        table = Table(address)
        try:
            if store_views:
                raise refuse("stored float16 views (store_views, rerank)", table.server)
            if keep_images:
                raise refuse("kept pictures (keep_images)", table.server)
            facts = {
                "format": FORMAT, "kind": KIND, "n_bits": encoder.n_bits, "model": encoder.digest,
                "method": encoder.method, "filterable": types,
            }  # fmt: skip
            table.create(_fields, encoder.n_bits, json.dumps({"bitfuse": facts}))
        finally:
            table.close()
        return cls(_with_model(address, Path(model)), backbone)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, backbone: Backbone | None = None) -> Self:
        """Open a collection on a server."""
        return cls(parse_address(os.fspath(path)), backbone)

    def __repr__(self) -> str:
        return f"Collection({str(self._table.address)!r})"

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        self._table.close()

    def drop(self) -> None:
        """Delete the collection and all its items on the server."""
        self._table.call("drop_collection")

    @property
    def encoder(self) -> Encoder:
        """The model and the backbone before it.

        Raises:
            CollectionError: the address named no model.
        """
        if self._encoder is None:
            raise CollectionError(
                f"{self._table.address} was opened without its model, so nothing can be encoded; add ?model=DIR to the "
                f"address (the directory of the {self._facts['method']} model that it was made with)"
            )
        return self._encoder

    def add(
        self, items: Iterable[Mapping[str, Any]], batch_size: int = BATCH, on_conflict: str = "replace",
        on_commit: OnCommit | None = None,
    ) -> AddReport:  # fmt: skip
        """Add items in batches; see `Collection.add`. A batch whose answer was lost is sent again, never twice stored.

        An item whose text and attributes take more than 65,536 bytes is skipped: no field of Milvus holds more.
        """
        return writing.add(self._table, self.encoder, self._types, items, batch_size, on_conflict, on_commit)

    @property
    def settings(self) -> dict[str, Any]:
        """What `create` was given beside the model."""
        return {"filterable": dict(self._types), "store_views": False, "keep_images": False}

    def stored(self) -> Iterator[list[Stored]]:
        """All items with their codes, in the order in which they were added, in pages."""
        for page in self._table.pages("", FIELDS):
            yield [stored_of(entity) for entity in page]

    def restore(self, items: Sequence[Stored]) -> None:
        """Store items as another collection of the same model has them; see `Collection.restore`."""
        writing.restore(self._table, items)

    def update(
        self, changes: Iterable[Mapping[str, Any]], batch_size: int = BATCH, on_commit: OnCommit | None = None
    ) -> AddReport:
        """Change parts of items; see `Collection.update`.

        No views are stored, so a change of text or picture encodes the item anew from both.
        """
        return writing.update(self._table, self.encoder, self._types, changes, batch_size, on_commit)

    def delete(self, ids: str | Iterable[str]) -> int:
        """Delete the items of these ids; the number of those that were there."""
        there = {entity["id"] for entity in self._table.among(check_ids(ids), ["id"])}
        self._table.delete(sorted(there))
        return len(there)

    def get(self, id: str) -> dict[str, Any] | None:
        """An item, `{"id", "text", "image", **attributes}`, or None."""
        found = writing.stored(self._table, [check_id(id)])
        return shown(found[id].item) if found else None

    def picture(self, id: str) -> Path | bytes | None:
        """The path of an item's picture, or None."""
        found = writing.stored(self._table, [check_id(id)])
        image = found[id].item.image if found else None
        return None if image is None else Path(image)

    def pictured(self, ids: Iterable[str]) -> set[str]:
        """Which of these items have a picture."""
        found = writing.stored(self._table, check_ids(ids))
        return {name for name, each in found.items() if each.item.image is not None}

    def count(self, where: str | None = None) -> int:
        """The number of items, or of those that satisfy a filter."""
        return self._table.count(self._expression(where))

    def _expression(self, where: str | None) -> str:
        if where is None:
            return ""
        tree = parse(where)
        comparable(tree, self._types)
        return to_expression(tree)

    def search(
        self, text: str | None = None, image: str | os.PathLike[str] | bytes | None = None,
        views: Mapping[str, Any] | None = None, like: str | None = None, weights: Mapping[str, float] | None = None,
        k: int | None = 10, radius: int | None = None, where: str | None = None, rerank: bool = False,
        explain: bool = False, *, code: Codes | None = None, asymmetric: bool = False, approximate: bool = False,
    ) -> list[Hit]:  # fmt: skip
        """Find the nearest items, exactly; see `Collection.search`. `k` is at most 16,384.

        Raises:
            CollectionError: `rerank`, `asymmetric` or `approximate` is asked for.
        """
        for option, feature in ((asymmetric, "asymmetric distance"), (approximate, _APPROXIMATE)):
            if option:
                raise refuse(feature, self._table.server)
        query = Query(text, image, views, like, code, weights, k, radius, where, rerank, explain)
        query.check(self.n_bits)
        if rerank:
            raise refuse("stored float16 views (store_views, rerank)", self._table.server)
        expression = self._expression(where)
        own = None
        if like is not None:
            known = writing.stored(self._table, [check_id(like)])
            if not known:
                raise InputError(f"like={like!r}: there is no item of this id")
            asked, own = known[like].code, like
        else:
            asked = (self._encode(query) if code is None else code).packed.tobytes()
        wanted = None if k is None else int(k) + (own is not None)
        fields = ["item", "code"] if explain else ["item"]
        found = self._table.near(asked, wanted, None if radius is None else int(radius), expression, fields)
        hits = [hit for hit in found if hit.key != own][: None if k is None else int(k)]
        return [self._hit(hit, asked, query) for hit in hits]

    def search_many(
        self, queries: Iterable[Mapping[str, Any]], k: int | None = 10, radius: int | None = None,
        where: str | None = None, rerank: bool = False, explain: bool = False, *, asymmetric: bool = False,
        approximate: bool = False,
    ) -> list[list[Hit]]:  # fmt: skip
        """Answer many queries, one after another; see `Collection.search_many`."""
        nothing = (None, None, None, None, None, None)
        return [
            self.search(
                q.text, q.image, q.views, q.like, q.weights, k, radius, where, rerank, explain, code=q.code,
                asymmetric=asymmetric, approximate=approximate,
            )
            for q in each(queries, Query(*nothing, k, radius, where, rerank, explain))
        ]  # fmt: skip

    def build_approximate(self, lists: int | None = None, probes: int | None = None) -> dict[str, Any]:
        """Refused."""
        raise refuse(_APPROXIMATE, self._table.server)

    def _encode(self, query: Query) -> Codes:
        encoder = self.encoder
        rows = {} if query.views is None else encoder.check_rows(query.views)
        rows |= encoder.query_views(query.text, query.image)
        warn_of_the_unfamiliar(encoder, rows)
        coded = encoder.query_codes(rows, query.weights)
        if len(coded) > 1:
            raise refuse(
                "several codes a search (weights of a cross-modal model, or its text and image together)",
                self._table.server,
            )
        return coded[0][0]

    def _hit(self, hit: Near, asked: bytes, query: Query) -> Hit:
        item = shown(item_of(hit.key, hit.entity["item"]))
        reason = None
        if query.explain:
            reason = {
                "by": "code" if query.code is not None else "item" if query.like else "views", "bits": self.n_bits,
                "query_code": asked.hex(), "code": bytes(hit.entity["code"][0]).hex(), "server": self._table.server,
                "consistency": self._table.address.consistency,
                **({"expression": self._expression(query.where)} if query.where else {}),
            }  # fmt: skip
        return Hit(hit.key, hit.distance, item, None, reason)

    def stats(self) -> dict[str, Any]:
        """Size, model, server and how it is read. What needs all codes in one place is not among it."""
        return {
            "items": len(self),
            "n_bits": self.n_bits,
            "method": self._facts["method"],
            "filterable": self._types,
            "stored_views": [],
            "code_bytes_per_item": -(-self.n_bits // 8),
            "server": self._table.server,
            "consistency": self._table.address.consistency,
        }

    def verify(self) -> list[str]:
        """What is wrong, one sentence each: items whose code or record cannot be read. Reads all of them."""
        problems, width = [], -(-self.n_bits // 8)
        seen, last = 0, -1
        for page in self.stored():
            for row, item, code in page:
                if len(code) != width:
                    problems.append(f"item {item.id!r}: its code has {len(code)} bytes, expected {width}")
                if row <= last:
                    problems.append(f"item {item.id!r}: its row {row} is another item's too")
                last = row
            seen += len(page)
        if seen != len(self):
            problems.append(f"{len(self)} items are counted, {seen} are found")
        return problems

    def compact(self) -> None:
        """Have the server seal what it holds and merge its segments, in its own time."""
        self._table.call("flush")
        self._table.call("compact")

    def _refuse(self, feature: str) -> NoReturn:
        raise refuse(feature, self._table.server)

    def dedupe(self, radius: int = 0, where: str | None = None) -> list[list[str]]:
        """Raises `CollectionError`."""
        self._refuse("near-duplicates (dedupe)")

    def facets(self, limit: int = 20) -> dict[str, dict[str, Any]]:
        """Raises `CollectionError`."""
        self._refuse("facets")

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Raises `CollectionError`."""
        self._refuse("backup")

    def export(self, path: str | os.PathLike[str], views: bool = False) -> int:
        """Raises `CollectionError`."""
        self._refuse("export")

    def reencode(
        self, model: Hasher | str | os.PathLike[str], backbone: Backbone | None = None, batch_size: int = BATCH
    ) -> None:
        """Raises `CollectionError`."""
        self._refuse("re-encoding in place")


def _fields(schema: Any, kinds: Any) -> None:
    schema.add_field("id", kinds.VARCHAR, is_primary=True, max_length=512)
    schema.add_field("digest", kinds.VARCHAR, max_length=32)
    schema.add_field("item", kinds.JSON)


def _with_model(address: Address, model: Path) -> Address:
    return Address(address.host, address.port, address.name, model, address.consistency, address.token)
