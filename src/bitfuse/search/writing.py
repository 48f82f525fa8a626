"""Putting items into a collection, changing them and taking them out: one transaction a batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitfuse.errors import CollectionError, InputError
from bitfuse.search.encoder import Encoder, ViewRows
from bitfuse.search.items import Prepared, check_ids, pack_views, prepare
from bitfuse.search.session import Session

OnCommit = Callable[[list[str]], None]
CONFLICTS = ("replace", "skip", "error")


@dataclass
class AddReport:
    """What became of the items.

    Attributes:
        added: new items.
        replaced: items whose id was there with other content.
        skipped: (id, reason) of the rest, in order; an item that was there with the same content is "unchanged".
            An item without a usable id is named by its position, `#0` being the first. Where only the picture could not
            be read and the model does without it, the item is stored with its text, and the reason says so.
    """

    added: int = 0
    replaced: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Record(NamedTuple):
    """What is to be stored of one item."""

    item: Prepared
    code: bytes
    views: ViewRows | None  # None: the stored ones stay
    row: int | None  # None: a new item
    before: bytes = b""  # digest that the stored item must still have


def add(
    session: Session, items: Iterable[Mapping[str, Any]], batch_size: int, on_conflict: str, on_commit: OnCommit | None
) -> AddReport:
    """See `Collection.add`."""
    if not isinstance(on_conflict, str) or on_conflict not in CONFLICTS:
        raise InputError(f"on_conflict must be one of {CONFLICTS}, got {on_conflict!r}")
    check_stream(items, on_commit)
    report = AddReport()
    for batch in batches(items, batch_size, report, lambda: (present(session)[0], session.mirror.types)):
        with _uncollected():
            written = _add_batch(session, batch, on_conflict, report)
        if written and on_commit is not None:
            on_commit(written)
    return report


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles, of which storing a batch makes none: it took a tenth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def check_stream(items: object, on_commit: object) -> None:
    """Raise `InputError` for items or changes that are no stream of mappings, or a callback that cannot be called."""
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise InputError(f"items must be several mappings, each with an 'id', got {type(items).__name__}")
    if on_commit is not None and not callable(on_commit):
        raise InputError(f"on_commit must be a function of a list of ids, got {type(on_commit).__name__}")


def batches(
    items: Iterable[Mapping[str, Any]],
    batch_size: int,
    report: AddReport,
    rules: Callable[[], tuple[Encoder, Mapping[str, str]]],
) -> Iterator[list[Prepared]]:
    """Checked items in batches without a repeated id; what is no item goes to the report.

    Args:
        items: as people give them.
        batch_size: greatest number of items in a batch.
        report: takes the reasons.
        rules: asked before every batch for the model and the declared attributes.
    """
    batch: dict[str, Prepared] = {}
    encoder, types = rules()
    for position, raw in enumerate(items):
        try:
            item = prepare(raw, encoder, types)
        except InputError as error:
            name = raw.get("id") if isinstance(raw, Mapping) else None
            report.skipped.append((name if isinstance(name, str) and name else f"#{position}", str(error)))
            continue
        if item.id in batch or len(batch) >= batch_size:  # a repeated id meets its earlier self as a stored item
            yield list(batch.values())
            batch.clear()
            encoder, types = rules()
        batch[item.id] = item
    if batch:
        yield list(batch.values())


def present(session: Session) -> tuple[Encoder, int]:
    """The present model and its generation, without reading what was written since: that is for searches."""
    with session.store.reading():
        if session.mirror.meta["generation"] != session.fact("generation"):
            session.mirror.refresh()
        return session.encoder(), session.mirror.meta["generation"]


def stored(session: Session, ids: Sequence[str]) -> dict[str, tuple[int, bytes]]:
    """The row and digest of the items of these ids that there are, inside a transaction."""
    found = session.store.among("SELECT id, row, digest FROM items WHERE id IN ({})", ids)
    return {name: (row, digest) for name, row, digest in found}


def _add_batch(session: Session, batch: list[Prepared], on_conflict: str, report: AddReport) -> list[str]:
    while True:
        encoder, generation = present(session)
        with session.store.reading():
            known, seq = stored(session, [item.id for item in batch]), session.fact("seq")
        skipped: list[tuple[str, str]] = []
        wanted = [item for item in batch if accept(item, known, on_conflict, skipped)]
        views, codes = encoded(encoder, wanted, skipped)
        records = [Record(i, codes[i.id], views[i.id], *known.get(i.id, (None, b""))) for i in wanted if i.id in codes]
        if not records or write(session, records, generation, seq):
            break
    report.skipped += skipped
    replaced = sum(r.row is not None for r in records)
    report.added += len(records) - replaced
    report.replaced += replaced
    return [r.item.id for r in records]


def accept(
    item: Prepared, known: dict[str, tuple[int, bytes]], on_conflict: str, skipped: list[tuple[str, str]]
) -> bool:
    """Whether an item is to be stored, given the row and digest of those that are there; if not, why goes to `skipped`.

    Raises:
        CollectionError: it is there with other content, and `on_conflict` is `"error"`.
    """
    if item.id not in known:
        return True
    if known[item.id][1] == item.content()[1]:
        skipped.append((item.id, "unchanged"))
        return False
    if on_conflict == "error":
        raise CollectionError(
            f"an item with the id {item.id!r} and other content is there already; the batches before this one are "
            "stored; use on_conflict='replace' or 'skip', or another id"
        )
    if on_conflict == "skip":
        skipped.append((item.id, "there already, with other content"))
        return False
    return True


def encoded(
    encoder: Encoder, items: Sequence[Prepared], skipped: list[tuple[str, str]]
) -> tuple[dict[str, ViewRows], dict[str, bytes]]:
    """Views and codes by id; what cannot be encoded goes to `skipped`. A code that was given is taken as it is."""
    given = {item.id: item.code for item in items if item.code}
    views = {item.id: item.views for item in items if item.views or item.code}
    bare = [item for item in items if not item.views and not item.code]
    if bare:
        extracted, reasons = encoder.extract(bare)
        views |= extracted
        skipped += reasons.items()
    for name in list(views):
        lacking = None if name in given else encoder.lacking(views[name])
        if lacking is not None:
            skipped.append(
                (name, f"it has no {lacking!r} view, and {encoder.method} codes need {list(encoder.widths)}")
            )
            del views[name]
    ids = [item.id for item in items if item.id in views and not item.code]
    packed = encoder.encode([views[i] for i in ids]).packed if ids else ()
    return views, {**given, **{name: row.tobytes() for name, row in zip(ids, packed)}}


class _Moved(Exception):
    """Another writer changed one of the items, or the model, after they were read."""


def write(session: Session, records: Sequence[Record], generation: int, since: int | None = None) -> bool:
    """Store records in one transaction; False, with nothing stored, if the collection moved on since they were made.

    Args:
        session: the collection's.
        records: what to store.
        generation: that their codes are of.
        since: the `seq` at which their rows were looked up, which need not be done again if it is still the last.
    """
    try:
        with session.writing() as seq:
            if session.fact("generation") != generation:
                raise _Moved
            if since is None or since != seq - 1:
                known = stored(session, [r.item.id for r in records])
                if any(known.get(r.item.id, (None, b"")) != (r.row, r.before) for r in records):
                    raise _Moved
            first = session.fact("next_row")
            new = [r for r in records if r.row is None]
            fresh = dict(zip((r.item.id for r in new), range(first, first + len(new))))
            _insert(session, [(fresh.get(r.item.id, r.row), r) for r in records], seq, generation)
            session.store.put_meta({"next_row": first + len(new)})
    except _Moved:
        return False
    return True


def _insert(session: Session, placed: list[tuple[int | None, Record]], seq: int, generation: int) -> None:
    store, types = session.store, session.mirror.types
    replaced = [(row,) for row, r in placed if r.row is not None]
    for table in ("items", "columns", f"codes_{generation}"):
        store.many(f"DELETE FROM {table} WHERE row = ?", replaced)
    store.insert(
        "items",
        [
            (row, r.item.id, seq, digest, r.item.text, r.item.image, attributes)
            for row, r in placed
            for attributes, digest in (r.item.content(),)
        ],
    )
    store.insert("columns", [(row, *[r.item.attributes.get(name) for name in types]) for row, r in placed])
    store.insert(f"codes_{generation}", [(row, r.code) for row, r in placed])
    names = {name for _, r in placed for name in r.item.attributes}
    store.many("INSERT OR IGNORE INTO names VALUES (?)", [(name,) for name in sorted(names)])
    renewed = [(row, r) for row, r in placed if r.views is not None]
    for name, table in session.view_tables().items():
        store.many(f"DELETE FROM {table} WHERE row = ?", [(row,) for row, r in renewed if r.row is not None])
        having = [(row, r.views[name]) for row, r in renewed if r.views is not None and name in r.views]
        if having:
            rows = np.concatenate([view for _, view in having]).reshape(len(having), -1)
            packed = pack_views(rows)
            store.insert(table, list(zip((row for row, _ in having), packed)))
    if session.mirror.meta["keep_images"]:
        pictures = [(row, _picture(r.item.source)) for row, r in renewed]
        store.many("DELETE FROM pictures WHERE row = ?", [(row,) for row, _ in pictures])
        store.many("INSERT INTO pictures VALUES (?, ?)", [p for p in pictures if p[1] is not None])


def _picture(source: Path | bytes | None) -> bytes | None:
    if isinstance(source, Path):
        try:
            return source.read_bytes()
        except OSError:  # it was read a moment ago, or its views were given: the item does without its picture
            return None
    return source


def delete(session: Session, ids: str | Iterable[str], batch_size: int) -> int:
    """See `Collection.delete`."""
    names = check_ids(ids)
    deleted = 0
    for start in range(0, len(names), batch_size):
        with session.writing() as seq:
            rows = [row for row, _ in stored(session, names[start : start + batch_size]).values()]
            gone = [(row,) for row in rows]
            views = session.view_tables().values()
            for table in ("items", "columns", "pictures", f"codes_{session.fact('generation')}", *views):
                session.store.many(f"DELETE FROM {table} WHERE row = ?", gone)
            session.store.many("INSERT INTO tombstones VALUES (?, ?)", ((row, seq) for row in rows))
            deleted += len(rows)
    return deleted
