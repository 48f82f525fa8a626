"""A collection: a directory that holds a model, items and their codes, searched exactly and hard to break."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bitfuse.codes import Codes
from bitfuse.errors import CollectionError, InputError
from bitfuse.search import approximate as approximate_
from bitfuse.search import changing, copying, creating, figures, finding, upkeep, writing
from bitfuse.search.encoder import Encoder
from bitfuse.search.facets import facets
from bitfuse.search.items import Stored, check_id, check_ids
from bitfuse.search.paths import check_path
from bitfuse.search.query import Hit, Query, each
from bitfuse.search.reencode import reencode
from bitfuse.search.session import Session
from bitfuse.search.stores.milvus.address import is_address
from bitfuse.search.stores.sqlite import refuse_network
from bitfuse.search.writing import AddReport, OnCommit

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone
    from bitfuse.hashers.base import Hasher

__all__ = ["AddReport", "Collection", "Hit"]

BATCH = 1024


class Collection:
    """Items with pictures, texts and attributes, found by their codes. Made by `create` or `open`.

    One process writes at a time, many read; what is committed is seen by the others without reopening. A collection
    may be shared by the threads of a process, which take turns; after a fork it must be opened again.

    Examples:
        >>> import numpy as np, tempfile, bitfuse as bf
        >>> rows = np.random.default_rng(0).normal(size=(300, 16)).astype("float32")
        >>> model = bf.hasher("itq", n_bits=16).fit({"image": rows})
        >>> place = tempfile.TemporaryDirectory()
        >>> shop = Collection.create(place.name + "/shop", model=model, filterable={"price": "int"})
        >>> shop.add({"id": f"p{i}", "price": i, "views": {"image": rows[i]}} for i in range(300)).added
        300
        >>> [hit.id for hit in shop.search(views={"image": rows[7]}, k=1, where="price between 5 and 9")]
        ['p7']
        >>> shop.close(); place.cleanup()
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, model: Hasher | str | os.PathLike[str], backbone: Backbone | None = None,
        filterable: Mapping[str, str] | None = None, store_views: bool | None = None, keep_images: bool = False,
    ) -> Collection:  # fmt: skip
        """Make an empty collection.

        Args:
            path: a directory that does not exist yet, or is empty, on a local file system; or the address of a
                collection on a Milvus server that does not exist yet, `milvus://host:port/name`.
            model: a fitted hasher, or a model directory; it is copied into the collection. For Milvus a directory,
                which stays where it is.
            backbone: encodes texts and pictures in place of the one that the model records, which it must equal.
            filterable: attributes that filters are to be fast on, name -> `"int"`, `"float"`, `"str"` or `"bool"`.
                Any other attribute can be filtered on too, more slowly. They stay as they are declared here.
            store_views: keep the views as float16 (2 bytes a number), for reranking and re-encoding; None for yes in a
                directory, and no on a Milvus server, which cannot.
            keep_images: keep the bytes of the pictures as well; otherwise only the paths that are given.

        Raises:
            CollectionError: the path is taken, on a network file system, or the backbone is not the model's.
            InputError: not a model, or a bad name or type of an attribute.
        """
        directory = check_path(path, "path")
        if is_address(os.fspath(path)):
            return _remote().create(
                path, model=model, backbone=backbone, filterable=filterable, store_views=store_views,
                keep_images=keep_images,
            )  # fmt: skip
        creating.create(directory, model, backbone, filterable, store_views, keep_images)
        return cls.open(directory, backbone=backbone)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, backbone: Backbone | None = None) -> Collection:
        """Open a collection that `create` made.

        Args:
            path: its directory; or its address on a Milvus server, `milvus://host:port/name?model=DIR`, DIR being the
                directory of its model: see `bitfuse.search.stores.milvus`.
            backbone: as for `create`.

        Raises:
            InputError: no such collection, or an address of a kind of store that this version does not have.
            DamagedFile: the database or the model is missing or damaged.
            UnknownFormat: written by a newer version.
            CollectionError: another backbone or model than recorded, or a network file system.
        """
        directory = check_path(path, "path").absolute()  # the process may go to another directory
        if is_address(os.fspath(path)):
            return _remote().open(path, backbone=backbone)
        upkeep.check_exists(directory)
        refuse_network(directory)
        collection = cls(Session(directory, backbone))
        if collection._session.mirror.rebuilt:  # the cache does not match: codes came from the database
            with suppress(CollectionError):  # nobody needs the file that cannot be written now
                collection.compact()
        return collection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count()

    def __repr__(self) -> str:
        return f"Collection({str(self._session.directory)!r})"

    def close(self) -> None:
        """Close the collection; closing twice is harmless."""
        self._session.store.close()

    def add(
        self, items: Iterable[Mapping[str, Any]], batch_size: int = BATCH, on_conflict: str = "replace",
        on_commit: OnCommit | None = None,
    ) -> AddReport:  # fmt: skip
        """Add items, as a stream, one transaction a batch. A bad item never ends the run: it is reported.

        Args:
            items: `{"id": str of 1 to 512 bytes, "image": path or bytes, "text": str, **attributes}`, each part but the
                id optional; or with `"views"`, name -> (d,) numbers, which are then taken as they are (and, beside
                the picture or text that they were computed from, are no content of their own); or with `"code"`, one
                code that this collection's own model made elsewhere (bytes of ceil(n_bits / 8), or `Codes` of one),
                which is taken as it is. Attributes are str, int (64 bits), float, bool or None; NaN counts as None.
            batch_size: items of one transaction.
            on_conflict: what to do with an id that is there with other content: `"replace"`, `"skip"` or `"error"`.
                With the same content it is left alone in any case.
            on_commit: called with the ids of a batch once it is safe on disk.

        Raises:
            CollectionError: a conflict with `on_conflict="error"`, another writer that does not end, a full disk, or
                a model that was fitted on arrays while an item has no views. Batches before are stored.
        """
        _check_batch(batch_size)
        return writing.add(self._session, items, batch_size, on_conflict, on_commit)

    def update(
        self, changes: Iterable[Mapping[str, Any]], batch_size: int = BATCH, on_commit: OnCommit | None = None
    ) -> AddReport:
        """Change parts of items; the others, and the item's place, stay.

        Args:
            changes: `{"id", ...}` with the parts to change. A new text or picture replaces its view; attributes are
                set one by one, None takes a value away.
            batch_size: items of one transaction.
            on_commit: called with the ids of a batch once it is safe on disk.

        Returns:
            The report: `replaced` counts the changed items, `skipped` names those that could not be changed.
        """
        _check_batch(batch_size)
        return changing.update(self._session, changes, batch_size, on_commit)

    def delete(self, ids: str | Iterable[str]) -> int:
        """Delete the items of these ids; the number of those that were there.

        Args:
            ids: one, or several; unknown ones are passed over.
        """
        return writing.delete(self._session, ids, BATCH)

    def get(self, id: str) -> dict[str, Any] | None:
        """The item of an `id`, `{"id", "text", "image", **attributes}`, or None."""
        with self._session.reading():
            row = self._session.row_of(check_id(id))
            return None if row is None else self._session.items([row])[row]

    def picture(self, id: str) -> Path | bytes | None:
        """The picture of the item `id`: its bytes if they were kept, else the path it was given with, or None."""
        with self._session.reading():
            found = self._session.store.fetch("SELECT row, image FROM items WHERE id = ?", (check_id(id),))
            return self._session.picture(*found[0]) if found else None

    def pictured(self, ids: Iterable[str]) -> set[str]:
        """Which of the items of these `ids` have a picture, kept or by its path."""
        sql = "SELECT id FROM items WHERE id IN ({}) AND (image IS NOT NULL OR row IN (SELECT row FROM pictures))"
        with self._session.reading():
            return {name for (name,) in self._session.store.among(sql, check_ids(ids))}

    def count(self, where: str | None = None) -> int:
        """The number of items.

        Args:
            where: count those only that satisfy this filter, as for `search`.

        Raises:
            InputError: a bad filter.
        """
        with self._session.reading():
            mirror = self._session.mirror
            if where is None:
                return len(mirror.codes)
            return int(np.count_nonzero(mirror.codes.alive & mirror.allowed(where).slots))

    def search(
        self, text: str | None = None, image: str | os.PathLike[str] | bytes | None = None,
        views: Mapping[str, Any] | None = None, like: str | None = None, weights: Mapping[str, float] | None = None,
        k: int | None = 10, radius: int | None = None, where: str | None = None, rerank: bool = False,
        explain: bool = False, *, code: Codes | None = None, asymmetric: bool = False, approximate: bool = False,
    ) -> list[Hit]:  # fmt: skip
        """Find the nearest items; among equally near ones those that were added first.

        Args:
            text: words to look for, alone or together with `image`.
            image: a picture to look for: a path, or the bytes of one.
            views: precomputed features of the query, name -> (d,).
            like: the id of an item: more like it, the item itself left out.
            weights: how much each view counts, name -> 0 or more. Without weights a fused model encodes the views
                together; with them the code is the sign of the weighted sum of what each view gives alone. A
                cross-modal model sums distances.
            k: at most so many hits; None for all within `radius`.
            radius: greatest distance, in bits.
            where: a filter such as `"price < 50 and kind in ('hat', 'shoe')"`; see `bitfuse.search.filters`.
            rerank: order the nearest 10 k by the stored float16 views instead of by distance alone.
            explain: give every hit an `explanation`.
            code: one code to look for.
            asymmetric: keep the query's values before the sign, |z| of which says how sure a bit is, and add them up
                over the bits that differ (scaled: n_bits at most); finer than Hamming distance, and slower.
            approximate: look only where `build_approximate` says the nearest are likely; with a filter all the same
                exactly.

        Raises:
            InputError: nothing to look for, a bad filter, picture, view or number.
            MissingView: the model cannot encode the views given without another.
            UnknownName: a filter on an attribute that no item ever had.
        """
        asked = Query(
            text, image, views, like, code, weights, k, radius, where, rerank, explain, asymmetric, approximate
        )  # fmt: skip
        return finding.search(self._session, [asked])[0]

    def search_many(
        self, queries: Iterable[Mapping[str, Any]], k: int | None = 10, radius: int | None = None,
        where: str | None = None, rerank: bool = False, explain: bool = False, *, asymmetric: bool = False,
        approximate: bool = False,
    ) -> list[list[Hit]]:  # fmt: skip
        """Answer many queries at once: one pass over the codes for all of them, and one through the backbone.

        Args:
            queries: `{"text", "image", "views", "like", "weights", "code"}`, as the arguments of `search`.
            k, radius, where, rerank, explain, asymmetric, approximate: of all of them, as for `search`.

        Returns:
            The hits of each query, as `search` gives them.

        Raises:
            InputError: a query that is no mapping, or holds anything else; otherwise as for `search`.
        """
        nothing = (None, None, None, None, None, None)
        common = Query(*nothing, k, radius, where, rerank, explain, asymmetric, approximate)
        return finding.search(self._session, each(queries, common))

    def build_approximate(self, lists: int | None = None, probes: int | None = None) -> dict[str, Any]:
        """Part the codes into lists of near ones, for `search(approximate=True)`; for many millions of items.

        It is kept on disk, and items that change afterwards are searched exactly beside it, until it is built anew.

        Args:
            lists: how many; None for four times the root of the number of items.
            probes: how many of them a query reads; None for one in sixteen.

        Returns:
            `{"items", "lists", "probes", "recall_at_10", "times_faster", "bytes"}`, measured on items as queries.

        Raises:
            MissingDependency: FAISS is not installed (extra `faiss`).
        """
        return approximate_.build(self._session, lists, probes)

    def dedupe(self, radius: int = 0, where: str | None = None) -> list[list[str]]:
        """Near-duplicates: groups of ids, each item within a radius of another of its group; single items left out.

        Args:
            radius: bits in which two codes may differ.
            where: look among those only that satisfy this filter, as for `search`.
        """
        return figures.dedupe(self._session, radius, where)

    @property
    def encoder(self) -> Encoder:
        """The model of the present generation and the backbone before it."""
        with self._session.reading():
            return self._session.encoder()

    def facets(self, limit: int = 20) -> dict[str, dict[str, Any]]:
        """The declared attributes, name -> `{"type", "present", "distinct"}`, with `min` and `max` of numbers.

        Args:
            limit: of texts and truth values, so many of the most frequent stand in `values`, each with its count.
        """
        return facets(self._session, limit)

    def stats(self) -> dict[str, Any]:
        """Sizes, share of distinct codes, largest bucket, measured latency, and a notice where the data drifted."""
        return figures.stats(self._session)

    @property
    def settings(self) -> dict[str, Any]:
        """What `create` was given beside the model: `{"filterable", "store_views", "keep_images"}`."""
        with self._session.reading():
            meta = self._session.mirror.meta
        return {
            "filterable": dict(meta["filterable"]),
            "store_views": bool(meta["views"]),
            "keep_images": meta["keep_images"],
        }

    def stored(self) -> Iterator[list[Stored]]:
        """All items of one moment with codes, views and kept pictures, in insertion order, in pages."""
        return copying.read(self._session)

    def restore(self, items: Sequence[Stored]) -> None:
        """Store items as another collection of the same model has them; they keep their order, their ids must be new.

        Raises:
            CollectionError: an id is there already; nothing was stored.
        """
        copying.restore(self._session, items)

    def compact(self) -> None:
        """Write the code file, from which opening is fast, and give the space of deleted items back."""
        upkeep.compact(self._session)

    def verify(self) -> list[str]:
        """What is wrong with the collection, one sentence each; empty where nothing is."""
        return upkeep.verify(self._session)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the collection as it is now into a new directory, also while it is written.

        Args:
            path: a directory that does not exist yet.

        Raises:
            CollectionError: it exists, or the disk is full.
        """
        upkeep.backup(self._session, check_path(path, "path"))

    def export(self, path: str | os.PathLike[str], views: bool = False) -> int:
        """Write all items, in insertion order, to a Parquet file; the number of items.

        Args:
            path: of the file; one that is there is replaced.
            views: write the stored views too.
        """
        return upkeep.export(self._session, check_path(path, "path"), views)

    def reencode(
        self, model: Hasher | str | os.PathLike[str], backbone: Backbone | None = None, batch_size: int = BATCH
    ) -> None:
        """Give the collection another model. The old one serves until all codes are made; then one commit changes over.

        The codes are made from the stored views where the new model wants the same ones, else from the texts and
        pictures.

        Args:
            model: a fitted hasher, or a model directory; it is copied into the collection.
            backbone: encodes texts and pictures in place of the one that the new model records.
            batch_size: items that are encoded at a time.

        Raises:
            CollectionError: an item lacks what the new model needs, or another re-encoding has begun; nothing changed.
        """
        _check_batch(batch_size)
        reencode(self._session, model, backbone, batch_size)


def _remote() -> type[Collection]:
    from bitfuse.search.stores.milvus.collection import MilvusCollection

    return MilvusCollection


def _check_batch(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
