"""One way in for everything on disk: a table, a folder of pictures, or arrays of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitfuse.data.arrays import SUFFIXES as ARRAYS
from bitfuse.data.arrays import read_arrays
from bitfuse.data.base import Dataset, Samples
from bitfuse.data.table import read_folder, read_table
from bitfuse.errors import InputError


def read(path: str | Path, **columns: Any) -> Samples | Dataset:
    """Read a folder (`read_folder`), an array file (`read_arrays`) or a table (`read_table`), told by the path.

    Args:
        path: what to read.
        columns: the keyword arguments of that reader, such as `image=`, `text=`, `labels=`, `id=` for a table.

    Returns:
        Samples; a Dataset where an array file brings its own training, query and gallery parts.

    Raises:
        InputError: nothing there, nothing that is read, or arguments that this kind of data does not have.
    """
    target = Path(path)
    if not target.exists():
        raise InputError(f"there is no file or folder {str(path)!r}")
    reader: Any
    if target.is_dir():
        reader, kind, known = read_folder, "a folder of pictures", {"labels"}
    elif target.suffix.lower() in ARRAYS:
        reader, kind, known = read_arrays, "an array file", {"views"}
    else:
        reader, kind, known = read_table, "a table", {"image", "text", "labels", "label_sep", "id", "root"}
    if unknown := set(columns) - known:
        raise InputError(f"{path} is {kind}, for which {sorted(unknown)} cannot be named; only {sorted(known)} can")
    result: Samples | Dataset = reader(target, **columns)
    return result
