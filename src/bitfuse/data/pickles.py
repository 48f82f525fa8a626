"""UCMFH-style dumps (a pickled dictionary of arrays for each part) made into one npz, without running what they hold.

A pickle is a program. The reader here knows no function of Python or numpy: the few names by which numpy writes an
array are answered by functions of this file, which build plain numbers out of bytes, and any other name is an error.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.dumps import Arrays
from bitfuse.errors import InputError

_PARTS = {"train": "tr", "query": "te", "gallery": "db"}
_LETTERS = {"image": "I", "text": "T", "label": "L"}
_WRITTEN = {"I": ("image", "img", "images"), "T": ("text", "txt", "texts"), "L": ("label", "labels", "lab")}


def convert(train: str | Path, query: str | Path, gallery: str | Path | None, out: str | Path) -> Path:
    """Write the parts of a UCMFH-style dump as one npz that `read_arrays` reads (`I_tr`, `T_tr`, `L_tr`, `I_te`, ...).

    Each part is a pickle of a dictionary with `image`, `text` and `label`: arrays, or lists of rows, of one length.

    Args:
        train, query, gallery: the files (`train.pkl`, `query.pkl`, `retrieval.pkl`); None searches the training part.
        out: the npz to write, whole or not at all.

    Raises:
        InputError: a file that is no such pickle, that holds anything beside numbers, or parts that do not fit.
    """
    target = Path(out)
    if target.suffix != ".npz":
        raise InputError(f"{out} must end in .npz, the format that is written")
    arrays: Arrays = {}
    for (part, suffix), path in zip(_PARTS.items(), (train, query, gallery)):
        if path is not None:
            found = _part(Path(path), part)
            arrays |= {f"{letter}_{suffix}": values for letter, values in found.items()}
    temporary = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load_pickle(path: Path) -> Any:
    """What a pickle holds: dictionaries, lists, tuples, strings, numbers, and arrays of numbers.

    Raises:
        InputError: no such file, no pickle, or one that names anything else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    try:
        return _Plain(io.BytesIO(content)).load()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a malformed pickle can raise nearly anything
        raise InputError(f"{path} is not a readable pickle: {error or type(error).__name__}") from error


def _part(path: Path, part: str) -> dict[str, NDArray[Any]]:
    found = load_pickle(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}; the {part} part must be a dictionary of arrays")
    arrays = {}
    for letter, names in _WRITTEN.items():
        name = next((n for n in names if n in found), None)
        if name is None:
            raise InputError(f"{path} has no {' or '.join(names)}; its keys: {', '.join(map(str, found))}")
        arrays[letter] = _numbers(found[name], f"{path}: {name!r}")
    if len({len(values) for values in arrays.values()}) > 1:
        shapes = ", ".join(f"{letter} {values.shape}" for letter, values in arrays.items())
        raise InputError(f"{path}: image, text and label must have one row each for every item, got {shapes}")
    return arrays


def _numbers(values: Any, where: str) -> NDArray[Any]:
    try:
        found = np.array([_built(row) for row in values] if isinstance(values, list | tuple) else _built(values))
    except (ValueError, TypeError) as error:
        raise InputError(f"{where} is not an array of numbers: {error}") from error
    if found.ndim not in (1, 2) or found.dtype.kind not in "biuf":
        raise InputError(f"{where} must be numbers of shape (n, d) or (n,), got {found.dtype} {found.shape}")
    return found


def _built(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value


_KINDS = frozenset({"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"})


class _DType:
    """A type of numbers, from its name in the pickle; no numpy type is asked to restore itself from foreign state."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or name not in _KINDS:
            raise InputError(f"it holds an array of type {name!r}; only numbers are read")
        self.numpy: np.dtype[Any] = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.numpy = self.numpy.newbyteorder(">")


class _Array:
    """An array under construction."""

    values: NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.values = _filled(data, kind, shape, "F" if fortran else "C")


def _filled(data: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(kind, _DType) or not isinstance(data, bytes | bytearray):
        raise InputError("it holds an array of something else than numbers")
    return np.frombuffer(bytes(data), kind.numpy).reshape(shape, order="F" if order == "F" else "C")


def _array(*_: Any) -> _Array:
    return _Array()


def _buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.values = _filled(data, kind, shape, order)
    return made


def _scalar(kind: Any, data: Any) -> Any:
    return _filled(data, kind, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise InputError("it encodes something else than the bytes of an array")
    return text.encode("latin1")


_MODULES = ("numpy.core", "numpy._core")
_NAMES: Mapping[tuple[str, str], Callable[..., Any] | None] = {
    **{(f"{m}.multiarray", "_reconstruct"): _array for m in _MODULES},
    **{(f"{m}.multiarray", "scalar"): _scalar for m in _MODULES},
    **{(f"{m}.numeric", "_frombuffer"): _buffer for m in _MODULES},
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): None,
    ("_codecs", "encode"): _encode,
}


class _Call:
    """What a name stands for, new for every file: a pickle may set attributes of what it is given."""

    __slots__ = ("answer",)

    def __init__(self, answer: Callable[..., Any] | None) -> None:
        self.answer = answer

    def __call__(self, *arguments: Any) -> Any:
        if self.answer is None:
            raise InputError("it makes an array in a way that is not read")
        return self.answer(*arguments)


class _Plain(pickle.Unpickler):
    """An unpickler to which every name but numpy's few is unknown."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise InputError(
                f"it wants to call {module}.{name}, and nothing is run; save arrays of numbers (of a tensor, .numpy())"
            )
        return _Call(_NAMES[module, name])

    def persistent_load(self, pid: Any) -> Any:
        raise InputError(f"it refers to an object outside the file ({pid!r})")
