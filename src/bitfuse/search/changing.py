"""Changing parts of the items of a collection; what is not named stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bitfuse.errors import InputError
from bitfuse.search.encoder import Encoder, ViewRows
from bitfuse.search.items import Prepared, check_id, prepare
from bitfuse.search.session import Session
from bitfuse.search.writing import AddReport, OnCommit, Record, check_stream, encoded, write

Skipped = list[tuple[str, str]]


class Plan(NamedTuple):
    """What a change makes of an item."""

    item: Prepared  # as it will be, its views yet to come
    row: int
    before: bytes
    code: bytes  # the present one, where no view changes
    views: ViewRows  # those that stay and those that the change gives
    extracting: Prepared | None  # what further views are to be made of


def update(
    session: Session, changes: Iterable[Mapping[str, Any]], batch_size: int, on_commit: OnCommit | None
) -> AddReport:
    """See `Collection.update`."""
    check_stream(changes, on_commit)
    report = AddReport()
    for batch in batches(changes, batch_size, report):
        while True:
            skipped: Skipped = []
            with session.reading():
                encoder, generation = session.encoder(), session.mirror.meta["generation"]
                plans = [plan for change in batch if (plan := _plan(session, change, skipped)) is not None]
            done = records(encoder, plans, skipped)
            if not done or write(session, done, generation):
                break
        report.skipped += skipped
        report.replaced += len(done)
        if done and on_commit is not None:
            on_commit([r.item.id for r in done])
    return report


def batches(
    changes: Iterable[Mapping[str, Any]], batch_size: int, report: AddReport
) -> Iterator[list[Mapping[str, Any]]]:
    """Changes in batches without a repeated id; those without a usable id go to the report."""
    batch: dict[str, Mapping[str, Any]] = {}
    for position, change in enumerate(changes):
        try:
            if not isinstance(change, Mapping):
                raise InputError(f"a change must be a mapping with an 'id', got {type(change).__name__}")
            name = check_id(change.get("id"))
        except InputError as error:
            report.skipped.append((f"#{position}", str(error)))
            continue
        if name in batch or len(batch) >= batch_size:
            yield list(batch.values())
            batch.clear()
        batch[name] = change
    if batch:
        yield list(batch.values())


def checked(change: Mapping[str, Any], encoder: Encoder, types: Mapping[str, str]) -> Prepared:
    """The parts that a change gives.

    Raises:
        InputError: one of them is not what it must be, or there is a code among them.
    """
    given = prepare(change, encoder, types)
    if given.code:
        raise InputError("a code belongs to a whole item and cannot be changed alone; use `add`")
    return given


def _plan(session: Session, change: Mapping[str, Any], skipped: Skipped) -> Plan | None:
    name, encoder = change["id"], session.encoder()
    found = session.store.fetch("SELECT row, digest, text, image, attributes FROM items WHERE id = ?", (name,))
    try:
        if not found:
            raise InputError("there is no item of this id")
        given = checked(change, encoder, session.mirror.types)
    except InputError as error:
        skipped.append((name, str(error)))
        return None
    row, before, text, image, attributes = found[0]
    item = Prepared(
        name,
        given.text if "text" in change else text,
        given.image if "image" in change else image,
        given.source if "image" in change else session.picture(row, image),
        {**session.store.attributes(attributes), **given.attributes},
    )
    remade = {view for view in ("text", "image") if view in change and view in encoder.widths} - set(given.views)
    if not remade and not given.views:
        table = f"codes_{session.mirror.meta['generation']}"
        return Plan(item, row, before, session.store.value(f"SELECT code FROM {table} WHERE row = ?", (row,)), {}, None)
    kept: ViewRows = {}
    extracting = item
    if session.view_tables():
        kept = {view: x for view, x in session.stored_views([row])[row].items() if view not in remade}
        extracting = item._replace(
            text=item.text if "text" in remade else None, source=item.source if "image" in remade else None
        )
    empty = extracting.text is None and extracting.source is None
    return Plan(item, row, before, b"", {**kept, **given.views}, None if empty else extracting)


def records(encoder: Encoder, plans: Sequence[Plan], skipped: Skipped) -> list[Record]:
    """What is to be stored; a change that cannot be carried out whole goes to `skipped`, the item stays."""
    extracting = [plan.extracting for plan in plans if plan.extracting is not None]
    made, reasons = encoder.extract(extracting) if extracting else ({}, {})
    skipped += reasons.items()
    done = [Record(plan.item, plan.code, None, plan.row, plan.before) for plan in plans if plan.code]
    stale = {}
    for plan in plans:
        if not plan.code and plan.item.id not in reasons:
            views = {**made.get(plan.item.id, {}), **plan.views}
            if views:
                stale[plan.item.id] = (plan, plan.item._replace(views=views))
            else:
                skipped.append((plan.item.id, f"the change leaves it none of the views {list(encoder.widths)}"))
    views_of, codes = encoded(encoder, [item for _, item in stale.values()], skipped)
    for name, code in codes.items():
        plan, item = stale[name]
        done.append(Record(item, code, views_of[name], plan.row, plan.before))
    return done
