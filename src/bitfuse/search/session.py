"""An open collection: its database, what is in memory of it, and the model of its present generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import CollectionError, DamagedFile
from bitfuse.search.encoder import Encoder, ViewRows
from bitfuse.search.items import unpack_view
from bitfuse.search.mirror import Mirror
from bitfuse.search.stores.sqlite import FILE, Store

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone
    from bitfuse.search.approximate import Since, Tier


def model_directory(directory: Path, generation: int) -> Path:
    """Where a collection keeps the model of a generation."""
    return directory / "models" / str(generation)


class Session:
    """What the parts of a collection share.

    Attributes:
        directory: of the collection.
        store: its database.
        mirror: what is in memory of it.
        backbone: given by the caller in place of the recorded one; None for that one.
        tier: the approximate tier, once a search asked for it, and which file it is.
        tier_since: what changed since that one was made.
    """

    def __init__(self, directory: Path, backbone: Backbone | None) -> None:
        self.directory, self.backbone = directory, backbone
        self.tier: tuple[Any, Tier] | None = None
        self.tier_since: Since | None = None
        self.store = Store.open(directory / FILE)
        try:
            self.mirror = Mirror(self.store, directory)
            self._encoder: tuple[int, Encoder] | None = None
            with self.reading():
                self.encoder()
        except BaseException:
            self.store.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot of the database, with the mirror up to date."""
        with self.store.reading():
            self.mirror.refresh()
            yield

    @contextmanager
    def writing(self) -> Iterator[int]:
        """One transaction; gives the `seq` under which its changes are to be stored, and makes it the newest."""
        with self.store.writing():
            seq = self.fact("seq") + 1
            yield seq
            self.store.put_meta({"seq": seq})
            self.mirror.outdated()

    def fact(self, key: str) -> Any:
        """One entry of `meta`, as it is in the database now."""
        text = self.store.value("SELECT value FROM meta WHERE key = ?", (key,))
        if text is None:
            raise DamagedFile(f"{self.store.path} lacks its entry {key!r}; restore a backup")
        return self.store.decoded(text)

    def encoder(self) -> Encoder:
        """The model of the generation that the mirror shows.

        Raises:
            CollectionError: the model is not the one that made the codes.
        """
        generation = self.mirror.meta["generation"]
        if self._encoder is None or self._encoder[0] != generation:
            encoder = Encoder(model_directory(self.directory, generation), self.backbone)
            if encoder.digest != self.mirror.meta["model"]:
                raise CollectionError(
                    f"{encoder.directory} is not the model that made this collection's codes; restore it, "
                    "or use `reencode` to change models"
                )
            self._encoder = (generation, encoder)
        return self._encoder[1]

    def adopt(self, backbone: Backbone | None) -> None:
        """Go on with the newest generation, and with this backbone."""
        with self.store.lock:
            self.backbone, self._encoder = backbone, None
            self.mirror.forget()

    def view_tables(self) -> dict[str, str]:
        """View name -> the table that stores it; empty where views are not stored. Inside a transaction."""
        tables: dict[str, str] = self.fact("views")
        return tables

    def stored_views(self, rows: Sequence[int]) -> dict[int, ViewRows]:
        """The stored views of these rows, inside a transaction: row -> views."""
        found: dict[int, ViewRows] = {row: {} for row in rows}
        widths = self.encoder().widths
        for name, table in self.view_tables().items():
            if name not in widths:
                raise DamagedFile(
                    f"{self.store.path} stores {name!r} views, of which its model knows nothing; restore a backup"
                )
            for row, blob in self.store.among(f"SELECT row, vector FROM {table} WHERE row IN ({{}})", rows):
                if len(blob) != 4 + 2 * widths[name]:
                    raise DamagedFile(
                        f"{self.store.path} holds a {name!r} view of a wrong length; run `bitfuse verify`"
                    )
                found[row][name] = unpack_view(blob)
        return found

    def items(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The items of these rows, inside a transaction: row -> id, text, image and attributes, flat."""
        sql = "SELECT row, id, text, image, attributes FROM items WHERE row IN ({})"
        found = {}
        for row, name, text, image, attributes in self.store.among(sql, rows):
            found[row] = {"id": name, "text": text, "image": image, **self.store.attributes(attributes)}
        return found

    def picture(self, row: int, image: str | None) -> Path | bytes | None:
        """The picture of an item, inside a transaction: the kept bytes, else the path it was given with."""
        content: bytes | None = self.store.value("SELECT content FROM pictures WHERE row = ?", (row,))
        return content if content is not None else None if image is None else Path(image)

    def row_of(self, name: str) -> int | None:
        """The row of an item, inside a transaction; None where there is none of that id."""
        row: int | None = self.store.value("SELECT row FROM items WHERE id = ?", (name,))
        return row

    def rows_at(self, slots: NDArray[np.int64]) -> list[int]:
        """The insertion row numbers of slots."""
        rows: list[int] = self.mirror.codes.rows[slots].tolist()
        return rows
