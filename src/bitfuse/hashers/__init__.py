"""Hashing methods: one file a method, one lazy table of names."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from bitfuse.codes import check_n_bits
from bitfuse.errors import DamagedFile, UnknownName

if TYPE_CHECKING:
    from bitfuse.hashers.base import Hasher

_TABLE = {
    "bsth": "BSTH",
    "clipmh": "CLIPMH",
    "cmfh": "CMFH",
    "cvh": "CVH",
    "dcmh": "DCMH",
    "dcmvh": "DCMVH",
    "djsrh": "DJSRH",
    "dmmvh": "DMMVH",
    "dmvh": "DMVH",
    "fdmh": "FDMH",
    "fgcmh": "FGCMH",
    "fomh": "FOMH",
    "itq": "ITQ",
    "lsh": "LSH",
    "mah": "MAH",
    "mfh": "MFH",
    "mfkh": "MFKH",
    "mvdh": "MvDH",
    "mvlh": "MVLH",
    "onehot": "OneHot",
    "pcarr": "PCARR",
    "sapmh": "SAPMH",
    "ucch": "UCCH",
    "ucmfh": "UCMFH",
}


def hashers() -> list[str]:
    """The registered names, sorted."""
    return sorted(_TABLE)


def hasher_class(name: str) -> type[Hasher]:
    """The class of a registered method.

    Raises:
        UnknownName: no such method; the message suggests the nearest name.
    """
    if not isinstance(name, str) or name not in _TABLE:
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
    if not isinstance(preset, str) or preset not in presets:
        raise UnknownName(f"preset of {name}", preset, presets)
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    for parameter in parameters:
        if parameter not in fields:
            raise UnknownName(f"parameter of {name}", parameter, fields)
    return cls(n_bits=check_n_bits(n_bits), seed=seed, **{**presets[preset], **parameters})


def method_table() -> list[dict[str, Any]]:
    """One row of facts a method, sorted by name: what `bitfuse methods` and the documentation print."""
    rows: list[dict[str, Any]] = []
    for name in hashers():
        cls = hasher_class(name)
        most = cls.max_views
        rows.append(
            {
                "name": name,
                "year": cls.year,
                "supervised": cls.supervised,
                "online": cls.online,
                "missing": cls.accepts_missing,
                "views": f"{cls.min_views}+" if most is None else str(most),
                "spaces": ", ".join(cls.spaces),
                "cost": cls.cost,
                "at scale": cls.at_scale,
                "reference": cls.reference,
            }
        )
    return rows


def resolve(path: str) -> type[Hasher]:
    """The class that a model card names as `module:Class`: ours by import, others only if already imported.

    Raises:
        DamagedFile: no class of hashers of that name is known here.
    """
    from bitfuse.hashers.base import Hasher

    module, _, name = path.partition(":")
    if module.startswith("bitfuse.hashers.") and module.rpartition(".")[2] in _TABLE:
        importlib.import_module(module)
    cls: object = getattr(sys.modules.get(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, Hasher)):
        raise DamagedFile(
            f"the model was made by {path}, which is not known here; import that module first, or install its package"
        )
    return cls


class _NamesWhenCalled(types.ModuleType):
    """Importing this package puts it in the place of the function `bitfuse.hashers`: called, it answers as that."""

    def __call__(self) -> list[str]:
        return hashers()


sys.modules[__name__].__class__ = _NamesWhenCalled
