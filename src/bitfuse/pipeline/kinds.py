"""The kinds of columns that are read as a stream: the same that `bitfuse.data.columns.typed` tells of whole ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitfuse.data.columns import typed
from bitfuse.errors import InputError
from bitfuse.pipeline.places import Place

_BLOCK = 1024


def cast(value: Any, kind: str, strings: bool) -> Any:
    """A value as the kind that its column has; see `bitfuse.data.columns.typed`."""
    if value is None:
        return None
    if strings:
        if kind == "bool":
            return value.lower() == "true"
        return int(value) if kind == "int" else float(value) if kind == "float" else value
    plain = typed([value], strings=False)[0]
    if kind == "float" and type(plain) is int:
        return float(plain)
    if kind == "str" and plain is not None and not isinstance(plain, str):
        return json.dumps(plain)
    if plain is not None and type(plain).__name__ != kind:
        raise InputError(f"{value!r:.80} is not of the column's kind, {kind}")
    return plain


class Kinds:
    """The kind of each column, told block by block by the rules of `bitfuse.data.columns.typed`."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, bool], list[Any]] = {}
        self._found: dict[str, set[str]] = {}

    def take(self, entry: Mapping[str, Any], *, strings: bool) -> None:
        """Note the values of one row; `strings` as for `typed`."""
        for name, value in entry.items():
            if isinstance(value, Path | Place):
                continue
            block = self._blocks.setdefault((name, strings), [])
            block.append(value)
            if len(block) >= _BLOCK:
                self._settle(name, strings)

    def found(self) -> dict[str, str]:
        """Column -> `"int"`, `"float"`, `"str"` or `"bool"`."""
        for name, strings in list(self._blocks):
            self._settle(name, strings)
        return {name: _joint(kinds) for name, kinds in self._found.items()}

    def _settle(self, name: str, strings: bool) -> None:
        kinds = {type(v).__name__ for v in typed(self._blocks[name, strings], strings=strings) if v is not None}
        self._found.setdefault(name, set()).update(kinds)
        self._blocks[name, strings].clear()


def _joint(kinds: set[str]) -> str:
    if kinds == {"int", "float"}:
        return "float"
    return next(iter(kinds)) if len(kinds) == 1 else "str"
