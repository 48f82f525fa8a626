"""Filters as parametrised SQL, for what is not held in memory: no value and no name is ever pasted in."""

from __future__ import annotations

from collections.abc import Callable

from bitfuse.search.filters import And, Filter, In, IsNull, Not, Or, Value, kind_of

Field = Callable[[str], tuple[str, str, list[str]]]
"""A name -> (SQL of its JSON type, SQL of its value, parameters that each of the two takes)."""

_JSON_TYPES = {"number": "('integer', 'real')", "text": "('text')", "truth": "('true', 'false')"}


def to_sql(node: Filter, field: Field) -> tuple[str, list[Value]]:
    """The filter as an SQL expression that is 0 or 1, and its parameters: no value and no name is ever pasted in.

    Args:
        node: the filter.
        field: supplies the fixed SQL that reads an attribute, whose name is itself a parameter.
    """
    if isinstance(node, Not):
        sql, parameters = to_sql(node.part, field)
        return f"(NOT {sql})", parameters
    if isinstance(node, And | Or):
        parts = [to_sql(part, field) for part in node.parts]
        joined = (" AND " if isinstance(node, And) else " OR ").join(sql for sql, _ in parts)
        return f"({joined})", [p for _, parameters in parts for p in parameters]
    kind_sql, value_sql, known = field(node.name)
    if isinstance(node, IsNull):
        return f"(ifnull({kind_sql}, 'null') = 'null')", [*known]
    by_kind: dict[str, list[Value]] = {}
    for value in node.values if isinstance(node, In) else (node.value,):
        by_kind.setdefault(kind_of(value), []).append(int(value) if isinstance(value, bool) else value)
    pieces: list[str] = []
    parameters = []
    for kind, values in by_kind.items():
        test = f"IN ({', '.join('?' * len(values))})" if isinstance(node, In) else f"{node.op} ?"
        pieces.append(f"ifnull({kind_sql} IN {_JSON_TYPES[kind]} AND {value_sql} {test}, 0)")
        parameters += [*known, *known, *values]
    return f"({' OR '.join(pieces)})", parameters
