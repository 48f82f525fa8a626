from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles.filters import holds

import bitfuse as bf
from bitfuse.errors import InputError, UnknownName
from bitfuse.search.columns import Column, coerce, infer_types
from bitfuse.search.filters import (
    MAX_DEPTH,
    MAX_PREDICATES,
    OPERATORS,
    And,
    Compare,
    Filter,
    In,
    IsNull,
    Not,
    Or,
    parse,
)

WORDS = ["hat", "shoe", "it's", 'a "b"', "Größe", "", "zz"]
BIG = 2**53
ITEMS = [
    {
        "n": [None, 0, 1, -5, 7, BIG, BIG + 1, 2**63 - 1, -(2**63)][i % 9],
        "x": [None, 0.0, -0.5, 1.0, 2.25, 1e300, -1e-300, 7.0, float(BIG), float(2**63)][i % 10],
        "s": [None, *WORDS][i % 8],
        "b": [None, True, False][i % 3],
        "m": [None, 3, "hat", True, 2.5, "3", False][i % 7],
        "odd name-1": i % 4,
    }
    for i in range(61)
]
TYPES = {"n": "int", "x": "float", "s": "str", "b": "bool"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Every attribute twice: declared, and undeclared as u_<name>."""
    rows = np.random.default_rng(0).normal(size=(len(ITEMS), 8)).astype(np.float32)
    model = bf.hasher("lsh", n_bits=16).fit({"image": rows})
    shop = bf.Collection.create(tmp_path_factory.mktemp("filters") / "shop", model=model, filterable=TYPES)
    report = shop.add(
        {"id": str(i), "views": {"image": rows[i]}, **item, **{f"u_{k}": v for k, v in item.items()}}
        for i, item in enumerate(ITEMS)
    )
    assert report.added == len(ITEMS), report.skipped
    yield shop
    shop.close()


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def render(node: Filter, prefix: str = "") -> str:
    if isinstance(node, Not):
        return f"not ({render(node.part, prefix)})"
    if isinstance(node, And | Or):
        word = " AND " if isinstance(node, And) else " or "
        return "(" + word.join(render(part, prefix) for part in node.parts) + ")"
    name = quote(prefix + node.name)
    if isinstance(node, IsNull):
        return f"{name} is null"
    if isinstance(node, In):
        return f"{name} in ({', '.join(literal(v) for v in node.values)})"
    return f"{name} {node.op} {literal(node.value)}"


def literal(value):
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


numbers = st.sampled_from([0, 1, -5, 7, BIG, BIG + 1, 2**63 - 1, -(2**63), 0.0, 2.25, 6.5, -0.5, 1e300, -1e300, 7.0])
texts = st.sampled_from([*WORDS, "absent", "'; DROP TABLE items; --"])
values_of = {"n": numbers, "x": numbers, "s": texts, "b": st.booleans()}


@st.composite
def predicates(draw):
    name = draw(st.sampled_from(list(values_of)))
    kind = draw(st.sampled_from(["compare", "in", "null"]))
    if kind == "null":
        return IsNull(name)
    if kind == "in":
        return In(name, tuple(draw(st.lists(values_of[name], min_size=1, max_size=4))))
    ops = ["=", "!="] if name == "b" else ["=", "!=", "<", "<=", ">", ">="]
    return Compare(name, draw(st.sampled_from(ops)), draw(values_of[name]))


def several(inner):
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(inner.map(Not), parts.map(And), parts.map(Or))


trees = st.recursive(predicates(), several, max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(tree=trees)
def test_columns_and_sql_agree_with_the_oracle(shop, tree):
    expected = {str(i) for i, item in enumerate(ITEMS) if holds(tree, item)}
    for prefix in ("", "u_"):
        where = render(tree, prefix)
        assert {h.id for h in shop.search(like="0", k=None, radius=16, where=where)} == expected - {"0"}, where
        assert shop.count(where) == len(expected)


@settings(max_examples=100, deadline=None)
@given(tree=trees)
def test_what_is_rendered_is_parsed_back(tree):
    def flat(node):
        if isinstance(node, Not):
            return Not(flat(node.part))
        if isinstance(node, And | Or):
            return type(node)(tuple(flat(part) for part in node.parts))
        return node

    assert parse(render(tree)) == flat(tree)


def test_declared_and_undeclared_in_one_filter(shop):
    where = "n >= 0 and (u_s = 'hat' or b = true) and not u_x is null"
    assert shop.count(where) == sum(holds(parse(where.replace("u_", "")), item) for item in ITEMS) > 0
    hit = shop.search(like="0", k=1, where=where, explain=True)[0]
    assert set(hit.explanation["filter"]) == {"n", "u_s", "b", "u_x"}
    assert "memory" in hit.explanation["filter"]["n"]
    assert "SQL" in hit.explanation["filter"]["u_s"]


def test_mixed_undeclared_values_compare_with_their_own_kind(shop):
    for where in ["m = 3", "m > 1", "m = 'hat'", "m < 'z'", "m = true", "m in (3, 'hat', false)", "m is not null"]:
        assert shop.count(where) == sum(holds(parse(where), item) for item in ITEMS), where


def test_names_values_and_own_fields(shop):
    assert shop.count('"odd name-1" = 2') == sum(item["odd name-1"] == 2 for item in ITEMS)
    assert shop.count("s = 'it''s'") == shop.count('s = "it\'s"') == sum(item["s"] == "it's" for item in ITEMS)
    assert shop.count("id in ('3', '4', 'nobody')") == 2
    assert shop.count("text is null and image is null") == len(ITEMS)
    assert shop.count("n between -5 and 7 AND NOT n Between 1 And 7") == sum(i["n"] in (0, -5) for i in ITEMS)
    assert shop.count("x == 1 or x <> 1") == sum(i["x"] is not None for i in ITEMS)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "expected an attribute name, found the end"),
        ("n >", "expected a number"),
        ("n = hat", r"a text stands in quotes: 'hat'"),
        ("s = 'hat", "the quote is never closed"),
        ("n ; 1", "cannot read '; 1' at character 2"),
        ("n = 1 b = true", "expected 'and', 'or' or the end, found 'b'"),
        ("(n = 1", r"expected '\)'"),
        ("n in ()", "expected a number"),
        ("n not 5", "expected 'in' or 'between'"),
        ("n is 5", "expected 'null'"),
        ("5 < n", "expected an attribute name"),
        ("b < true", "no order"),
        ("n = 'hat'", "declared int"),
        ("s = 5", "declared str"),
        ("b = 1", "declared bool"),
        ("x in (1, 'a')", "declared float"),
        ("n = 99999999999999999999", "64-bit"),
        ("x < 1e999", "range of numbers"),
        ("s = 'a\0b'", "NUL"),
        ("s = '\ud800'", "surrogate"),
        ("not " * (MAX_DEPTH + 2) + "n = 1", "nested deeper"),
        ("(" * (MAX_DEPTH + 2) + "n = 1", "nested deeper"),
        (" or ".join(["n = 1"] * (MAX_PREDICATES + 1)), "comparisons"),
        ("n in (" + ", ".join(["1"] * 10_001) + ")", "10000 values"),
    ],
)
def test_bad_filters_say_what_was_expected(shop, where, message):
    with pytest.raises(InputError, match=message):
        shop.count(where)
    with pytest.raises(InputError, match=message):
        shop.search(like="0", where=where)


def test_the_largest_filters_that_are_allowed_run(shop):
    assert shop.count("u_n in (" + ", ".join(["7"] * 10_000) + ")") == sum(i["n"] == 7 for i in ITEMS)
    assert shop.count(" or ".join(["u_n = 7"] * MAX_PREDICATES)) == sum(i["n"] == 7 for i in ITEMS)
    assert shop.count("not " * MAX_DEPTH + "u_n = 7") == sum(i["n"] == 7 for i in ITEMS)


def test_unknown_attribute_is_named_with_a_suggestion(shop):
    with pytest.raises(UnknownName, match="did you mean 'u_s'"):
        shop.count("u_ss = 'hat'")


@pytest.mark.parametrize(
    "where",
    [
        "s = '''; DROP TABLE items; --'",
        "u_s = '''; DROP TABLE items; --'",
        "u_s = '$.\"x\"' or u_s = '%' or u_s = '\\'",
        "id = '1'' OR 1=1 --'",
    ],
)
def test_no_value_is_ever_run(shop, where):
    assert shop.count(where) == 0
    assert len(shop) == len(ITEMS)


@pytest.mark.parametrize("where", ['"u_s\') OR 1=1 --" = 1', '"u_s"" || 1" = 1', '"$" is null'])
def test_no_name_is_ever_run(shop, where):
    with pytest.raises(UnknownName):
        shop.count(where)


@settings(max_examples=300, deadline=None)
@given(source=st.text(st.sampled_from("ns=<>!()'\"\\,. 01e-+andortisullbw;\0é\n"), max_size=40) | st.text(max_size=20))
def test_any_text_is_a_filter_or_a_clear_error(source):
    with contextlib.suppress(InputError):
        parse(source)


def test_integers_beyond_double_precision_compare_exactly():
    column = Column("n", "int")
    column.reach(4)
    column.put(np.arange(3), [BIG, BIG + 1, None])
    assert column.mask(Compare("n", ">", BIG)).tolist() == [False, True, False, False]
    assert column.mask(Compare("n", ">", float(BIG))).tolist() == [False, True, False, False]
    assert column.mask(Compare("n", "<", 1e300)).tolist() == [True, True, False, False]
    assert column.mask(IsNull("n")).tolist() == [False, False, True, True]


def test_floats_compare_exactly_with_integers_that_no_float_equals(shop):
    for number in (BIG - 1, BIG, BIG + 1, BIG + 3, 2**63 - 1, -(2**63)):
        for where in [*(f"x {op} {number}" for op in OPERATORS), f"x in ({number}, 7)"]:
            expected = sum(holds(parse(where), item) for item in ITEMS)
            assert shop.count(where) == shop.count(f"u_{where}") == expected, where


def test_coerce_and_infer():
    assert coerce("float", "x", 3) == 3.0
    assert coerce("int", "x", 3.0) == 3
    assert coerce("str", "x", float("nan")) is None
    for kind, value in [("int", 2.5), ("int", True), ("float", "1"), ("str", 1), ("bool", 1), ("int", 2**63)]:
        with pytest.raises(InputError, match=f"declared {kind}"):
            coerce(kind, "x", value)
    found = infer_types(
        {"a": [1, None], "b": [1, 2.5], "c": [True], "d": ["x"], "e": [1, "x"], "f": [None], "g": [[1]]}
    )
    assert found == {"a": "int", "b": "float", "c": "bool", "d": "str"}
