import json

import numpy as np
import pytest

import bitfuse as bf
from bitfuse import Samples
from bitfuse.errors import InputError
from bitfuse.pipeline import training

RNG = np.random.default_rng(0)


class Aligned:
    """A made-up backbone whose two views share a space."""

    name, views, aligned = "made-up", ("image", "text"), True
    prompts = tuple(f"a photo of a {thing}" for thing in ("cat", "dog", "boat", "tree"))

    def describe(self, view):
        return {"backbone": self.name, "revision": "1", "view": view}

    def width(self, view):
        return 8

    def encode(self, view, inputs, *, batch_size=None):
        return np.random.default_rng(len(inputs)).normal(2, 1, (len(inputs), 8)).astype(np.float32)


def samples(n=400, *, labels=False, text=True):
    views = {"image": RNG.normal(size=(n, 8)).astype(np.float32)}
    if text:
        views["text"] = RNG.normal(size=(n, 8)).astype(np.float32)
    y = np.eye(4, dtype=bool)[RNG.integers(0, 4, n)] if labels else None
    return Samples(tuple(f"item-{i}" for i in range(n)), views=views, labels=y)


def test_the_default_method_follows_the_data():
    assert training.default_choice(samples(labels=True), Aligned()).method == "clipmh"
    assert training.default_choice(samples(), Aligned()).method == "ucmfh"
    assert training.default_choice(samples(), None).method == "ucmfh"
    for few in (samples(100), samples(text=False)):
        choice = training.default_choice(few, Aligned())
        assert (choice.method, dict(choice.parameters)) == ("itq", {"aligned": True, "rotation_from": "image"})
    assert dict(training.default_choice(samples(text=False), None).parameters) == {}


def test_ucmfh_learns_from_whole_pairs_within_a_limit(monkeypatch):
    some = samples(400)
    some.views["text"][:100] = np.nan
    choice = training.Choice("ucmfh", {}, "")
    assert training.training_rows(some, choice).ids == some.ids[100:]
    assert training.training_rows(some, training.Choice("itq", {}, "")) is some
    monkeypatch.setattr(training, "MOST_PAIRS", 50)
    drawn = training.training_rows(some, choice)
    assert len(drawn) == 50
    assert set(drawn.ids) < set(some.ids[100:])


def test_pictures_without_texts_answer_to_words():
    backbone, pictures = Aligned(), samples(text=False)
    choice = training.default_choice(pictures, backbone)
    model = training.fit(pictures, choice, n_bits=8, backbone=backbone)
    assert model.widths == {"image": 8, "text": 8}
    assert model.sources["text"]["backbone"] == "made-up"
    assert model.log["rows"] == 404
    assert len(model.encode({"text": backbone.encode("text", ["red dress"])})) == 1
    assert list(pictures.views) == ["image"]


def test_samples_without_features_are_refused():
    with pytest.raises(InputError, match="no features"):
        training.fit(Samples(("a",)), training.Choice("lsh", {}, ""))


def test_what_is_held_out_depends_on_the_id_alone():
    first, second = samples(500), samples(300)
    _, out_first = training.hold_out(first)
    _, out_second = training.hold_out(second)
    assert set(out_second.ids) == set(out_first.ids) & set(second.ids)
    assert 20 < len(out_first) < 80
    with pytest.raises(InputError, match="too few"):
        training.hold_out(samples(3), share=0.0)


@pytest.fixture
def saved(tmp_path):
    everything = samples(500)
    train, heldout = training.hold_out(everything)
    model = bf.hasher("lsh", n_bits=8).fit(train.views)
    model.save(tmp_path / "model", attachments=training.ids_attachment(train, heldout))
    return tmp_path / "model", everything, train, heldout


def test_a_model_is_judged_on_its_held_out_ids(saved):
    path, everything, train, heldout = saved
    dataset = training.judged_split(path, everything, "everything")
    assert dataset.query.ids == heldout.ids
    assert dataset.gallery.ids == train.ids == dataset.train.ids
    assert dataset.notes["queries"] == "held out at fit"
    ids = json.loads((path / training.IDS).read_text())
    assert ids["heldout"] == list(heldout.ids)


def test_rows_that_were_trained_on_are_no_queries(saved):
    path, _, train, _ = saved
    with pytest.raises(InputError, match="were used to train"):
        training.judged_split(path, train, "train")


def test_other_data_is_split_by_id(saved):
    path, *_ = saved
    other = samples(500)
    other = Samples(tuple(f"other-{i}" for i in range(500)), views=other.views)
    dataset = training.judged_split(path, other, "other")
    assert dataset.notes["queries"].startswith("other data")
    assert len(dataset.train) == 0
    assert len(dataset.query) + len(dataset.gallery) == 500
