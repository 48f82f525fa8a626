"""The readers on the real sets: arrays of two papers' kinds, and a table of photographs."""

import numpy as np
import pytest

from bitfuse.data.base import Dataset, Samples
from bitfuse.data.read import read
from bitfuse.data.split import split
from bitfuse.errors import DataWarning
from bitfuse.features.images import open_image
from bitfuse.pipeline.datasets import dataset


def float_map(query, gallery, view):
    """Mean average precision of centred cosine similarity, written plainly."""
    mean = gallery.views[view].mean(axis=0)
    q, g = (s.views[view] - mean for s in (query, gallery))
    q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g))
    order = np.argsort(-(q @ g.T), axis=1, kind="stable")
    relevant = np.take_along_axis((query.labels.astype(int) @ gallery.labels.T.astype(int)) > 0, order, axis=1)
    precision = relevant.cumsum(axis=1) / np.arange(1, len(gallery) + 1)
    return float(((precision * relevant).sum(axis=1) / relevant.sum(axis=1)).mean())


def test_wikipedia(shared):
    data = dataset(shared / "wikipedia" / "wikiData.mat")
    assert isinstance(data, Dataset)
    assert (len(data.train), len(data.query), len(data.gallery)) == (2173, 693, 2173)
    assert {k: v.shape[1] for k, v in data.query.views.items()} == {"image": 128, "text": 10}
    assert (data.gallery.labels.sum(axis=1) == 1).all()
    assert data.notes["ignored arrays"] == ["sampleInds"]
    assert data.notes["query rows equal to gallery rows"] == 0
    assert float_map(data.query, data.gallery, "image") == pytest.approx(0.129, abs=0.005)
    assert float_map(data.query, data.gallery, "text") == pytest.approx(0.562, abs=0.005)


def test_fashionclip(shared):
    samples = read(shared / "hm-fashionclip" / "features.npz")
    assert isinstance(samples, Samples)
    assert len(samples) == 1126
    assert {k: v.shape for k, v in samples.views.items()} == {"image": (1126, 512), "text": (1126, 512)}
    assert len(samples.label_names) == 47
    table = read(shared / "hm-fashionclip" / "items.csv", id="article_id", text="description",
                 labels=["product_type_name", "colour_group_name"])  # fmt: skip
    assert table.ids == samples.ids
    column = samples.label_names.index("product_type_name=Dress")
    same = table.labels[:, table.label_names.index("product_type_name=Dress")]
    np.testing.assert_array_equal(samples.labels[:, column], same)
    assert "prod_name" in table.attributes
    data = split(samples, n_query=200)
    assert (len(data.query), len(data.gallery)) == (200, 926)
    with pytest.warns(DataWarning):
        assert (split(samples, per_class=20).gallery.labels.sum(axis=0) > 0).all()


def test_grocery(shared):
    samples = read(shared / "grocery" / "items.csv", labels="kind")
    assert len(samples) == 972
    assert len(samples.label_names) == 43
    assert samples.ids[0] == "images/Golden-Delicious_001.jpg"
    assert samples.attributes.keys() == {"split", "product", "department"}
    for source in samples.images[:5]:
        assert max(open_image(source).size) <= 224
    folder = read(shared / "grocery")
    assert set(folder.ids) == set(samples.ids)
