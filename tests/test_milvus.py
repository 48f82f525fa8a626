"""Collections on Milvus: without a server the parts that need none, then (slow) the real server of PyPI's milvus."""

from __future__ import annotations

import inspect
import os
import random
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import milvus_server
from tests.fake_backbone import COLOURS, FakeBackbone, sources
from tests.fake_milvus import Server, holds

import bitfuse as bf
from bitfuse.errors import CollectionError, DataWarning, InputError, MissingDependency, UnknownFormat, UnknownName
from bitfuse.index.base import Index
from bitfuse.index.linear import LinearIndex
from bitfuse.search.filters import parse
from bitfuse.search.stores.milvus import table as tables
from bitfuse.search.stores.milvus.address import parse_address
from bitfuse.search.stores.milvus.capabilities import CAPABILITIES, check_server, parse_version, refuse
from bitfuse.search.stores.milvus.collection import MilvusCollection
from bitfuse.search.stores.milvus.expressions import to_expression
from bitfuse.search.stores.milvus.index import MilvusIndex

HERE = "milvus://here/shop"
NASTY = ["it's", 'quo"te', "back\\slash", "new\nline", "é", "\U0001f600", '"] or true or item["', "", "%", "{x}"]
TYPES = {"price": "int", "kind": "str", "sale": "bool"}
FILTERS = [
    None, "price < 100", "price between 5 and 40 and not sale = true", "kind = 'it''s' or price is null",
    "kind != 'hat'", "not kind in ('hat', 'shoe')", "weight > 10.5 or id = 'p4'",
    "weight in (1, 2, 3.5) or price = 7.0",
    "text = 'item 77'", "id > 'p4' and id != 'p44' and id in ('p45', 'p46', 'p9')", "text is not null",
    "sale != true", "not (price < 50 or (kind > 'i' and weight <= 20))", "image is null",
    "mixed < 100 or \"mixed\" > '2'",
    "mixed in (3, '4', true)", "mixed is null", "price > -9223372036854775808 and weight < 1e3",
]  # fmt: skip


@pytest.fixture
def fake(monkeypatch):
    server = Server(limit=64)
    monkeypatch.setitem(sys.modules, "pymilvus", server.module())
    monkeypatch.setattr(tables, "LIMIT", server.limit)
    monkeypatch.setattr(tables, "_SLACK", 2)
    monkeypatch.setattr(tables.time, "sleep", lambda seconds: None)
    return server


def rows(n: int, distinct: int, width: int = 12) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.normal(size=(distinct, width)).astype(np.float32)[rng.integers(0, distinct, n)]


def items(n: int, features: np.ndarray) -> list[dict]:
    return [
        {
            "id": f"p{i}", "text": f"item {i}", "price": i if i % 7 else None, "kind": ["hat", "shoe", "it's"][i % 3],
            "sale": i % 2 == 0, "weight": i / 3, "mixed": [i, str(i), i % 5 == 0][i % 3],
            "views": {"image": features[i]},
        }
        for i in range(n)
    ]  # fmt: skip


def model_in(place: Path, features: np.ndarray, n_bits: int = 12) -> Path:
    bf.hasher("lsh", n_bits=n_bits).fit({"image": features}).save(place / "model")
    return place / "model"


def twins(place: Path, address: str, n: int = 300, n_bits: int = 12):
    """The same items in a directory and on a server."""
    features = rows(n, n // 4)
    model = model_in(place, features, n_bits)
    pair = [bf.Collection.create(p, model=model, filterable=TYPES) for p in (place / "shop", address)]
    for shop in pair:
        assert shop.add(items(n, features), batch_size=128).added == n
    return (*pair, features)


def answers(shop, **asked):
    return [(hit.id, hit.distance, hit.item) for hit in shop.search(**asked)]


def same(directory, server, features, searches=3):
    for where in FILTERS:
        assert directory.count(where) == server.count(where), where
        for i in range(searches):
            for bound in ({"k": 10}, {"k": 60}, {"k": None, "radius": 3}, {"k": 40, "radius": 2}):
                asked = {"views": {"image": features[i]}, "where": where, **bound}
                assert answers(directory, **asked) == answers(server, **asked), asked


# ---------------------------------------------------------------------------------------------------- addresses


def test_an_address_names_server_collection_model_and_consistency():
    address = parse_address("milvus://user:p%40ss@db.example:1234/shop_1?model=a/b&consistency=bounded")
    assert (address.host, address.port, address.name) == ("db.example", 1234, "shop_1")
    assert (address.model, address.consistency, address.token) == (Path("a/b"), "bounded", "user:p@ss")
    assert "p@ss" not in repr(address) + str(address)
    assert parse_address("milvus://[::1]/x").uri == "http://[::1]:19530"


@pytest.mark.parametrize(
    "text",
    ["milvus://", "milvus://h", "milvus://h/", "milvus://h/1a", "milvus://h/a-b", "milvus://h/a/b", "milvus://h:0/a",
     "milvus://h:99999/a", "milvus://h/a?model=", "milvus://h/a?model=x&model=y", "milvus://h/a#x", "http://h/a",
     "milvus://h/a?model", "milvus://h/a b"],
)  # fmt: skip
def test_a_bad_address_is_refused(text):
    with pytest.raises(InputError):
        parse_address(text)


def test_unknown_options_and_levels_are_named():
    with pytest.raises(UnknownName, match="did you mean 'model'"):
        parse_address("milvus://h/a?modle=x")
    with pytest.raises(UnknownName, match="consistency"):
        parse_address("milvus://h/a?consistency=Strongest")


def test_an_address_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="redis"):
        bf.Collection.open("redis://h/a")
    with pytest.raises(InputError, match="redis"):
        bf.Collection.create("redis://h/a", model=tmp_path)


# ------------------------------------------------------------------------------------------------- capabilities


def test_versions():
    assert parse_version("v2.3.5-lite") == (2, 3)
    assert parse_version("2.10.0") == (2, 10)
    with pytest.raises(CollectionError, match="version"):
        parse_version("main")
    with pytest.raises(CollectionError, match=r"2\.3 or newer"):
        check_server("v2.2.16")


@pytest.mark.parametrize("feature", CAPABILITIES)
def test_a_refusal_names_the_feature_the_server_and_a_way(feature):
    known = CAPABILITIES[feature]
    for server in ("v2.3.5", "v2.6.0"):
        message = str(refuse(feature, server))
        assert feature in message
        assert known.instead in message
        old = known.server is not None and parse_version(server) < known.server
        assert ("only from" in message) == old


def test_every_method_of_a_collection_is_answered_or_refused():
    public = {name for name, value in vars(bf.Collection).items() if not name.startswith("_")}
    assert public <= set(vars(MilvusCollection)), public - set(vars(MilvusCollection))
    for name in public:
        ours, theirs = inspect.getattr_static(MilvusCollection, name), inspect.getattr_static(bf.Collection, name)
        if inspect.isfunction(theirs):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name


def test_what_a_server_cannot_do_raises(fake, tmp_path):
    features = rows(50, 50)
    model = model_in(tmp_path, features)
    with pytest.raises(CollectionError, match=r"float16 views.*2\.4"):
        bf.Collection.create(HERE, model=model, store_views=True)
    with pytest.raises(CollectionError, match="kept pictures"):
        bf.Collection.create(HERE, model=model, keep_images=True)
    with pytest.raises(InputError, match="save it"):
        bf.Collection.create(HERE, model=bf.load(model))
    with bf.Collection.create(HERE, model=model) as shop:
        for call in (
            shop.dedupe, shop.facets, lambda: shop.backup(tmp_path / "b"), lambda: shop.export(tmp_path / "e"),
            lambda: shop.reencode(model), lambda: shop.search(views={"image": features[0]}, rerank=True),
        ):  # fmt: skip
            with pytest.raises(CollectionError, match=r"v2\.3\.5|no place"):
                call()
        with pytest.raises(InputError, match="at most"):
            shop.search(views={"image": features[0]}, k=100_000)
    fake.version = "v2.2.9"
    with pytest.raises(CollectionError, match=r"2\.2\.9"):
        bf.Collection.open(HERE)


def test_without_pymilvus_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingDependency, match=r"bitfuse\[milvus\]"):
        bf.Collection.open(HERE)


# -------------------------------------------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        ("price < 50", '(item["a"]["price"] < 50)'),
        ("price != 5", '(item["a"]["price"] < 5 or item["a"]["price"] > 5)'),
        ("sale != true", '(item["a"]["sale"] == false)'),
        ("id = 'a'", '(id == "a")'),
        ("id = 3", "(row < 0)"),
        ("id < 'a'", '(item["id"] < "a")'),
        ("id in ('a', 3)", '(id in ["a"])'),
        ("x is null", '(not (exists item["a"]["x"]))'),
        ("x in (1, 2.5, 'a', true)", '(item["a"]["x"] in [1] or item["a"]["x"] in [2.5] or item["a"]["x"] in ["a"] '
         'or item["a"]["x"] in [true])'),
        ("x > -9223372036854775808", '(item["a"]["x"] > -9.223372036854776e+18)'),
        ("not (a = 1 and b = 'c')", '(not ((item["a"]["a"] == 1) and (item["a"]["b"] == "c")))'),
    ],
)  # fmt: skip
def test_filters_become_expressions(where, expression):
    assert to_expression(parse(where)) == expression


@pytest.mark.parametrize("text", NASTY)
def test_no_text_or_name_leaves_its_quotes(text):
    quoted = text.replace("'", "''")
    entity = {"id": text, "row": 1, "item": {"id": text, "a": {"x": text, **({text: 1} if text else {})}}}
    other = {"id": "o", "row": 2, "item": {"id": "o", "a": {"x": "o"}}}
    for where in (f"x = '{quoted}'", f"x in ('{quoted}')", f"id = '{quoted}'"):
        expression = to_expression(parse(where))
        assert holds(expression, entity), expression
        assert not holds(expression, other), expression
    doubled = text.replace('"', '""')
    expression = to_expression(parse(f'"{doubled}" = 1'))
    assert holds(expression, entity) == bool(text)
    assert not holds(expression, other)


# ------------------------------------------------------------------------------------- the parts, without a server


def test_a_collection_answers_as_one_in_a_directory(fake, tmp_path):
    directory, server, features = twins(tmp_path, HERE)
    same(directory, server, features, searches=1)
    for shop in (directory, server):
        assert shop.delete(["p3", "nobody", "p9"]) == 2
        assert shop.add(items(20, features)[10:]).skipped == [(f"p{i}", "unchanged") for i in range(10, 20)]
        assert shop.add([{**items(20, features)[11], "price": 1}]).replaced == 1
        report = shop.update(
            [{"id": "p5", "price": 77, "kind": None}, {"id": "zz", "price": 1}, {"id": "p8", "price": "x"}]
        )
        assert report.replaced == 1
        assert [name for name, _ in report.skipped] == ["zz", "p8"]
        assert shop.update([{"id": "p8", "views": {"image": features[1]}}]).replaced == 1
    same(directory, server, features, searches=1)
    assert directory.get("p5") == server.get("p5")
    assert directory.get("p3") is server.get("p3") is None
    assert answers(directory, like="p10", k=20) == answers(server, like="p10", k=20)
    assert len(directory) == len(server) == 298
    assert server.verify() == []
    with pytest.raises(InputError, match="declared int"):
        server.count("price = 'a'")
    directory.close()


def test_more_ties_than_an_answer_holds_are_ordered_by_row(fake):
    index, oracle = MilvusIndex("milvus://here/ix", 8), LinearIndex(8)
    packed = np.random.default_rng(1).integers(0, 4, (400, 1), dtype=np.uint8)
    for each in (index, oracle):
        each.add(bf.Codes(packed, 8))
        each.remove([0, 7, 399])
    assert isinstance(index, Index)
    query = bf.Codes(np.array([[0], [255]], np.uint8), 8)
    for asked in ({"k": 1}, {"k": 5}, {"k": 64}, {"radius": 0}, {"radius": 1, "k": 50}, {"radius": 8}):
        for mine, theirs in zip(index.search(query, **asked), oracle.search(query, **asked)):
            np.testing.assert_array_equal(mine, theirs, err_msg=str(asked))


def test_a_busy_server_is_asked_again_and_a_lost_answer_stores_nothing_twice(fake, tmp_path):
    features = rows(40, 40)
    shop = bf.Collection.create(HERE, model=model_in(tmp_path, features))
    fake.failures, fake.late, before = ["UNAVAILABLE"], False, len(fake.calls)
    assert len(shop) == 0
    assert fake.calls[before:] == ["query", "query"]
    real_insert = shop._table.insert

    def losing(entities):
        fake.failures, fake.late = ["Deadline exceeded"], True
        real_insert(entities)

    shop._table.insert = losing
    assert shop.add(items(40, features)).added == 40
    assert [call for call in fake.calls if call in ("insert", "upsert")][:2] == ["insert", "upsert"]
    assert len(shop) == 40
    fake.failures, fake.late = ["cannot parse expression"], False
    with pytest.raises(CollectionError, match="after 1 tries"):
        len(shop)
    fake.failures = ["unavailable"] * 6
    with pytest.raises(CollectionError, match="after 6 tries"):
        len(shop)
    fake.failures, before = ["collection not loaded"], len(fake.calls)
    assert len(shop) == 40
    assert fake.calls[before:] == ["query", "load_collection", "query"]


def test_the_model_must_be_the_one_that_made_the_codes(fake, tmp_path):
    features = rows(60, 60)
    model = model_in(tmp_path, features)
    bf.hasher("lsh", n_bits=12, seed=9).fit({"image": features}).save(tmp_path / "other")
    with bf.Collection.create(HERE, model=model) as shop:
        shop.add(items(60, features))
        code = shop.encoder.encode([{"image": features[4]}])
    with pytest.raises(CollectionError, match="not the model"):
        bf.Collection.open(f"{HERE}?model={tmp_path / 'other'}")
    with bf.Collection.open(f"{HERE}?model={model}") as shop:
        first = answers(shop, views={"image": features[4]}, k=5)
    with bf.Collection.open(HERE) as bare:
        assert answers(bare, code=code, k=5) == first
        assert len(bare) == 60
        with pytest.raises(CollectionError, match=r"\?model=DIR"):
            bare.search(views={"image": features[4]})
        with pytest.raises(CollectionError, match=r"\?model=DIR"):
            bare.add([])
    with pytest.raises(InputError, match="does not exist"):
        bf.Collection.open("milvus://here/nothing")
    with pytest.raises(CollectionError, match="exists"):
        bf.Collection.create(HERE, model=model)


def test_what_is_not_ours_is_refused(fake, tmp_path):
    MilvusIndex("milvus://here/ix", 16).close()
    with pytest.raises(CollectionError, match="no collection that Bitfuse made"):
        bf.Collection.open("milvus://here/ix")
    with pytest.raises(InputError, match="16 bits, got 32"):
        MilvusIndex("milvus://here/ix", 32)
    with bf.Collection.create(HERE, model=model_in(tmp_path, rows(50, 50))):
        pass
    with pytest.raises(CollectionError, match="no index"):
        MilvusIndex(HERE, 12)
    schema = fake.collections["shop"].schema
    schema.description = schema.description.replace('"format": 1', '"format": 2')
    with pytest.raises(UnknownFormat, match="format 2"):
        bf.Collection.open(HERE)


def test_an_item_too_large_for_a_field_is_skipped(fake, tmp_path):
    features = rows(50, 50)
    with bf.Collection.create(HERE, model=model_in(tmp_path, features)) as shop:
        report = shop.add([{"id": "big", "text": "é" * 40_000, "views": {"image": features[0]}}, items(2, features)[1]])
        assert report.added == 1
        assert "65536" in report.skipped[0][1]


def test_rows_ascend_even_where_the_clock_stands_still(fake, tmp_path, monkeypatch):
    with bf.Collection.create(HERE, model=model_in(tmp_path, rows(50, 50))) as shop:
        monkeypatch.setattr(tables.time, "time_ns", lambda: 100)
        assert [*shop._table.new_rows(3), *shop._table.new_rows(2)] == [100, 101, 102, 103, 104]


# --------------------------------------------------------------------------------------------- the real server

real = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = milvus_server.start(tmp_path_factory.mktemp("milvus"))
    yield running
    running.close()


class TestServer:
    pytestmark = real

    def test_index(self, server):
        index, oracle, rng = MilvusIndex(f"{server.address}/ix", 20), LinearIndex(20), np.random.default_rng(2)
        codes = bf.Codes.from_real(rng.normal(size=(900, 20)))[rng.integers(0, 900, 3000)]
        for each in (index, oracle):
            each.add(codes[:2000])
            each.add(codes[2000:], ids=np.arange(5000, 6000)[::-1])
            each.remove([3, 5500, 44])
            with pytest.raises(InputError, match="in the index already"):
                each.add(codes[:1], ids=[5])
            with pytest.raises(InputError, match="not in the index"):
                each.remove([3])
        np.testing.assert_array_equal(index.ids, oracle.ids)
        mask = rng.random(len(oracle)) < 0.3
        for asked in (
            {"k": 1}, {"k": 100}, {"k": 9000}, {"radius": 4}, {"k": 7, "radius": 3}, {"k": 20, "allow": mask},
            {"k": 20, "allow": [5, 9, 5100, 99_999]}, {"k": 3, "allow": []},
        ):  # fmt: skip
            for mine, theirs in zip(index.search(codes[:4], **asked), oracle.search(codes[:4], **asked)):
                np.testing.assert_array_equal(mine, theirs, err_msg=str(asked))
        index.drop()
        index.close()

    def test_more_equal_codes_than_an_answer_holds(self, server):
        n = tables.LIMIT + 5000
        index = MilvusIndex(f"{server.address}/ties", 16)
        index.add(bf.Codes(np.zeros((n, 2), np.uint8), 16), ids=np.arange(n)[::-1])
        query = bf.Codes(np.full((1, 2), 1, np.uint8), 16)
        distances, ids = index.search(query, k=3)
        assert distances.tolist() == [[2, 2, 2]]
        assert ids.tolist() == [[n - 1, n - 2, n - 3]]
        assert index.search(query, radius=2)[1][0].tolist() == list(range(n))[::-1]
        index.drop()
        index.close()

    def test_collection_equals_the_one_in_a_directory(self, server, tmp_path):
        directory, remote, features = twins(tmp_path, f"{server.address}/shop", n=3000, n_bits=14)
        same(directory, remote, features, searches=1)
        for shop in (directory, remote):
            assert shop.delete([f"p{i}" for i in range(0, 900, 9)]) == 100
            assert shop.add([{**each, "price": 1} for each in items(60, features)[1:60:7]]).replaced > 0
            assert shop.update([{"id": "p5", "price": 77, "kind": None}]).replaced == 1
        same(directory, remote, features, searches=1)
        assert remote.verify() == []
        remote.drop()
        directory.close()

    @pytest.mark.parametrize("seed", range(2))
    def test_texts_names_and_numbers_of_all_kinds(self, server, tmp_path, seed):
        rng, features = random.Random(seed), rows(80, 80)
        values = [*NASTY, 0, -3, 5, 5.0, 6.5, -0.1, 2**53 - 1, 1e300, True, False, None]
        names = ["x", "a b", "it's", "é", "0", "a/b", "a~1", "and", "%", "\U0001f600"]
        mixed = [
            {"id": f"{i}{rng.choice(NASTY)}", "views": {"image": features[i]},
             **{name: rng.choice(values) for name in rng.sample(names, 4)}}
            for i in range(80)
        ]  # fmt: skip
        model = model_in(tmp_path, features)
        pair = [bf.Collection.create(p, model=model) for p in (tmp_path / "s", f"{server.address}/kinds{seed}")]
        for shop in pair:
            assert shop.add(mixed).added == 80
            assert [shop.get(each["id"])["id"] for each in mixed] == [each["id"] for each in mixed]

        def shown(value):
            text = str(value).replace("'", "''")
            return f"'{text}'" if isinstance(value, str) else str(value).lower()

        known = [value for value in values if value is not None]
        for _ in range(60):
            name, value = f'"{rng.choice(names)}"', rng.choice(known)
            op = rng.choice(["=", "!="] if isinstance(value, bool) else ["=", "!=", "<", "<=", ">", ">="])
            some = ", ".join(shown(each) for each in rng.sample(known, 4))
            by_id = f"id {rng.choice(['=', '!=', '<', '>='])} {shown(rng.choice(mixed)['id'])}"
            where = rng.choice([f"{name} {op} {shown(value)}", f"not {name} in ({some})", f"{name} is null", by_id])
            asked = {"views": {"image": features[0]}, "k": 80, "where": where}
            try:
                expected = answers(pair[0], **asked)
            except UnknownName:
                continue
            assert answers(pair[1], **asked) == expected, where
        pair[1].drop()

    def test_search_by_text_by_image_and_by_both(self, server, tmp_path):
        names, backbone = list(COLOURS), FakeBackbone()
        texts = [f"a {names[i % 4]} thing number {i}" for i in range(200)]
        features = backbone.encode("text", texts)
        model = bf.hasher("itq", n_bits=16, aligned=True).fit(
            {"image": features, "text": features}, sources=sources(backbone)
        )
        model.save(tmp_path / "model")
        pair = [
            bf.Collection.create(p, model=tmp_path / "model", backbone=backbone)
            for p in (tmp_path / "shop", f"{server.address}/words")
        ]
        for shop in pair:
            shop.add({"id": str(i), "text": text} for i, text in enumerate(texts))
        blue = Image.new("RGB", (8, 8), COLOURS["blue"])
        blue.save(tmp_path / "blue.png")
        words, picture = {"text": "a red thing"}, {"image": tmp_path / "blue.png"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # of a query far from the training data
            for asked in (
                words,
                picture,
                {**words, **picture},
                {**words, **picture, "weights": {"text": 1, "image": 2}},
            ):
                assert answers(pair[0], **asked) == answers(pair[1], **asked)
        pair[1].drop()

    def test_nothing_acknowledged_is_lost_when_the_server_is_killed(self, server, tmp_path):
        """500,000 codes with BITFUSE_MILVUS_ITEMS=500000 in the environment; 20,000 without."""
        n = int(os.environ.get("BITFUSE_MILVUS_ITEMS", "20000"))
        features = rows(1000, 1000)
        model, rng = model_in(tmp_path, features, 128), np.random.default_rng(3)
        codes = rng.integers(0, 256, (n // 2, 16), dtype=np.uint8)[rng.integers(0, n // 2, n)]
        codes[:, 12:] = 0  # nearer to each other, so that there are ties
        types = {"price": "int"}
        pair = [
            bf.Collection.create(p, model=model, filterable=types) for p in (tmp_path / "shop", f"{server.address}/big")
        ]
        taken = []
        for shop in pair:
            start = time.perf_counter()
            given = ({"id": f"p{i}", "price": i % 1000, "code": codes[i].tobytes()} for i in range(n))
            assert shop.add(given, batch_size=8192).added == n
            taken.append(n / (time.perf_counter() - start))
        print(f"added a second: {taken[0]:.0f} in a directory, {taken[1]:.0f} on the server")

        def compare(shops, searches):
            times = [[], []]
            for i in range(searches):
                for where in (None, "price < 10", "price between 100 and 600 and id != 'p150'"):
                    asked = {"code": bf.Codes(codes[i : i + 1], 128), "k": 20, "where": where}
                    found = []
                    for each, shop in zip(times, shops):
                        start = time.perf_counter()
                        found.append(answers(shop, **asked))
                        each.append(1000 * (time.perf_counter() - start))
                    assert found[0] == found[1], asked
            print("median ms:", *(f"{np.median(each):.1f}" for each in times))

        compare(pair, 5)
        for shop in pair:
            assert shop.delete([f"p{i}" for i in range(0, n, 10)]) == len(range(0, n, 10))
        compare(pair, 5)
        pair[1].close()
        server.kill()
        server.start()
        with bf.Collection.open(f"{server.address}/big?model={model}") as back:
            assert len(back) == len(pair[0]) == n - len(range(0, n, 10))
            compare((pair[0], back), 5)
            here, there = (
                [(each.item.id, each.code) for page in shop.stored() for each in page] for shop in (pair[0], back)
            )
            assert here == there
            back.drop()
        pair[0].close()
