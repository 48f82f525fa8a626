import dataclasses
import io
import json
import re
import warnings

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.oracles import metrics as oracle

from bitfuse import Codes, Dataset, Protocol, Samples, evaluate, kernels, score
from bitfuse.bench import histograms as counting
from bitfuse.bench import report, tables
from bitfuse.bench.protocol import PRESETS
from bitfuse.errors import DataWarning, InputError, UnknownName
from bitfuse.hashers.base import Hasher


def random_codes(n, n_bits, n_labels, seed, share=0.3):
    rng = np.random.default_rng(seed)
    return Codes.from_bits(rng.integers(0, 2, (n, n_bits))), rng.random((n, n_labels)) < share


# --- Histograms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_bits", "n_labels"), [(8, 1), (13, 5), (64, 21), (130, 70)])
@pytest.mark.parametrize("way", ["compiled", "numpy", "many labels", "small blocks"])
def test_histograms_count_what_a_loop_counts(n_bits, n_labels, way, monkeypatch):
    if way == "numpy":
        monkeypatch.setattr(kernels, "COMPILED", False)
    if way == "many labels":
        monkeypatch.setattr(counting, "_MOST_LABEL_WORDS", 0)
    if way == "small blocks":
        monkeypatch.setattr(counting, "_BLOCK_BYTES", 1)
    (query, y_q), (gallery, y_g) = random_codes(5, n_bits, n_labels, 0), random_codes(40, n_bits, n_labels, 1)
    y_q[0], y_g[0] = False, True
    n, shared = oracle.counts(query.bits().tolist(), gallery.bits().tolist(), y_q.tolist(), y_g.tolist())
    by_grade = np.array(shared)  # (q, b + 1, grades)
    got = counting.histograms(query, gallery, y_q, y_g, threads=2)
    assert np.array_equal(got.n, n)
    assert np.array_equal(got.r, by_grade[:, :, 1:].sum(axis=2))
    assert np.array_equal(got.gains, by_grade @ (2.0 ** np.arange(n_labels + 1) - 1))
    wide = got.grades.shape[1]
    assert np.array_equal(got.grades, by_grade.sum(axis=1)[:, :wide])
    assert not by_grade[:, :, wide:].any()


def test_threads_do_not_change_the_counts():
    (query, y_q), (gallery, y_g) = random_codes(7, 32, 4, 0), random_codes(100, 32, 4, 1)
    one, three = (counting.histograms(query, gallery, y_q, y_g, threads=t) for t in (1, 3))
    for part in dataclasses.fields(one):
        assert np.array_equal(getattr(one, part.name), getattr(three, part.name))


# --- Scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", ["R", "hits", "min(R,K)", "first-K-relevant"])
@pytest.mark.parametrize("ties", ["expectation", "optimistic", "pessimistic", "row order"])
def test_score_is_the_definition_for_every_divisor_and_tie_rule(divisor, ties):
    (query, y_q), (gallery, y_g) = random_codes(6, 3, 2, 2), random_codes(7, 3, 2, 3)
    y_q[0] = False
    scores = score(query, gallery, y_q, y_g, Protocol(name="t", k=4, divisor=divisor, ties=ties, empty="zero"))
    wanted = []
    for q in range(6):
        distance = [sum(a != b for a, b in zip(query.bits()[q], row)) for row in gallery.bits()]
        relevant = [bool((y_q[q] & row).any()) for row in y_g]
        if ties == "row order":
            ranked = [relevant[i] for i in sorted(range(7), key=lambda i: (distance[i], i))]
            wanted.append(oracle.ap_of_ranking(ranked, 4, divisor))
        else:
            n = [distance.count(d) for d in range(4)]
            r = [sum(hit for hit, other in zip(relevant, distance) if other == d) for d in range(4)]
            wanted.append(oracle.average_precision(n, r, 4, divisor, ties))
    assert scores.ap == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    assert scores.map == pytest.approx(oracle.mean(wanted, "zero"), abs=1e-12)
    assert scores.n_empty == np.isnan(wanted).sum() > 0


def test_ties_stand_in_row_order_in_a_long_gallery_too():
    (query, y_q), (gallery, y_g) = random_codes(3, 2, 1, 2, 1.0), random_codes(500, 2, 1, 3)
    got = score(query, gallery, y_q, y_g, Protocol(name="t", ties="row order")).ap
    for q, value in enumerate(got):
        distance = (query.bits()[q] != gallery.bits()).sum(axis=1)
        ranked = [bool(y_g[i, 0]) for i in sorted(range(500), key=lambda i: (distance[i], i))]
        assert value == pytest.approx(oracle.ap_of_ranking(ranked, None, "R"), abs=1e-12)


def test_scores_hold_every_metric():
    (query, y_q), (gallery, y_g) = random_codes(4, 4, 3, 4), random_codes(8, 4, 3, 5)
    y_q[0] = False
    scores = score(query, gallery, y_q, y_g)
    n, shared = oracle.counts(query.bits().tolist(), gallery.bits().tolist(), y_q.tolist(), y_g.tolist())
    r = [[sum(grades[1:]) for grades in row] for row in shared]
    buckets = [[[g for g, c in enumerate(grades) for _ in range(c)] for grades in row] for row in shared]
    rows = list(zip(n, r))
    same = {"abs": 1e-12, "rel": 0}
    assert scores.precision_at(3) == pytest.approx(
        oracle.mean([oracle.precision_at(a, b, 3, "expectation") for a, b in rows], "omit"), **same
    )
    assert scores.recall_at(3) == pytest.approx(
        oracle.mean([oracle.recall_at(a, b, 3, "expectation") for a, b in rows], "omit"), **same
    )
    assert scores.precision_within(1) == pytest.approx(
        oracle.mean([oracle.precision_within(a, b, 1, "zero") for a, b in rows], "omit"), **same
    )
    assert scores.recall_within(1) == pytest.approx(
        oracle.mean([oracle.recall_within(a, b, 1) for a, b in rows], "omit"), **same
    )
    assert scores.ndcg(5) == pytest.approx(oracle.mean([oracle.ndcg(b, 5) for b in buckets], "omit"), **same)
    binary = [[[min(g, 1) for g in bucket] for bucket in b] for b in buckets]
    assert scores.ndcg(5, graded=False) == pytest.approx(
        oracle.mean([oracle.ndcg(b, 5) for b in binary], "omit"), **same
    )
    low, high = scores.map_bounds
    assert low <= scores.map <= high
    assert scores.relevant_share == np.sum(r) / 32
    at_third = [next(c for c, total in zip(a, np.cumsum(a)) if total >= 3) for a, _ in rows]
    assert scores.ties_at(3) == np.mean(at_third)


def test_the_rule_for_empty_balls_is_applied():
    query, gallery = Codes.from_bits([[0, 0], [1, 1]]), Codes.from_bits([[0, 0], [0, 1]])
    labels = np.ones((2, 1), bool)
    for rule, empty, wanted in (("zero", "omit", 0.5), ("omit", "zero", 1.0)):
        protocol = Protocol(name="t", empty=empty, empty_ball=rule)
        assert score(query, gallery, labels, labels, protocol).precision_within(0) == wanted


def test_a_score_without_any_relevant_item_is_undefined_and_json_says_null():
    query, gallery = Codes.from_bits([[0, 0]]), Codes.from_bits([[0, 1], [1, 1]])
    scores = score(query, gallery, [[0]], [[1], [1]])
    assert np.isnan(scores.map)
    assert json.loads(json.dumps(scores.to_dict()))["map"] is None
    assert score(query, gallery, [[0]], [[1], [1]], Protocol(name="t", empty="zero")).map == 0


def test_score_names_what_is_wrong():
    (query, y_q), (gallery, y_g) = random_codes(3, 8, 2, 0), random_codes(4, 8, 2, 1)
    with pytest.raises(InputError, match=r"query labels must be 0 or 1, of shape \(3, c\)"):
        score(query, gallery, y_q[:2], y_g)
    with pytest.raises(InputError, match="gallery labels must be 0 or 1"):
        score(query, gallery, y_q, y_g * 2)
    with pytest.raises(InputError, match="label columns"):
        score(query, gallery, y_q[:, :1], y_g)
    with pytest.raises(InputError, match="one code length"):
        score(query, random_codes(4, 9, 2, 1)[0], y_q, y_g)
    with pytest.raises(UnknownName, match="did you mean 'strict'"):
        score(query, gallery, y_q, y_g, "strikt")
    with pytest.raises(InputError, match="from 0 to 8"):
        score(query, gallery, y_q, y_g).precision_within(9)
    with pytest.raises(InputError, match="at least 5 items"):
        score(query, gallery, y_q, y_g).precision_at(5)


# --- Protocol ---------------------------------------------------------------------------------------------------------


def test_presets_are_data_that_can_be_told_and_rebuilt():
    assert list(PRESETS) == ["strict", "clipmh2023", "ucmfh2023"]
    for name, preset in PRESETS.items():
        assert Protocol.of(name) is preset
        facts = json.loads(json.dumps(preset.to_dict()))
        assert Protocol(**{**facts, "seeds": tuple(facts["seeds"])}) == preset
        assert name in preset.describe()
    assert Protocol.of("strict") == Protocol()


def test_every_choice_that_changes_a_number_is_in_the_text():
    changes = {
        "k": 7, "divisor": "hits", "ties": "row order", "empty": "zero", "empty_ball": "omit", "spaces": "words only",
        "train_in_gallery": "none", "selection": "a coin", "split": "by hand", "seeds": (5,), "label_variant": "TC10",
        "notes": "Mind the gap.",
    }  # fmt: skip
    plain = Protocol(name="p", k=3)
    for name, value in changes.items():
        assert dataclasses.replace(plain, **{name: value}).describe() != plain.describe()
    first = dataclasses.replace(plain, divisor="first-K-relevant").describe()
    assert "averaged over the first 3 relevant items" in first


def test_a_protocol_refuses_what_it_does_not_know():
    for wrong in ({"divisor": "N"}, {"ties": "random"}, {"empty": "drop"}, {"empty_ball": "drop"}):
        with pytest.raises(UnknownName):
            Protocol(name="p", **wrong)
    with pytest.raises(UnknownName, match="stance"):
        Protocol(name="p", train_in_gallery="maybe")
    with pytest.raises(InputError, match="at least 1"):
        Protocol(name="p", k=0)


def test_ucmfh2023_is_the_mean_over_all_queries_of_the_precisions_at_the_hits_in_the_top_50():
    rng = np.random.default_rng(0)
    gallery = Codes.from_bits(np.tri(61, 60, -1, dtype=bool))  # 61 items at 61 different distances: no ties
    query = Codes.from_bits(np.zeros((4, 60), bool))
    y_g = rng.random((61, 3)) < 0.1
    y_g[:, 2] = np.arange(61) >= 55  # a label that is met only below rank 50
    y_q = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    values = []
    for labels in y_q:
        relevant = (y_g & labels).any(axis=1)[:50]
        ranks = np.flatnonzero(relevant) + 1
        values.append(np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0)
    assert values[3] == 0
    assert score(query, gallery, y_q, y_g, "ucmfh2023").map == pytest.approx(np.mean(values), abs=1e-12)


# --- Evaluate ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True, frozen=True, eq=False)
class Projection(Hasher):
    """Fixed projections of each view, added: answers whatever its class facts say."""

    sharpness: float = 1.0

    data_driven = False
    year = 2023
    reference = "none"

    def _fit(self, batch, labels, *, device):
        rng = np.random.default_rng(self.seed)
        return {k: rng.normal(size=(x.shape[1], self.n_bits)) for k, x in batch.arrays.items()}, {}

    def _project(self, state, batch, space, *, device):
        return self.sharpness * sum(x @ state[name] for name, x in batch.arrays.items())


class Lenient(Projection):
    accepts_missing = "query"


class Crossing(Projection):
    spaces = ("image", "text")


class Threefold(Projection):
    spaces = ("fused", "image", "text")


class Constant(Projection):
    def _project(self, state, batch, space, *, device):
        return np.ones((len(batch), self.n_bits))


def made_up(n=160, labels=True, widths=(6, 6), seed=0):
    """Rows around five centres, in two views, with one label for each centre."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 5, n)
    views = {
        name: (rng.normal(size=(5, d))[kind] + 0.7 * rng.normal(size=(n, d))).astype(np.float32)
        for name, d in zip(("image", "text"), widths)
    }
    y = np.eye(5, dtype=bool)[kind] if labels else None
    samples = Samples(ids=tuple(f"i{i}" for i in range(n)), views=views, labels=y)
    rest = samples.take(range(40, n))
    return Dataset("made up", train=rest, query=samples.take(range(40)), gallery=rest)


def changed(data, **changes):
    """The data set with parts of all its samples computed anew: name -> function of the samples."""
    parts = {
        part: dataclasses.replace(old, **{name: change(old) for name, change in changes.items()})
        for part in ("train", "query", "gallery")
        for old in [getattr(data, part)]
    }
    return dataclasses.replace(data, **parts)


def fitted(cls, dataset, **parameters):
    return cls(n_bits=12, **parameters).fit(dataset.train.views, dataset.train.labels)


ALL_MODES = ["both", "image", "text", "image→text", "text→image"]


@pytest.mark.parametrize(
    ("cls", "answered"),
    [
        (Projection, ["both"]),
        (Lenient, ALL_MODES),
        (Crossing, ["image→text", "text→image"]),
        (Threefold, ["both", "image→text", "text→image"]),
    ],
)
def test_the_modes_that_a_method_answers(cls, answered):
    data = made_up()
    result = evaluate(fitted(cls, data), data)
    assert list(result.modes) == ALL_MODES
    assert [name for name, answer in result.modes.items() if answer] == answered
    assert result.map == result.modes[answered[0]].scores.map


def cosine(a, b):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def brute(similarity, data):
    values = []
    for row, labels in zip(similarity, data.query.labels):
        relevant = (data.gallery.labels & labels).any(axis=1)[np.argsort(-row, kind="stable")]
        values.append(oracle.ap_of_ranking(relevant.tolist(), None, "R"))
    return np.mean(values)


def test_the_three_columns_are_made_of_the_same_rows():
    data = made_up()
    hasher = fitted(Lenient, data)
    answers = evaluate(hasher, data, threads=1).modes
    unit = {
        part: {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in getattr(data, part).views.items()}
        for part in ("train", "query", "gallery")
    }
    gallery = np.hstack([unit["gallery"]["image"], unit["gallery"]["text"]])
    both = np.hstack([unit["query"]["image"], unit["query"]["text"]])
    alone = np.hstack([unit["query"]["image"], 0 * unit["query"]["text"]])
    assert answers["both"].float_map == pytest.approx(brute(both @ gallery.T, data), abs=1e-6)
    assert answers["image"].float_map == pytest.approx(brute(alone @ gallery.T, data), abs=1e-6)
    centred = {p: {k: v - unit["train"][k].mean(axis=0) for k, v in unit[p].items()} for p in ("query", "gallery")}
    crossed = cosine(centred["query"]["image"], centred["gallery"]["text"])
    assert answers["image→text"].float_map == pytest.approx(brute(crossed, data), abs=1e-6)
    z_q, z_g = hasher.project({"image": data.query.views["image"]}), hasher.project(data.gallery.views)
    assert answers["image"].projected_map == pytest.approx(brute(cosine(z_q, z_g), data), abs=1e-6)
    codes = Codes.from_real(z_q), Codes.from_real(z_g)
    assert answers["image"].scores.map == score(*codes, data.query.labels, data.gallery.labels).map


def test_neighbours_and_pairs_are_expectations_over_ties():
    data = made_up()
    hasher = fitted(Lenient, data)
    answers = evaluate(hasher, data).modes
    query, gallery = (
        np.hstack([v / np.linalg.norm(v, axis=1, keepdims=True) for v in part.views.values()])
        for part in (data.query, data.gallery)
    )
    similarity = query @ gallery.T
    distance = hasher.encode(data.query.views).hamming(hasher.encode(data.gallery.views))
    found = []
    for near, d in zip(np.argsort(-similarity, axis=1)[:, :10], distance):
        edge = np.sort(d)[9]
        room, tied = 10 - (d < edge).sum(), (d == edge).sum()
        found.append(((d[near] < edge).sum() + (d[near] == edge).sum() * room / tied) / 10)
    assert answers["both"].neighbours == pytest.approx(np.mean(found), abs=1e-12)
    one, other = (hasher.encode({k: data.query.views[k]}) for k in ("image", "text"))
    distance = one.hamming(other)
    own = np.diagonal(distance)
    first = [1 / (row == d).sum() if d == row.min() else 0 for row, d in zip(distance, own)]
    assert answers["image→text"].pairs["binary"][1] == pytest.approx(np.mean(first), abs=1e-12)
    assert set(answers["image→text"].pairs["float"]) == {1, 5, 10}
    assert answers["both"].pairs == {}


def test_views_of_other_widths_are_not_compared_as_features():
    data = made_up(widths=(6, 9))
    answer = evaluate(fitted(Crossing, data), data).modes["image→text"]
    assert np.isnan(answer.float_map)
    assert np.isnan(answer.neighbours)
    assert "float" not in answer.pairs
    assert 0 < answer.scores.map < 1


def test_one_view_is_one_mode():
    data = made_up()
    data = changed(data, views=lambda s: {"image": s.views["image"]})
    assert list(evaluate(fitted(Projection, data), data).modes) == ["image"]


def test_rows_without_the_views_of_a_mode_are_left_out_and_told():
    data = made_up()
    query = {k: v.copy() for k, v in data.query.views.items()}
    query["image"][:3] = np.nan
    data = dataclasses.replace(data, query=dataclasses.replace(data.query, views=query))
    with pytest.warns(DataWarning, match="3 of 40 queries lack a view"):
        strict = evaluate(fitted(Projection, data), data)
    assert strict.modes["both"].queries == 37
    answers = evaluate(fitted(Lenient, data), data).modes
    assert {name: a.queries for name, a in answers.items()} == dict(zip(ALL_MODES, [40, 37, 40, 37, 40]))


def test_without_labels_neighbours_and_pairs_remain():
    data = made_up(labels=False)
    result = evaluate(fitted(Lenient, data), data)
    assert result.floors == {}
    answer = result.modes["image→text"]
    assert np.isnan([answer.float_map, answer.projected_map, answer.scores.map]).all()
    assert answer.neighbours > 0
    text = render(result.table()) + render(report.terminal([result]))
    assert "no labels" in text
    assert json.loads(json.dumps(result.to_dict()))["map"] is None


def test_floors_stand_beside_the_score():
    data = made_up()
    floors = evaluate(fitted(Projection, data), data).floors
    assert list(floors) == ["random codes", "constant"]
    wanted = [
        oracle_constant(int((data.gallery.labels & y).any(axis=1).sum()), len(data.gallery)) for y in data.query.labels
    ]
    assert floors["constant"] == pytest.approx(np.mean(wanted), abs=1e-12)
    assert abs(floors["random codes"] - floors["constant"]) < 0.05


def oracle_constant(r, n):
    return sum((1 + (i - 1) * (r - 1) / (n - 1)) / i for i in range(1, n + 1)) / n


def test_copies_among_queries_and_gallery_are_told():
    data = made_up()
    views = {k: np.concatenate([data.gallery.views[k][:2], v[2:]]) for k, v in data.query.views.items()}
    data = dataclasses.replace(data, query=dataclasses.replace(data.query, views=views))
    with pytest.warns(DataWarning) as raised:
        result = evaluate(fitted(Projection, data), data)
    told = [str(w.message) for w in raised]
    assert any("2 queries have exactly the features of a row in the gallery" in t for t in told)
    assert any("in training" in t for t in told)
    assert result.notes == told


def test_collapsed_codes_are_told():
    data = made_up()
    with pytest.warns(DataWarning, match="the codes collapse: .* covers 100% of the gallery, 12 bits are dead"):
        result = evaluate(fitted(Constant, data), data)
    assert result.diagnostics == {"distinct": 1 / 120, "largest_bucket": 1.0, "dead_bits": 12, "equal_bits": 0}
    assert result.map == pytest.approx(result.floors["constant"])


def test_bits_that_repeat_are_counted():
    from bitfuse.bench.facts import diagnose

    bits = np.random.default_rng(0).integers(0, 2, (50, 5)).astype(bool)
    found = diagnose(Codes.from_bits(np.column_stack([bits, bits[:, 0], ~bits[:, 1], np.ones(50, bool)])))
    assert (found["equal_bits"], found["dead_bits"]) == (2, 1)


def test_relevance_so_common_that_a_constant_code_scores_well_is_told():
    data = made_up()
    data = changed(data, labels=lambda s: np.column_stack([s.labels, np.ones(len(s), bool)]))
    with pytest.warns(DataWarning, match="constant code reaches mAP 1.000 here, because 100% of the pairs"):
        evaluate(fitted(Projection, data), data)


def test_a_training_set_that_the_protocol_forbids_is_told():
    data = made_up()
    with pytest.warns(DataWarning, match="wants none of the training rows in the gallery, this data set has all"):
        evaluate(fitted(Projection, data), data, Protocol(name="apart", train_in_gallery="none"))


def test_queries_without_a_relevant_item_are_counted():
    data = made_up()
    labels = data.query.labels.copy()
    labels[:4] = False
    data = dataclasses.replace(data, query=dataclasses.replace(data.query, labels=labels))
    with pytest.warns(DataWarning, match="4 of 40 queries have no relevant item in the gallery; they are left out"):
        result = evaluate(fitted(Projection, data), data)
    assert result.modes["both"].scores.n_empty == 4


def test_data_without_the_views_of_the_model_is_refused():
    data = made_up()
    hasher = fitted(Projection, data)
    with pytest.raises(InputError, match=r"fitted on .*'image', 'text'.* has the views .*'sound'"):
        evaluate(hasher, changed(data, views=lambda s: {"sound": s.views["image"]}))
    with pytest.raises(InputError, match="answers no query mode"):
        evaluate(hasher, changed(data, views=lambda s: {"image": s.views["image"]}))


def test_a_result_holds_all_that_made_it(tmp_path):
    data = made_up()
    with pytest.warns(DataWarning, match="this data set does not name its own"):
        result = evaluate(fitted(Projection, data, sharpness=2.0), data, "clipmh2023", threads=1)
    result.save(tmp_path / "result.json")
    facts = json.loads((tmp_path / "result.json").read_text())
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert facts["method"] == "Projection(sharpness=2.0)"
    assert facts["protocol"]["text"] == Protocol.of("clipmh2023").describe()
    assert facts["modes"]["image"] is None
    assert facts["modes"]["both"]["map"] == facts["map"] == result.map
    assert facts["environment"]["threads"] == 1
    assert {"bitfuse", "numpy", "numba"} <= set(facts["environment"]["versions"])
    assert facts["environment"]["processor"]
    assert facts["widths"] == {"image": 6, "text": 6}


# --- Tables and reports -----------------------------------------------------------------------------------------------


def render(what, width=80):
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return out.getvalue()


@pytest.fixture(scope="module")
def results():
    data = made_up()
    return [
        evaluate(cls(n_bits=b, seed=s).fit(data.train.views), data)
        for cls in (Lenient, Threefold)
        for b in (16, 8)
        for s in (0, 1)
    ]


def test_a_result_prints_within_80_columns_with_its_protocol(results):
    text = render(results[4].table())
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert Protocol.of("strict").describe() in flat
    assert f"both {results[4].first.float_map:.3f}" in flat
    assert re.search(r"\bimage -", flat)
    assert re.search(r"constant \d\.\d{3}", flat)


def test_results_of_several_seeds_become_mean_and_deviation(results):
    table = tables.of_results(results)
    assert [row[:2] for row in table.rows[:4]] == [
        ("Lenient", "8"), ("Lenient", "16"), ("Threefold", "8"), ("Threefold", "16")
    ]  # fmt: skip
    maps = [r.map for r in results[2:4]]
    wanted = f"{np.mean(maps):.3f}±.{round(np.std(maps, ddof=1) * 1000):03d}"
    assert table.rows[0][table.headings.index("both")] == wanted
    assert table.rows[2][table.headings.index("image")] == "-"
    assert [row[0] for row in table.rows[4:]] == ["the features", "random codes", "constant"]


def test_a_wide_table_goes_on_underneath_and_keeps_its_keys(results):
    table = tables.of_results(results)
    text = render(table)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("Threefold") == 2 * text.count("method")
    for heading in table.headings:
        assert heading in text
    assert render(table, 300).count("method") == 1


def test_markdown_has_one_table_for_each_protocol(results):
    data = made_up()
    other = evaluate(fitted(Projection, data), data, "ucmfh2023")
    text = report.markdown([*results, other])
    assert text.count("| method |") == 2
    assert Protocol.of("ucmfh2023").describe() in text
    with pytest.raises(InputError, match="at least one result"):
        report.markdown([])


def picture(colour):
    out = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(out, format="PNG")
    return out.getvalue()


def test_the_page_stands_alone_and_escapes_what_users_wrote(results, tmp_path):
    small = tmp_path / "small.png"
    Image.new("RGB", (20, 20), "red").save(small)
    card = report.Card("a <b>bold</b> claim", picture("blue"))
    grids = [
        report.Retrieved("words", report.Card("red & round"), ((card, 3, True), (report.Card("plain"), 4, False))),
        report.Retrieved("picture", report.Card("", small), ((card, 0, None),)),
    ]
    target = report.write_html(results, tmp_path / "report.html", title="A <page>", grids=grids)
    page = target.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "small.png"]
    assert page.count("<svg") == 2
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("data:image/png;base64,") == 1
    assert "a &lt;b&gt;bold&lt;/b&gt; claim" in page
    assert "<b>bold</b>" not in page
    assert "A &lt;page&gt;" in page
    assert "1 of 2 are relevant" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page.replace('xlink:href="#', 'href="#'))
    assert not re.search(r"url\((?!#)", page)
    assert Protocol.of("strict").describe().split(";")[1] in page
    best = max(np.mean([r.map for r in results[i : i + 2]]) for i in range(0, 8, 2))
    assert f"<b>{best:.3f}<small>" in page


def test_the_same_results_give_the_same_page(results, tmp_path):
    first, second = (report.write_html(results, tmp_path / f"{i}.html").read_bytes() for i in (1, 2))
    assert first == second


def test_a_page_without_labels_or_grids(tmp_path):
    data = made_up(labels=False)
    page = report.write_html([evaluate(fitted(Lenient, data), data)], tmp_path / "r.html").read_text()
    assert "<svg" not in page
    assert "Searches" not in page
    assert "10-NN and R@1" in page


def test_a_picture_that_cannot_be_read_leaves_no_page(results, tmp_path):
    grid = report.Retrieved("picture", report.Card("", b"no picture"), ())
    with pytest.raises(InputError):
        report.write_html(results, tmp_path / "r.html", grids=[grid])
    assert not list(tmp_path.iterdir())


def test_scoring_warns_of_nothing_on_ordinary_data():
    data = made_up()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(fitted(Lenient, data), data)
