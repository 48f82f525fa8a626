"""Giving a collection another model while the old one serves: codes are made beside, one transaction flips."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitfuse.errors import CollectionError
from bitfuse.search.encoder import Encoder, ViewRows, copy_model
from bitfuse.search.items import Prepared, pack_views
from bitfuse.search.paths import written
from bitfuse.search.session import Session, model_directory
from bitfuse.search.stores.codefile import sync_directory

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone
    from bitfuse.hashers.base import Hasher

_LAST = 1000  # items that changed meanwhile and are encoded inside the transaction that flips


@dataclass(frozen=True)
class _Source:
    row: int
    id: str
    views: ViewRows  # stored ones
    item: Prepared | None  # what to extract views from, where none are stored


class _Reencoding:
    def __init__(self, session: Session, encoder: Encoder, generation: int, batch_size: int, token: str) -> None:
        self.session, self.encoder, self.generation, self.batch_size = session, encoder, generation, batch_size
        self.token = token
        old = session.encoder()
        encoder.hasher  # noqa: B018 - loaded now, because its directory is renamed later
        self.same_views = old.sources == encoder.sources and old.widths == encoder.widths
        stores = bool(session.mirror.meta["views"])
        self.views = {name: f"views_{generation}_{i}" for i, name in enumerate(encoder.widths)} if stores else {}
        if self.same_views:
            self.views = {}
        self.codes = f"codes_{generation}"

    def begin(self) -> None:
        """Make the new tables; what an earlier, killed re-encoding left is removed."""
        store = self.session.store
        with store.writing():
            left = store.fetch(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND (name = ? OR name GLOB ?)",
                (self.codes, f"views_{self.generation}_[0-9]*"),
            )
            for (table,) in left:
                store.execute(f"DROP TABLE {table}")
            earlier = self.session.fact("reencoding")
            for model in self.session.directory.glob(f"models/*.{earlier}.partial") if earlier else ():
                shutil.rmtree(model, ignore_errors=True)
            store.execute(f"CREATE TABLE {self.codes} (row INTEGER PRIMARY KEY, code BLOB NOT NULL)")
            for table in self.views.values():
                store.execute(f"CREATE TABLE {table} (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
            store.put_meta({"reencoding": self.token})

    def check(self) -> None:
        """Inside a transaction: nobody else has begun to re-encode, or finished."""
        if self.session.fact("reencoding") != self.token:
            raise CollectionError("another re-encoding of this collection has begun; this one was given up")

    def read(self, rows: Sequence[int]) -> list[_Source]:
        """What these rows are to be encoded from, inside a transaction."""
        session = self.session
        items = session.items(rows)
        if self.same_views and session.view_tables():
            views = session.stored_views(rows)
            return [_Source(row, items[row]["id"], views[row], None) for row in rows]
        return [
            _Source(
                row,
                items[row]["id"],
                {},
                Prepared(items[row]["id"], items[row]["text"], source=session.picture(row, items[row]["image"])),
            )
            for row in rows
        ]

    def make(self, sources: Sequence[_Source]) -> tuple[list[tuple[int, bytes]], dict[str, list[tuple[int, bytes]]]]:
        """Codes and, where they are new, views."""
        bare = [s.item for s in sources if s.item is not None]
        extracted = self.encoder.extract(bare)[0] if bare else {}
        views = {s.row: s.views or extracted.get(s.id, {}) for s in sources}
        for s in sources:
            lacking = self.encoder.lacking(views[s.row]) if views[s.row] else " or ".join(self.encoder.widths)
            if lacking is not None:
                raise CollectionError(
                    f"item {s.id!r} has no view {lacking}, which {self.encoder.method} needs; nothing was changed: "
                    "delete such items, or choose a model that does without"
                )
        packed = self.encoder.encode(list(views.values())).packed
        made = {}
        for name in self.views:
            having = {row: v[name] for row, v in views.items() if name in v}
            made[name] = list(zip(having, pack_views(np.stack(list(having.values()))))) if having else []
        return [(row, code.tobytes()) for row, code in zip(views, packed)], made

    def put(self, codes: list[tuple[int, bytes]], views: dict[str, list[tuple[int, bytes]]]) -> None:
        """Store a batch, inside a transaction."""
        store = self.session.store
        store.many(f"INSERT OR REPLACE INTO {self.codes} VALUES (?, ?)", codes)
        for name, table in self.views.items():
            store.many(f"DELETE FROM {table} WHERE row = ?", ((row,) for row, _ in codes))
            store.insert(table, views[name])

    def walk(self, since: int) -> int:
        """Encode every item that changed after `since`, in batches; the `seq` up to which all is done."""
        store = self.session.store
        with store.reading():
            seq: int = self.session.fact("seq")
            rows = [row for (row,) in store.fetch("SELECT row FROM items WHERE seq > ? ORDER BY row", (since,))]
        for i in range(0, len(rows), self.batch_size):
            with store.reading():
                part = [row for (row,) in store.among("SELECT row FROM items WHERE row IN ({})",
                                                      rows[i : i + self.batch_size])]  # fmt: skip
                sources = self.read(part)
            if sources:  # encoding holds no lock: the old generation serves and takes new items meanwhile
                made = self.make(sources)
                with store.writing():
                    self.check()
                    self.put(*made)
        return seq

    def flip(self, since: int, model: Path) -> bool:
        """Encode the last changes and make the new generation the one that serves; False if too many are left."""
        session, store = self.session, self.session.store
        with session.writing():
            self.check()
            late = [row for (row,) in store.fetch("SELECT row FROM items WHERE seq > ?", (since,))]
            if len(late) > _LAST:
                return False
            if late:
                self.put(*self.make(self.read(late)))
            target = model_directory(session.directory, self.generation)
            shutil.rmtree(target, ignore_errors=True)  # of an attempt that was killed before its commit
            with written(target):
                model.rename(target)
                sync_directory(target.parent)
            old_codes, old_views = f"codes_{session.fact('generation')}", session.view_tables()
            for table in (self.codes, *self.views.values()):
                store.execute(f"DELETE FROM {table} WHERE row NOT IN (SELECT row FROM items)")
            store.execute(f"DROP TABLE {old_codes}")
            for table in old_views.values() if self.views else ():
                store.execute(f"DROP TABLE {table}")
            store.put_meta(
                {"generation": self.generation, "model": self.encoder.digest, "n_bits": self.encoder.n_bits,
                 "views": self.views or old_views, "reencoding": "", "code_token": "", "code_seq": 0}
            )  # fmt: skip
        return True

    def abandon(self) -> None:
        """Drop the new tables, unless another re-encoding has taken them over."""
        store = self.session.store
        with store.writing():
            if self.session.fact("reencoding") == self.token:
                for table in (self.codes, *self.views.values()):
                    store.execute(f"DROP TABLE IF EXISTS {table}")
                store.put_meta({"reencoding": ""})


def reencode(
    session: Session, model: Hasher | str | os.PathLike[str], backbone: Backbone | None, batch_size: int
) -> None:
    """See `Collection.reencode`."""
    with session.reading():
        generation = session.mirror.meta["generation"] + 1
        old = session.encoder()
    token = uuid.uuid4().hex
    partial = session.directory / "models" / f"{generation}.{token}.partial"
    with written(partial):
        copy_model(model, partial)
    try:
        encoder = Encoder(partial, backbone)
        if backbone is None and encoder.sources == old.sources:
            backbone = session.backbone
            encoder = Encoder(partial, backbone)
        work = _Reencoding(session, encoder, generation, batch_size, token)
        work.begin()
        try:
            done = work.walk(-1)
            while not work.flip(done, partial):
                done = work.walk(done)
        except BaseException:
            work.abandon()
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    session.adopt(backbone)
