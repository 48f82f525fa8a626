"""A short form of bar (a) of benchmarks/hm_fashionclip.py: real features, one product type each, one seed."""

import numpy as np

import bitfuse as bf
from bitfuse import metrics


def test_clipmh_answers_both_views_and_each_alone_on_real_features(shared):
    with np.load(shared / "hm-fashionclip" / "features.npz") as file:
        views = {name: file[name] for name in ("image", "text")}
        labels, names = file["labels"], [str(name) for name in file["label_names"]]
    labels = labels[:, [name.startswith("product_type_name") for name in names]]
    order = np.random.default_rng(0).permutation(np.flatnonzero(labels.any(axis=1)))
    assert len(order) == 1060
    query, gallery = order[:200], order[200:]
    rows = {name: x[gallery] for name, x in views.items()}
    scores = {}
    for name, parameters in (("clipmh", {"epochs": 15}), ("itq", {})):
        model = bf.hasher(name, **parameters).fit(rows, labels[gallery])
        found = model.encode(rows)
        for asked in (("image", "text"), ("image",), ("text",)):
            codes = model.encode({view: views[view][query] for view in asked})
            scores[name, asked] = bf.score(codes, found, labels[query], labels[gallery]).map
    assert scores["clipmh", ("image", "text")] >= 0.85
    assert min(scores["clipmh", ("image",)], scores["clipmh", ("text",)]) >= 0.80
    assert 0.45 < scores["itq", ("image", "text")] < 0.60


def test_aligned_itq_learned_on_images_alone_finds_images_by_text(shared):
    with np.load(shared / "hm-fashionclip" / "features.npz") as file:
        image, text = file["image"], file["text"]
        labels, names = file["labels"], [str(name) for name in file["label_names"]]
    labels = labels[:, [name.startswith("product_type_name") for name in names]]
    order = np.random.default_rng(0).permutation(np.flatnonzero(labels.any(axis=1)))
    query, gallery = order[:200], order[200:]
    model = bf.hasher("itq", aligned=True, rotation_from="image").fit({"image": image[gallery], "text": text[gallery]})
    codes, found = model.encode({"text": text[query]}), model.encode({"image": image[gallery]})
    centred = [x - x[gallery].mean(axis=0) for x in (text, image)]
    asked, known = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in centred)
    ranked = np.argsort(-asked[query] @ known[gallery].T, axis=1)
    relevant = np.take_along_axis(labels[query].astype(int) @ labels[gallery].T.astype(int) > 0, ranked, axis=1)
    reference = metrics.mean(metrics.average_precision_of_ranking(relevant))
    assert bf.score(codes, found, labels[query], labels[gallery]).map >= 0.9 * reference
