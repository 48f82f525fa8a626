"""Model directories: `model.json` + `weights.safetensors` + attachments, checked by hash, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from bitfuse.errors import DamagedFile, InputError, UnknownFormat

if TYPE_CHECKING:
    from bitfuse.hashers.base import Hasher

FORMAT = 1
FACTS = ("widths", "sources", "log")
_WEIGHTS, _CARD = "weights.safetensors", "model.json"
_FAMILIAR = "familiar.safetensors"  # a file of its own: versions that do not know it read the model all the same


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def save(
    hasher: Hasher,
    path: Path,
    state: Mapping[str, NDArray[Any]],
    facts: dict[str, Any],
    attachments: Mapping[str, bytes],
    familiar: Mapping[str, NDArray[Any]],
) -> None:
    """Write a model directory beside its final place and move it there."""
    if path.exists() and not (path / _CARD).is_file():
        raise InputError(f"{path} exists and is not a Bitfuse model; choose a new directory")
    weights = save_tensors({k: np.asarray(v, order="C") for k, v in state.items()})
    files = {_WEIGHTS: weights, **attachments}
    if familiar:
        files[_FAMILIAR] = save_tensors({k: np.asarray(v, order="C") for k, v in familiar.items()})
    cls = type(hasher)
    card = {
        "format": FORMAT,
        "kind": "model",
        "method": f"{cls.__module__}:{cls.__qualname__}",
        "parameters": hasher.parameters,
        **facts,
        "files": {name: _digest(data) for name, data in files.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, data in {**files, _CARD: json.dumps(card, indent=1).encode()}.items():
            with open(partial / name, "wb") as file:
                file.write(data)
                os.fsync(file.fileno())
        partial.chmod(0o755)
        if path.exists():
            old = partial.with_name(partial.name + ".old")
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_card(path: str | Path) -> dict[str, Any]:
    """The checked `model.json` of a model directory: every file it names is there and unchanged.

    Raises:
        InputError: no such directory, or not a model.
        DamagedFile: a file is missing or changed.
        UnknownFormat: written by a newer version.
    """
    root = Path(path)
    if not (root / _CARD).is_file():
        what = "has no model.json" if root.is_dir() else "does not exist"
        raise InputError(f"{root} {what}, so it is not a Bitfuse model; give the directory that `fit --out` wrote")
    try:
        card: dict[str, Any] = json.loads((root / _CARD).read_text())
        files = card["files"]
        if card["format"] > FORMAT:
            raise UnknownFormat(f"{root} has model format {card['format']}, this version reads up to {FORMAT}")
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{root / _CARD} is not a readable model card: {error}; restore it or fit again") from error
    for name, digest in files.items():
        file = root / name
        if Path(name).name != name:
            raise DamagedFile(f"{root / _CARD} names a file outside its directory: {name!r}")
        if not file.is_file():
            raise DamagedFile(f"{file} is missing; restore it or fit again")
        if _digest(file.read_bytes()) != digest:
            raise DamagedFile(f"{file} changed since the model was saved; restore it or fit again")
    return card


def load(path: str | Path) -> Hasher:
    """Load a model directory that `Hasher.save` wrote; nothing in it is executed.

    Args:
        path: of the directory.

    Raises:
        InputError: there is no model.
        DamagedFile: a file is missing or differs from its hash, or the method or a parameter is not known here.
        UnknownFormat: written by a newer version.
    """
    from bitfuse.hashers import resolve

    card, root = read_card(path), Path(path)
    try:
        hasher = resolve(card["method"])(**card["parameters"])
    except TypeError as error:
        raise DamagedFile(f"{root / _CARD} has parameters that the method does not take: {error}") from error
    state = _tensors(root / _WEIGHTS)
    familiar = _tensors(root / _FAMILIAR) if _FAMILIAR in card["files"] else {}
    hasher._fitted.update(state=state, familiar=familiar, **{k: card[k] for k in FACTS})
    return hasher


def _tensors(file: Path) -> dict[str, NDArray[Any]]:
    try:
        return load_tensors(file.read_bytes())
    except SafetensorError as error:
        raise DamagedFile(f"{file} is not readable: {error}; restore it or fit again") from error


def attachment(path: str | Path, name: str) -> bytes | None:
    """The content of a file attached to a model, or None where the model has none of that name."""
    return (Path(path) / name).read_bytes() if name in read_card(path)["files"] else None
