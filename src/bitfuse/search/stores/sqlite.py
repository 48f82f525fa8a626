"""The truth of a collection: one SQLite database in WAL mode, every commit synced before it is acknowledged."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import CollectionError, DamagedFile, UnknownFormat

FORMAT = 1
FILE = "items.db"
_APPLICATION = 0x42697466  # "Bitf"
_BUSY_MS = 30_000
_READ_ROWS = 1 << 16
_TOGETHER, _PARAMETERS = 64, 999  # rows of one INSERT at most, and the values that every SQLite takes in one statement

NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2",
    "gfs2", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "davfs",
    "fuse.davfs2",
}  # fmt: skip

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE items (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, seq INTEGER NOT NULL, digest BLOB NOT NULL,
                    text TEXT, image TEXT, attributes TEXT NOT NULL);
CREATE INDEX items_seq ON items (seq);
CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE pictures (row INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE tombstones (row INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE INDEX tombstones_seq ON tombstones (seq);
"""


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds a path, given the text of `/proc/mounts`; "" where it is not listed."""
    best, found = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].encode().decode("unicode_escape")
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, fields[2]
    return found


def refuse_network(path: Path) -> None:
    """Raise `CollectionError` if a path lies on a network file system (found where `/proc/mounts` exists)."""
    table = Path("/proc/mounts")
    kind = file_system(path.resolve(), table.read_text()) if table.is_file() else ""
    if kind in NETWORK_FILE_SYSTEMS:
        raise CollectionError(
            f"{path} lies on a network file system ({kind}), where SQLite's write-ahead log is not safe; "
            "keep it on a local disk; a closed backup may be copied anywhere"
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into Bitfuse's: damage, another writer, a full or failing disk."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        garbled = "decode to UTF-8" in str(error) or "no such table" in str(error)
        if code is None and not garbled:
            raise
        primary = 0 if code is None else code & 0xFF
        if garbled or primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise DamagedFile(
                f"{path} is damaged ({error}); run `bitfuse verify` to see what, and restore a backup"
            ) from error
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise CollectionError(f"{path} is being written by another process ({error}); try again later") from error
        if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise CollectionError(
                f"{path} cannot be read or written ({error}); batches acknowledged before are safe, this one was not "
                "stored; check free space and permissions"
            ) from error
        raise


def _uri(path: Path) -> str:
    """How SQLite is to open a file: as one that never changes, where nothing can be written and nobody has it open.

    Otherwise it asks for its shared memory, a file that cannot be made there. While somebody writes, the log is there.
    """
    log = path.with_name(f"{path.name}-wal")
    fixed = path.exists() and not os.access(path.parent, os.W_OK) and not log.exists()
    return f"{path.absolute().as_uri()}{'?immutable=1' if fixed else ''}"


class Store:
    """One connection to a collection's database, shared by the threads of one process under one lock.

    Attributes:
        path: of the database file.
        lock: hold it for anything that takes more than one statement outside `reading` and `writing`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self._pid = path, threading.RLock(), os.getpid()
        self._connection: sqlite3.Connection | None = None
        with translated(path):
            connection = sqlite3.connect(_uri(path), uri=True, isolation_level=None, check_same_thread=False)
            self._connection = connection
            try:
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA wal_autocheckpoint = 4000")
                connection.execute("PRAGMA cache_size = -16000")
            except BaseException:
                self.close()
                raise

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, Any], typed: Sequence[str]) -> Store:
        """Make the database of a new, empty collection.

        Args:
            path: of the file, which must not exist.
            meta: what the collection remembers, name -> JSON value.
            typed: SQL types of the declared attributes, in order.
        """
        store = cls(path)
        store.execute("PRAGMA journal_mode = WAL")
        with store.writing():
            store.execute(f"PRAGMA application_id = {_APPLICATION}")
            store.execute(f"PRAGMA user_version = {FORMAT}")
            for statement in _TABLES.split(";"):
                store.execute(statement)
            columns = "".join(f", c{i} {kind}" for i, kind in enumerate(typed))
            store.execute(f"CREATE TABLE columns (row INTEGER PRIMARY KEY{columns})")
            store.put_meta(meta)
        return store

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open an existing database.

        Raises:
            DamagedFile: not a collection's database, or damaged.
            UnknownFormat: written by a newer version.
        """
        if not path.is_file():
            raise DamagedFile(f"{path} is missing; this is not a collection, or it lost its database: restore a backup")
        store = cls(path)
        try:
            with translated(path):
                application = store.value("PRAGMA application_id")
                version = store.value("PRAGMA user_version")
                if application != _APPLICATION:
                    raise DamagedFile(f"{path} is a database, but not one that Bitfuse made")
                if version > FORMAT:
                    raise UnknownFormat(f"{path} has collection format {version}, this version reads up to {FORMAT}")
        except BaseException:
            store.close()
            raise
        return store

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection, in the process that opened it."""
        if self._connection is None:
            raise CollectionError("this collection is closed; open it again")
        if os.getpid() != self._pid:
            raise CollectionError("this collection was opened before a fork; open it again in the new process")
        return self._connection

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        with self.lock:
            if self._connection is not None and os.getpid() == self._pid:
                self._connection.close()
            self._connection = None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        with translated(self.path):
            return self.connection.execute(sql, parameters)

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for many rows."""
        with translated(self.path):
            self.connection.executemany(sql, rows)

    def insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Put new rows into a table, many in one statement: a third less time than one by one."""
        if not rows:
            return
        row = f"({', '.join('?' * len(rows[0]))})"
        together = max(1, min(_TOGETHER, _PARAMETERS // len(rows[0])))
        whole = len(rows) - len(rows) % together
        several = f"INSERT INTO {table} VALUES {', '.join([row] * together)}"
        self.many(several, (list(chain.from_iterable(rows[i : i + together])) for i in range(0, whole, together)))
        self.many(f"INSERT INTO {table} VALUES {row}", rows[whole:])

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        with translated(self.path):
            return self.connection.execute(sql, parameters).fetchall()

    def chunks(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[list[Any]]:
        """The rows of a query, 65,536 at a time."""
        with translated(self.path):
            cursor = self.connection.execute(sql, parameters)
            while rows := cursor.fetchmany(_READ_ROWS):
                yield rows

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row; None without a row."""
        rows = self.fetch(sql, parameters)
        return rows[0][0] if rows else None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot for everything read inside; nests."""
        with self.lock:
            if self.connection.in_transaction:
                yield
                return
            self.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all of it is on disk when the block ends, or none of it if it raises."""
        with self.lock:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.rollback()
                raise

    def meta(self) -> dict[str, Any]:
        """What the collection remembers about itself."""
        return {key: self.decoded(value) for key, value in self.fetch("SELECT key, value FROM meta")}

    def decoded(self, text: str) -> Any:
        """The value of a JSON text of the database.

        Raises:
            DamagedFile: it is none.
        """
        try:
            return json.loads(text)
        except (ValueError, TypeError) as error:
            raise DamagedFile(f"{self.path} holds {text!r:.80} in place of JSON; run `bitfuse verify`") from error

    def attributes(self, text: str) -> dict[str, Any]:
        """The attributes of an item, from their JSON.

        Raises:
            DamagedFile: it is none, or no object.
        """
        found = self.decoded(text)
        if not isinstance(found, dict):
            raise DamagedFile(f"{self.path} holds {text!r:.80} in place of an item's attributes; run `bitfuse verify`")
        return found

    def put_meta(self, facts: Mapping[str, Any]) -> None:
        """Set entries of `meta`; call it inside `writing`."""
        self.many("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in facts.items()])

    def codes(self, sql: str, parameters: Sequence[Any], n_bits: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Rows and packed codes of a query that selects (row, code)."""
        width = -(-n_bits // 8)
        rows, packed = [np.empty(0, np.int64)], [np.empty((0, width), np.uint8)]
        for part in self.chunks(sql, parameters):
            numbers, blobs = zip(*part)
            joined = b"".join(blob for blob in blobs if isinstance(blob, bytes))
            if len(joined) != len(blobs) * width:
                raise DamagedFile(f"{self.path} holds codes of another length than {n_bits} bits; run `bitfuse verify`")
            rows.append(np.array(numbers, np.int64))
            packed.append(np.frombuffer(joined, np.uint8).reshape(-1, width))
        return np.concatenate(rows), np.concatenate(packed)

    def among(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """The rows of a query whose single `{}` is filled with as many parameters as there are values, in pieces."""
        found = []
        for i in range(0, len(values), 500):
            part = values[i : i + 500]
            found += self.fetch(sql.format(", ".join("?" * len(part))), part)
        return found

    def backup(self, target: Path) -> None:
        """Copy the database as it is at this moment, while it may be written, into a new file."""
        with translated(target):
            copy = sqlite3.connect(target)
            try:
                with self.lock:
                    self.connection.backup(copy)
                copy.execute("PRAGMA journal_mode = WAL")
            finally:
                copy.close()

    def integrity(self) -> list[str]:
        """What SQLite itself finds wrong; empty where it finds nothing."""
        try:
            found = self.fetch("PRAGMA integrity_check")
        except DamagedFile as error:
            return [str(error)]
        return [str(line) for (line,) in found if line != "ok"]
