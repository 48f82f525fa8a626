"""Items as Milvus keeps them: a key, a row, a code, a digest, and the rest in one JSON field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitfuse.search.items import Prepared, Stored

ITEM_BYTES = 65_536
"""Most bytes of a JSON field."""

FIELDS = ("id", "row", "code", "digest", "item")
"""The fields of an item."""


def as_entity(item: Prepared, code: bytes, row: int) -> dict[str, Any]:
    """What is sent to the server. Attributes without a value are listed beside the others, so that they come back."""
    facts: dict[str, Any] = {"id": item.id}
    if item.text is not None:
        facts["text"] = item.text
    if item.image is not None:
        facts["image"] = item.image
    facts["a"] = {name: value for name, value in item.attributes.items() if value is not None}
    empty = [name for name, value in item.attributes.items() if value is None]
    if empty:
        facts["none"] = empty
    return {"id": item.id, "row": row, "code": code, "digest": item.content()[1].hex(), "item": facts}


def item_of(name: str, facts: Mapping[str, Any], digest: bytes = b"") -> Prepared:
    """The item whose JSON field this is."""
    image = facts.get("image")
    return Prepared(
        name,
        facts.get("text"),
        image,
        None if image is None else Path(image),
        {**facts["a"], **dict.fromkeys(facts.get("none", ()))},
        digest=digest,
    )


def stored_of(entity: Mapping[str, Any]) -> Stored:
    """What came from the server with the fields `row`, `code`, `digest` and `item`."""
    item = item_of(entity["id"], entity["item"], bytes.fromhex(entity["digest"]))
    return Stored(int(entity["row"]), item, bytes(entity["code"][0]))


def shown(item: Prepared) -> dict[str, Any]:
    """An item as `Collection.get` gives it."""
    return {"id": item.id, "text": item.text, "image": item.image, **item.attributes}
