"""Every public call of a collection with arguments good and bad: an answer or a clear error, and nothing is ever run.

A few hundred calls in `make test`; thousands in `make test-all`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bitfuse as bf
from bitfuse.errors import BitfuseError

ROWS = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
MODEL = bf.hasher("lsh", n_bits=20).fit({"image": ROWS})
CODE = MODEL.encode({"image": ROWS[:1]})
TYPES = {"price": "int", "kind": "str", "weight": "float", "new": "bool"}
HOSTILE = ["'; DROP TABLE items; --", '" || 1 || "', "{}", "%s", "?", ":a", "$.x", "\0", "\ud800", "..", "-", "é" * 300]

pytestmark = pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning")

words = st.sampled_from(HOSTILE) | st.text(max_size=8)
numbers = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, -(2**63) - 1, True])
plain = st.none() | words | numbers | st.binary(max_size=6)
arrays = st.sampled_from(
    [
        np.zeros(0), np.zeros((6, 6)), np.full(6, np.nan), np.array(["a"]), np.zeros(6, complex), np.array([None, 1]),
        np.datetime64("2020-01-01"), np.float32(2), np.int64(7), ROWS[0] * np.inf,
    ]
)  # fmt: skip
junk = st.one_of(
    plain,
    arrays,
    st.sampled_from([object(), int, print, range(3), {1, 2}, 1j, bf.Codes(np.zeros((2, 3), np.uint8), 20), CODE]),
    st.lists(plain, max_size=3),
    st.dictionaries(plain, plain | arrays, max_size=3),
)

ids = st.sampled_from([f"p{i}" for i in range(30)]) | words
vectors = st.integers(0, 59).map(lambda i: ROWS[i])
fields = {
    "id": ids, "text": words, "views": st.fixed_dictionaries({"image": vectors}), "price": st.integers(0, 99),
    "kind": words, "weight": st.floats(), "new": st.booleans(), "note": plain, "image": st.binary(max_size=4),
}  # fmt: skip
free = {name: values for name, values in fields.items() if name not in ("id", "views")}
items = st.fixed_dictionaries({"id": ids, "views": fields["views"]}, optional=free)
odd_items = st.fixed_dictionaries({}, optional={name: values | junk for name, values in fields.items()}) | junk

names = st.sampled_from(["price", "kind", "weight", "new", "note", "id", "text", "image", '"no such"', '"a""b"'])
literals = st.sampled_from(["1", "-2.5", "1e300", "'hat'", "'it''s'", "true", "null", "x"]) | words.map(
    lambda word: "'" + word.replace("'", "''") + "'"
)
predicates = st.one_of(
    st.tuples(names, st.sampled_from(["=", "!=", "<", ">=", "in", "between"]), literals).map(" ".join),
    st.tuples(names, st.sampled_from(["is null", "is not null", "in (1, 'a')", "between 1 and 2"])).map(" ".join),
)
filters = st.one_of(
    predicates,
    st.tuples(predicates, st.sampled_from(["and", "or", "and not", ";", "--", ")"]), predicates).map(" ".join),
    words,
)
paths = words.map(lambda word: Path("made") / word.replace("/", "").replace(".", "_"))
odd_paths = st.one_of(st.none(), numbers, arrays, st.binary(max_size=3), st.just("a\0b"), st.just("\ud800"), paths)

GOOD: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "add": {
        "items": st.lists(items, max_size=4), "batch_size": st.integers(1, 3),
        "on_conflict": st.sampled_from(["replace", "skip", "error"]), "on_commit": st.sampled_from([None, len]),
    },
    "update": {
        "changes": st.lists(st.fixed_dictionaries({"id": ids}, optional=free), max_size=3),
        "batch_size": st.integers(1, 3), "on_commit": st.sampled_from([None, len]),
    },
    "delete": {"ids": ids | st.lists(ids, max_size=3)},
    "get": {"id": ids},
    "picture": {"id": ids},
    "pictured": {"ids": st.lists(ids, max_size=3)},
    "count": {"where": st.none() | filters},
    "search": {
        "text": st.none(), "image": st.none(), "views": st.fixed_dictionaries({"image": vectors}), "like": st.none(),
        "weights": st.none() | st.just({"image": 1.0}), "k": st.integers(1, 50),
        "radius": st.none() | st.integers(0, 20),
        "where": st.none() | filters, "rerank": st.booleans(), "explain": st.booleans(), "code": st.none(),
        "asymmetric": st.booleans(), "approximate": st.booleans(),
    },
    "search_many": {
        "queries": st.lists(st.fixed_dictionaries({"views": fields["views"]}), max_size=3), "k": st.integers(1, 50),
        "radius": st.none() | st.integers(0, 20), "where": st.none() | filters, "rerank": st.booleans(),
        "explain": st.booleans(), "asymmetric": st.booleans(), "approximate": st.booleans(),
    },
    "build_approximate": {
        "lists": st.none() | st.integers(1, 5), "probes": st.none() | st.integers(1, 5),
    },
    "dedupe": {"radius": st.integers(0, 20), "where": st.none() | filters},
    "facets": {"limit": st.integers(0, 5)},
    "stats": {},
    "compact": {},
    "verify": {},
    "backup": {"path": paths},
    "export": {"path": paths, "views": st.booleans()},
    "reencode": {"model": st.just(MODEL), "backbone": st.none(), "batch_size": st.integers(5, 50)},
}  # fmt: skip
sought = st.sampled_from(["text", "image", "views", "like", "weights", "code", "k"])
odd_queries = st.dictionaries(sought, junk, max_size=2)
ODD = {
    "items": st.lists(odd_items, max_size=3) | junk, "changes": st.lists(odd_items, max_size=3) | junk,
    "queries": st.lists(odd_queries, max_size=2) | junk, "path": odd_paths,
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bf.Collection]:
    place = tmp_path_factory.mktemp("fuzz")
    with contextlib.chdir(place), bf.Collection.create("shop", model=MODEL, filterable=TYPES) as shop:
        shop.add({"id": f"p{i}", "price": i, "views": {"image": ROWS[i]}} for i in range(30))
        yield shop


def test_every_public_call_is_here() -> None:
    public = {name: value for name, value in vars(bf.Collection).items() if not name.startswith("_")}
    methods = {name for name, value in public.items() if inspect.isfunction(value)} - {"close"}
    methods -= {"stored", "restore"}  # between two stores: one takes what the other gives
    assert methods == set(GOOD)
    for name, known in GOOD.items():
        assert list(inspect.signature(getattr(bf.Collection, name)).parameters)[1:] == list(known), name


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A method and its arguments, at most two of which are of any kind."""
    name = draw(st.sampled_from(list(GOOD)))
    known = GOOD[name]
    odd = draw(st.sets(st.sampled_from(list(known)), max_size=2)) if known else set()
    required = {
        p.name for p in inspect.signature(getattr(bf.Collection, name)).parameters.values() if p.default is p.empty
    }
    given = {}
    for argument, strategy in known.items():
        if argument in odd:
            given[argument] = draw(ODD.get(argument, junk))
        elif argument in required or draw(st.booleans()):
            given[argument] = draw(strategy)
    return name, given


def answers_or_explains(shop: bf.Collection, call: tuple[str, dict[str, Any]]) -> None:
    name, arguments = call
    with contextlib.suppress(BitfuseError):
        getattr(shop, name)(**arguments)
    assert len(shop) == shop.count("id is not null") == len(shop.search(code=CODE, k=None, radius=20))


quick = settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(call=calls())
def test_every_call_answers_or_says_what_is_wrong(shop: bf.Collection, call: tuple[str, dict[str, Any]]) -> None:
    answers_or_explains(shop, call)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(quick, max_examples=6000, derandomize=False)
@given(call=calls())
def test_thousands_of_calls(shop: bf.Collection, call: tuple[str, dict[str, Any]]) -> None:
    answers_or_explains(shop, call)


def test_nothing_was_damaged(shop: bf.Collection) -> None:
    assert shop.verify() == []
    assert {p.name for p in Path().iterdir()} <= {"shop", "made"}


@pytest.mark.parametrize("name", list(GOOD))
def test_wrong_argument_names_are_type_errors(shop: bf.Collection, name: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        getattr(shop, name)(nonsense=1)


@settings(quick, max_examples=120)
@given(
    odd_paths, junk, st.dictionaries(words, st.sampled_from(["int", "str"]) | plain, max_size=2) | junk, st.booleans()
)
def test_making_and_opening_answer_or_say_what_is_wrong(
    shop: bf.Collection, path: Any, model: Any, types: Any, good: bool
) -> None:
    with contextlib.suppress(BitfuseError):
        bf.Collection.create(path, model=MODEL if good else model, filterable=types).close()
    with contextlib.suppress(BitfuseError):
        bf.Collection.open(path).close()


@settings(quick, max_examples=150)
@given(filters)
def test_no_filter_changes_anything(shop: bf.Collection, where: str) -> None:
    before = shop.stats()["items"], set(shop.facets())
    with contextlib.suppress(BitfuseError):
        assert len(shop.search(code=CODE, k=None, radius=20, where=where)) == shop.count(where)
    assert (shop.stats()["items"], set(shop.facets())) == before
