"""Putting items into a Milvus collection and changing them, a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bitfuse.errors import CollectionError, InputError
from bitfuse.search import changing
from bitfuse.search.encoder import Encoder
from bitfuse.search.items import Prepared, Stored
from bitfuse.search.stores.milvus.items import FIELDS, ITEM_BYTES, as_entity, stored_of
from bitfuse.search.stores.milvus.table import Table
from bitfuse.search.writing import CONFLICTS, AddReport, OnCommit, accept, batches, encoded

Skipped = list[tuple[str, str]]
_LARGEST = 16_384  # items of a batch


def add(
    table: Table, encoder: Encoder, types: Mapping[str, str], items: Iterable[Mapping[str, Any]], batch_size: int,
    on_conflict: str, on_commit: OnCommit | None,
) -> AddReport:  # fmt: skip
    """See `Collection.add`."""
    _check_batch(batch_size)
    if on_conflict not in CONFLICTS:
        raise InputError(f"on_conflict must be one of {CONFLICTS}, got {on_conflict!r}")
    report = AddReport()
    for batch in batches(items, batch_size, report, lambda: (encoder, types)):
        there = table.among([item.id for item in batch], ["id", "row", "digest"])
        known = {entity["id"]: (int(entity["row"]), bytes.fromhex(entity["digest"])) for entity in there}
        wanted = [item for item in batch if accept(item, known, on_conflict, report.skipped)]
        _, codes = encoded(encoder, wanted, report.skipped)
        fitting = [item for item in wanted if item.id in codes and _fits(item, report.skipped)]
        _write(table, [(item, codes[item.id]) for item in fitting], {i: row for i, (row, _) in known.items()})
        replaced = sum(item.id in known for item in fitting)
        report.replaced += replaced
        report.added += len(fitting) - replaced
        if fitting and on_commit is not None:
            on_commit([item.id for item in fitting])
    return report


def update(
    table: Table, encoder: Encoder, types: Mapping[str, str], changes: Iterable[Mapping[str, Any]], batch_size: int,
    on_commit: OnCommit | None,
) -> AddReport:  # fmt: skip
    """See `Collection.update`."""
    _check_batch(batch_size)
    report = AddReport()
    for batch in changing.batches(changes, batch_size, report):
        known = stored(table, [change["id"] for change in batch])
        plans = [
            plan
            for change in batch
            if (plan := _plan(change, known.get(change["id"]), encoder, types, report.skipped)) is not None
        ]
        done = [r for r in changing.records(encoder, plans, report.skipped) if _fits(r.item, report.skipped)]
        _write(table, [(r.item, r.code) for r in done], {name: each.row for name, each in known.items()})
        report.replaced += len(done)
        if done and on_commit is not None:
            on_commit([r.item.id for r in done])
    return report


def restore(table: Table, items: Sequence[Stored]) -> None:
    """See `Collection.restore`."""
    skipped: Skipped = []
    if not all(_fits(each.item, skipped) for each in items):
        raise CollectionError("item {!r} cannot be stored on a Milvus server: {}".format(*skipped[0]))
    if table.among([each.item.id for each in items], ["id"]):
        raise CollectionError("an item of one of these ids is there already; restore into a new collection")
    _write(table, [(each.item, each.code) for each in items], {})


def stored(table: Table, ids: Sequence[str]) -> dict[str, Stored]:
    """The items of these ids that there are."""
    return {entity["id"]: stored_of(entity) for entity in table.among(ids, FIELDS)}


def _write(table: Table, items: Sequence[tuple[Prepared, bytes]], rows: Mapping[str, int]) -> None:
    new = [(item, code) for item, code in items if item.id not in rows]
    changed = [(item, code) for item, code in items if item.id in rows]
    if new:
        numbers = table.new_rows(len(new))
        table.insert([as_entity(item, code, row) for (item, code), row in zip(new, numbers)])
    if changed:
        table.upsert([as_entity(item, code, rows[item.id]) for item, code in changed])


def _plan(
    change: Mapping[str, Any], known: Stored | None, encoder: Encoder, types: Mapping[str, str], skipped: Skipped
) -> changing.Plan | None:
    """No views are stored: those that a change does not give are made anew from text and picture."""
    try:
        if known is None:
            raise InputError("there is no item of this id")
        given = changing.checked(change, encoder, types)
    except InputError as error:
        skipped.append((change["id"], str(error)))
        return None
    old = known.item
    item = Prepared(
        old.id,
        given.text if "text" in change else old.text,
        given.image if "image" in change else old.image,
        given.source if "image" in change else old.source,
        {**old.attributes, **given.attributes},
    )
    remade = {view for view in ("text", "image") if view in change and view in encoder.widths}
    if not remade and not given.views:
        return changing.Plan(item, known.row, old.digest, known.code, {}, None)
    wanted = set(encoder.widths) - set(given.views)
    bare = item._replace(
        text=item.text if "text" in wanted else None, source=item.source if "image" in wanted else None
    )
    empty = bare.text is None and bare.source is None
    return changing.Plan(item, known.row, old.digest, b"", given.views, None if empty else bare)


def _fits(item: Prepared, skipped: Skipped) -> bool:
    size = len(json.dumps(as_entity(item, b"", 0)["item"], ensure_ascii=False).encode())
    if size > ITEM_BYTES:
        skipped.append((item.id, f"its text and attributes take {size} bytes; a Milvus server holds {ITEM_BYTES}"))
    return size <= ITEM_BYTES


def _check_batch(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= _LARGEST:
        raise InputError(f"batch_size must be an integer from 1 to {_LARGEST} on a Milvus server, got {batch_size!r}")
