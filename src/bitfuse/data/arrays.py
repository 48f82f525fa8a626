"""Files of features (npz, HDF5, MATLAB) as Samples, or as the Dataset that the literature's files hold."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Dataset, Samples
from bitfuse.data.columns import typed
from bitfuse.data.dumps import SUFFIXES, Arrays, load_arrays
from bitfuse.errors import DataWarning, InputError

__all__ = ["SUFFIXES", "read_arrays"]

_PARTS = {"tr": "train", "te": "query", "db": "gallery"}
_VIEWS = {"I": "image", "T": "text"}


def read_arrays(path: str | Path, *, views: Sequence[str] | None = None) -> Samples | Dataset:
    """Read features that another program wrote, in one of two layouts.

    One set: each (n, d) array of numbers is a view under its own name. `labels` is (n, c) of 0 and 1, or (n,) class
    numbers (from 0, in MATLAB from 1; -1 is no label) or class names; `label_names` has c strings; `ids` has n
    numbers or strings (default `row-000001` onwards). Vectors of n entries become attributes.

    The literature's train and query set: `I_tr`, `T_tr`, `L_tr`, `I_te`, `T_te`, `L_te`, and `I_db`, `T_db`, `L_db`
    where there is a database apart from the training set; without one, the training set is the gallery. Training rows
    equal to database rows get their ids, so that `Dataset.train_in_gallery` tells the truth; query rows equal to
    gallery rows are counted in `notes` and warned of. Other arrays are listed in `notes`.

    Args:
        path: .npz (no object arrays), .h5 or .hdf5 (no links, no groups), .mat (version 5 or 7.3).
        views: of the first layout, the arrays that are views; None takes all two-dimensional ones.

    Returns:
        Samples of the first layout, a Dataset of the second.

    Raises:
        InputError: a pickle, an array of the wrong shape or length, or a file that cannot be read safely.
    """
    path = Path(path)
    arrays = load_arrays(path)
    if any(f"{letter}_tr" in arrays for letter in _VIEWS) and any(f"{letter}_te" in arrays for letter in _VIEWS):
        if views is not None:
            raise InputError(f"{path} holds train and query parts; their views are named image and text, not {views}")
        return _parts(arrays, path)
    return _one_set(arrays, views, path)


def _one_set(arrays: Arrays, views: Sequence[str] | None, path: Path) -> Samples:
    rest = {k: v for k, v in arrays.items() if k not in ("labels", "label_names", "ids")}
    if views is not None and (absent := set(views) - set(rest)):
        raise InputError(f"{path} has no view(s) {sorted(absent)}; arrays: {', '.join(rest)}")
    names = [k for k, v in rest.items() if v.ndim == 2 and 1 not in v.shape] if views is None else list(views)
    if not names:
        raise InputError(f"{path} holds no two-dimensional array of features; it has {_shapes(arrays)}; name views=")
    n = len(rest[names[0]])
    attributes = {k: typed(_plain(v), strings=False) for k, v in rest.items() if k not in names and v.size == n}
    if left := set(rest) - set(names) - set(attributes) if views is None else set():
        raise InputError(f"{path}: {sorted(left)} of {_shapes(arrays)} are neither views nor {n} values; name views=")
    label_names = tuple(_strings(arrays["label_names"])) if "label_names" in arrays else ()
    matrix, label_names = _labels(arrays.get("labels"), label_names, n, path)
    return Samples(
        ids=tuple(_strings(arrays["ids"])) if "ids" in arrays else _numbered("row", n),
        views={k: _view(rest[k], f"{path}: {k!r}", n) for k in names},
        labels=matrix,
        label_names=label_names,
        attributes=attributes,
    )


def _parts(arrays: Arrays, path: Path) -> Dataset:
    used: set[str] = set()
    parts: dict[str, Samples] = {}
    for suffix, part in _PARTS.items():
        letters = [letter for letter in _VIEWS if f"{letter}_{suffix}" in arrays]
        if not letters:
            continue
        n = len(arrays[f"{letters[0]}_{suffix}"])
        keys = {_VIEWS[letter]: f"{letter}_{suffix}" for letter in letters}
        used |= {*keys.values(), f"L_{suffix}"}
        matrix, names = _labels(arrays.get(f"L_{suffix}"), (), n, path)
        views = {view: _view(arrays[key], f"{path}: {key!r}", n) for view, key in keys.items()}
        parts[part] = Samples(_numbered(part, n), views, labels=matrix, label_names=names)
    if all(f"L_{s}" in arrays and arrays[f"L_{s}"].size == len(parts[p]) for s, p in _PARTS.items() if p in parts):
        parts = _same_classes(parts)
    train, query = parts["train"], parts["query"]
    gallery = parts.get("gallery", train)
    if gallery is not train:
        train = replace(train, ids=_shared_ids(train, gallery))
    repeated = _repeats(query, gallery)
    if repeated:
        warnings.warn(
            f"{path}: {repeated} of {len(query)} query rows equal a gallery row; a score on them measures memory",
            DataWarning,
            stacklevel=3,
        )
    notes: dict[str, Any] = {"ignored arrays": sorted(set(arrays) - used), "query rows equal to gallery rows": repeated}
    return Dataset(path.stem, train, query, gallery, notes)


def _same_classes(parts: dict[str, Samples]) -> dict[str, Samples]:
    """Class numbers become one column each in every part, though a part may lack a class."""
    names = {name for samples in parts.values() for name in samples.label_names}
    order = tuple(sorted(names, key=lambda name: (len(name) if name.isdigit() else 0, name)))

    def columns(samples: Samples) -> NDArray[np.bool_]:
        place, none = {n: i for i, n in enumerate(samples.label_names)}, np.zeros(len(samples), bool)
        known = samples.labels
        return np.stack([none if known is None or n not in place else known[:, place[n]] for n in order], axis=1)

    return {part: replace(s, labels=columns(s), label_names=order) for part, s in parts.items()}


def _rows(samples: Samples) -> list[bytes]:
    stacked = np.concatenate([samples.views[k] for k in sorted(samples.views)], axis=1)
    return [row.tobytes() for row in stacked]


def _shared_ids(train: Samples, gallery: Samples) -> tuple[str, ...]:
    free: dict[bytes, list[str]] = {}
    for row, name in zip(reversed(_rows(gallery)), reversed(gallery.ids)):
        free.setdefault(row, []).append(name)  # equal rows are handed out one by one, in order
    return tuple(free[row].pop() if free.get(row) else name for row, name in zip(_rows(train), train.ids))


def _repeats(query: Samples, gallery: Samples) -> int:
    if query.views.keys() != gallery.views.keys():
        return 0
    known = set(_rows(gallery))
    return sum(row in known for row in _rows(query))


def _view(values: NDArray[Any], where: str, n: int) -> NDArray[np.float32]:
    if values.ndim != 2 or values.dtype.kind not in "biuf" or len(values) != n or not values.shape[1] or not n:
        raise InputError(f"{where} must be numbers of shape ({n or 'n'}, d), got {values.dtype} {values.shape}")
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
        rows = values.astype(np.float32)
    bad = ~np.isfinite(rows).all(axis=1) & ~np.isnan(rows).all(axis=1)
    if bad.any():
        raise InputError(
            f"{where} has {bad.sum()} row(s) with some NaN or infinite values, the first is row "
            f"{np.flatnonzero(bad)[0]}; a row wholly NaN says that the view is missing there"
        )
    return rows


def _labels(
    given: NDArray[Any] | None, names: tuple[str, ...], n: int, path: Path
) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    if given is None:
        return None, ()
    vector = _vector(given, n)
    if not vector.ndim or len(vector) != n:
        raise InputError(f"{path}: labels of shape {given.shape} for {n} rows; give (n, c) of 0 and 1, or (n,) classes")
    if vector.ndim == 1:
        return _classes(vector, names, path)
    if vector.ndim != 2 or given.dtype.kind not in "biuf" or not np.isin(given, (0, 1)).all():
        raise InputError(f"{path}: a matrix of labels must hold 0 and 1 alone, got {given.dtype} {given.shape}")
    return given.astype(bool), names or tuple(f"label-{i}" for i in range(given.shape[1]))


def _classes(vector: NDArray[Any], names: tuple[str, ...], path: Path) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    if vector.dtype.kind in "SU":
        texts = np.array(_strings(vector))
        found = names or tuple(sorted(set(texts.tolist()) - {""}))
        return texts[:, None] == np.array(found)[None], found
    if vector.dtype.kind not in "biuf" or (vector != np.floor(vector)).any():
        raise InputError(f"{path}: class numbers must be whole, or names; got {vector.dtype}")
    numbers = vector.astype(np.int64)
    first = int(path.suffix.lower() == ".mat")
    if names and (numbers.max() >= len(names) + first or ((numbers < first) & (numbers != -1)).any()):
        raise InputError(f"{path}: class numbers run from {numbers.min()} to {numbers.max()} for {len(names)} names")
    classes = np.arange(len(names)) + first if names else np.unique(numbers[numbers != -1])
    return numbers[:, None] == classes[None], names or tuple(map(str, classes.tolist()))


def _vector(values: NDArray[Any], n: int) -> NDArray[Any]:
    """A row or column of n numbers as a vector: MATLAB knows no vectors."""
    return values.ravel() if values.size == n and values.dtype != bool else values


def _plain(values: NDArray[Any]) -> list[Any]:
    return _strings(values) if values.dtype.kind == "S" else list(values.ravel().tolist())


def _strings(values: NDArray[Any]) -> list[str]:
    flat = values.ravel().tolist()
    return [v.decode() if isinstance(v, bytes) else str(int(v) if isinstance(v, float) else v) for v in flat]


def _numbered(word: str, n: int) -> tuple[str, ...]:
    return tuple(f"{word}-{i:06d}" for i in range(1, n + 1))


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{k} {v.shape}" for k, v in arrays.items())
