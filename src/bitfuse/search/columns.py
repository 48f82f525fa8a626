"""Declared attributes as typed columns in memory, so that a filter on them is a mask."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError, UnknownName
from bitfuse.search.filters import And, Compare, Filter, In, IsNull, Not, Or, Value, kind_of

TYPES = {"int": "number", "float": "number", "str": "text", "bool": "truth"}
"""The types an attribute can be declared with, and the kind of value that it compares with."""

Mask = NDArray[np.bool_]
_FEW = 4  # words that are compared one by one
_INT_RANGE = (-(2**63), 2**63 - 1)


def check_types(types: Mapping[str, str]) -> dict[str, str]:
    """The declared types, checked: name -> `"int"`, `"float"`, `"str"` or `"bool"`."""
    if not isinstance(types, Mapping):
        raise InputError(f"filterable must map names of attributes to types, got {type(types).__name__}")
    for name, kind in types.items():
        if not isinstance(kind, str) or kind not in TYPES:
            raise UnknownName(f"type of attribute {name!r}", str(kind), TYPES)
    return dict(types)


def infer_types(attributes: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """The types that these attributes can be declared with; names of mixed, empty or other content are left out.

    Examples:
        >>> infer_types({"price": [1, 2.5, None], "kind": ["hat", "shoe", None], "note": [1, "x", None]})
        {'price': 'float', 'kind': 'str'}
    """
    order = {bool: "bool", int: "int", float: "float", str: "str"}
    found = {}
    for name, values in attributes.items():
        kinds = {order.get(type(v), "other") for v in values if v is not None and v == v}
        if kinds == {"int", "float"}:
            kinds = {"float"}
        if len(kinds) == 1 and "other" not in kinds:
            found[name] = kinds.pop()
    return found


def coerce(kind: str, name: str, value: Any) -> Value | None:
    """An attribute's value as its declared type; None for a missing value (None, NaN).

    Raises:
        InputError: the value is of another type.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = (
        (kind == "int" and isinstance(value, int) and _INT_RANGE[0] <= value <= _INT_RANGE[1])
        or (kind == "float" and isinstance(value, float))
        or (kind == "str" and isinstance(value, str))
        or kind == "bool"
    )
    if not fits or (kind == "bool") != isinstance(value, bool):
        raise InputError(f"attribute {name!r} is declared {kind}, got {value!r:.80}")
    typed: Value = value
    return typed


def check_kinds(node: Compare | In, declared: str) -> None:
    """Raise `InputError` if a predicate compares an attribute with a value of another kind than it is declared."""
    for value in node.values if isinstance(node, In) else (node.value,):
        if kind_of(value) != TYPES[declared]:
            shown = f"'{value}'" if isinstance(value, str) else str(value).lower()
            raise InputError(f"attribute {node.name!r} is declared {declared}, it cannot be compared with {shown}")


def comparable(node: Filter, types: Mapping[str, str]) -> None:
    """Raise `InputError` if a filter compares a declared attribute with a value of another kind."""
    if isinstance(node, And | Or):
        for part in node.parts:
            comparable(part, types)
    elif isinstance(node, Not):
        comparable(node.part, types)
    elif not isinstance(node, IsNull) and node.name in types:
        check_kinds(node, types[node.name])


class Column:
    """One declared attribute of every slot: a numpy array, and for texts a vocabulary that it points into.

    Args:
        name: of the attribute.
        kind: `"int"`, `"float"`, `"str"` or `"bool"`.
    """

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        dtype = {"int": np.int64, "float": np.float64, "str": np.int32, "bool": np.int8}[kind]
        self._values: NDArray[Any] = np.empty(0, dtype)
        self._null: Mask = np.empty(0, bool)  # integers alone need it; the others have a value that means missing
        self._vocabulary: dict[str, int] = {}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def _encoded(self, values: Iterable[Any]) -> NDArray[Any]:
        if self.kind == "str":
            words = self._vocabulary
            return np.array([-1 if v is None else words.setdefault(v, len(words)) for v in values], np.int32)
        if self.kind == "float":
            return np.array([math.nan if v is None else v for v in values], np.float64)
        return np.array([(0 if self.kind == "int" else -1) if v is None else v for v in values], self._values.dtype)

    def reach(self, n: int) -> None:
        """Extend the column to n slots; new ones have no value."""
        if n > len(self._values):
            more = max(n, len(self._values) * 3 // 2) - len(self._values)
            missing = {"int": 0, "float": math.nan, "str": -1, "bool": -1}[self.kind]
            self._values = np.concatenate([self._values, np.full(more, missing, self._values.dtype)])
            if self.kind == "int":
                self._null = np.concatenate([self._null, np.ones(more, bool)])
        self._n = max(self._n, n)

    def put(self, slots: NDArray[np.int64], values: Sequence[Any]) -> None:
        """Set the values at these slots, which the column reaches."""
        self._values[slots] = self._encoded(values)
        if self.kind == "int":
            self._null[slots] = [v is None for v in values]

    def mask(self, node: Compare | In | IsNull) -> Mask:
        """Which slots satisfy a predicate on this attribute.

        Raises:
            InputError: a value of another kind than the column's.
        """
        x = self._values[: self._n]
        if isinstance(node, IsNull):
            return np.isnan(x) if self.kind == "float" else self._null[: self._n] if self.kind == "int" else x < 0
        check_kinds(node, self.kind)
        if self.kind == "str":
            return self._text_mask(x, node)
        if isinstance(node, In):
            wanted = [v for v in node.values if _exact(self.kind, v)]
            found = np.isin(x, np.array(wanted, x.dtype)) if wanted else np.zeros(len(x), bool)
        elif self.kind == "int":
            found = _compare_integers(x, node.op, node.value)
        elif self.kind == "float":
            found = _compare_floats(x, node.op, node.value)
        else:
            found = _compare(x, node.op, node.value)
        if self.kind == "float":
            return found if isinstance(node, In) or node.op != "!=" else found & ~np.isnan(x)
        return found & ~(self._null[: self._n] if self.kind == "int" else x < 0)

    def _text_mask(self, x: NDArray[np.int32], node: Compare | In) -> Mask:
        words = self._vocabulary
        verdict = np.zeros(len(words) + 1, bool)  # the last entry answers -1, a missing value
        if isinstance(node, In):
            verdict[[words[v] for v in node.values if isinstance(v, str) and v in words]] = True
        elif node.op == "=":
            verdict[words.get(str(node.value), -1)] = str(node.value) in words
        else:
            all_words = np.array([*words, ""], dtype=object)
            verdict = _compare(all_words, node.op, node.value).astype(bool)
            verdict[-1] = False
        true = np.flatnonzero(verdict)
        if len(true) > _FEW:
            return verdict[x]
        found = np.zeros(len(x), bool)
        for number in true:  # comparing a few times is faster than one lookup an item
            found |= x == number
        return found


def _is_integer(value: Value) -> bool:
    return isinstance(value, int) or (
        isinstance(value, float) and value.is_integer() and _INT_RANGE[0] <= value <= _INT_RANGE[1]
    )


def _exact(kind: str, value: Any) -> bool:
    """Whether a column of this type can hold just this value."""
    return _is_integer(value) if kind == "int" else float(value) == value if kind == "float" else True


def _compare(x: NDArray[Any], op: str, value: Any) -> Mask:
    compare = {
        "=": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    }[op]  # fmt: skip
    return np.asarray(compare(x, value))


def _compare_integers(x: NDArray[np.int64], op: str, value: Any) -> Mask:
    # numpy would compare 64-bit integers with a float in double precision, which mixes up those beyond 2^53
    if _is_integer(value):
        return _compare(x, op, int(value))
    if op in ("=", "!="):
        return np.full(len(x), op == "!=")
    if not _INT_RANGE[0] <= value <= _INT_RANGE[1]:
        return np.full(len(x), (value > 0) == (op in ("<", "<=")))
    return _compare(x, "<=" if op in ("<", "<=") else ">", math.floor(value))


def _compare_floats(x: NDArray[np.float64], op: str, value: Any) -> Mask:
    # numpy would round an integer beyond 2^53 to a float first, and find it equal to that
    near = float(value)
    if near == value:
        return _compare(x, op, near)
    if op in ("=", "!="):
        return np.full(len(x), op == "!=")
    if op in ("<", "<="):
        return _compare(x, "<" if near > value else "<=", near)
    return _compare(x, ">=" if near > value else ">", near)
