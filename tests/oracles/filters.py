"""Filters evaluated item by item, from the definition in `bitfuse.search.filters`."""

from __future__ import annotations

from typing import Any

from bitfuse.search.filters import And, Compare, Filter, In, IsNull, Not, Or


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"


def holds(node: Filter, item: dict[str, Any]) -> bool:
    if isinstance(node, Not):
        return not holds(node.part, item)
    if isinstance(node, And):
        return all(holds(part, item) for part in node.parts)
    if isinstance(node, Or):
        return any(holds(part, item) for part in node.parts)
    value = item.get(node.name)
    if isinstance(node, IsNull):
        return value is None
    if value is None:
        return False
    if isinstance(node, In):
        return any(_kind(value) == _kind(v) and value == v for v in node.values)
    assert isinstance(node, Compare)
    if _kind(value) != _kind(node.value):
        return False
    return {
        "=": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
    }[node.op](value, node.value)
