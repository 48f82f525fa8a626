"""How `collection-1` was made, by the first version; run again only for a new format, into a new directory.

python tests/formats/make_collection.py DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import bitfuse as bf

ROWS = np.random.default_rng(11).normal(size=(40, 6)).astype(np.float32)
TYPES = {"price": "float", "stock": "int", "kind": "str", "new": "bool"}


def item(i: int) -> dict[str, object]:
    """Some values are missing, one attribute is not declared."""
    return {
        "id": f"item {i}",
        "text": f"the item of number {i}" if i % 3 else None,
        "price": i / 4 if i % 4 else None,
        "stock": i * 10 if i % 5 else None,
        "kind": ["hat", "Schuh", "größer"][i % 3],
        "new": bool(i % 2) if i % 7 else None,
        "colour": "red" if i % 2 else None,
        "views": {"image": ROWS[i]},
    }


def main(path: Path) -> None:
    model = bf.hasher("lsh", n_bits=13, seed=4).fit({"image": ROWS})
    with bf.Collection.create(path, model=model, filterable=TYPES) as shop:
        shop.add(item(i) for i in range(25))
        shop.delete("item 3")
        shop.compact()
        shop.add(item(i) for i in range(25, 30))
        shop.update([{"id": "item 7", "views": {"image": ROWS[39]}, "stock": 1}])
        shop.delete("item 26")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
