"""Files of named arrays (npz, HDF5, MATLAB) opened so that nothing in them can run, or reach another file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError

Arrays = dict[str, NDArray[Any]]

_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".npy")
SUFFIXES = (".npz", ".mat", ".h5", ".hdf5", *_PICKLES)
"""What `read_arrays` answers for; of some it only says why they are not read."""


def load_arrays(path: Path) -> Arrays:
    """All arrays at the top level of a file: name -> numbers, booleans or strings; MATLAB's in MATLAB's shape.

    Raises:
        InputError: a pickle or anything that needs one, links, references, groups, or a file that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in _PICKLES or suffix not in SUFFIXES:
        raise InputError(
            f"{path} is not read: a {suffix} file may hold a pickle, which can run any program, or lacks names; save "
            "plain arrays instead: numpy.savez(path, image=..., text=..., labels=...), or, of pickled train, query and "
            "gallery parts with image, text and label, make one npz by bitfuse.data.pickles.convert"
        )
    if not path.is_file():
        raise InputError(f"there is no array file {path}")
    readers: dict[str, Callable[[Path], Arrays]] = {".npz": _npz, ".mat": _mat}
    try:
        arrays = readers.get(suffix, _hdf5)(path)
    except InputError:
        raise
    except Exception as error:  # a malformed file can make these readers raise nearly anything
        raise InputError(f"{path} cannot be read as {suffix}: {error or type(error).__name__}") from error
    if not arrays:
        raise InputError(f"{path} holds no arrays")
    return arrays


def _npz(path: Path) -> Arrays:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an npz file (a pickle or another format under that name); use numpy.savez")
    arrays: Arrays = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            try:
                value = file[name]
            except ValueError as error:
                raise InputError(
                    f"{path}: {name!r} holds Python objects, which need a pickle, or is damaged; save plain numbers, "
                    f"booleans or strings ({error})"
                ) from error
            if not isinstance(value, np.ndarray):
                raise InputError(f"{path}: {name!r} is not an array")
            arrays[name] = value
    return arrays


def _hdf5(path: Path) -> Arrays:
    import h5py

    arrays: Arrays = {}
    with h5py.File(path, "r") as file:
        matlab = path.suffix.lower() == ".mat"
        for name in file:
            if matlab and name.startswith("#"):  # where MATLAB keeps what its cells refer to
                continue
            where = f"{path}: {name!r}"
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise InputError(f"{where} is a link; only arrays stored in the file itself are read")
            item = file[name]
            if not isinstance(item, h5py.Dataset):
                raise InputError(f"{where} is a group; save full arrays at the top level (no struct, no sparse matrix)")
            if item.external is not None or item.is_virtual:
                raise InputError(f"{where} keeps its data in another file; only arrays in the file itself are read")
            arrays[name] = _dataset(item, where, matlab)
    return arrays


def _dataset(item: Any, where: str, matlab: bool) -> NDArray[Any]:
    import h5py

    if h5py.check_string_dtype(item.dtype) is not None:
        return np.asarray(item.asstr()[()], dtype=str)
    if item.dtype.kind not in "biufS":
        raise InputError(f"{where} has the type {item.dtype}; only numbers, booleans and strings are read (no cells)")
    values = np.asarray(item[()])
    if not matlab:
        return values
    values = values.T  # MATLAB writes its columns as HDF5's rows
    kind = item.attrs.get("MATLAB_class", b"")
    return _text_rows(values) if kind == b"char" else values.astype(bool) if kind == b"logical" else values


def _text_rows(codes: NDArray[Any]) -> NDArray[Any]:
    return np.array(["".join(map(chr, row)).rstrip() for row in np.atleast_2d(codes)], dtype=str)


def _mat(path: Path) -> Arrays:
    import h5py
    import scipy.io
    import scipy.sparse

    if h5py.is_hdf5(path):
        return _hdf5(path)
    arrays: Arrays = {}
    for name, value in scipy.io.loadmat(path).items():
        if name.startswith("__"):  # what scipy adds
            continue
        if scipy.sparse.issparse(value):
            value = value.toarray()
        if isinstance(value, np.ndarray) and value.dtype == object:
            value = _cell_of_strings(value, f"{path}: {name!r}")
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufU":
            raise InputError(f"{path}: {name!r} is a struct or an object; only numbers, booleans and strings are read")
        arrays[name] = value
    return arrays


def _cell_of_strings(cells: NDArray[Any], where: str) -> NDArray[Any]:
    texts = [np.asarray(cell) for cell in cells.ravel()]
    if any(t.dtype.kind != "U" or t.size > 1 for t in texts):
        raise InputError(f"{where} is a cell array of more than strings; save a matrix instead (cell2mat)")
    return np.array([str(t.item()) if t.size else "" for t in texts], dtype=str)
