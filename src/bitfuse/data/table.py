"""Tables (CSV, TSV, JSONL, Parquet) and folders of pictures as Samples."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Image, Samples
from bitfuse.data.columns import Columns, read_columns, typed
from bitfuse.errors import InputError, UnknownName

_LABEL_CELLS = 1 << 32
_FOLDERS = 1 << 16
PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
NOT_READ = (".avif", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".psd", ".svg")
"""Pictures that extraction will refuse with a reason: listed, so that they are not left out in silence."""

_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def read_table(
    path: str | Path,
    *,
    image: str | None = None,
    text: str | None = None,
    labels: str | Sequence[str] | None = None,
    label_sep: str = "|",
    id: str | None = None,
    root: str | Path | None = None,
) -> Samples:
    """Read a CSV, TSV, JSONL or Parquet table: one item a row.

    Columns named `id`, `image`, `text` and `labels` are taken for what they say unless others are named; all other
    columns become attributes, with one type each (see `bitfuse.data.columns.typed`).

    Args:
        path: the table; UTF-8, with or without a byte order mark.
        image: column of image paths, relative to `root`. In Parquet also binary, or records with `bytes`.
        text: column of texts; an empty one counts as none.
        labels: column of labels, several in one value separated by `label_sep`, or a list in JSONL and Parquet.
            Several columns may be named; each label is then called `column=value`.
        label_sep: what separates labels; "" if a value is always one label.
        id: column of ids, distinct. Without one, the image paths serve where every row has one of its own, else
            `row-000001` onwards.
        root: the folder that image paths start from and may not leave (default: the table's folder).

    Raises:
        InputError: a file, line or row that cannot be read, a row without its id, labels in every row different beyond
            reason, or an image path that is absolute or leaves `root`, also through a symbolic link.
        UnknownName: the table lacks a column that was named.
    """
    path = Path(path)
    columns = read_columns(path)
    strings = path.suffix.lower() in (".csv", ".tsv")
    roles = {"id": id, "image": image, "text": text}
    roles = {role: _column(name, role, columns, path) for role, name in roles.items()}
    if roles["image"] is None and roles["text"] is None:
        raise InputError(
            f"{path} has neither a column named image nor one named text; name the right ones with image= or text= "
            f"(--image-column, --text-column); columns: {', '.join(columns)}"
        )
    wanted: Sequence[str | None] = [labels] if isinstance(labels, str) else labels or [None]
    label_columns = [c for name in wanted if (c := _column(name, "labels", columns, path)) is not None]
    images = texts = None
    if roles["image"] is not None:
        one = image_of(Path(root) if root is not None else path.parent)
        images = [one(value, f"{path}, row {i}") for i, value in enumerate(columns[roles["image"]], 1)]
    if roles["text"] is not None:
        texts = [text_of(v, f"{path}, row {i}") for i, v in enumerate(columns[roles["text"]], 1)]
    matrix, names = label_matrix({c: columns[c] for c in label_columns}, label_sep, path)
    used = {*roles.values(), *label_columns}
    return Samples(
        ids=_ids(columns, roles["id"], roles["image"], path),
        images=images,
        texts=texts,
        labels=matrix,
        label_names=names,
        attributes={name: typed(values, strings=strings) for name, values in columns.items() if name not in used},
    )


def read_folder(path: str | Path, *, labels: str | Sequence[str] | None = None) -> Samples:
    """Read all pictures under a folder, its subfolders included, in the order of their paths.

    Pictures are told by their suffix; hidden files and folders are left out. Ids are the paths relative to the
    folder, and the attribute `folder` is the name of the folder that holds the picture.

    Args:
        path: the folder.
        labels: `"folder"` labels each picture with the name of the folder that holds it; None gives no labels.

    Raises:
        InputError: no such folder, no picture in it, a symbolic link that leaves it, or another value of `labels`.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}")
    if labels not in (None, "folder", ["folder"]):
        raise InputError(f"a folder of pictures has no column {labels!r}; it can be labelled by 'folder' alone")
    found: list[PurePosixPath] = []
    real = root.resolve()
    for parent, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in (*folders, *files):
            full = Path(parent, name)
            picture = name in files and not name.startswith(".") and full.suffix.lower() in PICTURES + NOT_READ
            if full.is_symlink() and (picture or name in folders) and not full.resolve().is_relative_to(real):
                raise InputError(
                    f"{full} is a link that leaves {root}; copy the pictures into the folder, or remove it"
                )
            if picture:
                found.append(PurePosixPath(full.relative_to(root)))
    if not found:
        raise InputError(f"{root} holds no pictures ({', '.join(PICTURES)}); name a folder that does, or a table")
    found.sort()
    for picture_path in found:
        _encodable(str(picture_path), f"the file name {str(picture_path)!r}")
    folder = [p.parent.name or real.name for p in found]
    matrix, names = label_matrix({"folder": folder} if labels else {}, "", root)
    return Samples(
        ids=tuple(map(str, found)),
        images=[root / p for p in found],
        labels=matrix,
        label_names=names,
        attributes={"folder": folder},
    )


def _column(name: str | None, role: str, columns: Columns, path: Path) -> str | None:
    if name is None:
        return role if role in columns else None
    if name not in columns:
        raise UnknownName("column", name, columns, f"{path} was to hold {role} there")
    return name


def _ids(columns: Columns, id_column: str | None, image_column: str | None, path: Path) -> tuple[str, ...]:
    if id_column is not None:
        for row, value in enumerate(columns[id_column], 1):
            if value is None or isinstance(value, dict | list | bytes | float):
                raise InputError(f"{path}, row {row}: {value!r} is no id; column {id_column!r} needs one in every row")
        return tuple(map(str, columns[id_column]))
    if image_column is not None:
        paths = columns[image_column]
        short = all(isinstance(p, str) and 0 < len(p.encode()) <= 512 for p in paths)
        if short and len(set(paths)) == len(paths):
            return tuple(paths)
    return tuple(f"row-{i:06d}" for i in range(1, len(next(iter(columns.values()))) + 1))


def text_of(value: Any, where: str) -> str | None:
    """A cell of a text column; blank ones are None, and what is no text raises `InputError`."""
    if isinstance(value, dict | list | bytes):
        raise InputError(f"{where}: the text is a {type(value).__name__}; give one string a row")
    return str(value) if value is not None and str(value).strip() else None


def image_of(root: Path) -> Callable[[Any, str], Image | None]:
    """What turns the cells of an image column into paths under `root`, or bytes: (cell, where it stands) -> image.

    It raises `InputError` for a path that is absolute or leaves `root`, also through a symbolic link.
    """
    real = root.resolve()
    inside: dict[Path, bool] = {}  # folder -> whether it lies under root; rows share few folders

    def one(value: Any, where: str) -> Image | None:
        cell = image_cell(value, where, str(root))
        if not isinstance(cell, str):
            return cell
        full = root / cell
        if full.parent not in inside:
            if len(inside) >= _FOLDERS:
                inside.clear()
            inside[full.parent] = full.parent.resolve().is_relative_to(real)
        if not inside[full.parent] or (full.is_symlink() and not full.resolve().is_relative_to(real)):
            raise InputError(f"{where}: image path {cell!r} leaves {root} through a link; copy the picture there")
        return full

    return one


def image_cell(value: Any, where: str, root: str) -> str | bytes | None:
    """A cell of an image column: a relative path without `..`, the bytes of a picture, or None where it is empty."""
    if isinstance(value, dict):  # the layout of Hugging Face data sets
        value = value.get("bytes") or value.get("path")
    if value is None or isinstance(value, bytes) or value == "":
        return value or None
    if not isinstance(value, str) or "\0" in value:
        raise InputError(f"{where}: {value!r} is not an image path")
    _encodable(value, f"{where}: the image path {value!r}")
    parts = PurePosixPath(value.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or _DRIVE_OR_SCHEME.match(value):
        raise InputError(f"{where}: image path {value!r} must be relative and stay inside {root}, without '..'")
    return value


def _encodable(value: str, what: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid Unicode; rename the file") from error


def label_matrix(columns: Columns, sep: str, path: Path) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """Columns of labels as (n, c) bool and the c names, in order; None where no row has one. See `read_table`."""
    rows: list[list[Any]] = [[] for _ in range(len(next(iter(columns.values()), [])))]
    for name, values in columns.items():
        for i, value in enumerate(values):
            found = _split(value, sep, f"{path}, row {i + 1}, column {name!r}")
            rows[i] += [f"{name}={v}" for v in found] if len(columns) > 1 else found
    distinct = {label for row in rows for label in row}
    if not distinct:
        return None, ()
    if len(rows) * len(distinct) > _LABEL_CELLS:
        raise InputError(f"{path}: {len(distinct):,} distinct labels in {len(rows):,} rows; is {list(columns)} a text?")
    numbers = all(re.fullmatch(r"-?\d{1,18}", label) for label in distinct)
    names = sorted(distinct, key=lambda label: (int(label) if numbers else 0, label))
    place = {label: i for i, label in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)), bool)
    for i, found in enumerate(rows):
        matrix[i, [place[label] for label in found]] = True
    return matrix, tuple(names)


def _split(value: Any, sep: str, where: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in (value.split(sep) if sep else [value]) if part.strip()]
    if isinstance(value, list) and not any(isinstance(v, list | dict | bytes | float) for v in value):
        return [str(v).strip() for v in value if v is not None and str(v).strip()]
    if isinstance(value, int):
        return [str(value)]
    raise InputError(f"{where}: {value!r} is not a label; give a string, an integer or a list of them")
