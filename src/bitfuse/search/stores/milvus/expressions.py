"""Filters as Milvus expressions. Milvus before 2.5 takes no parameters, so values are written in, escaped as JSON.

Every value and name reaches the expression as a JSON literal or a number that Python printed: nothing that a person
typed is pasted in as it stands. JSON's strings are the strings of Milvus's grammar.

An item lies in one JSON field, `item`: its id, text, path of its picture, and its attributes under `a`, those without a
value left out. There a comparison with a missing value or one of another kind is false, as the grammar of filters
wants it, but for `!=`, which is therefore written as "less or greater". Numbers beyond 2^53 are compared with stored
floats in double precision.
"""

from __future__ import annotations

import json

from bitfuse.search.filters import And, Compare, Filter, IsNull, Not, Or, Value, kind_of

EVERYTHING = "row >= 0"
NOTHING = "row < 0"
_OWN = ("id", "text", "image")


def literal(value: Value) -> str:
    """A value as Milvus reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if value == -(2**63):  # its digits alone are beyond the range that Milvus parses
        value = float(value)
    return repr(value)


def one_of(field: str, values: list[str] | list[int]) -> str:
    """`field in [values]`."""
    return f"{field} in [{', '.join(map(literal, values))}]"


def both(*expressions: str) -> str:
    """All of these; empty ones say nothing."""
    given = [f"({each})" for each in expressions if each]
    return " and ".join(given)


def _path(name: str) -> str:
    return f'item["{name}"]' if name in _OWN else f'item["a"][{json.dumps(name, ensure_ascii=False)}]'


def to_expression(node: Filter) -> str:
    """The filter as an expression over the fields `id`, `row` and `item`.

    Examples:
        >>> from bitfuse.search.filters import parse
        >>> print(to_expression(parse("price < 50 and not kind in ('hat', 'it''s')")))
        ((item["a"]["price"] < 50) and (not (item["a"]["kind"] in ["hat", "it's"])))
    """
    if isinstance(node, Not):
        return f"(not {to_expression(node.part)})"
    if isinstance(node, And | Or):
        joined = " and " if isinstance(node, And) else " or "
        return f"({joined.join(to_expression(part) for part in node.parts)})"
    if not node.name:
        return f"({NOTHING if not isinstance(node, IsNull) else EVERYTHING})"
    path = _path(node.name)
    if isinstance(node, IsNull):
        return f"(not (exists {path}))"
    if isinstance(node, Compare):
        return f"({_compare(node, path)})"
    by_kind: dict[tuple[str, bool], list[str]] = {}
    for value in node.values:
        by_kind.setdefault((kind_of(value), isinstance(value, float)), []).append(literal(value))
    field = "id" if node.name == "id" else path
    tests = [
        f"{field} in [{', '.join(values)}]" for (kind, _), values in by_kind.items() if kind == "text" or field != "id"
    ]
    return f"({' or '.join(tests) or NOTHING})"


def _compare(node: Compare, path: str) -> str:
    value = literal(node.value)
    if node.name == "id" and not isinstance(node.value, str):
        return NOTHING
    if node.op == "=":
        return f"{'id' if node.name == 'id' else path} == {value}"
    if node.op != "!=":
        return f"{path} {node.op} {value}"
    if isinstance(node.value, bool):
        return f"{path} == {literal(not node.value)}"
    return f"{path} < {value} or {path} > {value}"
