"""A re-encoding that is killed: the old generation goes on, and the next attempt clears up what the first one left."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.search.reencode import _Reencoding

ROWS = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
WORDS = np.random.default_rng(1).normal(size=(120, 5)).astype(np.float32)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def nearest(shop, **views):
    return [(hit.id, hit.distance) for hit in shop.search(views=views, k=20)]


def killed(path, model, monkeypatch, method, call):
    """Re-encode in another process, which dies at a call of a method as it does by SIGKILL: nothing is cleared up."""
    calls, plain = [], getattr(_Reencoding, method)

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == call:
            os._exit(9)
        return plain(self, *arguments)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(_Reencoding, method, dying)
        with bf.Collection.open(path) as shop:
            shop.reencode(model, batch_size=25)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tables(path):
    database = sqlite3.connect(path / "items.db")
    try:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        database.close()


@pytest.mark.parametrize(("method", "call"), [("put", 1), ("put", 3), ("flip", 1)])
def test_killed_half_way_and_done_again(tmp_path, monkeypatch, method, call):
    path = tmp_path / "shop"
    first = bf.hasher("lsh", n_bits=16).fit({"image": ROWS, "text": WORDS})
    with bf.Collection.create(path, model=first) as shop:
        shop.add({"id": f"p{i}", "views": {"image": ROWS[i], "text": WORDS[i]}} for i in range(120))
        before = nearest(shop, image=ROWS[0], text=WORDS[0])
        shop.search(views={"image": ROWS[0], "text": WORDS[0]})
    elsewhere = {name: {"backbone": "another"} for name in ("image", "text")}
    second = bf.hasher("lsh", n_bits=12, seed=2).fit({"image": ROWS, "text": WORDS}, sources=elsewhere)
    other = bf.hasher("lsh", n_bits=20, seed=3).fit({"image": ROWS}, sources={"image": elsewhere["image"]})
    monkeypatch.setattr(_Reencoding, "read", read_views(_Reencoding.read))
    assert killed(path, second, monkeypatch, method, call) == 9
    assert {"codes_2", "views_2_0", "views_2_1"} <= tables(path)
    assert list(path.glob("models/2.*.partial"))
    with bf.Collection.open(path) as shop, bf.Collection.open(path) as reader:
        assert nearest(shop, image=ROWS[0], text=WORDS[0]) == before, "the old generation serves"
        assert shop.verify() == []
        shop.add([{"id": "late", "views": {"image": ROWS[5], "text": WORDS[5]}}])
        shop.reencode(other)
        assert shop.stats()["generation"] == reader.stats()["generation"] == 2
        assert [hit.distance for hit in reader.search(views={"image": ROWS[5]}, k=2)] == [0, 0]
        assert shop.verify() == reader.verify() == []
    assert {name for name in tables(path) if name.startswith(("codes_", "views_"))} == {"codes_2", "views_2_0"}
    assert sorted(place.name for place in (path / "models").iterdir()) == ["1", "2"]


def read_views(plain):
    """Items of arrays have nothing to extract views from: their stored ones stand in for it."""

    def read(self, rows):
        views, of = self.session.stored_views(rows), self.encoder.widths
        return [replace(one, views={name: views[one.row][name] for name in of}, item=None) for one in plain(self, rows)]

    return read
