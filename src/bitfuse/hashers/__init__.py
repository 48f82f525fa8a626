"""Hashing methods: one file a method, one lazy table of names."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from typing import TYPE_CHECKING, Any

from bitfuse.codes import check_n_bits
from bitfuse.errors import DamagedFile, UnknownName

if TYPE_CHECKING:
    from bitfuse.hashers.base import Hasher

_TABLE = {
    "clipmh": "CLIPMH",
    "itq": "ITQ",
    "lsh": "LSH",
    "onehot": "OneHot",
    "pcarr": "PCARR",
}


def hashers() -> list[str]:
    """The registered names, sorted."""
    return sorted(_TABLE)


def hasher_class(name: str) -> type[Hasher]:
    """The class of a registered method.

    Raises:
        UnknownName: no such method; the message suggests the nearest name.
    """
    if name not in _TABLE:
        raise UnknownName("method", name, _TABLE)
    cls: type[Hasher] = getattr(importlib.import_module(f"bitfuse.hashers.{name}"), _TABLE[name])
    return cls


def hasher(name: str, *, preset: str = "default", n_bits: int = 64, seed: int = 0, **parameters: Any) -> Hasher:
    """An unfitted hasher by name.

    Args:
        name: one of `hashers()`.
        preset: `"default"`, or `"published"` where a paper fixes the parameters.
        n_bits: code length, 1 to 4096.
        seed: of every random choice.
        parameters: the method's own hyper-parameters; they win over the preset.

    Raises:
        UnknownName: unknown method, preset or parameter.
        InputError: a bad code length.

    Examples:
        >>> hasher("itq", n_bits=32)
        ITQ(n_bits=32, seed=0, ...)
    """
    cls = hasher_class(name)
    presets = {"default": {}, **cls.presets}
    if preset not in presets:
        raise UnknownName(f"preset of {name}", preset, presets)
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    for parameter in parameters:
        if parameter not in fields:
            raise UnknownName(f"parameter of {name}", parameter, fields)
    return cls(n_bits=check_n_bits(n_bits), seed=seed, **{**presets[preset], **parameters})


def resolve(path: str) -> type[Hasher]:
    """The class that a model card names as `module:Class`, ours by import, others only if already imported."""
    module, _, name = path.partition(":")
    if module.startswith("bitfuse.hashers.") and module.rpartition(".")[2] in _TABLE:
        importlib.import_module(module)
    cls: type[Hasher] | None = getattr(sys.modules.get(module), name, None)
    if cls is None:
        raise DamagedFile(
            f"the model was made by {path}, which is not known here; import that module first, or install its package"
        )
    return cls
