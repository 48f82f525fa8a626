"""Looking after a collection: compact, verify, back up, export."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bitfuse.errors import BitfuseError, CollectionError, DamagedFile, InputError, MissingDependency
from bitfuse.hashers import _persist
from bitfuse.pipeline.coding import model_digest
from bitfuse.search import approximate
from bitfuse.search.columns import coerce
from bitfuse.search.items import attribute, unpack_view
from bitfuse.search.mirror import CODE_FILE
from bitfuse.search.paths import written
from bitfuse.search.session import Session, model_directory
from bitfuse.search.stores import codefile
from bitfuse.search.stores.codefile import sync_directory
from bitfuse.search.stores.sqlite import FILE, Store, refuse_network

_EXPORT_ROWS = 10_000


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `target` when the block ends, whole or not at all."""
    with written(target):
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise CollectionError(f"{target} exists; choose a new directory")
        target.parent.mkdir(parents=True, exist_ok=True)
        refuse_network(target.parent)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield partial
            partial.chmod(0o755)
            sync_directory(partial)
            if target.exists():
                target.rmdir()
            partial.rename(target)
            sync_directory(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def compact(session: Session) -> None:
    """Write the code file anew, forget tombstones that it makes needless, give unused space back."""
    with session.reading():
        mirror = session.mirror
        alive = np.flatnonzero(mirror.codes.alive)
        rows, packed = mirror.codes.rows[alive], mirror.codes.packed(alive)
        generation, seq = mirror.meta["generation"], mirror.meta["seq"]
        stamp = codefile.Stamp(mirror.meta["uuid"], mirror.meta["model"], mirror.meta["n_bits"], uuid.uuid4().hex, seq)
    file = session.directory / CODE_FILE
    with written(file):
        codefile.write(file, stamp, rows, packed)
    with session.store.writing():
        # a newer compaction or generation has the last word: its tombstones are gone, this file would lack them
        if session.fact("pruned_seq") <= seq and session.fact("generation") == generation:
            session.store.put_meta({"code_token": stamp.token, "code_seq": seq, "pruned_seq": seq})
            session.store.execute("DELETE FROM tombstones WHERE seq <= ?", (seq,))
    store = session.store
    with store.lock:
        if store.value("PRAGMA freelist_count") > store.value("PRAGMA page_count") // 4:
            store.execute("VACUUM")
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        session.mirror.forget()
    for old in (session.directory / "models").glob("*"):
        if old.name.isdigit() and int(old.name) < generation:
            shutil.rmtree(old, ignore_errors=True)


def verify(session: Session) -> list[str]:
    """What is wrong with a collection, one sentence each; empty where nothing is."""
    store = session.store
    problems = [f"database: {line}" for line in store.integrity()]
    if problems:
        return problems
    try:
        with session.reading():
            problems += _check_rows(session)
            problems += _check_columns(session)
            meta = session.mirror.meta
            stamp = session.mirror.stamp
        model = model_directory(session.directory, meta["generation"])
        _persist.read_card(model)
        if model_digest(model) != meta["model"]:
            problems.append(f"model: {model} is not the one that made the codes")
        if meta["code_token"] and not problems:
            problems += _check_code_file(session, stamp)
        approximate.check(session)
    except BitfuseError as error:
        problems.append(str(error))
    return problems


def _check_rows(session: Session) -> list[str]:
    store, meta = session.store, session.mirror.meta
    codes, width = f"codes_{meta['generation']}", -(-meta["n_bits"] // 8)
    counts = {
        "item(s) without a code": f"SELECT count(*) FROM items WHERE row NOT IN (SELECT row FROM {codes})",
        "code(s) without an item": f"SELECT count(*) FROM {codes} WHERE row NOT IN (SELECT row FROM items)",
        "code(s) of a wrong length": f"SELECT count(*) FROM {codes} WHERE length(code) != {width}",
        "code(s) that are no bytes": f"SELECT count(*) FROM {codes} WHERE typeof(code) != 'blob'",
        "item(s) with a field of a wrong type": "SELECT count(*) FROM items WHERE typeof(id) != 'text' "
        "OR typeof(text) NOT IN ('text', 'null') OR typeof(image) NOT IN ('text', 'null') "
        "OR typeof(attributes) != 'text' OR typeof(digest) != 'blob' OR typeof(seq) != 'integer'",
        "row(s) of typed attributes without an item": "SELECT count(*) FROM columns "
        "WHERE row NOT IN (SELECT row FROM items)",
        "kept picture(s) without an item": "SELECT count(*) FROM pictures WHERE row NOT IN (SELECT row FROM items)",
        "item(s) without their typed attributes": "SELECT count(*) FROM items "
        "WHERE row NOT IN (SELECT row FROM columns)",
        "deleted item(s) that are still there": "SELECT count(*) FROM items WHERE row IN (SELECT row FROM tombstones)",
        "item(s) newer than the last change": f"SELECT count(*) FROM items WHERE seq > {int(meta['seq'])}",
        "row number(s) to be given out again": f"SELECT count(*) FROM items WHERE row >= {int(meta['next_row'])}",
    }
    found = [(store.value(sql), what) for what, sql in counts.items()]
    problems = [f"database: {count} {what}" for count, what in found if count]
    widths = session.encoder().widths
    for name, table in meta["views"].items():
        size = 4 + 2 * widths[name]
        bad = store.value(
            f"SELECT count(*) FROM {table} WHERE length(vector) != ? OR row NOT IN (SELECT row FROM items)", (size,)
        )
        if bad:
            problems.append(f"database: {bad} stored {name!r} view(s) of a wrong length or without an item")
    spare = 8 * width - meta["n_bits"]
    if spare and not problems:
        _, packed = store.codes(f"SELECT row, code FROM {codes}", (), meta["n_bits"])
        bad = int(np.count_nonzero(packed[:, -1] & ((1 << spare) - 1)))
        if bad:
            problems.append(f"database: {bad} code(s) with bits beyond bit {meta['n_bits']}")
    return problems


def _check_code_file(session: Session, stamp: codefile.Stamp) -> list[str]:
    """The same codes stand in two places: SQLite has no checksums, so only the file tells of a changed byte in it."""
    file, n_bits = codefile.read(session.directory / CODE_FILE, stamp), stamp.n_bits
    with session.reading():
        if session.mirror.stamp != stamp:
            return []  # compacted or re-encoded meanwhile
        rows, packed = session.store.codes(
            f"SELECT i.row, c.code FROM items i JOIN codes_{session.mirror.meta['generation']} c ON c.row = i.row "
            "WHERE i.seq <= ? ORDER BY i.row",
            (stamp.max_seq,),
            n_bits,
        )
    at = np.searchsorted(file.rows, rows)
    known = at < len(file.rows)
    known[known] = file.rows[at[known]] == rows[known]
    bad = int(np.count_nonzero(~known)) + int((file.packed[at[known]] != packed[known]).any(axis=1).sum())
    file.release()
    return [f"database: {bad} code(s) are not those that compact wrote to {CODE_FILE}"] if bad else []


def _check_columns(session: Session) -> list[str]:
    types, problems = session.mirror.types, []
    listed = {name for (name,) in session.store.fetch("SELECT name FROM names")}
    sql = "SELECT i.id, i.attributes, c.* FROM items i JOIN columns c ON c.row = i.row"
    for part in session.store.chunks(sql):
        for name, text, _, *typed in part:
            try:
                attributes = json.loads(text)
                for k, value in attributes.items():
                    attribute(k, value, types)
                wanted = [coerce(kind, k, attributes.get(k)) for k, kind in types.items()]
            except (ValueError, AttributeError, TypeError, InputError) as error:
                problems.append(f"item {name!r}: its attributes cannot be read: {error}")
                continue
            if typed != wanted:
                problems.append(f"item {name!r}: its typed attributes {typed} are not those of its record, {wanted}")
            if not listed.issuperset(attributes):
                lost = sorted(set(attributes) - listed)
                problems.append(f"item {name!r}: the names of its attributes {lost} are not listed for filters")
                listed.update(lost)
    return problems


def backup(session: Session, target: Path) -> None:
    """Copy the collection as it is at this moment into a new directory, while others read and write it."""
    with new_directory(target) as partial:
        session.store.backup(partial / FILE)
        copy = Store.open(partial / FILE)
        try:
            generation = copy.meta()["generation"]
        finally:
            copy.close()
        model = model_directory(session.directory, generation)
        shutil.copytree(model, model_directory(partial, generation))
        file = session.directory / CODE_FILE
        with suppress(FileNotFoundError):  # a cache: the copy is opened without it just as well
            shutil.copyfile(file, partial / CODE_FILE)


def export(session: Session, target: Path, views: bool) -> int:
    """Write all items to one Parquet file; the number of items."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingDependency("pyarrow", "parquet", "exporting a collection") from error

    arrow = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
    with session.reading():
        types, meta = session.mirror.types, session.mirror.meta
        if not isinstance(views, bool):
            raise InputError(f"views must be True or False, got {views!r:.80}")
        if views and not meta["views"]:
            raise InputError("this collection was made without stored views (store_views=False); export without them")
        names = list(meta["views"]) if views else []
        fields = [("row", pa.int64()), ("id", pa.string()), ("text", pa.string()), ("image", pa.string())]
        fields += [(name, arrow[kind]) for name, kind in types.items()]
        fields += [("attributes", pa.string()), ("code", pa.binary(-(-meta["n_bits"] // 8)))]
        fields += [(f"view_{name}", pa.list_(pa.float32())) for name in names]  # as in shards: see `coder`
        written_once = [name for name, _ in fields]
        clash = {name for name in types if written_once.count(name) > 1}
        if clash:
            raise InputError(f"attribute(s) {sorted(clash)} have the name of a column that the export itself writes")
        facts = {
            "bitfuse": json.dumps({"format": 1, "kind": "export", "n_bits": meta["n_bits"], "model": meta["model"]})
        }
        schema = pa.schema(fields, metadata=facts)
        partial = target.parent / f"{target.name}.{os.getpid()}.partial"
        total = 0
        with written(target):
            try:
                with pq.ParquetWriter(partial, schema) as writer:
                    for rows in _pages(session, meta, names):
                        columns: list[list[Any]] = [list(column) for column in zip(*rows)]
                        writer.write_table(pa.table(columns, schema=schema))
                        total += len(rows)
                partial.replace(target)
            except pa.ArrowException as error:
                raise DamagedFile(
                    f"{session.store.path} holds what no item has ({error}); run `bitfuse verify`"
                ) from error
            finally:
                partial.unlink(missing_ok=True)
    return total


def _pages(session: Session, meta: dict[str, Any], views: list[str]) -> Iterator[list[list[Any]]]:
    """Rows of the export in pages, in insertion order."""
    typed = "".join(f", t.c{i}" for i in range(len(meta["filterable"])))
    last = -1
    while True:
        page = session.store.fetch(
            f"SELECT i.row, i.id, i.text, i.image{typed}, i.attributes, c.code FROM items i "
            f"JOIN columns t ON t.row = i.row JOIN codes_{meta['generation']} c ON c.row = i.row "
            "WHERE i.row > ? ORDER BY i.row LIMIT ?",
            (last, _EXPORT_ROWS),
        )
        if not page:
            return
        last = page[-1][0]
        blobs = {
            name: dict(
                session.store.fetch(
                    f"SELECT row, vector FROM {meta['views'][name]} WHERE row BETWEEN ? AND ?", (page[0][0], last)
                )
            )
            for name in views
        }
        rows = [list(row) for row in page]
        for row in rows:
            for i, kind in enumerate(meta["filterable"].values()):
                if kind == "bool" and row[4 + i] is not None:
                    row[4 + i] = bool(row[4 + i])
            row += [unpack_view(blobs[v][row[0]]) if row[0] in blobs[v] else None for v in views]
        yield rows


def check_exists(directory: Path) -> None:
    """Raise `InputError` unless a directory looks like a collection."""
    try:
        there = directory.is_dir()
    except OSError as error:
        raise InputError(f"{directory} cannot be a collection: {error.strerror or error}") from error
    if not there:
        raise InputError(f"{directory} does not exist; `bitfuse index` or Collection.create makes a collection")
    if not (directory / FILE).is_file():
        raise DamagedFile(f"{directory} holds no {FILE}, so it is not a collection, or it lost its database")
