"""What is to be encoded, read as a stream: tables, tars and folders, here or (where allowed) in object storage.

A source is surveyed once: rows counted, columns typed, and for every shard the place noted where its first row begins.
So any shard can be read without those before it, and no table or list of files is ever in memory whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bitfuse.data.table import image_cell, image_of, text_of
from bitfuse.errors import InputError, UnknownName
from bitfuse.pipeline import formats
from bitfuse.pipeline.formats import Bad, Entry
from bitfuse.pipeline.kinds import Kinds, cast
from bitfuse.pipeline.places import Place

_TAKEN = ("row", "id", "text", "image", "code")
_TABLES = ("csv", "tsv", "jsonl", "parquet")
_KINDS = {"csv", "tsv", "jsonl", "ndjson", "parquet", "tar"}


@dataclass(frozen=True)
class Roles:
    """Which columns hold what, by name; None is the column of that name, if there is one.

    Attributes:
        image, text, id: columns; rows without an id column are called `row-000001` onwards.
        root: the folder that image paths start from and may not leave; None is each table's own.
    """

    image: str | None = None
    text: str | None = None
    id: str | None = None
    root: str | None = None


@dataclass(frozen=True)
class Part:
    """One file, or one folder of pictures."""

    path: str
    kind: str
    rows: int
    facts: str  # what changes when the content does


@dataclass(frozen=True)
class Mark:
    """Where a shard begins: the row of a part, and the byte at which that row stands (where the format has such)."""

    part: int
    row: int
    offset: int


@dataclass(frozen=True)
class Survey:
    """What the sources hold.

    Attributes:
        parts: in the order of their rows.
        marks: of every shard.
        attributes: name -> `"int"`, `"float"`, `"str"` or `"bool"`.
        roles: as they were given.
        shard_rows: rows of a shard; the last one may have fewer.
        remote: whether the sources may lie elsewhere.
    """

    parts: list[Part]
    marks: list[Mark]
    attributes: dict[str, str]
    roles: Roles
    shard_rows: int
    remote: bool

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(part.rows for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """Stands for the content and how it is read."""
        facts = [[asdict(part) for part in self.parts], asdict(self.roles), self.attributes]
        return "sha256:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def span(self, shard: int) -> tuple[int, int]:
        """The first row of a shard, and the row after its last."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows)


@dataclass
class Row:
    """One row of the input.

    Attributes:
        number: among all rows, from 0.
        id: as it is to be stored.
        image: a path, bytes, a `Place`, or None.
        text: None where it has none.
        attributes: name -> str, int, float, bool or None, of the kinds of the survey.
        reason: why it cannot be used; "" where it can.
    """

    number: int
    id: str
    image: Any = None
    text: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def survey(sources: Sequence[str | os.PathLike[str]], roles: Roles, shard_rows: int, *, remote: bool = False) -> Survey:
    """Read through sources without their pictures.

    Args:
        sources: tables (CSV, TSV, JSONL, Parquet), tars in the layout of webdataset, folders of pictures, or folders
            that hold Parquet files or tars; URLs with `remote`.
        roles: which columns hold what.
        shard_rows: rows of a shard.
        remote: whether a source may be a URL, opened by fsspec.

    Raises:
        InputError: nothing there, nothing to encode, a file that cannot be read on, a URL without `remote`.
        UnknownName: no table has a column that was named.
        MissingDependency: pyarrow or fsspec is needed.
    """
    if roles.root is not None:
        _allowed(roles.root, remote)
    parts: list[Part] = []
    marks: list[Mark] = []
    kinds, seen = Kinds(), set[str]()
    total = 0
    for place, kind in (found for source in sources for found in _places(source, remote)):
        n = -1
        for n, (offset, entry) in enumerate(formats.entries(place, kind, contents=False)):
            if (total + n) % shard_rows == 0:
                marks.append(Mark(len(parts), n, offset))
            if isinstance(entry, dict):
                seen.update(entry)
                kinds.take(entry, strings=kind in ("csv", "tsv"))
        parts.append(Part(place.path, kind, n + 1, formats.fingerprint(place, kind)))
        total += n + 1
    if not total:
        raise InputError(f"{', '.join(map(str, sources))}: no rows; name tables, tars or folders that hold some")
    for role, name in (("image", roles.image), ("text", roles.text), ("id", roles.id)):
        if name is not None and name not in seen:
            raise UnknownName("column", name, seen, f"the sources were to hold {role} there")
    used = {roles.image or "image", roles.text or "text", roles.id or "id"}
    if any(part.kind not in _TABLES for part in parts):
        used |= {"image", "text", "id"}
    if not (used - {roles.id or "id"}) & seen:
        raise InputError(
            f"there is neither a column named image nor one named text; name the right ones with --image-column or "
            f"--text-column; columns: {', '.join(sorted(seen))}"
        )
    attributes = {k: v for k, v in sorted(kinds.found().items()) if k not in used}
    clash = sorted(name for name in attributes if name in _TAKEN or name.startswith("view_"))
    if clash:
        raise InputError(f"column(s) {clash} have the name of a column that shards have themselves; rename them")
    return Survey(parts, marks, attributes, roles, shard_rows, remote)


def rows(found: Survey, shard: int) -> Iterator[Row]:
    """The rows of one shard, in order.

    Raises:
        InputError: the sources have fewer rows than when they were surveyed.
    """
    mark = found.marks[shard]
    number, stop = found.span(shard)
    for at in range(mark.part, len(found.parts)):
        part = found.parts[at]
        start = (mark.row, mark.offset) if at == mark.part else (0, 0)
        read = _Reader(found, part)
        for local, (_, entry) in enumerate(formats.entries(Place(part.path), part.kind, *start), start[0]):
            if number == stop:
                return
            yield read.row(number, entry, f"{part.path}, row {local + 1}", strings=part.kind in ("csv", "tsv"))
            number += 1
    if number < stop:
        raise InputError(f"the sources ended at row {number}, {stop} were surveyed; do not change them meanwhile")


class _Reader:
    """Turns the entries of one part into rows."""

    def __init__(self, found: Survey, part: Part) -> None:
        self.kinds = found.attributes
        self.roles = found.roles if part.kind in _TABLES else Roles()
        root = found.roles.root or Place(part.path).parent
        self.root = Place(root)
        self.local = None if self.root.remote else image_of(Path(root))

    def row(self, number: int, entry: Entry, where: str, *, strings: bool) -> Row:
        roles = self.roles
        name = f"row-{number + 1:06d}"
        if isinstance(entry, Bad):
            return Row(number, name, reason=entry.reason)
        try:
            name = _id(entry.get(roles.id or "id"), name, named=roles.id is not None)
            image = self._image(entry.get(roles.image or "image"), where)
            text = text_of(entry.get(roles.text or "text"), where)
            attributes = {k: cast(entry.get(k), kind, strings) for k, kind in self.kinds.items()}
            for value in (text, *attributes.values()):
                if isinstance(value, str):
                    value.encode()
        except (InputError, ValueError) as error:
            return Row(number, name, reason=str(error))
        return Row(number, name, image, text, attributes)

    def _image(self, value: Any, where: str) -> Any:
        if isinstance(value, Path | Place):
            return value
        if self.local is not None:
            return self.local(value, where)
        cell = image_cell(value, where, str(self.root.path))
        return self.root.inside(cell) if isinstance(cell, str) else cell


def _id(value: Any, otherwise: str, *, named: bool) -> str:
    if value is None and not named:
        return otherwise
    if value is None or isinstance(value, dict | list | bytes | float):
        raise InputError(f"{value!r:.80} is no id")
    name = str(value)
    if not 1 <= len(name.encode()) <= 512 or "\0" in name:
        raise InputError(f"an id must have 1 to 512 bytes and no NUL, got {name!r:.80}")
    return name


def _places(source: str | os.PathLike[str], remote: bool) -> Iterator[tuple[Place, str]]:
    given = os.fspath(source)
    place = _allowed(given, remote)
    suffix = PurePosixPath(given).suffix.lower().lstrip(".")
    if place.is_file():
        if suffix not in _KINDS:
            raise InputError(f"{given} is not read; give .csv, .tsv, .jsonl, .parquet, plain .tar or a folder")
        yield place, "jsonl" if suffix == "ndjson" else suffix
        return
    if not place.is_folder():
        raise InputError(f"there is no file or folder {given!r}")
    inside = [name for name in place.names() if PurePosixPath(name).suffix.lower() in (".tar", ".parquet")]
    for name in inside:
        yield place.inside(name), PurePosixPath(name).suffix.lower().lstrip(".")
    if not inside:
        yield place, "folder"


def _allowed(given: str, remote: bool) -> Place:
    place = Place(given)
    if place.remote and not remote:
        raise InputError(f"{given} is an address; nothing remote is read without --allow-remote (allow_remote=True)")
    return place
