"""Files of rows (CSV, TSV, JSONL, Parquet) as named columns of plain values, their types told conservatively."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bitfuse.errors import InputError, MissingDependency

Columns = dict[str, list[Any]]

_INT = re.compile(r"0|-?[1-9]\d{0,18}")  # "007" and "+1" stay strings: article numbers and telephone numbers
_FLOAT = re.compile(r"-?(0|[1-9]\d{0,18})(\.\d+)?([eE][+-]?\d{1,3})?")
_BOOL = {"true": True, "false": False}
_INT64 = 1 << 63
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_columns(path: Path) -> Columns:
    """Read a table: column name -> one value a row, all columns of the same length, at least one row.

    CSV and TSV values stay strings ("" becomes None); JSONL and Parquet keep theirs, lists and records included.

    Raises:
        InputError: no such file, an unknown suffix, no rows, or a line that cannot be read (with its number).
    """
    readers: dict[str, Callable[[Path], Columns]] = {
        ".csv": lambda p: _delimited(p, ","),
        ".tsv": lambda p: _delimited(p, "\t"),
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".parquet": _parquet,
    }
    if path.suffix.lower() not in readers:
        raise InputError(f"{path} is not a table that is read; give one of {', '.join(readers)}")
    if not path.is_file():
        raise InputError(f"there is no table {path}; give the path of a {path.suffix} file")
    try:
        columns = readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not columns or not len(next(iter(columns.values()))):
        raise InputError(f"{path} has no rows; at least one is needed")
    return columns


def typed(values: Sequence[Any], *, strings: bool) -> list[Any]:
    """One column as str, int, float, bool or None: a single type for the whole column, guessed only where certain.

    Args:
        values: as `read_columns` gives them.
        strings: whether the file held strings only (CSV, TSV). A column is then bool if every value is true or false,
            int if every value is a plain integer, float if every value is a plain number and one has a point; else
            it stays as written ("007", "+1", "1e5" among codes, " 3").

    Returns:
        The values; mixed types become strings, lists and records JSON, dates ISO 8601, NaN and infinity None,
        integers beyond 64 bits strings, binary values their size ("12 bytes").
    """
    return _from_strings(values) if strings else _from_values([_plain(v) for v in values])


def _from_strings(values: Sequence[str | None]) -> list[Any]:
    present = [v for v in values if v is not None]
    convert: Callable[[str], Any] = str
    if present and all(v.lower() in _BOOL for v in present):
        convert = _truth
    elif present and all(_INT.fullmatch(v) and abs(int(v)) < _INT64 for v in present):
        convert = int
    elif all(_FLOAT.fullmatch(v) and math.isfinite(float(v)) for v in present) and any("." in v for v in present):
        convert = float
    return [None if v is None else convert(v) for v in values]


def _truth(value: str) -> bool:
    return _BOOL[value.lower()]


def _from_values(values: list[Any]) -> list[Any]:
    kinds = {type(v) for v in values if v is not None}
    if kinds == {int, float}:
        return [None if v is None else float(v) for v in values]
    if len(kinds) > 1:
        return [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < _INT64 else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return json.dumps(value, default=str, ensure_ascii=False)


def _delimited(path: Path, delimiter: str) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        line = 1  # of the row's first line: a quoted field may hold line breaks
        try:
            header = _header(next(reader, []), path)
            rows = []
            for line, row in _numbered(reader):
                if len(row) != len(header):
                    raise InputError(
                        f"{path}, line {line}: {len(row)} fields under {len(header)} columns; "
                        f"quote fields that hold {'a tab' if delimiter != ',' else 'a comma'} or a line break"
                    )
                rows.append(row)
        except csv.Error as error:
            raise InputError(f"{path}, after line {line}: {error}; is a quotation mark left open?") from error
    return {name: [row[i] or None for row in rows] for i, name in enumerate(header)}


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    start = reader.line_num + 1
    for row in reader:
        if row:  # a blank line gives no fields at all
            yield start, row
        start = reader.line_num + 1


def _header(names: list[str], path: Path) -> list[str]:
    if not names:
        raise InputError(f"{path} is empty; its first line must name the columns")
    if "" in names or len(set(names)) < len(names):
        raise InputError(f"{path}: the first line must give every column a name of its own, got {names}")
    return names


def _json_lines(path: Path) -> Columns:
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not JSON ({error}); give one object a line") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: {type(row).__name__} found; give one object a line")
            if "\\ud" in line.lower() and _SURROGATE.search(json.dumps(row, ensure_ascii=False)):
                raise InputError(f"{path}, line {number}: half of a surrogate pair is not a character; escape both")
            rows.append(row)
            names.update(dict.fromkeys(row))
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(path: Path) -> Columns:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingDependency("pyarrow", "parquet", f"reading {path}") from error

    try:
        table = pyarrow.parquet.ParquetFile(path).read()
        values = [column.to_pylist() for column in table.columns]
    except (pyarrow.ArrowException, ValueError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    return dict(zip(_header(list(table.column_names), path), values))
