import math

import numpy as np
import pytest
from tests.oracles import metrics as oracle

from bitfuse import Codes, Protocol, metrics, score
from bitfuse.bench.protocol import TIE_RULES
from bitfuse.errors import InputError, UnknownName


def cases(count=200, seed=0):
    """Small histograms with heavy ties, empty buckets, no relevant items and all relevant items among them."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        n = rng.multinomial(rng.integers(1, 9), rng.dirichlet(np.full(rng.integers(1, 5), 0.5)))
        share = (0.0, 0.2, 0.5, 0.8, 1.0)[i % 5]
        yield n, rng.binomial(n, share)


CASES = [(n, r, int(k)) for (n, r), k in zip(cases(), np.random.default_rng(1).integers(1, 11, 200))]


def same(got, wanted):
    assert got == pytest.approx(wanted, abs=1e-12, rel=0, nan_ok=True)


@pytest.mark.parametrize("ties", metrics.TIES)
@pytest.mark.parametrize("divisor", metrics.DIVISORS)
def test_average_precision_is_what_listing_every_order_gives(divisor, ties):
    for n, r, k in CASES:
        for cut in (k, None):
            got = metrics.average_precision(n[None], r[None], cut, divisor, ties)[0]
            same(got, oracle.average_precision(n.tolist(), r.tolist(), cut, divisor, ties))


@pytest.mark.parametrize("ties", metrics.TIES)
@pytest.mark.parametrize("empty", metrics.EMPTY)
@pytest.mark.parametrize("divisor", metrics.DIVISORS)
def test_the_rule_for_empty_queries_on_many_queries_at_once(divisor, empty, ties):
    width = max(len(n) for n, _, _ in CASES)
    n, r = (np.stack([np.pad(c[i], (0, width - len(c[i]))) for c in CASES]) for i in (0, 1))
    assert (r.sum(axis=1) == 0).any()
    got = metrics.mean(metrics.average_precision(n, r, 4, divisor, ties), empty)
    rows = [oracle.average_precision(a.tolist(), b.tolist(), 4, divisor, ties) for a, b in zip(n, r)]
    same(got, oracle.mean(rows, empty))


def coded(seed):
    """Two queries and up to seven items of two or three bits: most distances are shared, some queries have nothing."""
    rng = np.random.default_rng(seed)
    n_bits, items, share = int(rng.integers(2, 4)), int(rng.integers(3, 8)), rng.choice([0.15, 0.5, 0.9])
    bits = [rng.integers(0, 2, (rows, n_bits)) for rows in (2, items)]
    return bits, [rng.random((rows, 2)) < share for rows in (2, items)], int(rng.integers(1, items + 1))


@pytest.mark.parametrize("ties", TIE_RULES)
@pytest.mark.parametrize("divisor", metrics.DIVISORS)
def test_scores_of_200_random_sets_of_codes_with_heavy_ties(divisor, ties):
    """From codes to the mean over queries, for every divisor, tie rule and rule for empty queries, pair by pair."""
    undefined = 0
    for seed in range(200):
        (q_bits, g_bits), (y_q, y_g), k = coded(seed)
        wanted = []
        for bits, labels in zip(q_bits, y_q):
            distance = [sum(int(a != b) for a, b in zip(bits, other)) for other in g_bits]
            relevant = [any(a and b for a, b in zip(labels, other)) for other in y_g]
            if ties == "row order":
                order = sorted(range(len(distance)), key=lambda i: (distance[i], i))
                wanted.append(oracle.ap_of_ranking([relevant[i] for i in order], k, divisor))
            else:
                n = [distance.count(d) for d in range(len(bits) + 1)]
                r = [sum(hit for hit, at in zip(relevant, distance) if at == d) for d in range(len(bits) + 1)]
                wanted.append(oracle.average_precision(n, r, k, divisor, ties))
        undefined += sum(map(math.isnan, wanted))
        for empty in metrics.EMPTY:
            protocol = Protocol(name="t", k=k, divisor=divisor, ties=ties, empty=empty)
            got = score(Codes.from_bits(q_bits), Codes.from_bits(g_bits), y_q, y_g, protocol, threads=1)
            same(got.ap.tolist(), wanted)
            same(got.map, oracle.mean(wanted, empty))
    assert undefined > 50


@pytest.mark.parametrize("divisor", metrics.DIVISORS)
def test_an_explicit_ranking(divisor):
    rng = np.random.default_rng(2)
    relevant = rng.random((100, 7)) < rng.random((100, 1))
    relevant[0] = False
    for k in (None, 1, 3, 7, 20):
        got = metrics.average_precision_of_ranking(relevant, k, divisor)
        for row, value in zip(relevant, got):
            same(value, oracle.ap_of_ranking(row.tolist(), k, divisor))


def test_all_divisors_agree_when_the_whole_ranking_counts():
    for n, r, _ in CASES:
        values = [metrics.average_precision(n[None], r[None], int(n.sum()), d)[0] for d in metrics.DIVISORS]
        same(values, [values[0]] * 4)


@pytest.mark.parametrize("ties", metrics.TIES)
def test_precision_and_recall_at_rank(ties):
    for n, r, k in CASES:
        k = min(k, int(n.sum()))
        listed = (n.tolist(), r.tolist(), k, ties)
        same(metrics.precision_at(n[None], r[None], k, ties)[0], oracle.precision_at(*listed))
        same(metrics.recall_at(n[None], r[None], k, ties)[0], oracle.recall_at(*listed))


@pytest.mark.parametrize("empty_ball", metrics.EMPTY)
def test_precision_and_recall_within_every_radius(empty_ball):
    for n, r, _ in CASES:
        precision = metrics.precision_within(n[None], r[None], empty_ball)[0]
        recall = metrics.recall_within(n[None], r[None])[0]
        for radius in range(len(n)):
            same(precision[radius], oracle.precision_within(n.tolist(), r.tolist(), radius, empty_ball))
            same(recall[radius], oracle.recall_within(n.tolist(), r.tolist(), radius))


def test_the_rule_for_empty_balls_changes_the_number():
    n, r = np.array([[0, 2], [1, 1]]), np.array([[0, 1], [1, 0]])
    assert metrics.mean(metrics.precision_within(n, r, "zero")[:, 0]) == 0.5
    assert metrics.mean(metrics.precision_within(n, r, "omit")[:, 0]) == 1.0


def test_pr_curve_leaves_out_empty_queries_and_radii_that_hold_nothing():
    n = np.array([[0, 1, 3], [0, 2, 2], [0, 4, 0]])
    r = np.array([[0, 1, 1], [0, 1, 0], [0, 0, 0]])
    recall, precision = metrics.pr_curve(n, r)
    same(recall.tolist(), [(0.5 + 1) / 2, 1.0])
    same(precision.tolist(), [(1 + 0.5) / 2, (0.5 + 0.25) / 2])
    assert [len(part) for part in metrics.pr_curve(n[2:], r[2:])] == [0, 0]


def test_ndcg_graded_and_binary():
    rng = np.random.default_rng(3)
    for i in range(60):
        grades = rng.integers(0, (2, 4)[i % 2], rng.integers(1, 7))
        bucket = rng.integers(0, 3, len(grades))
        buckets = [grades[bucket == d].tolist() for d in range(3)]
        n = np.array([[len(b) for b in buckets]])
        gains = np.array([[sum(2**g - 1 for g in b) for b in buckets]])
        totals = np.bincount(grades, minlength=4)[None]
        for k in (None, 1, 3):
            same(metrics.ndcg(n, gains, totals, k)[0], oracle.ndcg(buckets, k))


def simulate(n, r, k, divisor, runs, rng):
    values = []
    for _ in range(runs):
        order = np.concatenate([rng.permutation(np.arange(size) < hits) for size, hits in zip(n, r)])
        values.append(metrics.average_precision_of_ranking(order[None], k, divisor)[0])
    return np.mean(values), np.std(values) / math.sqrt(runs)


@pytest.mark.parametrize("divisor", metrics.DIVISORS)
def test_large_buckets_agree_with_shuffling(divisor):
    rng = np.random.default_rng(4)
    n, r = np.array([3, 0, 200, 500, 900]), np.array([1, 0, 60, 100, 90])
    for k in (50, 400):
        got = metrics.average_precision(n[None], r[None], k, divisor)[0]
        wanted, error = simulate(n, r, k, divisor, 400, rng)
        assert abs(got - wanted) < 5 * error


def test_no_digits_are_lost_in_a_large_gallery():
    """A million items in front must not blur the contribution of a small bucket behind them."""
    n, r = np.array([[10**6, 5, 70, 10**5]]), np.array([[3, 4, 30, 9]])
    wanted, rank, hits = 0.0, 0, 0
    for size, relevant in zip(n[0].tolist(), r[0].tolist()):
        slope = (relevant - 1) / max(size - 1, 1)
        wanted += math.fsum(relevant / size * (hits + 1 + i * slope) / (rank + 1 + i) for i in range(size))
        rank, hits = rank + size, hits + relevant
    got = metrics.average_precision(n, r)[0]
    assert got == pytest.approx(wanted / 46, rel=1e-12)


def test_every_bound_holds():
    rng = np.random.default_rng(5)
    n = rng.integers(0, 40, (50, 9))
    r = rng.binomial(n, 0.3)
    for divisor in metrics.DIVISORS:
        for k in (1, 20, 150, None):
            low, middle, high = (
                metrics.average_precision(n, r, k, divisor, t) for t in ("pessimistic", "expectation", "optimistic")
            )
            assert (low <= middle + 1e-12).all()
            assert (middle <= high + 1e-12).all()
            assert (high <= 1 + 1e-12).all()


def test_bad_arguments_are_named():
    n, r = np.array([[2, 1]]), np.array([[1, 0]])
    with pytest.raises(UnknownName, match="did you mean 'hits'"):
        metrics.average_precision(n, r, 2, "hit")
    with pytest.raises(UnknownName, match="tie rule"):
        metrics.average_precision(n, r, 2, "R", "random")
    with pytest.raises(InputError, match="at least 1"):
        metrics.average_precision(n, r, 0)
    with pytest.raises(InputError, match="0 <= r <= n"):
        metrics.average_precision(r, n)
    with pytest.raises(InputError, match="needs at least 4 items"):
        metrics.precision_at(n, r, 4)
