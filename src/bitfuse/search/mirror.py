"""What a process keeps in memory of a collection, brought up to date from the database before every use."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitfuse.errors import DamagedFile, UnknownName
from bitfuse.search.columns import TYPES, Column
from bitfuse.search.filters import And, Filter, Not, Or, names, parse
from bitfuse.search.resident import Allowed, Mask, Resident
from bitfuse.search.stores import codefile
from bitfuse.search.stores.sqlfilter import to_sql
from bitfuse.search.stores.sqlite import Store

CODE_FILE = "codes.bin"
_OWN_FIELDS = {"id", "text", "image"}
_MASKS = 16  # filters whose masks are kept until the next write


def _attribute(name: str) -> tuple[str, str, list[str]]:
    if name in _OWN_FIELDS:
        return f"(CASE WHEN {name} IS NULL THEN 'null' ELSE 'text' END)", name, []
    # a declared name never comes here; a quote in a name is refused when an item is added
    return "json_type(attributes, ?)", "json_extract(attributes, ?)", [f'$."{name}"']


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) and _VIEW_TABLE.fullmatch(v) for v in value.values())


def _is_types(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) and v in TYPES for v in value.values())


_VIEW_TABLE = re.compile(r"views_[0-9]+_[0-9]+")  # the names of tables go into SQL
_META: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("uuid", "model", "code_token", "reencoding"), lambda v: isinstance(v, str)),
    **dict.fromkeys(
        ("generation", "seq", "next_row", "n_bits", "code_seq", "pruned_seq"), lambda v: type(v) is int and v >= 0
    ),
    "views": _is_table,
    "filterable": _is_types,
    "keep_images": lambda v: isinstance(v, int),
}
"""What the database must say about a collection, and how each entry is known to be sound."""


class Mirror:
    """Codes, declared attributes and filters of a collection as of one change of its database.

    Every method is to be called inside `store.reading()`, after `refresh`.

    Attributes:
        meta: what the database says about the collection.
        codes: the codes by slot.
        rebuilt: why the code file was not used when the codes were last loaded; "" where it was, None before a
            first `compact`.
    """

    def __init__(self, store: Store, directory: Path) -> None:
        self._store, self._file = store, directory / CODE_FILE
        self._version = -1
        self._seq = -1
        self._stale = True
        self._columns: dict[str, Column] = {}
        self._masks: OrderedDict[str, Allowed] = OrderedDict()
        self.meta: dict[str, Any] = {}
        self.codes: Resident
        self.rebuilt: str | None = None

    @property
    def types(self) -> dict[str, str]:
        """The declared attributes: name -> type, in the order of their columns."""
        types: dict[str, str] = self.meta["filterable"]
        return types

    @property
    def stamp(self) -> codefile.Stamp:
        """What the code file must agree with."""
        m = self.meta
        return codefile.Stamp(m["uuid"], m["model"], m["n_bits"], m["code_token"], m["code_seq"])

    def outdated(self) -> None:
        """This process has written: `PRAGMA data_version` tells of the writes of others alone."""
        self._version = -1

    def forget(self) -> None:
        """Load everything again at the next `refresh`."""
        self._version, self._stale = -1, True

    def refresh(self) -> None:
        """Catch up with what was committed since the last call."""
        version = self._store.value("PRAGMA data_version")
        if version == self._version:
            return
        before, self.meta = self.meta, self._read_meta()
        seq = self.meta["seq"]
        stale = self._stale or before["generation"] != self.meta["generation"] or self._seq < self.meta["pruned_seq"]
        if stale or not len(self.codes) or self.codes.n_slots > 2 * len(self.codes) + 4096:
            self._load()
        if seq > self._seq:
            self._catch_up()
        self._version, self._seq, self._stale = version, seq, False

    def _read_meta(self) -> dict[str, Any]:
        meta = self._store.meta()
        for key, sound in _META.items():
            if key not in meta or not sound(meta[key]):
                held = f"holds {meta[key]!r:.80} as its entry" if key in meta else "lacks its entry"
                raise DamagedFile(f"{self._store.path} {held} {key!r}; restore a backup")
        return meta

    def _load(self) -> None:
        self._columns.clear()
        self._masks.clear()
        self.rebuilt, n_bits, file_seq = None, self.meta["n_bits"], self.meta["code_seq"]
        if self.meta["code_token"]:
            try:
                file = codefile.read(self._file, self.stamp)
                self.codes, self._seq, self.rebuilt = Resident(n_bits, file.rows, file.packed), file_seq, ""
                self.codes.settle()
                file.release()
                return
            except DamagedFile as error:
                self.rebuilt = str(error)
        table = f"codes_{self.meta['generation']}"
        rows, packed = self._store.codes(f"SELECT row, code FROM {table} ORDER BY row", (), n_bits)
        self.codes, self._seq = Resident(n_bits, rows, packed), self.meta["seq"]
        self.codes.settle()

    def _catch_up(self) -> None:
        self._masks.clear()
        since, table = (self._seq,), f"codes_{self.meta['generation']}"
        rows, packed = self._store.codes(
            # told which index: SQLite would read all items, because they lie in the order that is asked for
            f"SELECT i.row, c.code FROM items i INDEXED BY items_seq JOIN {table} c ON c.row = i.row "
            "WHERE i.seq > ? ORDER BY i.row",
            since,
            self.meta["n_bits"],
        )
        if len(rows):
            self.codes.put(rows, packed)
        for name, column in self._columns.items():
            self._fill(column, name, " WHERE row IN (SELECT row FROM items WHERE seq > ?)", since)
        dead = self._store.fetch("SELECT row FROM tombstones WHERE seq > ?", since)
        if dead:
            self.codes.kill(np.array([row for (row,) in dead], np.int64))

    def _fill(self, column: Column, name: str, where: str, parameters: tuple[int, ...]) -> None:
        at = list(self.types).index(name)
        column.reach(self.codes.n_slots)
        for part in self._store.chunks(f"SELECT row, c{at} FROM columns{where} ORDER BY row", parameters):
            rows, values = zip(*part)
            slots = self.codes.slots_of(np.array(rows, np.int64))
            if len(slots) != len(values):
                raise DamagedFile(f"{self._store.path} has attributes of items without codes; run `bitfuse verify`")
            column.put(slots, values)

    def _column(self, name: str) -> Column:
        if name not in self._columns:
            column = Column(name, self.types[name])
            self._fill(column, name, "", ())
            self._columns[name] = column
        return self._columns[name]

    def allowed(self, where: str) -> Allowed:
        """The slots that satisfy a filter; dead ones may be among them.

        Raises:
            InputError: not a filter, or a comparison with a value of another kind.
            UnknownName: no item ever had an attribute of that name.
        """
        if isinstance(where, str) and where in self._masks:
            self._masks.move_to_end(where)
            return self._masks[where]
        tree = parse(where)
        known = {name for (name,) in self._store.fetch("SELECT name FROM names")} | set(self.types) | _OWN_FIELDS
        for name in names(tree):
            if name not in known:
                raise UnknownName("attribute", name, known)
        allowed = self._masks[where] = self.codes.allowed(self._evaluate(tree))
        if len(self._masks) > _MASKS:
            self._masks.popitem(last=False)
        return allowed

    def _evaluate(self, node: Filter) -> Mask:
        if not any(name in self.types for name in names(node)):
            sql, parameters = to_sql(node, _attribute)
            rows = self._store.fetch(f"SELECT row FROM items WHERE {sql}", parameters)
            mask = np.zeros(self.codes.n_slots, bool)
            mask[self.codes.slots_of(np.array([row for (row,) in rows], np.int64))] = True
            return mask
        if isinstance(node, Not):
            return ~self._evaluate(node.part)
        if isinstance(node, And | Or):
            combine = np.logical_and if isinstance(node, And) else np.logical_or
            mask = self._evaluate(node.parts[0])
            for part in node.parts[1:]:
                mask = combine(mask, self._evaluate(part))
            return mask
        return self._column(node.name).mask(node)

    def plan(self, where: str) -> dict[str, str]:
        """How each attribute of a filter is read: for `explain`."""
        return {
            name: "typed column in memory"
            if name in self.types
            else "SQL over the stored items; declare it filterable for speed"
            for name in names(parse(where))
        }
