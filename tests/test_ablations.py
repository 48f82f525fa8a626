"""The ablations: each gives a section that says what the numbers say; what they measure with is right."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import bitfuse as bf
from bitfuse.bench.ablations import _findings, ablation, ablations, bytes, labels, shift, sizes
from bitfuse.bench.report import write_html
from bitfuse.data.base import Dataset, Samples
from bitfuse.data.scenes import STYLES, render, scene
from bitfuse.data.shapes import generate
from bitfuse.errors import DataWarning, InputError, MissingDependency, UnknownName
from bitfuse.hashers import _familiar
from bitfuse.hashers._fusion import LowRankBilinear, ViewAttention, ViewSum
from bitfuse.hashers._views import as_batch
from bitfuse.hashers.clipmh import CLIPMH

FOLDER = Path(sys.modules["bitfuse.bench.ablations"].__file__).parent
OURS = ("bytes", "fusion", "hashlayer", "labels", "shift", "sizes")
RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((6, 24))


def part(name: str, n: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 6, n)
    common = CENTRES[kind] + 0.7 * rng.standard_normal((n, 24))
    views = {
        v: (common + 0.3 * rng.standard_normal((n, 24)) + shift).astype(np.float32)
        for v, shift in (("image", 1), ("text", -1))
    }
    return Samples(tuple(f"{name}{i}" for i in range(n)), views, labels=np.eye(6, dtype=bool)[kind])


DATA = Dataset("blobs", part("t", 300, 1), part("q", 30, 2), part("g", 300, 3))


@pytest.fixture(scope="module")
def sections():
    """A quick run of each on small data."""
    return {name: ablation(name)(data=DATA, quick=True) for name in OURS}


def test_the_table_is_the_folder():
    files = {p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")}
    assert files <= set(ablations())
    assert ablations() == sorted(ablations())
    with pytest.raises(UnknownName, match="did you mean 'fusion'"):
        ablation("fusoin")


@pytest.mark.parametrize("name", OURS)
def test_a_section_says_what_was_varied_and_holds_all_numbers(sections, name):
    section = sections[name]
    varied, fixed, said = section.text.split("\n\n")
    assert varied.startswith("Varied: ")
    assert fixed.startswith("Fixed: ")
    assert "blobs: 300 training rows, 30 queries, 300 gallery rows" in fixed
    assert "Protocol 'strict'" in fixed
    assert said
    assert section.table.rows
    assert all(len(row) == len(section.table.headings) for row in section.table.rows)
    assert not any("|" in cell for row in (section.table.headings, *section.table.rows) for cell in row)
    assert json.loads(json.dumps(section.to_dict()))["numbers"]


def test_all_sections_make_one_page(sections, tmp_path):
    page = write_html([], tmp_path / "page.html", sections=list(sections.values())).read_text()
    for section in sections.values():
        assert section.title in page
        assert section.table.headings[-1] in page


def test_a_verdict_is_what_the_numbers_say():
    found = _findings.Findings()
    for seed in range(3):
        found.add("a", {"mAP": 0.7 + 0.01 * seed})
        found.add("b", {"mAP": 0.705 + 0.01 * seed})
        found.add("c", {"mAP": 0.5})
    assert found.verdict("mAP") == (
        "mAP: best is b (0.715±.010), then a (0.710±.010); the difference of 0.005 is no more than the spread of the "
        "seeds (0.010)."
    )
    assert "the difference of 0.210 is more than" in found.verdict("mAP", ["a", "c"])
    assert found.verdict("mAP", ["c"]) == "mAP: c 0.500±.000."
    table = found.table("t", "row", ["mAP", "none"])
    assert table.rows[0] == ("a", "0.710±.010", "-")
    assert found.numbers()["b"]["mAP"] == pytest.approx([0.705, 0.715, 0.725])


def test_an_ablation_needs_features_and_labels():
    bare = Dataset("bare", *(Samples((f"{p}1",)) for p in "tqg"))
    with pytest.raises(InputError, match="needs features and labels"):
        ablation("labels")(data=bare)


# -- fusion ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ViewSum, LowRankBilinear, ViewAttention])
def test_fusions_are_those_of_their_definitions(kind):
    torch.manual_seed(0)
    module = kind([3, 5], 8).eval()
    x = torch.randn(4, 8)
    x[1, :3] = 0  # lacks the first view
    with torch.no_grad():
        fused = module(x).numpy()
        (one, other) = (torch.tanh(layer(p)).numpy() for layer, p in zip(module.views.layers, (x[:, :3], x[:, 3:])))
    for i in range(4):
        tokens = [other[i]] if i == 1 else [one[i], other[i]]
        if kind is ViewSum:
            expected = sum(tokens)
        elif kind is LowRankBilinear:
            expected = np.prod(tokens, axis=0)
        else:
            expected = attended(module.attention, np.stack(tokens))
        np.testing.assert_allclose(fused[i], expected, atol=1e-5)


def attended(attention, tokens):
    """Multi-head attention of a few tokens, written out; residual and mean."""
    w, b = attention.in_proj_weight.detach().numpy(), attention.in_proj_bias.detach().numpy()
    q, k, v = np.split(tokens @ w.T + b, 3, axis=1)
    heads, size = attention.num_heads, tokens.shape[1] // attention.num_heads
    mixed = np.zeros_like(tokens)
    for h in range(heads):
        s = slice(h * size, (h + 1) * size)
        for i in range(len(tokens)):
            e = np.exp([q[i, s] @ k[j, s] / np.sqrt(size) for j in range(len(tokens))])
            mixed[i, s] = sum(weight * v[j, s] for j, weight in enumerate(e / e.sum()))
    out = mixed @ attention.out_proj.weight.detach().numpy().T + attention.out_proj.bias.detach().numpy()
    return (tokens + out).mean(axis=0)


@pytest.mark.parametrize("fusion", ["concatenation", "attention", "bilinear", "sum"])
def test_clipmh_learns_with_every_fusion_and_answers_one_view(fusion, tmp_path):
    train, query = DATA.train, DATA.query
    model = CLIPMH(n_bits=16, fusion=fusion, epochs=15).fit(train.views, train.labels)
    gallery = model.encode(train.views)
    for views in (query.views, {"image": query.views["image"]}):
        assert bf.score(model.encode(views), gallery, query.labels, train.labels).map > 0.7
    model.save(tmp_path / "m")
    assert np.array_equal(bf.load(tmp_path / "m").encode(query.views).packed, model.encode(query.views).packed)
    assert "saturated_gates" not in model.log


def test_fused_features_are_what_the_hash_layer_reads():
    model = CLIPMH(n_bits=16, epochs=2).fit(DATA.train.views, DATA.train.labels)
    state = model._fitted["state"]
    h = np.tanh(model.fused(DATA.query.views) @ state["hash.weight"].T + state["hash.bias"])
    np.testing.assert_allclose(h, model.project(DATA.query.views), atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"fusion": "gat"}, "did you mean 'gate'"), ({"fusion": "sum", "variant": "code"}, "leave variant='code' out")],
)
def test_fusions_that_mean_nothing_are_refused(parameters, message):
    with pytest.raises(InputError, match=message):
        CLIPMH(n_bits=8, **parameters).fit(DATA.train.views, DATA.train.labels)


# -- novelty -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [24, 90])
def test_novelty_is_a_mahalanobis_distance_with_one_variance_beyond_64_axes(width):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((400, width)) * np.linspace(2, 0.5, width) + 1).astype(np.float32)
    state = _familiar.learn(as_batch({"image": x}), 0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    half = np.random.default_rng(0).permutation(400)[:200]
    values, axes = np.linalg.eigh(np.cov(unit[half].T))
    values[: width - 64] = values[: width - 64].mean() if width > 64 else values[: width - 64]
    values = np.maximum(values, 1e-3 * values.sum() / width)
    inverse = axes @ np.diag(1 / values) @ axes.T
    distance = np.sqrt([row @ inverse @ row for row in unit - unit[half].mean(axis=0)])
    aside = np.setdiff1d(np.arange(400), half)
    expected = distance / (1.001 * distance[aside].max())
    np.testing.assert_allclose(_familiar.novelty(state, as_batch({"image": x})), expected, rtol=1e-3)


def test_strange_rows_are_told_from_ordinary_ones_and_the_rule_is_saved(tmp_path):
    model = bf.hasher("itq", n_bits=16).fit(DATA.train.views)
    usual = model.novelty(DATA.query.views)
    strange = {"image": np.random.default_rng(5).standard_normal((30, 24)), "text": DATA.query.views["text"]}
    assert (usual > 1).mean() < 0.1
    assert (model.novelty(strange) > 1).all()
    single = np.stack([model.novelty({v: x}) for v, x in DATA.query.views.items()])
    np.testing.assert_array_equal(usual, single.max(axis=0))
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(bf.load(tmp_path / "m").novelty(DATA.query.views), usual)


def test_nothing_is_said_where_nothing_is_known():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        few = bf.hasher("itq", n_bits=8).fit({k: v[:50] for k, v in DATA.train.views.items()})
    assert np.isnan(few.novelty(DATA.query.views)).all()
    constant = bf.hasher("lsh", n_bits=8).fit({"image": np.ones((200, 4))})
    assert np.isnan(constant.novelty({"image": np.ones((3, 4))})).all()


def test_a_collection_warns_of_strange_queries(tmp_path):
    model = bf.hasher("itq", n_bits=16).fit({"image": DATA.train.views["image"]})
    with bf.Collection.create(tmp_path / "c", model=model) as shop:
        shop.add({"id": i, "views": {"image": row}} for i, row in zip(DATA.train.ids, DATA.train.views["image"]))
        hits = shop.search(views={"image": DATA.train.views["image"][0]}, explain=True)
        assert hits[0].explanation["novelty"] <= 1
        with pytest.warns(DataWarning, match="times as far from the model's training data"):
            shop.search(views={"image": np.random.default_rng(5).standard_normal(24)})


def test_auroc_counts_pairs():
    usual, strange = np.array([1.0, 2, 2, 3]), np.array([2.0, 4])
    pairs = [(s > u) + (s == u) / 2 for u in usual for s in strange]
    assert shift.auroc(usual, strange) == pytest.approx(np.mean(pairs))
    assert np.isnan(shift.auroc(usual, np.array([np.nan])))


# -- the others --------------------------------------------------------------------------------------------------------


def test_labels_are_drawn_by_class():
    y = DATA.train.labels
    chosen = labels.draw(y, 3, np.random.default_rng(0))
    assert (y[chosen].sum(axis=0) == 3).all()
    assert len(labels.draw(y, 10_000, np.random.default_rng(0))) == len(y)


def test_own_pictures_are_found_as_a_brute_force_ranking_finds_them():
    model = bf.hasher("itq", n_bits=8, aligned=True).fit(DATA.train.views)
    rankers = [sizes._Coded(model, *sizes._pairs(DATA)), sizes._Float(*sizes._pairs(DATA), DATA)]
    found, exact = sizes.own_pictures(rankers, DATA, (50, 200))
    query, own = (model.encode({v: DATA.query.views[v]}) for v in ("text", "image"))
    for n in (50, 200):
        far = query.hamming(model.encode({"image": DATA.gallery.views["image"][:n]}))
        mine = np.diagonal(query.hamming(own))
        chance = []
        for row, d in zip(far, mine):
            before, level = (row < d).sum(), (row == d).sum() + 1
            chance.append(np.clip((10 - before) / level, 0, 1))
        assert found[str(n)] == pytest.approx(np.mean(chance))
        words, pictures, others = (centred(x, v) for x, v in asked_among(n))
        rank = (words @ others.T > (words * pictures).sum(axis=1)[:, None]).sum(axis=1)
        assert exact[str(n)] == pytest.approx((rank < 10).mean())


def asked_among(n):
    query = DATA.query.views
    return (query["text"], "text"), (query["image"], "image"), (DATA.gallery.views["image"][:n], "image")


def centred(x, view):
    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return unit(unit(x) - unit(DATA.train.views[view]).mean(axis=0))


def test_distractors_are_the_real_ones_then_jittered_ones_and_always_the_same():
    images = DATA.gallery.views["image"]
    first = np.concatenate(list(sizes.distractors(images, 700)))
    assert len(first) == 700
    assert np.array_equal(first[:300], images)
    assert np.array_equal(first, np.concatenate(list(sizes.distractors(images, 700))))
    np.testing.assert_allclose(np.linalg.norm(first[300:], axis=1), 1, rtol=1e-5)
    assert len(np.unique(first[300:], axis=0)) == 400


def test_scores_of_kept_items_agree_with_the_codes_own():
    model = bf.hasher("itq", n_bits=64).fit(DATA.train.views)
    query, gallery = (model.encode(p.views) for p in (DATA.query, DATA.gallery))
    scores = -query.hamming(gallery).astype(np.float32)
    nearest = np.argsort(-scores, axis=1)[:, :10]
    found = bytes._judged(scores, nearest, DATA)
    expected = bf.score(query, gallery, DATA.query.labels, DATA.gallery.labels).map
    assert found[bytes.MAP] == pytest.approx(expected, abs=1e-12)
    distinct = scores + 1e-3 * np.random.default_rng(0).random(scores.shape)
    assert bytes._judged(distinct, np.argsort(-distinct, axis=1)[:, :10], DATA)[bytes.RECALL] == 1


def test_bytes_says_how_to_install_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependency, match=r"bitfuse\[faiss\]"):
        ablation("bytes")(data=DATA, quick=True)


def test_a_style_draws_the_same_scene_otherwise_and_the_same_again():
    drawn = {style: [render(scene(0, i), 48, style).tobytes() for i in range(5)] for style in STYLES}
    again = {style: [render(scene(0, i), 48, style).tobytes() for i in range(5)] for style in STYLES}
    assert drawn == again
    assert len({picture for pictures in drawn.values() for picture in pictures}) == 5 * len(STYLES)
    plain, noisy = generate(3), generate(3, style="noise")
    assert plain.texts == noisy.texts
    assert list(plain.images) != list(noisy.images)
    for draw in (lambda: render(scene(0, 0), 48, "flatt"), lambda: generate(1, style="flatt")):
        with pytest.raises(UnknownName, match="did you mean 'flat'"):
            draw()


def test_the_command_prints_and_writes(tmp_path, monkeypatch):
    from bitfuse.cli import ablations as command  # noqa: F401  (it registers the verb)
    from bitfuse.cli import app

    file = tmp_path / "blobs.npz"
    together = [np.concatenate([p.views[v] for p in (DATA.train, DATA.query)]) for v in ("image", "text")]
    y = np.concatenate([p.labels for p in (DATA.train, DATA.query)])
    np.savez(file, image=together[0], text=together[1], labels=y)
    done = CliRunner().invoke(
        app, ["bench", "ablation", "labels", "--data", str(file), "--out", str(tmp_path / "o"), "--quick"]
    )
    assert done.exit_code == 0, done.output
    assert "ITQ, every row, no label" in done.output
    written = json.loads((tmp_path / "o" / "labels.json").read_text())
    assert written["numbers"]["CLIPMH"]["all"]
    assert written["versions"]["bitfuse"]
    assert "How many labels are needed?" in (tmp_path / "o" / "ablations.html").read_text()
    wrong = CliRunner().invoke(app, ["bench", "ablation", "label"])
    assert isinstance(wrong.exception, UnknownName)
