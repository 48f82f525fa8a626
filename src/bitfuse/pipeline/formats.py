"""The formats that encoding reads row by row, each from any row on: CSV, TSV, JSONL, Parquet, tar, folder."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bitfuse.data.table import NOT_READ, PICTURES
from bitfuse.errors import InputError, MissingDependency
from bitfuse.features.images import MAX_BYTES
from bitfuse.pipeline.places import Place

_PARQUET_ROWS = 256
_SMALL = 1 << 20  # bytes of a text or a record in a tar
_TEXTS = ("txt", "text", "caption")


@dataclass(frozen=True)
class Bad:
    """What stands where a row cannot be read."""

    reason: str


Entry = dict[str, Any] | Bad
Entries = Iterator[tuple[int, Entry]]


def entries(place: Place, kind: str, row: int = 0, offset: int = 0, *, contents: bool = True) -> Entries:
    """The rows of a file or folder, column -> value, each with the byte at which it begins (0 where that says nothing).

    Args:
        place: of the file or folder.
        kind: `"csv"`, `"tsv"`, `"jsonl"`, `"parquet"`, `"tar"` or `"folder"`.
        row, offset: where to begin: a row's number and the byte that was given with it.
        contents: without it, pictures are None.

    Raises:
        InputError: from here on, nothing can be read.
        MissingDependency: Parquet without pyarrow.
    """
    readers: dict[str, Callable[[Place, int, int, bool], Entries]] = {
        "csv": lambda p, r, o, c: _delimited(p, ",", o),
        "tsv": lambda p, r, o, c: _delimited(p, "\t", o),
        "jsonl": lambda p, r, o, c: _json_lines(p, o),
        "parquet": lambda p, r, o, c: _parquet(p, r, c),
        "tar": lambda p, r, o, c: _tar(p, o, c),
        "folder": lambda p, r, o, c: _folder(p, r),
    }
    return readers[kind](place, row, offset, contents)


def fingerprint(place: Place, kind: str) -> str:
    """What changes when the content does: size and time of change, of all files in a folder."""
    if kind != "folder":
        return place.facts()
    joint = hashlib.sha256()
    for name, facts in _pictures(place):
        joint.update(f"{name}\0{facts}\n".encode(errors="surrogateescape"))
    return joint.hexdigest()


def _delimited(place: Place, delimiter: str, offset: int) -> Entries:
    with place.opened() as file:
        taken = 0

        def lines() -> Iterator[str]:
            nonlocal taken
            for line in file:
                text = line.decode("utf-8", "surrogateescape")
                if taken == 0:
                    text = text.removeprefix("\ufeff")
                taken += len(line)
                yield text

        try:
            header = next(csv.reader(lines(), delimiter=delimiter, strict=True), [])
            if not header or "" in header or len(set(header)) < len(header):
                raise InputError(f"{place.path}: the first line must give every column a name of its own, got {header}")
            if offset:
                file.seek(offset)
                taken = offset
            start = taken
            for row in csv.reader(lines(), delimiter=delimiter, strict=True):
                if len(row) == len(header):
                    yield start, {name: value or None for name, value in zip(header, row)}
                elif row:  # a blank line gives no fields at all
                    yield start, Bad(f"{len(row)} fields under {len(header)} columns")
                start = taken
        except csv.Error as error:
            raise InputError(f"{place.path}, after byte {taken}: {error}; is a quotation mark left open?") from error


def _json_lines(place: Place, offset: int) -> Entries:
    with place.opened() as file:
        file.seek(offset)
        start = offset
        for line in file:
            if line.strip():
                try:
                    row = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
                    yield start, row if isinstance(row, dict) else Bad(f"{type(row).__name__} found, not an object")
                except (ValueError, RecursionError) as error:
                    yield start, Bad(f"not JSON in UTF-8 ({error})")
            start += len(line)


def _parquet(place: Place, row: int, contents: bool) -> Entries:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingDependency("pyarrow", "parquet", f"reading {place.path}") from error

    with place.opened() as file:
        try:
            table = pq.ParquetFile(file)
            names, wanted = table.schema_arrow.names, None
            if not contents:
                heavy = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct)
                wanted = [f.name for f in table.schema_arrow if not any(told(f.type) for told in heavy)]
            groups, first = list(range(table.num_row_groups)), 0
            while groups and first + table.metadata.row_group(groups[0]).num_rows <= row:
                first += table.metadata.row_group(groups.pop(0)).num_rows
            for batch in table.iter_batches(_PARQUET_ROWS, row_groups=groups, columns=wanted):
                values = dict(zip(batch.schema.names, (column.to_pylist() for column in batch.columns)))
                for i in range(batch.num_rows):
                    if first >= row:
                        yield 0, {name: values[name][i] if name in values else None for name in names}
                    first += 1
        except (pa.ArrowException, ValueError) as error:
            raise InputError(f"{place.path} is not a readable Parquet file: {error}") from error


def _folder(place: Place, row: int) -> Entries:
    for number, (name, facts) in enumerate(_pictures(place)):
        if number < row:
            continue
        if facts.startswith("!"):
            yield 0, Bad(f"{name!r} {facts[1:]}")
            continue
        holder = PurePosixPath(name).parent.name or PurePosixPath(place.path).name
        yield 0, {"id": name, "image": place.inside(name) if place.remote else Path(place.path, name), "folder": holder}


def _pictures(place: Place) -> Iterator[tuple[str, str]]:
    """Path relative to the folder and facts, in the order of the paths; facts that begin with ! say why it is bad."""
    if place.remote:
        for name, facts in place.below():
            if PurePosixPath(name).suffix.lower() in PICTURES + NOT_READ:
                yield name, facts
        return
    yield from _walk(Path(place.path), "", Path(place.path).resolve())


def _walk(folder: Path, before: str, root: Path) -> Iterator[tuple[str, str]]:
    for found in sorted(os.scandir(folder), key=lambda one: one.name):
        name = before + found.name
        if found.name.startswith("."):
            continue
        if found.is_dir(follow_symlinks=False):
            yield from _walk(folder / found.name, f"{name}/", root)
        elif found.is_dir():
            yield name, "!is a link to a folder; name that folder as a source of its own"
        elif PurePosixPath(found.name).suffix.lower() in PICTURES + NOT_READ:
            if found.is_symlink() and not Path(found.path).resolve().is_relative_to(root):
                yield name, "!is a link that leaves the folder; copy the picture into it"
                continue
            try:
                status = found.stat()
                name.encode()
                yield name, f"{status.st_size} {status.st_mtime_ns}"
            except (OSError, UnicodeEncodeError) as error:
                yield name, f"!cannot be read ({error})"


def _tar(place: Place, offset: int, contents: bool) -> Entries:
    """Consecutive members with the same path up to the first dot of the last part are one row, as in webdataset."""
    with place.opened() as file:
        file.seek(offset)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                key, start, row = None, 0, dict[str, Any]()
                for member in _members(tar):
                    stem, _, kind = PurePosixPath(member.name).name.partition(".")
                    own = str(PurePosixPath(member.name).with_name(stem or "."))
                    if own != key:
                        if key is not None:
                            yield start, _sample(key, row)
                        key, start, row = own, member.offset, {}
                    _take(tar, member, kind.lower(), row, contents)
                if key is not None:
                    yield start, _sample(key, row)
        except tarfile.TarError as error:
            raise InputError(f"{place.path} is not a readable tar (compressed ones are not read): {error}") from error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        vars(tar)["members"] = []  # it would keep every one of them
        if not member.isdir():
            yield member


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str, row: dict[str, Any], contents: bool) -> None:
    """Add what a member holds to its row; what is wrong with it goes under the name ""."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        row[""] = f"the member's name {member.name!r} leaves the archive"
        return
    if not member.isfile():
        row[""] = f"{member.name!r} is a link or a device"
        return
    picture = f".{kind}" in PICTURES + NOT_READ
    if not picture and kind not in (*_TEXTS, "json", "cls"):
        return
    if member.size > (MAX_BYTES if picture else _SMALL):
        row[""] = f"{member.name!r} has {member.size:,} bytes"
        return
    if picture and not contents:
        row["image"] = None
        return
    held = tar.extractfile(member)
    data = held.read() if held is not None else b""
    try:
        if picture:
            row.setdefault("image", data)
        elif kind == "json":
            record = json.loads(data)
            row["json"] = dict(record) if isinstance(record, dict) else {}
        elif kind == "cls":
            row["cls"] = int(data)
        else:
            row["text"] = data.decode().strip()
    except (ValueError, RecursionError) as error:
        row[""] = f"{member.name!r} cannot be read ({error})"


def _sample(key: str, row: dict[str, Any]) -> Entry:
    if "" in row:
        return Bad(f"{key}: {row['']}")
    record = row.pop("json", {})
    text = row.pop("text", None) or record.pop("text", None) or record.pop("caption", None)
    return {**record, **row, "id": key, "text": text, "image": row.get("image")}
