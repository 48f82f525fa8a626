"""Many queries at once, asymmetric distances, and the approximate tier: each against what it must equal."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.fake_backbone import COLOURS, FakeBackbone, sources

import bitfuse as bf
from bitfuse import kernels
from bitfuse.cli import main
from bitfuse.errors import DamagedFile, InputError
from bitfuse.hashers.base import Hasher
from bitfuse.index import asymmetric
from bitfuse.search import approximate

RNG = np.random.default_rng(11)
ROWS = RNG.normal(size=(500, 10)).astype(np.float32)
MODEL = bf.hasher("lsh", n_bits=28).fit({"image": ROWS})

pytestmark = pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning")


def items(rows, start=0):
    return [{"id": f"p{i}", "price": i, "views": {"image": rows[i]}} for i in range(start, len(rows))]


@pytest.fixture
def shop(tmp_path):
    with bf.Collection.create(tmp_path / "shop", model=MODEL, filterable={"price": "int"}) as shop:
        shop.add(items(ROWS[:300]))
        yield shop


def found(hits):
    return [(hit.id, hit.distance) for hit in hits]


# -- asymmetric --------------------------------------------------------------------------------------------------------


def by_definition(z, codes):
    """The sum of |z_j| over the bits that differ, scaled to n_bits in all."""
    wanted = z > 0
    return [
        sum(abs(z[j]) for j in range(len(z)) if wanted[j] != bits[j]) * len(z) / sum(abs(z)) for bits in codes.bits()
    ]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("n", "n_bits"), [(1, 5), (300, 64), (6000, 13), (6000, 200)])
def test_asymmetric_distances_are_the_definition(monkeypatch, n, n_bits, compiled):
    monkeypatch.setattr(kernels, "COMPILED", compiled)
    z = RNG.normal(size=n_bits).astype(np.float32)
    codes = bf.Codes.from_bits(RNG.integers(0, 2, (n, n_bits)))
    costs, expected = asymmetric.costs_of(z), np.array(by_definition(z.astype(float), codes))
    assert costs.sum() == pytest.approx(n_bits, rel=1e-5)
    everything = np.ones(n, bool)
    for k, radius, allow in [(10, None, RNG.random(n) < 0.7), (n, None, everything), (5, n_bits / 3, expected > 0)]:
        distances, rows = asymmetric.nearest(codes.packed, costs, k, radius, allow)
        may = allow & (expected <= (n_bits + 1 if radius is None else radius))
        assert len(rows) == min(k, may.sum())
        assert allow[rows].all()
        np.testing.assert_allclose(distances, np.sort(expected[may])[:k], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(distances, expected[rows], rtol=1e-5, atol=1e-5)
        assert sorted(zip(distances, rows)) == list(zip(distances, rows)), "ties in the order of rows"


def test_equal_values_give_the_hamming_distance():
    codes = bf.Codes.from_bits(RNG.integers(0, 2, (400, 20)))
    z = np.where(codes.bits()[7] > 0, 0.5, -0.5).astype(np.float32)
    distances, rows = asymmetric.nearest(codes.packed, asymmetric.costs_of(z), 400, None, np.ones(400, bool))
    hamming = codes[7].hamming(codes)[0]
    assert rows.tolist() == np.argsort(hamming, kind="stable").tolist()
    np.testing.assert_allclose(distances, hamming[rows], atol=1e-5)
    assert asymmetric.costs_of(np.zeros(3, np.float32)).tolist() == [[0, 1]] * 3


def test_a_collection_searches_asymmetrically_while_items_change(shop):
    shop.update([{"id": f"p{i}", "views": {"image": ROWS[i + 100]}} for i in range(0, 50, 5)])
    shop.delete([f"p{i}" for i in range(1, 50, 5)])
    now = {f"p{i}": ROWS[i + 100] if i % 5 == 0 and i < 50 else ROWS[i] for i in range(300)}
    for i in range(1, 50, 5):
        del now[f"p{i}"]
    codes = MODEL.encode({"image": np.stack(list(now.values()))})
    for q in range(400, 405):
        z = MODEL.project({"image": ROWS[q : q + 1]})[0].astype(float)
        exact = np.array(by_definition(z, codes))
        hits = shop.search(views={"image": ROWS[q]}, k=20, asymmetric=True)
        np.testing.assert_allclose([h.distance for h in hits], np.sort(exact)[:20], rtol=1e-5)
        index = {name: i for i, name in enumerate(now)}
        np.testing.assert_allclose([exact[index[h.id]] for h in hits], [h.distance for h in hits], rtol=1e-5)
        few = shop.search(views={"image": ROWS[q]}, k=5, asymmetric=True, where="price >= 250", explain=True)
        expected = min(exact[index[f"p{i}"]] for i in range(250, 300))
        assert few[0].distance == pytest.approx(expected, rel=1e-5)
        assert few[0].explanation["asymmetric"]
        assert all(h.item["price"] >= 250 for h in few)
        near = shop.search(views={"image": ROWS[q]}, k=None, radius=6, asymmetric=True)
        assert len(near) == sum(exact <= 6)


def test_asymmetric_orders_better_than_signs(tmp_path):
    """What it is for: it keeps more of the ten nearest by the float vectors than plain Hamming distance does."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 32)).astype(np.float32)
    model = bf.hasher("lsh", n_bits=32).fit({"image": rows})
    with bf.Collection.create(tmp_path / "s", model=model) as shop:
        shop.add(items(rows))
        kept = {False: 0, True: 0}
        for q in rng.normal(size=(40, 32)).astype(np.float32):
            cosine = rows @ q / np.linalg.norm(rows, axis=1)
            best = {f"p{i}" for i in np.argsort(-cosine)[:10]}
            for option in kept:
                kept[option] += len(best & {h.id for h in shop.search(views={"image": q}, k=50, asymmetric=option)})
    assert kept[True] > 1.1 * kept[False]


@pytest.mark.parametrize(
    "asked",
    [{"like": "p1"}, {"code": MODEL.encode({"image": ROWS[:1]})}, {"views": {"image": ROWS[0]}, "approximate": True}],
)
def test_asymmetric_says_what_it_needs(shop, asked):
    with pytest.raises(InputError, match="asymmetric"):
        shop.search(**asked, asymmetric=True)


class _Cross(Hasher):
    data_driven = False
    spaces = ("image", "text")
    accepts_missing = "query"
    year, reference = 2024, "test"

    def _fit(self, batch, labels, *, device):
        rng = np.random.default_rng(self.seed)
        return {k: rng.normal(size=(a.shape[1], self.n_bits)) for k, a in batch.arrays.items()}, {}

    def _project(self, state, batch, space, *, device):
        return batch.arrays[space] @ state[space]


def test_asymmetric_distances_of_a_cross_modal_model_are_summed(tmp_path):
    model = _Cross(n_bits=24).fit({"image": ROWS, "text": ROWS[:, :6]})
    with bf.Collection.create(tmp_path / "s", model=model) as shop:
        shop.add({"id": f"p{i}", "views": {"image": ROWS[i]}} for i in range(60))
        codes = model.encode({"image": ROWS[:60]}, "image")
        asked = {"image": ROWS[70], "text": ROWS[70, :6]}
        parts = [by_definition(model.project({k: v[None]}, k)[0].astype(float), codes) for k, v in asked.items()]
        expected = 0.25 * np.array(parts[0]) + 0.75 * np.array(parts[1])
        hits = shop.search(views=asked, weights={"image": 1, "text": 3}, k=60, asymmetric=True)
        np.testing.assert_allclose([h.distance for h in hits], np.sort(expected), rtol=1e-5)


# -- many at once ------------------------------------------------------------------------------------------------------


def test_many_queries_give_what_each_gives_alone(shop):
    code = MODEL.encode({"image": ROWS[450:451]})
    asked = [{"views": {"image": ROWS[400]}}, {"like": "p7"}, {"code": code}, {"views": {"image": ROWS[401]}}]
    shop.update([{"id": "p9", "views": {"image": ROWS[450]}}])
    for options in ({}, {"k": 3, "where": "price < 200"}, {"k": None, "radius": 8}, {"k": 5, "explain": True}):
        together = shop.search_many(asked, **options)
        assert together == [shop.search(**query, **options) for query in asked]
    views = [{"views": {"image": ROWS[i]}} for i in range(400, 410)]
    for options in ({"rerank": True}, {"asymmetric": True}):
        assert shop.search_many(views, **options) == [shop.search(**query, **options) for query in views]
    assert shop.search_many([]) == []


def test_many_texts_and_pictures_pass_through_the_backbone_at_once(tmp_path):
    backbone, names = FakeBackbone(), list(COLOURS)
    texts = [f"a {names[i % 4]} thing number {i}" for i in range(200)]
    facts = {"text": sources(backbone)["text"]}
    model = bf.hasher("itq", n_bits=16).fit({"text": backbone.encode("text", texts)}, sources=facts)
    with bf.Collection.create(tmp_path / "s", model=model, backbone=backbone) as shop:
        shop.add({"id": c, "text": f"a {c} thing"} for c in names)
        calls = []
        plain = backbone.encode
        backbone.encode = lambda view, given: calls.append(len(given)) or plain(view, given)
        answers = shop.search_many([{"text": f"a {c} thing"} for c in names], k=1)
        assert [hits[0].id for hits in answers] == names
        assert calls == [4]


@pytest.mark.parametrize("queries", [5, "red", {"text": "red"}, [5], [{"k": 3}], [{}], [{"like": "p1", "nonsense": 1}]])
def test_bad_queries_are_named(shop, queries):
    with pytest.raises(InputError):
        shop.search_many(queries)


# -- approximate -------------------------------------------------------------------------------------------------------


@pytest.fixture
def clustered(tmp_path):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 10))[rng.integers(0, 60, 3000)] + 0.1 * rng.normal(size=(3000, 10))
    with bf.Collection.create(tmp_path / "shop", model=MODEL) as shop:
        shop.add(items(rows.astype(np.float32)))
        yield shop, rows.astype(np.float32)


def test_the_approximate_tier_finds_most_and_says_how_much(clustered):
    shop, rows = clustered
    with pytest.raises(InputError, match="bitfuse approximate"):
        shop.search(views={"image": rows[0]}, approximate=True)
    assert shop.stats()["approximate"] is None
    facts = shop.build_approximate(lists=50, probes=12)
    assert (facts["items"], facts["lists"], facts["probes"]) == (3000, 50, 12)
    assert shop.stats()["approximate"] == facts
    asked = [{"views": {"image": rows[i]}} for i in range(0, 3000, 60)]
    recall = []
    for near, exact in zip(shop.search_many(asked, approximate=True), shop.search_many(asked)):
        assert len(near) == len(exact) == 10
        assert all(a.distance >= b.distance for a, b in zip(near, exact))
        recall.append(np.mean([hit.distance <= exact[-1].distance for hit in near]))
    assert np.mean(recall) > 0.9
    assert abs(facts["recall_at_10"] - np.mean(recall)) < 0.1
    every = shop.build_approximate(lists=50, probes=50)
    assert every["recall_at_10"] == 1.0
    for near, exact in zip(shop.search_many(asked, approximate=True), shop.search_many(asked)):
        assert [hit.distance for hit in near] == [hit.distance for hit in exact]  # FAISS leaves the last ties open
    one = asked[0]["views"]
    assert shop.search(views=one, k=None, radius=3, approximate=True) == shop.search(views=one, k=None, radius=3)
    assert shop.search(views=one, where="price < 9", approximate=True) == shop.search(views=one, where="price < 9")


def test_what_changed_since_is_searched_exactly(clustered):
    shop, rows = clustered
    shop.build_approximate(lists=20, probes=20)
    shop.add([{"id": f"new{i}", "views": {"image": rows[i]}} for i in range(30)])
    shop.update([{"id": f"p{i}", "views": {"image": rows[i + 1000]}} for i in range(100, 130)])
    shop.delete([f"p{i}" for i in range(200, 1500)])
    with bf.Collection.open(shop._session.directory) as other:
        for each in (shop, other):
            for i in (0, 100, 1100, 205, 2000):
                asked = {"views": {"image": rows[i]}, "k": None, "radius": 4}
                assert each.search(**asked, approximate=True) == each.search(**asked) != []
                asked = {"views": {"image": rows[i]}, "k": 40}
                near, exact = each.search(**asked, approximate=True), each.search(**asked)
                assert [hit.distance for hit in near] == [hit.distance for hit in exact]
    assert shop.stats()["approximate"]["changed_since"] == 60
    shop.compact()  # slots are counted anew
    asked = {"views": {"image": rows[2000]}, "k": None, "radius": 4}
    assert shop.search(**asked, approximate=True) == shop.search(**asked) != []


def test_a_tier_of_another_model_or_a_damaged_one_is_refused(clustered):
    shop, rows = clustered
    shop.build_approximate()
    path = shop._session.directory / approximate.FILE
    data = path.read_bytes()
    path.write_bytes(data[:-5] + b"abcde")
    with pytest.raises(DamagedFile, match="anew"):
        shop.search(views={"image": rows[0]}, approximate=True)
    path.write_bytes(b"nonsense")
    with pytest.raises(DamagedFile, match="anew"):
        shop.stats()
    path.write_bytes(data)
    shop.reencode(bf.hasher("lsh", n_bits=28, seed=5).fit({"image": ROWS}))
    with pytest.raises(InputError, match="another model"):
        shop.search(views={"image": rows[0]}, approximate=True)
    assert "anew" in shop.stats()["approximate"]["outdated"]


def test_every_byte_of_a_tier_is_checked(clustered):
    shop, rows = clustered
    shop.build_approximate(lists=10, probes=10)
    assert shop.verify() == []
    path = shop._session.directory / approximate.FILE
    data = path.read_bytes()
    header = 16 + int.from_bytes(data[8:16], "little")
    flips = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (*range(0, header, 7), header, len(data) - 1)]
    for damaged in [*flips, b"", data[:9], data[:50], data[:-1], data + b"x"]:
        path.write_bytes(damaged)
        with pytest.raises((DamagedFile, InputError), match="anew"):
            shop.search(views={"image": rows[0]}, approximate=True)
    assert ["anew" in problem for problem in shop.verify()] == [True]


def test_an_empty_collection_has_nothing_to_part(tmp_path):
    with bf.Collection.create(tmp_path / "s", model=MODEL) as shop, pytest.raises(InputError, match="empty"):
        shop.build_approximate()


def test_from_the_command_line(clustered, capsys):
    shop, _ = clustered
    place = str(shop._session.directory)
    for arguments, shown in [
        (["approximate", place, "--lists", "30", "--probes", "10"], "30 lists"),
        (["search", place, "--like", "p1", "--approximate", "-k", "2", "--json"], "distance"),
        (["stats", place], "recall_at_10"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert shown in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["search", place, "--like", "p1", "--approximate", "-k", "2", "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 2
