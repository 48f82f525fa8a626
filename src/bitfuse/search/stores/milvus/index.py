"""The `Index` protocol on a Milvus collection: codes with integer ids, searched exactly by the server."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.codes import Codes, check_n_bits
from bitfuse.errors import CollectionError, InputError
from bitfuse.index.base import Answer, as_ids, check_codes, check_limits, trim
from bitfuse.search.stores.milvus.address import parse_address
from bitfuse.search.stores.milvus.expressions import NOTHING, one_of
from bitfuse.search.stores.milvus.table import Near, Table

KIND = "index"
_BATCH = 8192
_ALLOWED = 100_000  # ids that fit in one expression


class MilvusIndex:
    """Codes on a Milvus server behind the `Index` protocol; made where it is not there yet, opened where it is.

    Rows are numbered by the clock of the process that adds, so one process adds at a time. `allow` is sent as a list of
    ids, at most 100,000; a collection's filters have no such bound.

    Args:
        address: `milvus://host:port/name`; see `bitfuse.search.stores.milvus.address`.
        n_bits: code length.

    Raises:
        InputError: a bad address, or another code length than the index on the server has.
        CollectionError: no server there, or what has that name is no index.
    """

    def __init__(self, address: str, n_bits: int) -> None:
        self.n_bits = check_n_bits(n_bits)
        self._table = Table(parse_address(address))
        try:
            if self._table.exists():
                self._check()
                self._table.load()
            else:
                facts = json.dumps({"bitfuse": {"format": 1, "kind": KIND, "n_bits": self.n_bits}})
                self._table.create(_fields, self.n_bits, facts)
        except BaseException:
            self._table.close()
            raise

    def _check(self) -> None:
        facts = read_facts(self._table.description())
        if facts.get("kind") != KIND:
            raise CollectionError(f"{self._table.address} is no index that Bitfuse made; choose another name")
        if facts["n_bits"] != self.n_bits:
            raise InputError(f"{self._table.address} holds codes of {facts['n_bits']} bits, got {self.n_bits}")

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        self._table.close()

    def drop(self) -> None:
        """Delete the index and its codes on the server."""
        self._table.call("drop_collection")

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids in row order: (len(self),) int64."""
        return np.array([entity["id"] for page in self._table.pages("", ["id", "row"]) for entity in page], np.int64)

    def __len__(self) -> int:
        return self._table.count()

    def add(self, codes: Codes, ids: ArrayLike | None = None) -> None:
        """Append codes, 8,192 at a time; see `Index.add`."""
        check_codes(codes, self.n_bits)
        if ids is None:
            present = self.ids
            new = np.arange(len(codes)) + (int(present.max()) + 1 if len(present) else 0)
        else:
            new = as_ids(ids)
        if len(new) != len(codes) or (new < 0).any() or len(np.unique(new)) < len(new):
            raise InputError(f"{len(codes)} codes need as many ids, distinct and from 0 on, got {len(new)}")
        known = self._table.among(new.tolist(), ["id"])
        if known:
            raise InputError(f"id {known[0]['id']} is in the index already; remove it first")
        pairs = zip(new.tolist(), self._table.new_rows(len(codes)), codes.packed)
        while batch := list(islice(pairs, _BATCH)):
            self._table.insert([{"id": name, "row": row, "code": code.tobytes()} for name, row, code in batch])

    def remove(self, ids: ArrayLike) -> None:
        """Remove items; see `Index.remove`."""
        gone = np.unique(as_ids(ids))
        known = {entity["id"] for entity in self._table.among(gone.tolist(), ["id"])}
        if len(known) < len(gone):
            raise InputError(
                f"{len(gone) - len(known)} id(s) are not in the index, the first is "
                f"{next(i for i in gone.tolist() if i not in known)}; nothing removed"
            )
        self._table.delete(gone.tolist())

    def search(
        self, codes: Codes, k: int | None = None, radius: int | None = None, allow: ArrayLike | None = None
    ) -> Answer:
        """The nearest items of each query; see `Index.search`."""
        check_codes(codes, self.n_bits)
        n = len(self)
        most, _ = check_limits(k, radius, n, self.n_bits)
        expression = "" if allow is None else self._allowed(allow, n)
        bound = None if k is None else max(1, most)
        found: list[list[Near]] = [
            self._table.near(code.tobytes(), bound, radius, expression, []) if n else [] for code in codes.packed
        ]
        width = most if k is not None else max((len(hits) for hits in found), default=0)
        distances = np.full((len(codes), width), -1, np.int32)
        answer = np.full((len(codes), width), -1, np.int64)
        for i, hits in enumerate(found):
            distances[i, : len(hits)] = [hit.distance for hit in hits]
            answer[i, : len(hits)] = [hit.key for hit in hits]
        return trim(distances, answer, k)

    def _allowed(self, allow: ArrayLike, n: int) -> str:
        array = np.asarray(allow)
        if array.dtype == np.bool_:
            if array.shape != (n,):
                raise InputError(f"a mask over {n} rows must be of shape ({n},), got {array.shape}")
            array = self.ids[array]
        ids = as_ids(array).tolist()
        if len(ids) > _ALLOWED:
            raise InputError(f"at most {_ALLOWED} ids may be allowed on a Milvus server, got {len(ids)}")
        return one_of("id", ids) if ids else NOTHING


def read_facts(description: str) -> dict[str, Any]:
    """What Bitfuse wrote into the description of a Milvus collection; empty where it is none of ours."""
    try:
        facts = json.loads(description)["bitfuse"]
    except (ValueError, KeyError, TypeError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _fields(schema: Any, kinds: Any) -> None:
    schema.add_field("id", kinds.INT64, is_primary=True)
