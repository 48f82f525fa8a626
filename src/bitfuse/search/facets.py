"""The declared attributes of a collection as filters want to offer them: types, ranges, frequent values."""

from __future__ import annotations

from typing import Any

from bitfuse.errors import InputError
from bitfuse.search.session import Session


def facets(session: Session, limit: int) -> dict[str, dict[str, Any]]:
    """See `Collection.facets`."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit < 2**31:
        raise InputError(f"limit must be an integer from 0 on, got {limit!r}")
    found: dict[str, dict[str, Any]] = {}
    with session.reading():
        for at, (name, kind) in enumerate(session.mirror.types.items()):
            column = f"c{at}"
            [(present, distinct, least, most)] = session.store.fetch(
                f"SELECT count({column}), count(DISTINCT {column}), min({column}), max({column}) FROM columns"
            )
            facet: dict[str, Any] = {"type": kind, "present": present, "distinct": distinct}
            if kind in ("int", "float") and present:
                facet |= {"min": least, "max": most}
            if kind in ("str", "bool") and limit:
                facet["values"] = [
                    {"value": bool(value) if kind == "bool" else value, "count": count}
                    for value, count in session.store.fetch(
                        f"SELECT {column}, count(*) FROM columns WHERE {column} IS NOT NULL "
                        f"GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT ?",
                        (limit,),
                    )
                ]
            found[name] = facet
    return found
