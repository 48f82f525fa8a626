"""Data sets as a grid keeps them: the rows once, each split of them as row numbers, both named by their content."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import DamagedFile, InputError, UnknownFormat

FORMAT = 1
_PARTS = ("train", "query", "gallery")
_DIGITS = 16  # of a content hash in a file name


def keep(dataset: Dataset, folder: Path) -> str:
    """Store a data set with its features; what is there already is not written again.

    Args:
        dataset: with features; a row that stands in two parts has the same features in both.
        folder: `rows-<hash>.safetensors` and `split-<fingerprint>.safetensors` appear here, whole or not at all.

    Returns:
        The fingerprint: a hash of the rows, of the split and of the name.

    Raises:
        InputError: parts with other views, or one id with two sets of features.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pool, numbers = _pooled(dataset)
    tensors, rest = _tensors(pool)
    key = _digest({k: v.tobytes() for k, v in tensors.items()} | {"rest": rest.encode()})
    _write(folder / f"rows-{key}.safetensors", tensors, {"rest": rest})
    facts = {"name": dataset.name, "rows": key, "notes": dict(dataset.notes)}
    written = json.dumps(facts, default=str)
    fingerprint = _digest({k: v.tobytes() for k, v in numbers.items()} | {"facts": written.encode()})
    _write(folder / f"split-{fingerprint}.safetensors", numbers, {"facts": written})
    return fingerprint


def load(folder: Path, fingerprint: str) -> Dataset:
    """The data set of this fingerprint.

    Raises:
        DamagedFile: it is not there, or truncated.
        UnknownFormat: written by a newer version.
    """
    numbers, header = _read(folder / f"split-{fingerprint}.safetensors")
    facts = json.loads(header["facts"])
    pool = _rows(folder / f"rows-{facts['rows']}.safetensors")
    parts = {name: pool.take(numbers[name]) for name in _PARTS}
    return Dataset(facts["name"], **parts, notes=facts["notes"])


def _pooled(dataset: Dataset) -> tuple[Samples, dict[str, NDArray[Any]]]:
    """All rows, sorted by id so that every split of the same rows keeps the same file, and the row numbers."""
    parts = {name: getattr(dataset, name) for name in _PARTS}
    views = {name: sorted(part.views) for name, part in parts.items()}
    if len({*map(tuple, views.values())}) > 1 or not dataset.train.views:
        raise InputError(f"the parts of {dataset.name!r} must have the same views, at least one; got {views}")
    first: dict[str, tuple[Samples, int]] = {}
    for part in parts.values():
        for row, name in enumerate(part.ids):
            first.setdefault(name, (part, row))
    ids = sorted(first)
    place = {name: i for i, name in enumerate(ids)}
    chosen = [p.take([row for n in ids for q, row in [first[n]] if q is p]) for p in parts.values()]
    pool = _joined(chosen, place)
    numbers = {name: np.array([place[i] for i in part.ids], np.int64) for name, part in parts.items()}
    for name, part in parts.items():
        for view, x in part.views.items():
            if not np.array_equal(x, pool.views[view][numbers[name]], equal_nan=True):
                raise InputError(f"{dataset.name!r}: an id has other {view!r} features in {name} than in another part")
    return pool, numbers


def _joined(parts: list[Samples], place: dict[str, int]) -> Samples:
    order = np.argsort([place[i] for p in parts for i in p.ids])
    first = parts[0]

    def column(name: str) -> list[Any] | None:
        columns = [getattr(p, name) for p in parts]
        return None if any(c is None for c in columns) else [v for c in columns for v in c]

    labels = [p.labels for p in parts]
    return Samples(
        ids=tuple(i for p in parts for i in p.ids),
        views={k: np.concatenate([p.views[k] for p in parts]) for k in first.views},
        images=column("images"),
        texts=column("texts"),
        labels=None if any(y is None for y in labels) else np.concatenate([y for y in labels if y is not None]),
        label_names=first.label_names,
        sources=first.sources,
    ).take(order)


def _tensors(pool: Samples) -> tuple[dict[str, NDArray[Any]], str]:
    tensors: dict[str, NDArray[Any]] = {f"view {name}": np.ascontiguousarray(x) for name, x in pool.views.items()}
    if pool.labels is not None:
        tensors["labels"] = np.ascontiguousarray(pool.labels)
    pictures = [p if isinstance(p, bytes) else b"" for p in pool.images or ()]
    tensors["pictures"] = np.frombuffer(b"".join(pictures), np.uint8)
    tensors["ends"] = np.cumsum([len(p) for p in pictures], dtype=np.int64)
    paths = None if pool.images is None else [str(p) if isinstance(p, Path) else None for p in pool.images]
    rest = {k: getattr(pool, k) for k in ("ids", "texts", "label_names", "sources")}
    return tensors, json.dumps({**rest, "paths": paths}, default=str)


@lru_cache(maxsize=2)
def _rows(file: Path) -> Samples:
    tensors, header = _read(file)
    rest = json.loads(header["rest"])
    images: list[Path | bytes | None] | None = None
    if rest["paths"] is not None:
        data, ends = tensors["pictures"].tobytes(), [0, *tensors["ends"].tolist()]
        inline = [data[a:b] or None for a, b in pairwise(ends)]
        images = [Path(path) if path else picture for path, picture in zip(rest["paths"], inline)]
    return Samples(
        ids=tuple(rest["ids"]),
        views={name.removeprefix("view "): x for name, x in tensors.items() if name.startswith("view ")},
        images=images,
        texts=rest["texts"],
        labels=tensors.get("labels"),
        label_names=tuple(rest["label_names"]),
        sources=rest["sources"],
    )


def _digest(parts: dict[str, bytes]) -> str:
    whole = hashlib.sha256()
    for name in sorted(parts):
        whole.update(f"{name} {len(parts[name])}\0".encode())
        whole.update(parts[name])
    return whole.hexdigest()[:_DIGITS]


def _write(file: Path, tensors: dict[str, NDArray[Any]], header: dict[str, str]) -> None:
    if file.is_file():
        return
    temporary = file.with_name(f"{file.name}.{os.getpid()}.partial")
    save_file(tensors, temporary, metadata={"format": str(FORMAT), **header})
    temporary.replace(file)


def _read(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    try:
        with safe_open(file, "np") as stored:
            header = dict(stored.metadata() or {})
            if int(header.get("format", 0)) > FORMAT:
                raise UnknownFormat(f"{file} has format {header['format']}, this version reads up to {FORMAT}")
            return {name: stored.get_tensor(name) for name in stored.keys()}, header  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise DamagedFile(f"{file} is missing or damaged ({error}); run the grid again, it stores it anew") from error
