from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from PIL import Image
from tests.fake_backbone import COLOURS, FakeBackbone, sources

import bitfuse as bf
from bitfuse.data.shapes import generate
from bitfuse.errors import (
    CollectionError,
    DamagedFile,
    InputError,
    MissingView,
    NotFitted,
    UnknownFormat,
    UnknownName,
)
from bitfuse.hashers.base import Hasher
from bitfuse.pipeline.extract import extract
from bitfuse.search import figures, writing
from bitfuse.search.items import pack_views, unpack_view
from bitfuse.search.resident import Resident
from bitfuse.search.stores.sqlite import file_system

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(400, 12)).astype(np.float32)
WORDS = RNG.normal(size=(400, 6)).astype(np.float32)


FIRST_FORMAT_HITS = [("item 23", 2), ("item 5", 4), ("item 2", 6), ("item 1", 7)]


def array_model(**views):
    return bf.hasher("lsh", n_bits=32).fit(views or {"image": ROWS})


def array_items(n=200, start=0):
    return [
        {
            "id": f"p{i}",
            "text": f"item {i}",
            "price": i,
            "kind": "even" if i % 2 == 0 else "odd",
            "views": {"image": ROWS[i]},
        }
        for i in range(start, start + n)
    ]


@pytest.fixture
def shop(tmp_path):
    with bf.Collection.create(tmp_path / "shop", model=array_model(), filterable={"price": "int"}) as shop:
        shop.add(array_items(), batch_size=64)
        yield shop


def picture(colour: str, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), COLOURS[colour]).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def backbone():
    return FakeBackbone()


@pytest.fixture(scope="module")
def fused(backbone):
    """Aligned ITQ over both views: answers a text, a picture, or both."""
    names = list(COLOURS)
    texts = [f"a {names[i % 4]} thing number {i}" for i in range(240)]
    pictures = [Image.open(io.BytesIO(picture(names[i % 4]))).convert("RGB") for i in range(240)]
    noise = np.random.default_rng(0).normal(size=(240, 24)).astype(np.float32)
    views = {"text": backbone.encode("text", texts), "image": backbone.encode("image", pictures) + 0.3 * noise}
    return bf.hasher("itq", n_bits=16, aligned=True).fit(views, sources=sources(backbone))


@pytest.fixture
def photos(tmp_path, fused, backbone):
    for colour in COLOURS:
        (tmp_path / f"{colour}.png").write_bytes(picture(colour))
    with bf.Collection.create(tmp_path / "photos", model=fused, backbone=backbone) as shop:
        report = shop.add(
            {"id": c, "image": tmp_path / f"{c}.png", "text": f"a {c} thing", "colour": c} for c in COLOURS
        )
        assert (report.added, report.skipped) == (4, [])
        yield shop


def ids(hits):
    return [hit.id for hit in hits]


# -- searching ---------------------------------------------------------------------------------------------------------


def expected(codes: bf.Codes, query: bf.Codes, k: int, allowed=None) -> list[int]:
    distances = query.hamming(codes)[0]
    return [i for _, i in sorted((int(d), i) for i, d in enumerate(distances) if allowed is None or allowed(i))][:k]


def test_search_is_exact_and_orders_ties_by_insertion(shop):
    codes = array_model().encode({"image": ROWS[:200]})
    for q in range(250, 260):
        query = array_model().encode({"image": ROWS[q : q + 1]})
        hits = shop.search(views={"image": ROWS[q]}, k=15)
        assert ids(hits) == [f"p{i}" for i in expected(codes, query, 15)]
        assert [h.distance for h in hits] == [int(query.hamming(codes)[0, int(h.id[1:])]) for h in hits]
        some = shop.search(views={"image": ROWS[q]}, k=5, where="price >= 100 and kind = 'odd'")
        assert ids(some) == [f"p{i}" for i in expected(codes, query, 5, lambda i: i >= 100 and i % 2)]
        near = shop.search(code=query, k=None, radius=10)
        assert ids(near) == [f"p{i}" for i in expected(codes, query, 200) if query.hamming(codes)[0, i] <= 10]


def test_a_hit_carries_its_item(shop):
    hit = shop.search(views={"image": ROWS[5]}, k=1)[0]
    assert hit.item == {"id": "p5", "text": "item 5", "image": None, "price": 5, "kind": "odd"}
    assert json.loads(json.dumps(hit.to_dict()))["item"]["price"] == 5


def test_like_leaves_the_item_itself_out(shop):
    codes = array_model().encode({"image": ROWS[:200]})
    assert ids(shop.search(like="p7", k=6)) == [f"p{i}" for i in expected(codes, codes[7], 7) if i != 7][:6]
    with pytest.raises(InputError, match="no item of this id"):
        shop.search(like="nobody")


def test_text_image_and_both(photos, tmp_path):
    for colour in COLOURS:
        assert ids(photos.search(text=f"a {colour} thing", k=1)) == [colour]
        assert ids(photos.search(image=tmp_path / f"{colour}.png", k=1)) == [colour]
        assert ids(photos.search(image=picture(colour), text=f"a {colour} thing", k=1)) == [colour]


def test_pocket_is_loaded_by_name_when_it_is_needed(tmp_path):
    """The way of a catalogue: pictures alone, a model that records its backbone, words that were never seen."""
    scenes = extract(generate(48), bf.backbone("pocket"))[0]
    model = bf.hasher("itq", n_bits=12, aligned=True).fit(scenes.views, sources=scenes.sources)
    with bf.Collection.create(tmp_path / "s", model=model) as shop:
        assert shop.add({"id": i, "image": image} for i, image in zip(scenes.ids, scenes.images)).added == 48
    with bf.Collection.open(tmp_path / "s") as shop:
        stored = shop.search(views={"image": scenes.views["image"][3]}, k=1)[0]
        assert (stored.id, stored.distance) == (scenes.ids[3], 0)
        ranks = []
        for i in range(0, 48, 8):
            found = ids(shop.search(text=scenes.texts[i], k=48, rerank=True))
            ranks.append(found.index(scenes.ids[i]))
        assert np.median(ranks) < 6, "a caption finds its picture among the first eighth"


def test_weights_are_the_sign_of_the_weighted_sum(photos, fused, backbone):
    text = backbone.encode("text", ["a red thing"])
    image = backbone.encode("image", [Image.open(io.BytesIO(picture("blue"))).convert("RGB")])
    for w in (0.0, 0.3, 0.8, 1.0):
        z = w * fused.project({"image": image}) + (1 - w) * fused.project({"text": text})
        same = photos.search(code=bf.Codes.from_real(z), k=4)
        hits = photos.search(text="a red thing", image=picture("blue"), weights={"image": w, "text": 1 - w}, k=4)
        assert [(h.id, h.distance) for h in hits] == [(h.id, h.distance) for h in same]
    with pytest.raises(InputError, match="weights must be"):
        photos.search(text="a red thing", weights={"text": 0})
    with pytest.raises(InputError, match="weights must be"):
        photos.search(text="a red thing", weights={"text": -1})


def test_rerank_orders_by_the_stored_views(shop):
    rows = ROWS[:200] / np.linalg.norm(ROWS[:200], axis=1, keepdims=True)
    for q in range(250, 255):
        cosine = rows @ ROWS[q]
        hits = shop.search(views={"image": ROWS[q]}, k=20, rerank=True)  # 20 x 10 candidates: all items
        assert ids(hits) == [f"p{i}" for i in np.argsort(-cosine, kind="stable")[:20]]
        assert np.all(np.diff([h.score for h in hits]) <= 0)
    assert ids(shop.search(like="p3", k=20, rerank=True)) == [f"p{i}" for i in np.argsort(-(rows @ rows[3]))[1:21]]


def test_rerank_compares_across_views_of_an_aligned_backbone(tmp_path, fused):
    with bf.Collection.create(tmp_path / "s", model=fused, backbone=FakeBackbone()) as shop:
        shop.add({"id": c, "image": picture(c)} for c in COLOURS)
        assert ids(shop.search(text="red", k=1, rerank=True)) == ["red"]  # words never warn: training has sentences


def test_explain(photos):
    hit = photos.search(text="a red thing", image=picture("red"), k=1, where="colour = 'red'", explain=True)[0]
    said = hit.explanation
    assert said["views"] == ["text", "image"]
    assert set(said["distance_by_view"]) == {"text", "image"}
    assert said["answered"] in said["distance_by_view"]
    assert len(said["differing_bits"]) == hit.distance
    assert "SQL" in said["filter"]["colour"]
    assert photos.search(text="a red thing", k=1)[0].explanation is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "one of the three"),
        ({"text": "x", "like": "p1"}, "one of the three"),
        ({"like": "p1", "k": 0}, "k must be"),
        ({"like": "p1", "k": True}, "k must be"),
        ({"like": "p1", "k": None}, "name k"),
        ({"like": "p1", "radius": -1}, "radius must be"),
        ({"like": "p1", "weights": {"image": 1}}, "weights"),
        ({"code": bf.Codes(np.zeros((1, 1), np.uint8), 8)}, "one code of 32 bits"),
        ({"code": bf.Codes(np.zeros((2, 4), np.uint8), 32)}, "one code of 32 bits"),
        ({"text": "red dress"}, "no 'text' view"),
        ({"views": {"text": ROWS[0]}}, "unknown view 'text'"),
        ({"views": {"image": ROWS[0][:5]}}, "12 numbers"),
        ({"views": {"image": ROWS[0] * np.inf}}, "NaN or infinite"),
        ({"views": {}}, "no view has a value"),
    ],
)
def test_bad_searches_say_what_is_wrong(shop, asked, message):
    with pytest.raises(InputError, match=message):
        shop.search(**asked)


def test_bad_words_and_pictures(photos, tmp_path):
    with pytest.raises(InputError, match="non-empty"):
        photos.search(text="  ")
    with pytest.raises(InputError, match="no such file"):
        photos.search(image=tmp_path / "nothing.png")
    with pytest.raises(InputError, match="not a picture"):
        photos.search(image=b"not a picture")


def test_a_model_fitted_on_arrays_cannot_encode_pictures(shop):
    with pytest.raises(CollectionError, match="fitted on arrays"):
        shop.search(image=picture("red"))
    with pytest.raises(CollectionError, match="fitted on arrays"):
        shop.add([{"id": "new", "image": picture("red")}])


def test_an_empty_collection_answers(tmp_path):
    with bf.Collection.create(tmp_path / "s", model=array_model(), filterable={"price": "int"}) as shop:
        assert shop.search(views={"image": ROWS[0]}, where="price < 5", rerank=True, explain=True) == []
        assert shop.dedupe() == []
        assert len(shop) == shop.count("price is null") == 0
        assert shop.stats()["items"] == 0
        shop.compact()
        assert shop.verify() == []


class _Pairs(Hasher):
    """A fused-only method: it cannot do without any view."""

    data_driven = False
    year, reference = 2024, "test"

    def _fit(self, batch, labels, *, device):
        width = sum(a.shape[1] for a in batch.arrays.values())
        return {"w": np.random.default_rng(self.seed).normal(size=(width, self.n_bits))}, {}

    def _project(self, state, batch, space, *, device):
        return batch.concatenated() @ state["w"]


class _Cross(Hasher):
    """A cross-modal method: one code for each view, compared with each other."""

    data_driven = False
    spaces = ("image", "text")
    accepts_missing = "query"
    year, reference = 2024, "test"

    def _fit(self, batch, labels, *, device):
        rng = np.random.default_rng(self.seed)
        return {k: rng.normal(size=(a.shape[1], self.n_bits)) for k, a in batch.arrays.items()}, {}

    def _project(self, state, batch, space, *, device):
        return batch.arrays[space] @ state[space]


def test_a_fused_only_model_says_what_it_needs(tmp_path):
    model = _Pairs(n_bits=16).fit({"image": ROWS, "text": WORDS})
    with bf.Collection.create(tmp_path / "s", model=model) as shop:
        report = shop.add(
            [{"id": "both", "views": {"image": ROWS[0], "text": WORDS[0]}}, {"id": "one", "views": {"image": ROWS[1]}}]
        )
        assert report.added == 1
        assert report.skipped == [("one", "it has no 'text' view, and _Pairs codes need ['image', 'text']")]
        assert ids(shop.search(views={"image": ROWS[0], "text": WORDS[0]})) == ["both"]
        with pytest.raises(MissingView, match="search with all of them") as caught:
            shop.search(views={"image": ROWS[0]})
        assert caught.value.view == "text"
        with pytest.raises(MissingView, match="without weights"):
            shop.search(views={"image": ROWS[0], "text": WORDS[0]}, weights={"image": 1, "text": 1})


def test_a_cross_modal_model_sums_distances(tmp_path):
    model = _Cross(n_bits=32).fit({"image": ROWS, "text": WORDS})
    items = [{"id": f"b{i}", "views": {"image": ROWS[i], "text": WORDS[i]}} for i in range(20)]
    items += [{"id": f"t{i}", "views": {"text": WORDS[i]}} for i in range(20, 40)]
    with bf.Collection.create(tmp_path / "s", model=model) as shop:
        assert shop.add(items).added == 40
        codes = bf.Codes.concatenate(
            [model.encode({"image": ROWS[:20]}, "image"), model.encode({"text": WORDS[20:40]}, "text")]
        )
        to_image = model.encode({"image": ROWS[50:51]}, "image").hamming(codes)[0]
        to_text = model.encode({"text": WORDS[50:51]}, "text").hamming(codes)[0]
        assert ids(shop.search(views={"text": WORDS[50]}, k=3)) == [
            items[i]["id"] for i in np.argsort(to_text, kind="stable")[:3]
        ]
        for w, given in [(0.5, None), (0.25, {"image": 1, "text": 3})]:
            mean = w * to_image + (1 - w) * to_text
            hits = shop.search(views={"image": ROWS[50], "text": WORDS[50]}, weights=given, k=7)
            order = np.argsort(mean, kind="stable")[:7]
            assert ids(hits) == [items[i]["id"] for i in order]
            assert [h.distance for h in hits] == pytest.approx(mean[order])


# -- adding, changing, deleting ----------------------------------------------------------------------------------------


def test_adding_twice_changes_nothing(shop):
    report = shop.add(array_items())
    assert (report.added, report.replaced) == (0, 0)
    assert report.skipped == [(f"p{i}", "unchanged") for i in range(200)]


def test_conflicts(shop):
    other = {**array_items(1)[0], "price": 1000}
    assert shop.add([other], on_conflict="skip").skipped == [("p0", "there already, with other content")]
    with pytest.raises(CollectionError, match="'p0' and other content"):
        shop.add([*array_items(1, start=300), other], on_conflict="error")
    assert shop.get("p0")["price"] == 0
    assert shop.get("p300") is None, "the batch of the conflict is stored whole or not at all"
    assert shop.add([other]).replaced == 1
    assert shop.get("p0")["price"] == 1000
    with pytest.raises(InputError, match="on_conflict"):
        shop.add([other], on_conflict="merge")


def test_the_same_id_twice_in_one_call(shop):
    first, second = ({"id": "twice", "price": p, "views": {"image": ROWS[p]}} for p in (1, 2))
    report = shop.add([first, second, second])
    assert (report.added, report.replaced, report.skipped) == (1, 1, [("twice", "unchanged")])
    assert shop.get("twice")["price"] == 2


def test_a_replaced_item_keeps_its_place_among_ties(tmp_path):
    with bf.Collection.create(tmp_path / "s", model=array_model()) as shop:
        shop.add({"id": name, "views": {"image": ROWS[0]}} for name in "abcd")
        shop.add([{"id": "b", "text": "new", "views": {"image": ROWS[1]}}])
        shop.add([{"id": "b", "text": "newer", "views": {"image": ROWS[0]}}])
        shop.update([{"id": "c", "views": {"image": ROWS[2]}}])
        shop.update([{"id": "c", "views": {"image": ROWS[0]}}])
        assert ids(shop.search(views={"image": ROWS[0]}, k=4)) == list("abcd")
        shop.delete("a")
        shop.add([{"id": "a", "views": {"image": ROWS[0]}}])
        assert ids(shop.search(views={"image": ROWS[0]}, k=4)) == list("bcda")
        shop.compact()
        assert ids(shop.search(views={"image": ROWS[0]}, k=4)) == list("bcda")


def test_bad_items_are_reported_and_the_others_stored(shop):
    good = {"views": {"image": ROWS[0]}}
    report = shop.add(
        [
            "no mapping",
            {"views": {"image": ROWS[0]}},
            {"id": "", **good},
            {"id": "x" * 513, **good},
            {"id": "nul\0", **good},
            {"id": "t", "text": 5, **good},
            {"id": "i", "image": 5, **good},
            {"id": "v", "views": {"image": ROWS[0][:3]}},
            {"id": "n", "views": {"image": [np.nan, *ROWS[0][1:]]}},
            {"id": "none", "views": {"image": np.full(12, np.nan)}},
            {"id": "price", "price": "cheap", **good},
            {"id": "list", "tags": ["a"], **good},
            {"id": "inf", "size": float("inf"), **good},
            {"id": "big", "size": 2**63, **good},
            {"id": "quote", 'a"b': 1, **good},
            {"id": "half", "note": "\ud800", **good},
            {"id": "good", "size": np.float32(2.5), "n": np.int64(3), "nothing": None, "gap": float("nan"), **good},
        ]
    )
    assert report.added == 1
    assert [name for name, _ in report.skipped] == [
        *("#0", "#1", "#2", "x" * 513, "nul\0", "t", "i", "v", "n", "none"),
        *("price", "list", "inf", "big", "quote", "half"),
    ]
    assert all(reason for _, reason in report.skipped)
    item = shop.get("good")
    assert (item["size"], item["n"], item["nothing"], item["gap"]) == (2.5, 3, None, None)
    assert shop.verify() == []


def test_bad_pictures_are_reported(photos, tmp_path):
    (tmp_path / "cut.png").write_bytes(picture("red", 64)[:60])
    report = photos.add(
        [
            {"id": "cut", "image": tmp_path / "cut.png"},
            {"id": "gone", "image": tmp_path / "gone.png"},
            {"id": "text too", "image": b"rubbish", "text": "a red thing"},
            {"id": "nothing", "price": 3},
            {"id": "bytes", "image": picture("green")},
        ]
    )
    assert report.added == 2
    reasons = dict(report.skipped)
    assert set(reasons) == {"cut", "gone", "text too", "nothing"}
    assert "no such file" in reasons["gone"]
    assert reasons["text too"].endswith("(kept with its other views)")
    assert set(ids(photos.search(text="a red thing", k=2))) == {"red", "text too"}


def test_items_stream_and_commits_are_reported(tmp_path):
    with bf.Collection.create(tmp_path / "s", model=array_model()) as shop:
        told, seen = [], []

        def stream():
            for item in array_items(10):
                seen.append(len(told))
                yield item

        def on_commit(names):
            with bf.Collection.open(tmp_path / "s") as other:
                assert all(other.get(name) for name in names), "told before it was committed"
            told.extend(names)

        shop.add(stream(), batch_size=4, on_commit=on_commit)
        assert told == [f"p{i}" for i in range(10)]
        assert seen == [0, 0, 0, 0, 0, 4, 4, 4, 4, 8]


def test_update_changes_parts(photos):
    report = photos.update(
        [{"id": "red", "price": 5}, {"id": "blue", "text": "a yellow thing"}, {"id": "nobody", "price": 1},
         {"id": "green", "text": None, "image": None}, {"price": 3}]
    )  # fmt: skip
    assert report.replaced == 2
    assert [name for name, _ in report.skipped] == ["#4", "nobody", "green"]
    assert photos.get("red")["price"] == 5
    assert photos.get("red")["text"] == "a red thing"
    assert photos.get("green")["text"] == "a green thing", "a change that cannot be carried out leaves the item alone"
    assert photos.verify() == []
    blue = photos.search(text="a yellow thing", k=2)
    assert "blue" in ids(blue)
    again = photos.update([{"id": "blue", "image": picture("yellow")}])
    assert again.replaced == 1
    hits = photos.search(text="a yellow thing", image=picture("yellow"), k=2)
    assert set(ids(hits)) == {"yellow", "blue"}
    assert hits[0].distance == hits[1].distance


def test_update_without_stored_views_goes_back_to_the_originals(tmp_path, fused, backbone):
    (tmp_path / "red.png").write_bytes(picture("red"))
    with bf.Collection.create(tmp_path / "s", model=fused, backbone=backbone, store_views=False) as shop:
        shop.add([{"id": "a", "image": tmp_path / "red.png", "text": "a red thing"}])
        shop.add([{"id": "b", "image": tmp_path / "red.png", "text": "a blue thing"}])
        assert shop.update([{"id": "b", "text": "a red thing"}]).replaced == 1
        assert [h.distance for h in shop.search(like="a", k=1)] == [0]
        with pytest.raises(InputError, match="stored views"):
            shop.search(text="a red thing number 7", rerank=True)


def test_delete_and_add_again(shop):
    assert shop.delete(["p1", "p2", "nobody"]) == 2
    assert shop.delete("p3") == 1
    assert shop.delete([]) == 0
    assert len(shop) == 197
    assert shop.get("p1") is None
    assert "p1" not in ids(shop.search(views={"image": ROWS[1]}, k=300))
    assert shop.count("price < 4") == 1
    assert shop.add(array_items(1, start=1)).added == 1
    assert ids(shop.search(views={"image": ROWS[1]}, k=1)) == ["p1"]
    assert shop.verify() == []
    with pytest.raises(InputError):
        shop.delete([""])


def test_many_changes_fold_into_a_new_index():
    """More than 4096 changed codes: the index is built anew, and answers stay exact."""
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (9000, 2), np.uint8)
    rows = np.arange(9000) * 3 + 1
    resident = Resident(16, rows, packed.copy())
    changed = np.sort(rng.permutation(9000)[:5000])
    for part in np.array_split(changed, 3):
        packed[part] = rng.integers(0, 256, (len(part), 2), np.uint8)
        resident.put(rows[part], packed[part])
    dead = rng.permutation(9000)[:100]
    resident.kill(rows[dead])
    alive = np.ones(9000, bool)
    alive[dead] = False
    assert len(resident) == 8900
    assert np.array_equal(resident.alive, alive)
    assert np.array_equal(resident.packed(), packed)
    mask = rng.random(9000) < 0.3
    for allow in (None, mask):
        query = bf.Codes(rng.integers(0, 256, (1, 2), np.uint8), 16)
        distances = query.hamming(bf.Codes(packed, 16))[0]
        usable = np.flatnonzero(alive if allow is None else alive & allow)
        order = usable[np.argsort(distances[usable], kind="stable")[:50]]
        found = resident.search(query, 50, None, None if allow is None else resident.allowed(allow))
        assert np.array_equal(found[1], order)
        assert np.array_equal(found[0], distances[order])


# -- opening, refusing, keeping ----------------------------------------------------------------------------------------


def test_reopened_it_is_the_same(shop, tmp_path):
    before = [(h.id, h.distance) for h in shop.search(views={"image": ROWS[300]}, k=30)]
    for compacted in (False, True):
        if compacted:
            shop.compact()
        with bf.Collection.open(tmp_path / "shop") as again:
            assert [(h.id, h.distance) for h in again.search(views={"image": ROWS[300]}, k=30)] == before
            assert again.stats()["code_file"] == ("mapped" if compacted else "none; compact writes it")
    shop.add(array_items(10, start=200))
    shop.delete("p0")
    shop.update([{"id": "p1", "views": {"image": ROWS[399]}}])
    after = [(h.id, h.distance) for h in shop.search(views={"image": ROWS[300]}, k=300)]
    with bf.Collection.open(tmp_path / "shop") as again:
        assert [(h.id, h.distance) for h in again.search(views={"image": ROWS[300]}, k=300)] == after
        assert again.stats()["not_compacted"] == 12


def test_a_reader_sees_commits_without_reopening(shop, tmp_path):
    with bf.Collection.open(tmp_path / "shop") as reader:
        assert reader.count("price >= 150") == 50
        shop.add(array_items(5, start=200))
        assert len(reader) == 205
        assert reader.count("price >= 150") == 55
        assert ids(reader.search(views={"image": ROWS[203]}, k=1)) == ["p203"]
        shop.update([{"id": "p203", "price": 0}])
        assert reader.count("price >= 150") == 54
        shop.delete([f"p{i}" for i in range(100)])
        shop.compact()
        assert len(reader) == 105
        assert reader.get("p50") is None
        assert reader.count("price >= 150") == 54


def test_create_refuses(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(CollectionError, match="exists"):
        bf.Collection.create(tmp_path / "taken", model=array_model())
    with pytest.raises(NotFitted):
        bf.Collection.create(tmp_path / "s", model=bf.hasher("lsh"))
    with pytest.raises(InputError, match="not a Bitfuse model"):
        bf.Collection.create(tmp_path / "s", model=tmp_path / "taken")
    with pytest.raises(UnknownName, match="type of attribute"):
        bf.Collection.create(tmp_path / "s", model=array_model(), filterable={"price": "number"})
    for name in ("id", 'a"b', ""):
        with pytest.raises(InputError):
            bf.Collection.create(tmp_path / "s", model=array_model(), filterable={name: "int"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"], "nothing half-made is left"
    (tmp_path / "empty").mkdir()
    bf.Collection.create(tmp_path / "empty", model=array_model()).close()


def test_open_refuses(shop, tmp_path):
    for place, error in [(tmp_path / "nothing", InputError), (tmp_path, DamagedFile), ("milvus://host", InputError)]:
        with pytest.raises(error):
            bf.Collection.open(place)
    with pytest.raises(InputError, match="batch_size"):
        shop.add([], batch_size=0)
    shop.close()
    shop.close()
    with pytest.raises(CollectionError, match="closed"):
        shop.get("p1")


def test_another_backbone_is_refused(photos, fused, tmp_path):
    photos.close()
    with pytest.raises(CollectionError, match=r"sha256:1.*recorded.*sha256:2"):
        bf.Collection.open(tmp_path / "photos", backbone=FakeBackbone("sha256:2"))
    with pytest.raises(CollectionError, match="another backbone"):
        bf.Collection.create(tmp_path / "other", model=fused, backbone=FakeBackbone("sha256:2"))
    with pytest.raises(CollectionError, match="another backbone"):
        bf.Collection.create(tmp_path / "other", model=array_model(), backbone=FakeBackbone())
    moved = FakeBackbone()
    moved.name = "the same weights in another place"
    with bf.Collection.open(tmp_path / "photos", backbone=moved) as again:
        assert ids(again.search(text="a red thing", k=1)) == ["red"]


def test_another_model_is_refused(shop, tmp_path):
    shop.close()
    bf.hasher("lsh", n_bits=32, seed=9).fit({"image": ROWS}).save(tmp_path / "shop" / "models" / "1")
    with pytest.raises(CollectionError, match="not the model that made"):
        bf.Collection.open(tmp_path / "shop")


def test_a_newer_format_is_refused(shop, tmp_path):
    shop.close()
    with sqlite3.connect(tmp_path / "shop" / "items.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(UnknownFormat, match="format 99"):
        bf.Collection.open(tmp_path / "shop")


def test_a_collection_of_the_first_format_still_opens(tmp_path):
    shutil.copytree(Path(__file__).parent / "formats" / "collection-1", tmp_path / "shop")
    before = (tmp_path / "shop" / "codes.bin").read_bytes()
    with bf.Collection.open(tmp_path / "shop") as shop:
        assert shop.stats()["code_file"] == "mapped"
        assert shop.verify() == []
        assert len(shop) == 28
        hits = shop.search(like="item 10", k=4, where="kind in ('Schuh', 'größer') and not price is null", rerank=True)
        assert [(h.id, h.distance) for h in hits] == FIRST_FORMAT_HITS
        assert shop.get("item 7") == {
            "id": "item 7",
            "text": "the item of number 7",
            "image": None,
            "price": 1.75,
            "stock": 1,
            "kind": "Schuh",
            "new": None,
            "colour": "red",
        }
        assert shop.count("new = true and colour = 'red'") == 12
        assert shop.add([{"id": "one more", "views": {"image": np.ones(6)}}]).added == 1
    assert (tmp_path / "shop" / "codes.bin").read_bytes() == before


def test_network_file_systems_are_told(tmp_path, monkeypatch):
    mounts = "/dev/sda / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\nserver:/y /data/my\\040home ext4 rw 0 0\n"
    for path, kind in [
        ("/data/shop", "nfs4"),
        ("/data/my home/shop", "ext4"),
        ("/database/shop", "ext4"),
        ("/", "ext4"),
    ]:
        assert file_system(Path(path), mounts) == kind
    monkeypatch.setattr("bitfuse.search.stores.sqlite.file_system", lambda path, mounts: "nfs4")
    with pytest.raises(CollectionError, match="network file system"):
        bf.Collection.create(tmp_path / "s", model=array_model())


def test_a_model_directory_keeps_its_attachments(tmp_path):
    array_model().save(tmp_path / "model", attachments={"heldout.txt": b"p1"})
    with bf.Collection.create(tmp_path / "s", model=tmp_path / "model") as shop:
        assert shop.add(array_items(3)).added == 3
    assert (tmp_path / "s" / "models" / "1" / "heldout.txt").read_bytes() == b"p1"


def test_settings_of_the_database(shop):
    store = shop._session.store
    assert store.value("PRAGMA journal_mode") == "wal"
    assert store.value("PRAGMA synchronous") == 2
    assert store.value("PRAGMA trusted_schema") == 0


def test_pictures_are_kept_only_when_asked(tmp_path, fused, backbone):
    (tmp_path / "red.png").write_bytes(picture("red"))
    items = [{"id": "path", "image": str(tmp_path / "red.png")}, {"id": "bytes", "image": picture("blue")}]
    for keep in (False, True):
        with bf.Collection.create(tmp_path / f"s{keep}", model=fused, backbone=backbone, keep_images=keep) as shop:
            shop.add(items)
            assert shop.get("path")["image"] == str(tmp_path / "red.png")
            assert shop.picture("path") == (picture("red") if keep else tmp_path / "red.png")
            assert shop.picture("bytes") == (picture("blue") if keep else None)
            assert shop.picture("nobody") is None


def test_views_are_stored_to_eleven_bits_whatever_their_range():
    for scale in (1e-30, 1e-3, 1, 1e5, 1e30, 3e38):
        row = np.clip(RNG.normal(size=50), -1, 1).astype(np.float32) * np.float32(scale)
        assert np.abs(unpack_view(pack_views(row[None])[0]) - row).max() <= np.abs(row).max() * 2**-11
    assert not unpack_view(pack_views(np.zeros((1, 3), np.float32))[0]).any()


# -- looking after -----------------------------------------------------------------------------------------------------


def test_backup_is_a_collection_of_its_own(shop, tmp_path):
    shop.compact()
    shop.backup(tmp_path / "copy")
    shop.delete([f"p{i}" for i in range(150)])
    with bf.Collection.open(tmp_path / "copy") as copy:
        assert len(copy) == 200
        assert copy.verify() == []
        assert copy.stats()["code_file"] == "mapped"
    with pytest.raises(CollectionError, match="exists"):
        shop.backup(tmp_path / "copy")


def test_export(shop, tmp_path):
    shop.update([{"id": "p4", "price": None}])
    assert shop.export(tmp_path / "all.parquet", views=True) == 200
    table = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert [r["id"] for r in table] == [f"p{i}" for i in range(200)]
    assert [r["price"] for r in table[3:6]] == [3, None, 5]
    assert json.loads(table[7]["attributes"]) == {"price": 7, "kind": "odd"}
    codes = np.frombuffer(b"".join(r["code"] for r in table), np.uint8).reshape(200, 4)
    assert np.array_equal(codes, array_model().encode({"image": ROWS[:200]}).packed)
    assert np.allclose([r["view_image"] for r in table], ROWS[:200], atol=2e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.parquet", "shop"]


def test_export_of_every_type(tmp_path):
    types = {"b": "bool", "s": "str", "f": "float"}
    with bf.Collection.create(tmp_path / "s", model=array_model(), filterable=types, store_views=False) as shop:
        shop.add([{"id": "a", "b": True, "s": "x", "f": 2, "views": {"image": ROWS[0]}},
                  {"id": "b", "views": {"image": ROWS[0]}}])  # fmt: skip
        shop.export(tmp_path / "x.parquet")
        a, b = pq.read_table(tmp_path / "x.parquet").to_pylist()
        assert (a["b"], a["s"], a["f"]) == (True, "x", 2.0)
        assert (b["b"], b["s"], b["f"]) == (None, None, None)
        with pytest.raises(InputError, match="without stored views"):
            shop.export(tmp_path / "y.parquet", views=True)


def test_reencode(shop, tmp_path):
    new = bf.hasher("itq", n_bits=16).fit({"image": ROWS})
    with bf.Collection.open(tmp_path / "shop") as reader:
        assert reader.stats()["n_bits"] == 32
        shop.compact()
        shop.reencode(new, batch_size=64)
        for each in (shop, reader):
            assert each.stats()["n_bits"] == 16
            assert each.stats()["method"] == "ITQ"
            assert ids(each.search(views={"image": ROWS[9]}, k=1)) == ["p9"]
            assert each.count("price < 10") == 10
        stored = {h.id: h.distance for h in reader.search(views={"image": ROWS[300]}, k=200)}
        exact = new.encode({"image": ROWS[300:301]}).hamming(new.encode({"image": ROWS[:200]}))[0]
        assert np.mean([abs(stored[f"p{i}"] - exact[i]) for i in range(200)]) < 0.05, "float16 moves few bits"
    assert shop.verify() == []
    assert shop.add(array_items(3, start=200)).added == 3
    shop.compact()
    assert sorted(p.name for p in (tmp_path / "shop" / "models").iterdir()) == ["2"]
    with bf.Collection.open(tmp_path / "shop") as again:
        assert len(again) == 203


def test_reencode_while_items_change(shop, tmp_path, monkeypatch):
    """Items added, changed and deleted between the batches of a re-encoding are in the new generation as they are."""
    from bitfuse.search import reencode as module

    writer = bf.Collection.open(tmp_path / "shop")
    calls = []
    make = module._Reencoding.make

    def meanwhile(self, sources):
        calls.append(len(sources))
        if len(calls) == 2:
            writer.add(array_items(10, start=200))
            writer.delete(["p0", "p150"])
            writer.update([{"id": "p1", "views": {"image": ROWS[350]}}])
        return make(self, sources)

    monkeypatch.setattr(module._Reencoding, "make", meanwhile)
    new = bf.hasher("lsh", n_bits=24, seed=5).fit({"image": ROWS})
    shop.reencode(new, batch_size=50)
    writer.close()
    assert shop.verify() == []
    assert len(shop) == 208
    assert shop.get("p0") is None
    assert [(h.id, h.distance) for h in shop.search(views={"image": ROWS[350]}, k=1)] == [("p1", 0)]
    assert ids(shop.search(views={"image": ROWS[205]}, k=1)) == ["p205"]


def test_items_meet_a_reencoding_and_another_writer(shop, tmp_path, monkeypatch):
    """What changed between encoding a batch and storing it makes the batch be encoded again, and loses nothing."""
    other = bf.Collection.open(tmp_path / "shop")
    new = bf.hasher("lsh", n_bits=24, seed=5).fit({"image": ROWS})
    plain, calls = writing.encoded, []

    def meanwhile(*arguments):
        made = plain(*arguments)
        calls.append(len(calls))
        if len(calls) == 1:
            other.reencode(new)
        elif len(calls) == 2:
            other.add([{"id": "p200", "views": {"image": ROWS[1]}}, {"id": "theirs", "views": {"image": ROWS[2]}}])
        return made

    monkeypatch.setattr(writing, "encoded", meanwhile)
    report = shop.add(array_items(3, start=200))
    other.close()
    assert (report.added, report.replaced) == (2, 1)
    assert len(shop) == 204
    assert shop.verify() == []
    assert [(h.id, h.distance) for h in shop.search(views={"image": ROWS[200]}, k=1)] == [("p200", 0)]


def test_reencode_to_another_backbone_extracts_again(photos, tmp_path):
    other = FakeBackbone("sha256:2")
    texts = other.encode("text", [f"a {c} thing {i}" for i in range(60) for c in COLOURS])
    model = bf.hasher("itq", n_bits=8).fit({"text": texts}, sources={"text": other.describe("text")})
    photos.reencode(model, backbone=other)
    assert ids(photos.search(text="a red thing", k=1, rerank=True)) == ["red"]
    assert photos.stats()["stored_views"] == ["text"]
    assert photos.verify() == []


def test_a_reencoding_that_cannot_be_done_changes_nothing(shop, photos):
    before = shop.stats()
    words = bf.hasher("lsh", n_bits=8).fit({"text": WORDS})
    with pytest.raises(CollectionError):
        shop.reencode(words)
    photos.add([{"id": "picture only", "image": picture("red")}])
    with pytest.raises(CollectionError, match="'picture only' has no view text"):
        photos.reencode(
            bf.hasher("lsh", n_bits=8).fit(
                {"text": np.ones((40, 24))}, sources={"text": FakeBackbone().describe("text")}
            ),
            backbone=FakeBackbone(),
        )
    for each in (shop, photos):
        assert each.verify() == []
    after = shop.stats()
    assert {k: after[k] for k in ("n_bits", "generation", "items")} == {
        k: before[k] for k in ("n_bits", "generation", "items")
    }


def test_stats(shop):
    facts = shop.stats()
    assert facts["items"] == 200
    assert facts["n_bits"] == 32
    assert facts["backbone"] == ["arrays only"]
    assert facts["distinct_codes"] == len({h.item["id"] for h in shop.search(like="p0", k=300)}) + 1
    assert facts["bytes_per_item"] > facts["code_bytes_per_item"] == 4
    assert facts["latency_ms"] > 0
    json.dumps(facts)


def test_drift_is_noticed():
    rng = np.random.default_rng(0)
    spread = bf.Codes(rng.integers(0, 256, (600, 4), np.uint8), 32)
    crowded = bf.Codes(np.repeat(rng.integers(0, 256, (20, 4), np.uint8), 30, axis=0), 32)
    assert figures.drift(spread) is None
    assert "20 distinct codes" in figures.drift(bf.Codes.concatenate([spread, crowded]))
    assert figures.drift(bf.Codes.concatenate([crowded, spread])) is None
    assert figures.drift(crowded[:300]) is None


def test_dedupe(shop):
    shop.add({"id": f"again{i}", "views": {"image": ROWS[i]}} for i in (3, 5, 7))
    assert shop.dedupe() == [["p3", "again3"], ["p5", "again5"], ["p7", "again7"]]
    assert shop.dedupe(where="price < 100") == []
    codes = array_model().encode({"image": ROWS[:200]})
    near = codes.hamming(codes) <= 4
    for group in shop.dedupe(4):
        rows = [int(name[1:]) for name in group if name.startswith("p")]
        assert all(near[i, [j for j in rows if j != i]].any() or f"again{i}" in group for i in rows)
    grouped = {name for group in shop.dedupe(4) for name in group}
    for i in range(200):
        assert (f"p{i}" in grouped) == (near[i].sum() > 1 or i in (3, 5, 7))
    with pytest.raises(InputError, match="radius"):
        shop.dedupe(-1)


def test_compact_gives_space_back(shop, tmp_path):
    shop.add({**item, "text": "long " * 400} for item in array_items())
    shop.compact()
    before = (tmp_path / "shop" / "items.db").stat().st_size
    shop.delete([f"p{i}" for i in range(190)])
    shop.compact()
    assert (tmp_path / "shop" / "items.db").stat().st_size < before / 3
    assert len(shop) == 10
    assert shop.verify() == []
    assert shop._session.store.value("SELECT count(*) FROM tombstones") == 0


# -- threads and processes ---------------------------------------------------------------------------------------------


def test_threads_take_turns(shop):
    wrong = []

    def work(at):
        found = [ids(shop.search(views={"image": ROWS[i]}, k=1, where="price < 200")) for i in range(at, at + 20)]
        wrong.extend(i for i, hits in enumerate(found, at) if hits != [f"p{i}"])

    threads = [threading.Thread(target=work, args=(at,)) for at in (0, 40, 80, 120)]
    for thread in threads:
        thread.start()
    shop.add(array_items(50, start=200), batch_size=5)
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_after_a_fork_it_must_be_opened_again(shop):
    queue = multiprocessing.get_context("fork").Queue()

    def child():
        try:
            queue.put(len(shop))
        except CollectionError as error:
            queue.put(str(error))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    said = queue.get(timeout=30)
    process.join()
    assert "open it again" in said
    assert len(shop) == 200


# -- any order of calls ------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Whatever is called in whatever order, the collection holds what a dictionary holds, and answers exactly."""

    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.path = self.place.name + "/s"
        self.model = bf.hasher("lsh", n_bits=8).fit({"image": ROWS})
        self.shop = bf.Collection.create(self.path, model=self.model, filterable={"price": "int"})
        self.reader = bf.Collection.open(self.path)
        self.held: dict[str, tuple[int, int | None]] = {}  # id -> (which row of ROWS, price), in insertion order

    @rule(target=names, name=st.sampled_from("abcdefgh"), row=st.integers(0, 5), price=st.none() | st.integers(0, 3))
    def add(self, name, row, price):
        self.shop.add([{"id": name, "price": price, "views": {"image": ROWS[row]}}])
        self.held[name] = (row, price)
        return name

    @rule(name=names, row=st.integers(0, 5))
    def change_view(self, name, row):
        report = self.shop.update([{"id": name, "views": {"image": ROWS[row]}}])
        assert report.replaced == (name in self.held)
        if name in self.held:
            self.held[name] = (row, self.held[name][1])

    @rule(name=names, price=st.integers(0, 3))
    def change_price(self, name, price):
        self.shop.update([{"id": name, "price": price}])
        if name in self.held:
            self.held[name] = (self.held[name][0], price)

    @rule(name=names)
    def delete(self, name):
        assert self.shop.delete(name) == (self.held.pop(name, None) is not None)

    @rule()
    def compact(self):
        self.shop.compact()

    @rule()
    def reopen(self):
        self.shop.close()
        self.shop = bf.Collection.open(self.path)

    @rule(seed=st.integers(0, 2))
    def reencode(self, seed):
        self.model = bf.hasher("lsh", n_bits=8, seed=seed).fit({"image": ROWS})
        self.shop.reencode(self.model)

    @invariant()
    def both_hold_what_the_dictionary_holds(self):
        names = list(self.held)
        codes = self.model.encode({"image": ROWS[[row for row, _ in self.held.values()]]}) if names else None
        query = self.model.encode({"image": ROWS[7:8]})
        distances = [] if codes is None else query.hamming(codes)[0].tolist()
        order = sorted(range(len(names)), key=lambda i: (distances[i], i))
        for each in (self.shop, self.reader):
            assert [(h.id, h.distance) for h in each.search(views={"image": ROWS[7]}, k=20)] == [
                (names[i], distances[i]) for i in order
            ]
            cheap = [i for i in order if self.held[names[i]][1] in (0, 1)]
            assert ids(each.search(views={"image": ROWS[7]}, k=20, where="price <= 1")) == [names[i] for i in cheap]

    def teardown(self):
        assert self.shop.verify() == []
        self.shop.close()
        self.reader.close()
        self.place.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
