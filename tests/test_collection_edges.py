"""Where a collection once went wrong: moves of the process, odd weights, names that clash, models that vanish."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.errors import CollectionError, DamagedFile, InputError
from bitfuse.search import finding

ROWS = np.random.default_rng(2).normal(size=(80, 6)).astype(np.float32)
WORDS = np.random.default_rng(3).normal(size=(80, 4)).astype(np.float32)
MODEL = bf.hasher("ucmfh", n_bits=8).fit({"image": ROWS, "text": WORDS})

pytestmark = pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning")


@pytest.fixture
def shop(tmp_path):
    with bf.Collection.create(tmp_path / "shop", model=MODEL) as shop:
        shop.add({"id": f"p{i}", "price": i, "views": {"image": ROWS[i], "text": WORDS[i]}} for i in range(80))
        yield shop


def test_a_relative_path_holds_when_the_process_goes_elsewhere(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with bf.Collection.open("shop") as other:
        monkeypatch.chdir("/")
        other.compact()
        assert other.stats()["bytes"]["code_file"] > 0
        assert len(other.search(views={"image": ROWS[0], "text": WORDS[0]})) == 10
        assert other.verify() == []
    assert (tmp_path / "shop" / "codes.bin").exists()


def test_a_directory_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    """As on a mounted image; a name that an address of a file would have to escape."""
    place = tmp_path / "a %20 shop?#"
    with bf.Collection.create(place, model=MODEL) as shop:
        shop.add({"id": f"p{i}", "views": {"image": ROWS[i], "text": WORDS[i]}} for i in range(80))
        expected = shop.search(like="p3")
        monkeypatch.setattr("os.access", lambda path, mode: False)
        with bf.Collection.open(place) as other:  # somebody has it open: as ever
            shop.delete("p9")
            assert len(other) == 79
    with bf.Collection.open(place) as alone:
        assert not list(place.glob("items.db-*"))
        assert [hit.id for hit in alone.search(like="p3", k=9)] == [hit.id for hit in expected if hit.id != "p9"][:9]
        assert alone.verify() == []
        for change in (lambda: alone.delete("p5"), lambda: alone.add([{"id": "x", "code": b"\0"}])):
            with pytest.raises(CollectionError, match=r"items\.db cannot be read or written"):
                change()


def test_a_code_file_that_cannot_be_written(shop, tmp_path):
    """Opening does without; `compact` says what is wrong. A directory in its place stands for any refusal."""
    shop.compact()
    file = tmp_path / "shop" / "codes.bin"
    file.unlink()
    (file / "in the way").mkdir(parents=True)
    with bf.Collection.open(tmp_path / "shop") as other:
        assert len(other.search(like="p0", k=100)) == 79
        with pytest.raises(CollectionError, match=r"codes\.bin cannot be written"):
            other.compact()
    assert not list(file.parent.glob("*.partial"))


def distances(shop, weights):
    return [hit.distance for hit in shop.search(views={"image": ROWS[0], "text": WORDS[0]}, weights=weights, k=30)]


@pytest.mark.parametrize("scale", [1e300, 1e-315, np.float32(3), 10**30])
def test_only_the_proportion_of_weights_counts(shop, scale):
    assert distances(shop, {"image": scale, "text": 0}) == distances(shop, {"image": 1, "text": 0})
    assert distances(shop, {"image": scale, "text": scale}) == distances(shop, {"image": 0.5, "text": 0.5})
    both = {"image": scale, "text": scale}
    hits = shop.search(views={"image": ROWS[0], "text": WORDS[0]}, weights=both, rerank=True)
    assert np.isfinite([hit.score for hit in hits]).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"imgae": 1, "text": 1}, r"name \['imgae'\], and the model of this collection has the views"),
        ({1: 1, "text": 1}, r"name \[1\]"),
        ({"image": 10**400}, "0 or more"),
        ({"image": 1j}, "numbers"),
        ({"image": -1, "text": 1}, "0 or more"),
        ({"image": float("inf"), "text": 1}, "0 or more"),
        ({"image": float("nan"), "text": 1}, "0 or more"),
        ({"image": 0, "text": 0}, "0 or more"),
        ({"image": "1"}, "numbers"),
    ],
)
def test_weights_that_are_none(shop, weights, message):
    with pytest.raises(InputError, match=message):
        distances(shop, weights)


def test_names_that_an_export_writes_itself(tmp_path):
    types = {"view_image": "int", "price": "int"}
    with bf.Collection.create(tmp_path / "s", model=MODEL, filterable=types) as shop:
        shop.add([{"id": "a", "view_image": 1, "views": {"image": ROWS[0], "text": WORDS[0]}}])
        assert shop.export(tmp_path / "out.parquet") == 1
        with pytest.raises(InputError, match=r"\['view_image'\]"):
            shop.export(tmp_path / "out.parquet", views=True)


def test_a_model_that_is_replaced_and_removed_while_a_query_is_encoded(shop, tmp_path, monkeypatch):
    views, plain, turns = {"image": ROWS[7], "text": WORDS[7]}, finding._views, []

    def late(encoder, queries):
        turns.append(encoder.directory.name)
        if len(turns) == 1:
            shop.reencode(bf.hasher("ucmfh", n_bits=16, seed=1).fit({"image": ROWS, "text": WORDS}))
            shop.compact()
        return plain(encoder, queries)

    with bf.Collection.open(tmp_path / "shop") as reader:
        monkeypatch.setattr(finding, "_views", late)
        assert reader.search(views=views, k=1)[0].id == "p7"
    assert turns == ["1", "2"]
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "shop" / "models")
    with pytest.raises(DamagedFile, match="model is missing"):
        bf.Collection.open(tmp_path / "shop")


@pytest.mark.parametrize("odd", [{"store_views": "no"}, {"keep_images": "no"}, {"keep_images": None}])
def test_switches_are_true_or_false(tmp_path, odd):
    with pytest.raises(InputError, match="must be True or False"):
        bf.Collection.create(tmp_path / "s", model=MODEL, **odd)
    assert not (tmp_path / "s").exists()
