"""Copying collections between stores, and items that come with their codes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from tests.fake_milvus import Server

import bitfuse as bf
from bitfuse.cli import exit_code, register
from bitfuse.errors import CollectionError, InputError
from bitfuse.search import copying
from bitfuse.search.copying import copy
from bitfuse.search.stores.milvus import table as tables

ROWS = np.random.default_rng(8).normal(size=(60, 12)).astype(np.float32)[np.arange(300) % 60]
HERE = "milvus://here/shop"


@pytest.fixture
def fake(monkeypatch):
    server = Server(limit=64)
    monkeypatch.setitem(sys.modules, "pymilvus", server.module())
    monkeypatch.setattr(tables, "LIMIT", server.limit)
    return server


@pytest.fixture
def model(tmp_path):
    bf.hasher("lsh", n_bits=12).fit({"image": ROWS}).save(tmp_path / "model")
    return tmp_path / "model"


def items(n=300):
    return [
        {"id": f"p{i}", "text": f"item {i}" if i % 3 else None, "price": i if i % 7 else None,
         "note": [1, "x", True][i % 3], "views": {"image": ROWS[i]}}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def shop(tmp_path, model):
    with bf.Collection.create(tmp_path / "shop", model=model, filterable={"price": "int"}) as shop:
        shop.add(items())
        shop.delete([f"p{i}" for i in range(0, 300, 11)])
        shop.update([{"id": "p5", "price": 99}])
        yield shop


def everything(collection):
    return [
        (each.item.id, each.item.text, each.item.attributes, each.item.digest, each.code)
        for page in collection.stored()
        for each in page
    ]


def answers(collection, **asked):
    return [(hit.id, hit.distance, hit.item) for hit in collection.search(**asked)]


def test_a_copy_of_a_directory_is_equal_in_all_but_its_rows(shop, tmp_path):
    report = copy(shop, tmp_path / "copy", searches=7)
    assert (report.items, report.searches, report.left_behind) == (len(shop), 7, [])
    with bf.Collection.open(tmp_path / "copy") as made:
        assert everything(made) == everything(shop)
        assert made.verify() == []
        assert made.settings == shop.settings
        for where in (None, "price < 150", "note = 'x'"):
            assert answers(made, views={"image": ROWS[3]}, k=200, where=where) == answers(
                shop, views={"image": ROWS[3]}, k=200, where=where
            )
        assert [h.id for h in made.search(views={"image": ROWS[3]}, k=9, rerank=True)] == [
            h.id for h in shop.search(views={"image": ROWS[3]}, k=9, rerank=True)
        ]
        assert set(made.add(items()[12:20]).skipped) == {(f"p{i}", "unchanged") for i in range(12, 20)}


def test_pictures_that_are_kept_go_along(tmp_path, model):
    with bf.Collection.create(tmp_path / "a", model=model, keep_images=True) as shop:
        shop.add(
            [{"id": "x", "image": b"picture", "views": {"image": ROWS[0]}}, {"id": "y", "views": {"image": ROWS[1]}}]
        )
        copy(shop, tmp_path / "b")
    with bf.Collection.open(tmp_path / "b") as made:
        assert made.picture("x") == b"picture"
        assert made.picture("y") is None


def test_there_and_back_again(shop, fake, tmp_path):
    report = copy(shop, HERE)
    assert report.left_behind == ["stored views"]
    assert report.model == shop.encoder.directory
    with bf.Collection.open(f"{HERE}?model={report.model}") as remote:
        assert everything(remote) == everything(shop)
        assert answers(remote, like="p10", k=60) == answers(shop, like="p10", k=60)
        copy(remote, tmp_path / "back")
        with pytest.raises(CollectionError, match="exists"):
            copy(remote, HERE)
    with bf.Collection.open(tmp_path / "back") as back:
        assert everything(back) == everything(shop)
        assert back.settings == {"filterable": {"price": "int"}, "store_views": False, "keep_images": False}
        assert answers(back, code=_code(shop, "p10"), k=300) == answers(shop, code=_code(shop, "p10"), k=300)


def _code(collection, name):
    return bf.Codes(np.frombuffer(next(c for i, *_, c in everything(collection) if i == name), np.uint8)[None], 12)


@pytest.mark.parametrize("place", ["directory", "server"])
def test_a_copy_that_answers_otherwise_is_removed(shop, fake, tmp_path, monkeypatch, place):
    target = HERE if place == "server" else tmp_path / "copy"
    monkeypatch.setattr(copying, "_nearest", lambda collection, code: [(str(id(collection)), 0)])
    with pytest.raises(CollectionError, match="answers otherwise"):
        copy(shop, target)
    assert not fake.collections
    assert not (tmp_path / "copy").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "shop"]


def test_a_copy_that_lost_an_item_is_removed(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(bf.Collection, "restore", lambda self, page: copying.restore(self._session, page[1:]))
    with pytest.raises(CollectionError, match="the copy holds"):
        copy(shop, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_target_that_is_there_or_has_another_model_is_refused(shop, fake, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(CollectionError, match="exists"):
        copy(shop, tmp_path / "taken")
    bf.hasher("lsh", n_bits=12, seed=4).fit({"image": ROWS}).save(tmp_path / "other")
    with pytest.raises(CollectionError, match="not the model"):
        copy(shop, f"{HERE}?model={tmp_path / 'other'}")
    assert not fake.collections


def test_restore_refuses_ids_that_are_there(shop, tmp_path):
    page = next(shop.stored())
    before = len(shop)
    with pytest.raises(CollectionError, match="there already"):
        shop.restore(page[:2])
    assert len(shop) == before


def run(*arguments, capsys):
    from bitfuse.cli import app

    register()
    app(args=[str(a) for a in arguments], standalone_mode=False)
    return capsys.readouterr().out


def test_the_command(shop, fake, tmp_path, capsys):
    told = run("copy", tmp_path / "shop", HERE, "--json", "--searches", 3, capsys=capsys)
    assert json.loads(told) == {
        "items": len(shop), "searches": 3, "left_behind": ["stored views"],
        "model": str(tmp_path / "shop" / "models" / "1"),
    }  # fmt: skip
    address = f"{HERE}?model={tmp_path / 'model'}"
    told = run("copy", address, tmp_path / "back", capsys=capsys)
    assert "sampled searches answer alike" in " ".join(told.split())
    found = [json.loads(run("search", at, "--like", "p10", "-k", 7, "--where", "price>3", "--json", capsys=capsys))
             for at in (tmp_path / "back", address)]  # fmt: skip
    assert found[0] == found[1]
    assert len(found[0]) == 7
    assert "1 deleted" in run("delete", address, "p10", "nobody", capsys=capsys)
    with pytest.raises(CollectionError) as raised:
        run("copy", address, tmp_path / "back", capsys=capsys)
    assert exit_code(raised.value) == 5


def test_index_on_a_server(fake, tmp_path, model, capsys):
    np.savez(tmp_path / "data.npz", image=ROWS, ids=np.array([f"p{i}" for i in range(300)]))
    with pytest.raises(InputError, match="--store needs --model"):
        run("index", tmp_path / "data.npz", "--store", HERE, capsys=capsys)
    for where in ((), ("--store", HERE, "--out", tmp_path / "x")):
        with pytest.raises(InputError, match="--out DIR, or --store"):
            run("index", tmp_path / "data.npz", *where, capsys=capsys)
    told = run("index", tmp_path / "data.npz", "--store", HERE, "--model", model, capsys=capsys)
    assert f"{HERE}?model={model}" in told.replace("\n", "")
    with bf.Collection.open(f"{HERE}?model={model}") as remote:
        assert len(remote) == 300


# --------------------------------------------------------------------------------------- items with their codes


def test_an_item_may_bring_its_code(shop, tmp_path, model):
    given = bf.Codes(np.array([[0b10110000, 0b11110000]], np.uint8), 12)
    report = shop.add([
        {"id": "packed", "code": given.packed.tobytes(), "price": 5},
        {"id": "codes", "code": given, "text": "words"},
        {"id": "both", "code": given, "views": {"image": ROWS[0]}},
        {"id": "plain", "code": "SKU-7", "views": {"image": ROWS[0]}},
    ])  # fmt: skip
    assert (report.added, report.skipped) == (4, [])
    assert [hit.id for hit in shop.search(code=given, radius=0, k=None)] == ["packed", "codes", "both"]
    assert shop.get("plain")["code"] == "SKU-7"
    assert "code" not in shop.get("packed")
    assert shop.verify() == []
    assert shop.add([{"id": "packed", "code": given, "price": 5}]).skipped == [("packed", "unchanged")]
    other = bf.Codes(np.array([[0b10110000, 0]], np.uint8), 12)
    assert shop.add([{"id": "packed", "code": other, "price": 5}]).replaced == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [(b"\0", "12 bits"), (b"\0\0\0", "12 bits"), (b"\0\x01", "beyond bit 12"),
     (bf.Codes(np.zeros((1, 2), np.uint8), 16), "16 bits"), (bf.Codes(np.zeros((2, 2), np.uint8), 12), "12 bits")],
)  # fmt: skip
def test_a_code_of_another_length_is_reported(shop, code, reason):
    report = shop.add([{"id": "new", "code": code}])
    assert report.added == 0
    assert reason in report.skipped[0][1]


def test_a_code_cannot_be_changed_alone(shop):
    report = shop.update([{"id": "p1", "code": b"\0\0"}])
    assert report.replaced == 0
    assert "use `add`" in report.skipped[0][1]
