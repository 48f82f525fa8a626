"""The seventeen traps that made published figures wrong or incomparable: each is impossible here, or is flagged.

`test_t01` to `test_t17`, numbered as in the documentation of the protocol. Each fails if its trap comes back.
"""

import dataclasses
import inspect
import json
from functools import partial

import numpy as np
import pytest
from tests.fake_backbone import FakeBackbone

from bitfuse import Codes, Dataset, Protocol, Samples, evaluate, hashers, metrics, score
from bitfuse.bench.protocol import PRESETS
from bitfuse.bench.tables import of_result, of_results
from bitfuse.checks import checks
from bitfuse.checks.tools import clusters, fitted
from bitfuse.data.split import split
from bitfuse.errors import DataWarning, InputError
from bitfuse.hashers import hasher_class
from bitfuse.hashers.base import Hasher
from bitfuse.pipeline import training
from bitfuse.pipeline.extract import extract

CROSS_MODAL = [name for name in hashers() if {"image", "text"} <= set(hasher_class(name).spaces)]


@dataclasses.dataclass(kw_only=True, frozen=True, eq=False)
class Sum(Hasher):
    """Fixed projections of each view, added; spaces of their own for image and text."""

    spaces = ("fused", "image", "text")
    data_driven = False
    accepts_missing = "query"
    year = 2023
    reference = "none"

    def _fit(self, batch, labels, *, device):
        rng = np.random.default_rng(self.seed)
        return {k: rng.normal(size=(x.shape[1], self.n_bits)) for k, x in batch.arrays.items()}, {}

    def _project(self, state, batch, space, *, device):
        return sum(x @ state[name] for name, x in batch.arrays.items())


def made_up(n=200, n_train=None, seed=0, notes=None):
    """Rows around five centres, one label each; 40 queries; all or some of the gallery trains."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 5, n)
    views = {
        name: (rng.normal(size=(5, 6))[kind] + 0.7 * rng.normal(size=(n, 6))).astype(np.float32)
        for name in ("image", "text")
    }
    names = tuple("abcde")
    samples = Samples(tuple(f"i{i}" for i in range(n)), views, labels=np.eye(5, dtype=bool)[kind], label_names=names)
    rest = samples.take(range(40, n))
    train = rest if n_train is None else rest.take(range(n_train))
    return Dataset("made up", train=train, query=samples.take(range(40)), gallery=rest, notes=notes or {})


def judge(data, cls=Sum, protocol="strict", **parameters):
    hasher = cls(**{"n_bits": 12, **parameters}).fit(data.train.views, data.train.labels)
    return evaluate(hasher, data, protocol, threads=1)


def with_part(data, part, **changes):
    return dataclasses.replace(data, **{part: dataclasses.replace(getattr(data, part), **changes)})


@pytest.mark.parametrize("name", CROSS_MODAL)
def test_t01_the_code_of_an_image_query_does_not_read_its_text(name):
    views, labels = clusters(["image", "text"])
    hasher = fitted(hasher_class(name), views, labels)
    other = {"image": views["image"], "text": views["text"][::-1].copy()}
    for space, changed in (("image", other), ("text", {"text": views["text"], "image": views["image"][::-1].copy()})):
        alone = hasher.project({space: views[space]}, space)
        np.testing.assert_array_equal(hasher.project(views, space), alone)
        np.testing.assert_array_equal(hasher.project(changed, space), alone)


def test_t01_a_mode_hands_the_method_nothing_but_the_views_it_names():
    seen = []

    class Spy(Sum):
        def _project(self, state, batch, space, *, device):
            seen.append((space, tuple(name for name, mask in batch.masks.items() if mask.any()), len(batch)))
            return super()._project(state, batch, space, device=device)

    data = made_up()
    judge(data, Spy)
    assert {views for space, views, _ in seen if space == "image"} == {("image",)}
    assert {views for space, views, _ in seen if space == "text"} == {("text",)}
    assert {views for space, views, n in seen if space == "fused" and n == 40} == {
        ("image", "text"), ("image",), ("text",)
    }  # fmt: skip


class Attending(Sum):
    """Every row reads the mean of its batch."""

    def _project(self, state, batch, space, *, device):
        z = super()._project(state, batch, space, device=device)
        return z - z.mean(axis=0)


def test_t02_a_method_that_attends_to_its_batch_fails_the_suite():
    row_wise = next(check for check in checks() if check.name == "row_wise")
    row_wise(Sum)
    with pytest.raises(AssertionError, match="bits change when rows come alone"):
        row_wise(Attending)


class Dropping(Sum):
    """Leaves out the rows beyond the last full batch of 32."""

    def _project(self, state, batch, space, *, device):
        return super()._project(state, batch, space, device=device)[: len(batch) // 32 * 32]


def test_t03_no_query_and_no_gallery_row_is_dropped():
    data = made_up(203)  # neither 40 nor 163 is a multiple of a batch
    result = judge(data)
    assert {(a.queries, a.gallery) for a in result.modes.values() if a} == {(40, 163)}
    with pytest.raises(InputError, match=r"labels must be 0 or 1, of shape \(32, c\), got bool \(40, 5\)"):
        judge(data, Dropping)
    samples = Samples(tuple(f"t{i}" for i in range(130)), texts=[f"word{i}" for i in range(130)])
    extracted, skipped = extract(samples, FakeBackbone(), batch_size=64)
    assert extracted.ids == samples.ids
    assert not skipped
    lame = with_part(data, "query", views={k: np.where(np.arange(40)[:, None] < 3, np.nan, v)
                                           for k, v in data.query.views.items()})  # fmt: skip
    with pytest.warns(DataWarning, match="3 of 40 queries lack a view that the method needs and are left out"):
        judge(lame)


def test_t04_a_figure_at_rank_50_is_called_so():
    result = judge(made_up(), protocol="ucmfh2023")
    for table in (of_result(result), of_results([result])):
        assert table.title.endswith(": mAP@50")
    facts = result.to_dict()["protocol"]
    assert facts["k"] == 50
    assert "mAP@50 over the first 50" in facts["text"]
    assert of_result(judge(made_up())).title.endswith(": mAP")


def test_t05_no_split_lets_a_query_into_training_or_gallery():
    rows = made_up()
    with pytest.raises(InputError, match=r"also in train, for example 'i\d+'; .* the score measures memory"):
        Dataset("mixed", train=rows.train.take(range(50)), query=rows.train.take([49]), gallery=rows.gallery.take([60]))
    whole = Samples(
        tuple(f"i{i}" for i in range(400)),
        {"image": np.ones((400, 2), np.float32)},
        labels=np.random.default_rng(0).random((400, 4)) < 0.4,
        label_names=tuple("abcd"),
    )
    for options in ({}, {"n_query": 30}, {"per_class": 10}, {"train": "disjoint"}, {"train": 50}, {"unseen": 2}):
        for seed in range(3):
            data = split(whole, seed=seed, **options)
            assert not set(data.query.ids) & {*data.train.ids, *data.gallery.ids}
    copied = with_part(rows, "query", views={k: rows.train.views[k][:40].copy() for k in rows.query.views})
    with pytest.warns(DataWarning) as told:
        judge(copied)
    assert any("40 queries have exactly the features of a row in training" in str(w.message) for w in told)


def test_t06_training_sees_neither_queries_nor_test_scores():
    assert set(inspect.signature(Hasher.fit).parameters) == {"self", "views", "labels", "sources", "device"}
    assert not any("fit" in vars(hasher_class(name)) for name in hashers())
    seen = []

    class Spy(Sum):
        def _fit(self, batch, labels, *, device):
            seen.extend(batch.arrays["image"][:, 0].tolist())
            return super()._fit(batch, labels, device=device)

    whole = made_up(400).gallery
    train, heldout = training.hold_out(whole)
    Spy(n_bits=12).fit(train.views)
    assert len(seen) == len(train)
    assert not set(seen) & set(heldout.views["image"][:, 0].tolist())
    for preset in PRESETS.values():
        assert f"models chosen on {preset.selection}" in preset.describe()


def test_t06_a_saved_model_is_never_asked_what_it_was_trained_on(tmp_path):
    whole = made_up(400).gallery
    train, heldout = training.hold_out(whole)
    Sum(n_bits=12).fit(train.views).save(tmp_path / "m", attachments=training.ids_attachment(train, heldout))
    with pytest.raises(InputError, match="rows were used to train"):
        training.judged_split(tmp_path / "m", train, "whole")
    mixed = Dataset("mixed", train=train.take([5]), query=train.take([0, 1]), gallery=train.take([5, 6]))
    with pytest.raises(InputError, match="2 of 2 queries were used to train"):
        training.refuse_trained_queries(tmp_path / "m", mixed)


def test_t07_the_mean_is_over_the_queries_there_are():
    gallery, labels = Codes.from_bits([[0, 0], [1, 1]]), np.array([[1, 0], [0, 1]], bool)
    assert score(gallery, gallery, labels, labels).map == 1.0
    data = made_up()
    codes = [Sum(n_bits=12).fit(data.train.views).encode(part.views) for part in (data.query, data.gallery)]
    once = score(*codes, data.query.labels, data.gallery.labels).map
    twice = np.r_[np.arange(40), np.arange(40)]
    assert score(codes[0][twice], codes[1], data.query.labels[twice], data.gallery.labels).map == pytest.approx(
        once, abs=1e-12
    )
    assert metrics.mean(np.ones(7)) == 1.0


@pytest.mark.parametrize("n_bits", [1, 7, 8, 9, 16, 31, 64, 65, 130])
def test_t08_the_distance_of_packed_codes_is_the_number_of_bits_that_differ(n_bits):
    rng = np.random.default_rng(n_bits)
    a, b = rng.integers(0, 2, (4, n_bits)), rng.integers(0, 2, (5, n_bits))
    wanted = [[sum(int(x != y) for x, y in zip(p, q)) for q in b] for p in a]
    one, other = Codes.from_bits(a), Codes.from_bits(b)
    assert one.hamming(other).tolist() == wanted
    counts = score(one, other, np.ones((4, 1)), np.ones((5, 1))).counts.n
    assert counts.tolist() == [[row.count(d) for d in range(n_bits + 1)] for row in wanted]
    if n_bits % 8:
        with pytest.raises(InputError):  # shifted bytes carry bits beyond the last one
            Codes(np.full_like(one.packed, 255), n_bits)


def test_t09_no_item_is_dropped_for_its_score():
    """Negated distances are at most 0; the nearest item here is 3 bits away, and every one counts."""
    query, gallery = Codes.from_bits([[0] * 6]), Codes.from_bits([[1] * d + [0] * (6 - d) for d in (3, 4, 5, 6)])
    scores = score(query, gallery, [[1]], [[1], [0], [1], [0]])
    assert scores.map == pytest.approx((1 + 2 / 3) / 2)
    assert scores.counts.n.sum() == 4


def test_t10_the_divisor_of_a_figure_at_rank_k_is_named_and_changes_it():
    n, r = np.array([[1, 1, 1, 1, 1, 1]]), np.array([[0, 1, 0, 1, 0, 1]])
    values = {d: float(metrics.average_precision(n, r, 2, d)[0]) for d in metrics.DIVISORS}
    assert values == pytest.approx({"R": 0.5 / 3, "min(R,K)": 0.25, "hits": 0.5, "first-K-relevant": 0.5})
    whole = {float(metrics.average_precision(n, r, 6, d)[0]) for d in metrics.DIVISORS}
    assert len({round(v, 12) for v in whole}) == 1
    told = {Protocol(name="t", k=2, divisor=d).describe() for d in metrics.DIVISORS}
    assert len(told) == 4
    with pytest.raises(ValueError, match="unknown divisor"):
        Protocol(name="t", k=2, divisor="K")


def test_t11_what_the_order_of_ties_leaves_open_stands_beside_the_figure():
    data = made_up(600)
    result = judge(data, n_bits=4)
    low, high = result.first.scores.map_bounds
    assert low + 0.05 < result.map < high - 0.05
    table = of_result(result)
    assert {"worst", "best"} <= set(table.headings)
    orders = {rule: judge(data, n_bits=4, protocol=Protocol(name="t", ties=rule)).map for rule in metrics.TIES}
    assert orders == pytest.approx({"expectation": result.map, "optimistic": high, "pessimistic": low})
    with pytest.warns(DataWarning, match=r"at rank 10 stand \d+ items at the same distance.*mAP@10 lies between"):
        judge(data, n_bits=4, protocol=Protocol(name="top 10", k=10))


def test_t12_queries_without_a_relevant_item_are_counted_and_their_rule_is_told():
    data = made_up()
    labels = data.query.labels.copy()
    labels[:10] = False
    data = with_part(data, "query", labels=labels)
    values = {}
    for rule, words in (("omit", "are left out"), ("zero", "count as 0")):
        protocol = Protocol(name=rule, empty=rule)
        with pytest.warns(DataWarning, match=f"10 of 40 queries have no relevant item in the gallery; they {words}"):
            result = judge(data, protocol=protocol)
        values[rule] = result.map
        assert words in protocol.describe()
        assert result.to_dict()["modes"]["both"]["empty_queries"] == 10
    assert values["zero"] == pytest.approx(values["omit"] * 30 / 40)


def test_t13_queries_inside_the_gallery_are_refused_by_id_and_told_by_features():
    data = made_up()
    with pytest.raises(InputError, match=r"1 quer\(ies\) are also in gallery, for example 'i50'"):
        Dataset("inside", train=data.train.take([0]), query=data.gallery.take([10]), gallery=data.gallery)
    same = with_part(data, "query", views={k: data.gallery.views[k][:40].copy() for k in data.query.views})
    with pytest.warns(DataWarning) as told:
        judge(same)
    assert any("40 queries have exactly the features of a row in the gallery" in str(w.message) for w in told)


class Onehot(Sum):
    """The label of every training row by heart, chance elsewhere: what a supervised hash may be."""

    supervised = True

    def _fit(self, batch, labels, *, device):
        rng = np.random.default_rng(0)
        return {"x": batch.arrays["image"], "code": (labels @ rng.normal(size=(labels.shape[1], self.n_bits)))}, {}

    def _project(self, state, batch, space, *, device):
        x = batch.arrays.get("image", np.zeros((len(batch), state["x"].shape[1])))
        distance = ((x[:, None] - state["x"][None]) ** 2).sum(axis=2)
        known = distance.min(axis=1) < 1e-9
        chance = np.sin(1e4 * x) @ np.random.default_rng(1).normal(size=(x.shape[1], self.n_bits))
        return np.where(known[:, None], state["code"][distance.argmin(axis=1)], chance)


def test_t14_figures_without_training_rows_and_on_unseen_classes_stand_beside_the_score():
    part = judge(made_up(400, n_train=200), Onehot)
    assert part.beside.keys() == {"no training rows"}
    assert part.map > part.beside["no training rows"] + 0.02
    data = made_up(400, n_train=200)
    rest = [i for i, name in enumerate(data.gallery.ids) if name not in set(data.train.ids)]
    apart = dataclasses.replace(data, gallery=data.gallery.take(rest))
    assert judge(apart, Onehot).map == pytest.approx(part.beside["no training rows"], abs=1e-12)
    assert judge(apart, Onehot).beside == {}
    assert any(row[0] == "no training rows" for row in of_result(part).rows)
    whole = judge(made_up(), Onehot)  # the gallery is the training set: no such figure, and the table shows "-"
    assert np.isnan(whole.beside["no training rows"])
    assert ("no training rows", "", "", "-") in {row[:4] for row in of_result(whole).rows}
    assert json.loads(json.dumps(whole.to_dict()))["beside"] == {"no training rows": None}
    with pytest.warns(DataWarning, match="wants none of the training rows in the gallery, this data set has all"):
        judge(made_up(), protocol=Protocol(name="apart", train_in_gallery="none"))


def test_t14_classes_that_training_never_saw():
    rows = made_up(400).gallery
    data = split(rows, unseen=2, train="disjoint", seed=1)
    hidden = [rows.label_names.index(name) for name in data.notes["labels that never train"]]
    assert len(hidden) == 2
    assert not data.train.labels[:, hidden].any()
    assert data.gallery.labels[:, hidden].any()
    result = judge(data)
    asked = data.query.labels[:, hidden]
    hasher = Sum(n_bits=12).fit(data.train.views)
    keep = asked.any(axis=1)
    wanted = score(
        hasher.encode(data.query.views)[np.flatnonzero(keep)], hasher.encode(data.gallery.views), asked[keep],
        data.gallery.labels[:, hidden],
    ).map  # fmt: skip
    assert result.beside == {"unseen classes": pytest.approx(wanted, abs=1e-12)}


def test_t15_random_and_constant_codes_stand_in_every_table():
    result = judge(made_up())
    for table in (of_result(result), of_results([result])):
        assert {"random codes", "constant"} <= {row[0] for row in table.rows}
    assert 0.1 < result.floors["constant"] < 0.35
    data = made_up()
    easy = {
        part: dataclasses.replace(rows, labels=np.column_stack([rows.labels, np.ones(len(rows), bool)]), label_names=())
        for part, rows in (("train", data.train), ("query", data.query), ("gallery", data.gallery))
    }
    with pytest.warns(DataWarning, match="one constant code reaches mAP 1.000 here, because 100% of the pairs"):
        judge(Dataset("easy", **easy))


def test_t16_the_rule_for_an_empty_ball_is_named_and_changes_the_figure():
    with pytest.raises(TypeError):  # there is no default
        metrics.precision_within(np.array([[0, 2]]), np.array([[0, 1]]))
    query, gallery = Codes.from_bits([[0, 0], [1, 1]]), Codes.from_bits([[0, 0], [0, 1]])
    values = {
        rule: score(query, gallery, [[1], [1]], [[1], [1]], Protocol(name="t", empty_ball=rule)).precision_within(0)
        for rule in metrics.EMPTY
    }
    assert values == {"zero": 0.5, "omit": 1.0}
    assert "an empty Hamming ball counts as precision 0" in Protocol(name="t").describe()
    assert "an empty Hamming ball is left out" in Protocol(name="t", empty_ball="omit").describe()


def test_t17_the_label_variant_is_named_and_one_that_the_protocol_does_not_mean_is_told():
    named = partial(made_up, seed=0)
    fits = judge(named(notes={"label variant": "21 concepts (NUS-WIDE)"}), protocol="clipmh2023")
    assert "label variant: 21 concepts (NUS-WIDE)" in fits.notes
    with pytest.warns(DataWarning, match=r"'clipmh2023' is about 24 labels .* this data set has 10 concepts"):
        judge(named(notes={"label variant": "10 concepts (NUS-WIDE)"}), protocol="clipmh2023")
    with pytest.warns(DataWarning, match="this data set does not name its own"):
        judge(named(), protocol="clipmh2023")
    assert PRESETS["clipmh2023"].label_variant in PRESETS["clipmh2023"].describe()
