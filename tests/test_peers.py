"""Equal values with trec_eval, the evaluator of the retrieval community, where the definitions agree."""

import numpy as np
import pytest
import pytrec_eval

from bitfuse import Codes, Protocol, metrics, score

RANKS = (1, 5, 20)


@pytest.fixture(scope="module")
def judged():
    """30 queries against 45 items that lie at 45 distances from each of them: a ranking without ties."""
    rng = np.random.default_rng(0)
    queries, items, n_bits = 30, 45, 44
    order = np.stack([rng.permutation(items) for _ in range(queries)])  # item -> its distance from query q
    y_q, y_g = rng.random((queries, 6)) < 0.25, rng.random((items, 6)) < 0.15
    y_q[0] = False
    scores = []
    for q in range(queries):
        gallery = Codes.from_bits(np.arange(n_bits)[None] < order[q][:, None])  # unary: distance from zero
        query = Codes.from_bits(np.zeros((1, n_bits), bool))
        scores.append((query, gallery, y_q[q : q + 1], y_g))
    grades = (y_q[:, None] & y_g[None]).sum(axis=2)
    run = {f"q{q}": {f"d{i}": float(-d) for i, d in enumerate(row)} for q, row in enumerate(order)}
    found = {f"q{q}": {f"d{i}": int(g) for i, g in enumerate(row)} for q, row in enumerate(grades)}
    return scores, run, found


def peer(run, found, measure):
    values = pytrec_eval.RelevanceEvaluator(found, {measure}).evaluate(run)
    name = measure.replace(".", "_")
    return [values[f"q{q}"][name] for q in range(len(run))]


def ours(scores, metric, **rules):
    protocol = Protocol(name="peer", empty="zero", **rules)
    return [metric(score(*parts, protocol)) for parts in scores]


def test_mean_average_precision(judged):
    scores, run, found = judged
    assert ours(scores, lambda s: s.map) == pytest.approx(peer(run, found, "map"), abs=1e-6)
    assert 0.0 in ours(scores, lambda s: s.map)


@pytest.mark.parametrize("k", RANKS)
def test_measures_at_a_rank(judged, k):
    scores, run, found = judged
    same = {"abs": 1e-6}  # trec_eval hands its values over in single precision here and there
    assert ours(scores, lambda s: s.map, k=k) == pytest.approx(peer(run, found, f"map_cut.{k}"), **same)
    assert ours(scores, lambda s: s.precision_at(k)) == pytest.approx(peer(run, found, f"P.{k}"), **same)
    assert ours(scores, lambda s: s.recall_at(k)) == pytest.approx(peer(run, found, f"recall.{k}"), **same)


def test_a_peer_that_divides_otherwise_is_told_apart(judged):
    """`map_cut` divides by R: the three other divisors give other values, so a table must name its own."""
    scores, run, found = judged
    theirs = np.array(peer(run, found, "map_cut.5"))
    for divisor in set(metrics.DIVISORS) - {"R"}:
        assert np.abs(np.array(ours(scores, lambda s: s.map, k=5, divisor=divisor)) - theirs).max() > 0.01


@pytest.mark.parametrize("k", [None, *RANKS])
def test_ndcg(judged, k):
    """trec_eval gains the grade itself where we gain 2^grade - 1: they agree on grades 0 and 1."""
    scores, run, found = judged
    binary = {q: {d: min(g, 1) for d, g in items.items()} for q, items in found.items()}
    measure = "ndcg" if k is None else f"ndcg_cut.{k}"
    wanted = peer(run, binary, measure)
    assert ours(scores, lambda s: s.ndcg(k, graded=False)) == pytest.approx(wanted, abs=1e-6)
