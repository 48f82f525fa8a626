"""A Milvus client without a server: what `Table` calls, over Python lists, ties in any order, failures on demand."""

from __future__ import annotations

import json
import random
import re
from functools import lru_cache
from types import CodeType, SimpleNamespace
from typing import Any

import numpy as np


class MilvusException(Exception):
    pass


class Field:
    """A value of a JSON field as Milvus compares it: with its own kind alone; a missing one with nothing."""

    def __init__(self, value: Any, there: bool = True) -> None:
        self.value, self.there = value, there

    def __getitem__(self, name: str) -> Field:
        there = isinstance(self.value, dict) and name in self.value
        return Field(self.value[name] if there else None, there)

    def _alike(self, other: Any) -> bool:
        kinds = [bool if isinstance(v, bool) else str if isinstance(v, str) else float for v in (self.value, other)]
        return self.there and self.value is not None and kinds[0] is kinds[1]

    def __eq__(self, other: object) -> bool:
        return self._alike(other) and self.value == other

    def __lt__(self, other: Any) -> bool:
        return self._alike(other) and self.value < other

    def __gt__(self, other: Any) -> bool:
        return self._alike(other) and self.value > other

    def __le__(self, other: Any) -> bool:
        return self < other or self == other

    def __ge__(self, other: Any) -> bool:
        return self > other or self == other

    __hash__ = None  # type: ignore[assignment]


@lru_cache
def _compiled(expression: str) -> CodeType:
    source = re.sub(r'exists (item(?:\["(?:[^"\\]|\\.)*"\])+)', r"there(\1)", expression) or "True"
    return compile(source, "expression", "eval")


def holds(expression: str, entity: dict[str, Any]) -> bool:
    """Whether an entity satisfies an expression, whose operators are Python's but for `exists`."""
    names = {**entity, "item": Field(entity.get("item")), "true": True, "false": False, "there": lambda f: f.there}
    return bool(eval(_compiled(expression), {"__builtins__": {}}, names))


class Server:
    """What all clients of one fake share.

    Attributes:
        version: what it calls itself.
        limit: most entities of an answer.
        failures: errors that the next calls raise, after doing their work where `late` is set.
        late: whether a failing call has been carried out.
        calls: names of the methods called.
    """

    def __init__(self, version: str = "v2.3.5", limit: int = 16_384) -> None:
        self.version, self.limit = version, limit
        self.collections: dict[str, Any] = {}
        self.failures: list[str] = []
        self.late = False
        self.calls: list[str] = []
        self.random = random.Random(0)

    def module(self) -> Any:
        """What stands for the module `pymilvus`."""
        server = self

        class MilvusClient(Client):
            def __init__(self, **_: Any) -> None:
                super().__init__(server)

        kinds = SimpleNamespace(INT64="int", VARCHAR="text", JSON="json", BINARY_VECTOR="bits")
        return SimpleNamespace(MilvusClient=MilvusClient, DataType=kinds, MilvusException=MilvusException)


class Schema:
    def __init__(self, description: str) -> None:
        self.description, self.fields = description, {}

    def add_field(self, name: str, kind: str, **facts: Any) -> None:
        self.fields[name] = (kind, facts)

    def add_index(self, name: str, **facts: Any) -> None:
        self.fields[name] = ("index", facts)


class Client:
    def __init__(self, server: Server) -> None:
        self._server = server

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name in ("create_schema", "prepare_index_params", "close"):
            return found
        server = self._server

        def called(*arguments: Any, **named: Any) -> Any:
            server.calls.append(name)
            if server.failures:
                error = MilvusException(server.failures.pop(0))
                if server.late:
                    found(*arguments, **named)
                raise error
            return found(*arguments, **named)

        return called

    @staticmethod
    def create_schema(description: str = "", **_: Any) -> Schema:
        return Schema(description)

    @staticmethod
    def prepare_index_params() -> Schema:
        return Schema("")

    def close(self) -> None:
        pass

    def get_server_version(self, **_: Any) -> str:
        return self._server.version

    def has_collection(self, name: str) -> bool:
        return name in self._server.collections

    def create_collection(self, name: str, schema: Schema, **_: Any) -> None:
        self._server.collections[name] = SimpleNamespace(schema=schema, entities=[])

    def drop_collection(self, name: str) -> None:
        del self._server.collections[name]

    def describe_collection(self, name: str) -> dict[str, Any]:
        return {"description": self._server.collections[name].schema.description}

    def load_collection(self, name: str) -> None:
        pass

    flush = compact = load_collection

    def insert(self, name: str, entities: list[dict[str, Any]]) -> None:
        self._server.collections[name].entities += json.loads(json.dumps(entities, default=lambda b: b.hex()))

    def upsert(self, name: str, entities: list[dict[str, Any]]) -> None:
        self.delete(name, ids=[entity["id"] for entity in entities])
        self.insert(name, entities)

    def delete(self, name: str, ids: list[Any]) -> None:
        gone, held = set(ids), self._server.collections[name]
        held.entities = [entity for entity in held.entities if entity["id"] not in gone]

    def _found(self, name: str, expression: str) -> list[dict[str, Any]]:
        found = [entity for entity in self._server.collections[name].entities if holds(expression, entity)]
        self._server.random.shuffle(found)
        return found

    @staticmethod
    def _shown(entity: dict[str, Any], fields: list[str]) -> dict[str, Any]:
        whole = {**entity, "code": [bytes.fromhex(entity["code"])]}
        return {name: whole[name] for name in {*fields, "id"}}

    def query(
        self, name: str, expression: str, output_fields: list[str], consistency_level: str, limit: int = 10**9
    ) -> list[dict[str, Any]]:
        found = self._found(name, expression)
        if output_fields == ["count(*)"]:
            return [{"count(*)": len(found)}]
        return [self._shown(entity, output_fields) for entity in found[: min(limit, self._server.limit)]]

    def search(
        self, name: str, data: list[bytes], filter: str, limit: int, output_fields: list[str],
        search_params: dict[str, Any], consistency_level: str,
    ) -> list[list[dict[str, Any]]]:  # fmt: skip
        if limit > self._server.limit:
            raise MilvusException(f"topk [{limit}] is invalid")
        bounds = search_params["params"]
        asked = np.frombuffer(data[0], np.uint8)
        hits = []
        for entity in self._found(name, filter):
            code = np.frombuffer(bytes.fromhex(entity["code"]), np.uint8)
            distance = int(np.bitwise_count(asked ^ code).sum())
            if bounds.get("range_filter", 0) <= distance < bounds.get("radius", 10**9):
                hits.append({"id": entity["id"], "distance": float(distance),
                             "entity": self._shown(entity, output_fields)})  # fmt: skip
        hits.sort(key=lambda hit: hit["distance"])
        return [hits[:limit]]
