"""Shards of features as `StoredSamples`: each view copied once to a file of plain rows, so that any row can be read.

Two kinds of directories are read: what `bitfuse encode --views float16` wrote, and any folder of Parquet files with an
id and one column of numbers lists a view. Ids, labels and masks are kept in memory, features never.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.split import draws
from bitfuse.data.stored import SAMPLE, StoredArray, StoredSamples, StoredViews
from bitfuse.data.table import label_matrix
from bitfuse.errors import DamagedFile, InputError, MissingDependency, UnknownName
from bitfuse.pipeline.shards import Shards

_ROWS = 4096  # of a shard that are in memory at once
_PREFIX = "view_"  # of the columns that `encode` writes


@dataclass
class _View:
    """A view as the shards tell of it, and then as it is written."""

    dtype: np.dtype[Any]
    width: int = 0  # 0: not known before its first row
    present: list[NDArray[np.bool_]] = field(default_factory=list)


def holds_features(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a directory that `spool` reads: shards, or Parquet files."""
    return Path(path).is_dir() and (Shards.at(path) or any(Path(path).glob("*.parquet")))


@contextmanager
def spool(
    path: str | os.PathLike[str],
    *,
    labels: str | Sequence[str] | None = None,
    label_sep: str = "|",
    id: str | None = None,
    views: Sequence[str] | None = None,
    sample: int = SAMPLE,
    scratch: str | os.PathLike[str] | None = None,
) -> Iterator[StoredSamples]:
    """Features of any number of rows, for as long as the block lasts; the copy is removed at its end.

    Args:
        path: a directory that `bitfuse encode --views float16` finished, or a folder of Parquet files, read in the
            order of their names. In the latter, the columns of lists of floats are the views (`view_` before the name
            is dropped); null, or wholly NaN, is a missing view.
        labels: column of labels, several in one value separated by `label_sep`; several columns may be named. None
            takes the column `labels` where there is one.
        label_sep: what separates labels.
        id: column of ids; None takes `id`.
        views: which views to read; None takes all.
        sample: rows, drawn by hash of id, for the methods that need theirs all at once.
        scratch: where the copy lies: as many bytes as the features have. None: beside `path`.

    Raises:
        InputError: no features, unfinished shards, shards that differ in their columns or widths, rows of numbers that
            are NaN or infinite in part, rows without any view, or not enough room.
        UnknownName: a column or view that is not there.
        DamagedFile: a shard is missing or changed since it was written.
    """
    source = Path(path)
    files, facts = _files(source)
    found = _surveyed(files, views, source)
    columns = _named(files[0], labels, id)
    folder = _room(files, found, source, Path(scratch) if scratch is not None else source.resolve().parent)
    try:
        samples = _copied(files, found, columns, label_sep, folder, sample, facts)
        try:
            yield samples
        finally:
            for array in samples.views.arrays.values():
                array.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _files(source: Path) -> tuple[list[Path], Mapping[str, Mapping[str, Any]]]:
    """The shards in order, and what their manifest says of where the features came from."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependency("pyarrow", "parquet", f"reading {source}") from error
    if Shards.at(source):
        shards = Shards(source)
        if shards.manifest["stored_views"] is None:
            raise InputError(f"{source} holds codes without features; encode with --views float16 into a new directory")
        return list(shards.files()), shards.manifest["features"]
    files = sorted(source.glob("*.parquet")) if source.is_dir() else []
    if not files:
        raise InputError(f"{source} is no directory of shards: it holds neither a manifest nor Parquet files")
    return files, {}


def _surveyed(files: Sequence[Path], wanted: Sequence[str] | None, source: Path) -> dict[str, _View]:
    """The views by the columns' types; nothing is read yet."""
    import pyarrow as pa

    found: dict[str, _View] = {}
    for file in files:
        for column in _schema(file):
            kind = column.type
            if not any(told(kind) for told in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)):
                continue
            if not pa.types.is_floating(kind.value_type):
                continue
            name = column.name.removeprefix(_PREFIX)
            if wanted is not None and name not in wanted:
                continue
            half = pa.types.is_float16(kind.value_type)
            view = found.setdefault(name, _View(np.dtype(np.float16 if half else np.float32)))
            view.dtype = np.promote_types(view.dtype, np.float16 if half else np.float32)
            if pa.types.is_fixed_size_list(kind):
                _check_width(view, name, kind.list_size, file)
    for name in wanted or ():
        if name not in found:
            raise UnknownName("view", name, found, f"{source} was to hold it")
    if not found:
        raise InputError(
            f"{source} has no column of lists of floats, so it holds no features; give one such column a view"
        )
    return dict(sorted(found.items()))


def _schema(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFile(f"{file} is not a readable Parquet file: {error}") from error


def _check_width(view: _View, name: str, width: int, file: Path) -> None:
    if width and view.width and width != view.width:
        raise InputError(
            f"{file}: view {name!r} has {width} columns, in the shards before it {view.width}; "
            "features of one backbone have one width: encode all shards with the same"
        )
    view.width = view.width or width


def _named(file: Path, labels: str | Sequence[str] | None, id: str | None) -> tuple[str, list[str]]:
    """The column of ids, and those of labels."""
    there = _schema(file).names
    name = id or "id"
    if name not in there:
        raise UnknownName("column", name, there, f"{file} was to hold ids there; name another with id= (--id-column)")
    wanted = [labels] if isinstance(labels, str) else list(labels or ["labels"] * ("labels" in there))
    for column in wanted:
        if column not in there:
            raise UnknownName("column", column, there, f"{file} was to hold labels there")
    return name, wanted


def _room(files: Sequence[Path], found: Mapping[str, _View], source: Path, scratch: Path) -> Path:
    """A new folder for the copy, where there is room for it."""
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(file).num_rows for file in files)
    if not rows:
        raise InputError(f"{source} holds no rows; at least one is needed")
    need = rows * sum(view.width * view.dtype.itemsize for view in found.values())
    if not scratch.is_dir() or not os.access(scratch, os.W_OK):
        raise InputError(f"{scratch} is no folder that can be written to; name one with scratch= (--scratch)")
    free = shutil.disk_usage(scratch).free
    if need > free:
        raise InputError(
            f"the features take {need / 1e9:.1f} GB, {scratch} has {free / 1e9:.1f} GB; name another with scratch= "
            "(--scratch)"
        )
    return Path(tempfile.mkdtemp(prefix=".bitfuse-features-", dir=scratch))


def _copied(
    files: Sequence[Path], found: Mapping[str, _View], columns: tuple[str, list[str]], sep: str, folder: Path,
    sample: int, facts: Mapping[str, Mapping[str, Any]],
) -> StoredSamples:  # fmt: skip
    id_column, label_columns = columns
    ids: list[str] = []
    told: dict[str, list[Any]] = {name: [] for name in label_columns}
    same: dict[Any, Any] = {}  # a label's many copies become one
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open(folder / f"{i}.rows", "wb")) for i, name in enumerate(found)}
        for file in files:
            for batch in _batches(file, [id_column, *label_columns], found):
                at = len(ids)
                ids += _ids(batch.column(id_column).to_pylist(), file)
                for name, values in told.items():
                    given = batch.column(name).to_pylist()
                    values += [v if isinstance(v, list) else same.setdefault(v, v) for v in given]
                for name, view in found.items():
                    column = next((batch.column(n) for n in (_PREFIX + name, name) if n in batch.schema.names), None)
                    view.present.append(_write(opened[name], view, name, column, batch.num_rows, file, at))
    if len(set(ids)) < len(ids):
        raise InputError(f"{len(ids) - len(set(ids))} ids occur more than once; every row needs an id of its own")
    left = [name for name, view in found.items() if not view.width]
    if left:
        raise InputError(f"no row has the view(s) {left}; name the others with views=")
    matrix, names = label_matrix(told, sep, folder) if told else (None, ())
    if label_columns and matrix is None:
        raise InputError(f"no row has a label in {label_columns}; name another column")
    masks = {name: np.concatenate(view.present) for name, view in found.items()}
    empty = np.flatnonzero(~np.any(list(masks.values()), axis=0))
    if len(empty):
        raise InputError(f"{len(empty)} rows have no view at all, the first is {ids[empty[0]]!r}; leave them out")
    arrays = {name: StoredArray(folder / f"{i}.rows", v.width, v.dtype) for i, (name, v) in enumerate(found.items())}
    views = StoredViews(arrays, masks, np.arange(len(ids)), draws(ids, "sample"), sample)
    return StoredSamples(tuple(ids), views, matrix, names, {name: facts[name] for name in found if name in facts})


def _batches(file: Path, columns: Sequence[str], found: Mapping[str, _View]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            there = opened.schema_arrow.names
            if lacking := [name for name in columns if name not in there]:
                raise InputError(
                    f"{file} has no column {lacking[0]!r}, which the shards before it have; it has {there}"
                )
            wanted = [name for name in there if name in columns or name.removeprefix(_PREFIX) in found]
            yield from opened.iter_batches(_ROWS, columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DamagedFile(f"{file} cannot be read: {error}; write it anew") from error


def _ids(values: Sequence[Any], file: Path) -> list[str]:
    for value in values:
        if value is None or isinstance(value, dict | list | bytes | float):
            raise InputError(f"{file}: {value!r} is no id; every row needs a string or an integer")
    return [str(value) for value in values]


def _write(
    target: BinaryIO, view: _View, name: str, column: Any, rows: int, file: Path, first: int
) -> NDArray[np.bool_]:
    """Append the rows of one view, zeros where it is missing; which rows have it."""
    if column is None or column.null_count == rows:
        target.seek(rows * view.width * view.dtype.itemsize, os.SEEK_CUR)
        target.truncate()
        return np.zeros(rows, bool)
    import pyarrow.compute as pc

    present = np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
    widths = set(pc.list_value_length(column).drop_null().to_pylist())
    if len(widths) > 1:
        raise InputError(f"{file}: the rows of view {name!r} have {sorted(widths)[:5]} numbers; give all the same")
    behind = view.width == 0
    _check_width(view, name, widths.pop(), file)
    if behind and first:  # rows before it lacked the view, and could not know its width
        target.seek(first * view.width * view.dtype.itemsize)
    found = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, view.width).astype(view.dtype)
    bad = np.isnan(found).all(axis=1)
    if not np.isfinite(found[~bad]).all():
        row = first + int(np.flatnonzero(present)[~np.isfinite(found).all(axis=1) & ~bad][0])
        raise InputError(
            f"{file}: view {name!r} has NaN or infinite values in row {row}; null says that the view is missing there"
        )
    out = np.zeros((rows, view.width), view.dtype)
    found[bad] = 0
    out[present] = found
    present[np.flatnonzero(present)[bad]] = False
    target.write(out.tobytes())
    return present
