"""Making an empty collection in a directory: its copy of the model, and its database."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitfuse.errors import InputError
from bitfuse.search.columns import check_types
from bitfuse.search.encoder import Encoder, copy_model
from bitfuse.search.items import RESERVED, attribute
from bitfuse.search.session import model_directory
from bitfuse.search.stores.sqlite import FILE, Store
from bitfuse.search.upkeep import new_directory

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone
    from bitfuse.hashers.base import Hasher

_SQL_TYPES = {"int": "INTEGER", "float": "REAL", "str": "TEXT", "bool": "INTEGER"}


def check_filterable(filterable: Mapping[str, str] | None) -> dict[str, str]:
    """The declared attributes, name -> type, checked: none of them is a part that every item has."""
    types = check_types({} if filterable is None else filterable)
    for name in types:
        if name in RESERVED:
            raise InputError(f"{name!r} is part of every item, not an attribute; filters know it without `filterable`")
        attribute(name, None, types)
    return types


def create(
    directory: Path, model: Hasher | str | os.PathLike[str], backbone: Backbone | None,
    filterable: Mapping[str, str] | None, store_views: Any, keep_images: Any,
) -> None:  # fmt: skip
    """See `Collection.create`."""
    types = check_filterable(filterable)
    if not isinstance(keep_images, bool) or not isinstance(store_views, bool | None):
        given = f"{store_views!r:.80} and {keep_images!r:.80}"
        raise InputError(f"store_views and keep_images must be True or False, got {given}")
    with new_directory(directory) as partial:
        copy_model(model, model_directory(partial, 1))
        encoder = Encoder(model_directory(partial, 1), backbone)
        views = {name: f"views_1_{i}" for i, name in enumerate(encoder.widths)} if store_views is not False else {}
        meta = {
            "uuid": uuid.uuid4().hex, "generation": 1, "seq": 0, "next_row": 1, "model": encoder.digest,
            "n_bits": encoder.n_bits, "views": views, "filterable": types, "keep_images": keep_images,
            "code_token": "", "code_seq": 0, "pruned_seq": 0, "reencoding": "",
        }  # fmt: skip
        store = Store.create(partial / FILE, meta, [_SQL_TYPES[kind] for kind in types.values()])
        with store.writing():
            store.execute("CREATE TABLE codes_1 (row INTEGER PRIMARY KEY, code BLOB NOT NULL)")
            for table in views.values():
                store.execute(f"CREATE TABLE {table} (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
        store.close()
