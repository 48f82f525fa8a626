"""Every index against the loop oracle: ties, filters, radius, removal, and whatever sequence hypothesis finds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.oracles import search as oracle

from bitfuse.codes import Codes
from bitfuse.errors import InputError, MissingDependency
from bitfuse.index import scan, sweep
from bitfuse.index.base import Index
from bitfuse.index.faiss import FaissIndex
from bitfuse.index.linear import LinearIndex
from bitfuse.index.scan import ScanIndex

LENGTHS = (1, 8, 13, 64, 65, 128, 200, 256, 512)
MAKERS: list[Callable[[int], Index]] = [LinearIndex, ScanIndex, lambda n_bits: ScanIndex(n_bits, threads=1)]
exact = pytest.mark.parametrize("make", MAKERS, ids=["linear", "scan", "scan of one thread"])


def random_codes(rng: np.random.Generator, n: int, n_bits: int, distinct: int | None = None) -> Codes:
    """Codes with many ties: half of them differ in few bits from one centre."""
    bits = rng.integers(0, 2, (distinct or n, n_bits))
    near = rng.random((distinct or n, n_bits)) < 0.1
    bits[::2] = near[::2]
    return Codes.from_bits(bits if distinct is None else bits[rng.integers(0, distinct, n)])


def assert_same(answer: Any, expected: Any) -> None:
    for got, wanted, dtype in zip(answer, expected, (np.int32, np.int64), strict=True):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, np.asarray(wanted, dtype).reshape(got.shape))


def expected(codes: Codes, ids: Any, queries: Codes, **limits: Any) -> Any:
    return oracle.search(queries.bits().tolist(), codes.bits().tolist(), list(ids), **limits)


@exact
@pytest.mark.parametrize("n_bits", LENGTHS)
def test_identical_to_the_loops(make: Callable[[int], Index], n_bits: int) -> None:
    rng = np.random.default_rng(n_bits)
    codes, queries = random_codes(rng, 60, n_bits), random_codes(rng, 3, n_bits)
    ids = rng.permutation(1000)[:60]
    index = make(n_bits)
    index.add(codes[:20], ids=ids[:20])
    index.add(codes[20:], ids=ids[20:])
    mask = rng.random(60) < 0.4
    for limits in ({"k": 1}, {"k": 10}, {"k": 500}, {"radius": 0}, {"radius": n_bits // 4}, {"k": 5, "radius": 2}):
        assert_same(index.search(queries, **limits), expected(codes, ids, queries, **limits))
        answer = expected(codes, ids, queries, **limits, allowed=mask.tolist())
        assert_same(index.search(queries, **limits, allow=mask), answer)
        assert_same(index.search(queries, **limits, allow=[*ids[mask], 2000]), answer)


@pytest.mark.parametrize(("n_bits", "distinct"), [(13, None), (64, 300), (128, None), (512, 2000)])
def test_batches_and_single_queries_equal_the_reference_at_size(
    n_bits: int, distinct: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9,000 rows, grouped or not, scanned directly and bit-sliced, by query and by row, while rows come and go."""
    monkeypatch.setattr(sweep, "_THREAD_WORK", 0)
    monkeypatch.setattr(sweep, "ready", {-(-n_bits // 64)} if n_bits < 512 else set())
    rng = np.random.default_rng(n_bits)
    codes, queries = random_codes(rng, 9000, n_bits, distinct), random_codes(rng, 70, n_bits)
    fast, slow = ScanIndex(n_bits, threads=2), LinearIndex(n_bits)
    for step in range(4):
        part = random_codes(rng, 2000, n_bits, distinct and 50) if step else codes
        for index in (fast, slow):
            index.add(part)
            if step:
                index.remove(slow.ids[::7] if index is slow else fast.ids[::7])
        if step == 2:
            fast.compact()
        np.testing.assert_array_equal(fast.ids, slow.ids)
        for asked in (queries, queries[:1], queries[:30]):
            assert_same(fast.search(asked, k=100), slow.search(asked, k=100))
        for share in (0.5, 0.01):
            mask = rng.random(len(slow)) < share
            assert_same(fast.search(queries, k=20, allow=mask), slow.search(queries, k=20, allow=mask))
        assert_same(fast.search(queries[:20], radius=n_bits // 5), slow.search(queries[:20], radius=n_bits // 5))
    assert (fast.distinct is not None) == (distinct is not None or n_bits == 13)


def test_a_group_whose_first_row_goes_takes_its_later_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_GROUP_FROM", 4)
    index = ScanIndex(8)
    index.add(Codes.from_bits(np.repeat([[0] * 8, [0] * 7 + [1], [0] * 8], [1, 2, 3], axis=0)))
    query = Codes.from_bits([[0, 0, 0, 0, 0, 0, 1, 0]])
    assert index.search(query, k=6)[1].tolist() == [[0, 3, 4, 5, 1, 2]]
    near = Codes.from_bits([[0, 0, 0, 0, 1, 1, 1, 1]])
    index = ScanIndex(8)
    index.add(Codes.from_bits([[0] * 8, [1] * 8, [0] * 8, [1] * 8, [0] * 8]))
    assert index.search(near, k=1)[1].tolist() == [[0]]
    assert index.distinct == 2
    index.remove([0])
    assert index.search(near, k=2)[1].tolist() == [[1, 2]]
    assert index.search(near, k=1, allow=[False, True, True, True])[1].tolist() == [[2]]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(0, 15), max_size=12)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 60), max_size=6)),
        st.tuples(st.just("compact"), st.just([])),
        st.tuples(st.just("search"), st.lists(st.integers(0, 60), max_size=6)),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_any_sequence_of_changes_agrees_with_the_loops(monkeypatch: pytest.MonkeyPatch, sequence: Any) -> None:
    monkeypatch.setattr(scan, "_GROUP_FROM", 4)
    indexes: list[Any] = [ScanIndex(4, threads=1), LinearIndex(4)]
    items: list[tuple[int, int]] = []  # (id, code)

    def bits(values: list[int]) -> Codes:
        return Codes.from_bits(np.array(values, int).reshape(-1, 1) >> np.arange(4) & 1)

    queries, counter = bits([0, 5, 15]), 0
    for action, values in sequence:
        here = [i for i, _ in items]
        if action == "add":
            ids = [(counter + 7 * j) * 17 % 61 for j in range(len(values))]  # neither ascending nor always new
            counter += len(values)
            for index in indexes:
                if set(ids) & set(here) or len(set(ids)) < len(ids):
                    with pytest.raises(InputError):
                        index.add(bits(values), ids=ids)
                else:
                    index.add(bits(values), ids=ids)
            if not set(ids) & set(here) and len(set(ids)) == len(ids):
                items += zip(ids, values)
        elif action == "remove":
            for index in indexes:
                if set(values) <= set(here):
                    index.remove(values)
                else:
                    with pytest.raises(InputError):
                        index.remove(values)
            if set(values) <= set(here):
                items = [item for item in items if item[0] not in values]
        elif action == "compact":
            indexes[0].compact()
        codes, ids = bits([code for _, code in items]), [i for i, _ in items]
        for index in indexes:
            assert index.ids.tolist() == ids
            for limits in ({"k": 3}, {"radius": 1}):
                assert_same(index.search(queries, **limits), expected(codes, ids, queries, **limits))
                allowed = [i in values for i in ids]
                answer = expected(codes, ids, queries, **limits, allowed=allowed)
                assert_same(index.search(queries, **limits, allow=np.array(allowed, bool)), answer)
                assert_same(index.search(queries, **limits, allow=values), answer)


@exact
def test_empty_indexes_and_empty_batches(make: Callable[[int], Index]) -> None:
    index, none, one = make(9), Codes(np.empty((0, 2), np.uint8), 9), Codes.from_bits([[1] * 9])
    for codes in (none, one):
        for limits in ({"k": 3}, {"radius": 9}):
            assert [a.shape for a in index.search(codes, **limits)] == [(len(codes), 0)] * 2
    index.add(none)
    assert len(index) == 0
    index.add(one)
    assert [a.shape for a in index.search(none, k=3)] == [(0, 1)] * 2
    index.remove([0])
    assert [a.shape for a in index.search(one, k=3)] == [(1, 0)] * 2
    assert isinstance(index, Index)


@exact
def test_ids_count_on_and_removed_ones_may_return_at_the_end(make: Callable[[int], Index]) -> None:
    index, codes = make(4), Codes.from_bits(np.zeros((2, 4), bool))
    index.add(codes)
    index.add(codes, ids=[40, 30])
    index.add(codes)
    assert index.ids.tolist() == [0, 1, 40, 30, 41, 42]
    index.remove([30, 0])
    index.add(codes[:1], ids=[0])
    assert index.search(codes[:1], k=9)[1].tolist() == [[1, 40, 41, 42, 0]]


@exact
@pytest.mark.parametrize("ids", [[1, 1], [-1, 3], [1], [1.5, 2.5], [7, 5], [[1], [2]], [2**63, 1]], ids=str)
def test_bad_ids_are_refused_and_nothing_is_added(make: Callable[[int], Index], ids: Any) -> None:
    index = make(4)
    index.add(Codes.from_bits([[1, 0, 1, 0]]), ids=[7])
    with pytest.raises(InputError):
        index.add(Codes.from_bits(np.zeros((2, 4), bool)), ids=np.asarray(ids))
    with pytest.raises(InputError, match="not in the index"):
        index.remove([7, 8])
    assert index.ids.tolist() == [7]


@exact
@pytest.mark.parametrize(
    "arguments", [{}, {"k": 0}, {"k": 1.5}, {"k": True}, {"radius": -1}, {"k": 1, "allow": [True]}, {"radius": "2"}],
    ids=str,
)  # fmt: skip
def test_bad_arguments_of_a_search_are_refused(make: Callable[[int], Index], arguments: Any) -> None:
    index = make(4)
    codes = Codes.from_bits(np.zeros((3, 4), bool))
    index.add(codes)
    with pytest.raises(InputError):
        index.search(codes, **arguments)
    with pytest.raises(InputError, match="4 bits"):
        index.search(Codes.from_bits(np.zeros((1, 5), bool)), k=1)
    with pytest.raises(InputError, match="Codes"):
        index.search(np.zeros((1, 4)), k=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threads"):
        ScanIndex(4, threads=0)


def test_small_batches_never_wait_for_the_big_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "ready", set())
    monkeypatch.setattr(sweep, "_scanned", {})
    assert not sweep.slicing_pays(1, 5, 10**9)
    assert not sweep.slicing_pays(1, 300, 1000)
    assert sweep.slicing_pays(1, 300, 10**6)
    assert sweep.slicing_pays(1, 300, 1000)  # it is compiled now
    assert not sweep.slicing_pays(2, 300, 1000)
    assert not sweep.slicing_pays(64, 300, 10**6)


def test_searches_while_another_thread_changes_the_index() -> None:
    """Rows are added in pairs of equal codes and removed in pairs: a search must never see half of one."""
    rng = np.random.default_rng(3)
    index, zero = ScanIndex(64, threads=1), Codes.from_bits(np.zeros((1, 64), bool))
    far = random_codes(rng, 5000, 64, distinct=50)
    index.add(far)
    stop, odd = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            _, ids = index.search(zero, radius=0)
            odd.extend(i for i in ids[0] if i >= 10**6 and (i ^ 1) not in ids[0])

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(150):
        pair = np.array([10**6 + 2 * turn, 10**6 + 2 * turn + 1])
        index.add(Codes.concatenate([zero, zero]), ids=pair)
        if turn % 3 == 0:
            index.remove(pair)
        if turn % 50 == 49:
            index.compact()
    stop.set()
    reader.join()
    assert odd == []


def test_the_approximate_index_misses_little_and_errs_never() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(5)
    centres = rng.integers(0, 2, (40, 100))
    codes = Codes.from_bits(centres[rng.integers(0, 40, 4000)] ^ (rng.random((4000, 100)) < 0.05))
    near, truth = FaissIndex(100, lists=30, probes=8), LinearIndex(100)
    for index in (near, truth):
        index.add(codes[:2500], ids=np.arange(2500) * 3)
        index.search(codes[:1], k=1)
        index.add(codes[2500:])
        index.remove(index.ids[::10])
    np.testing.assert_array_equal(near.ids, truth.ids)
    queries = codes[::200]
    (found, ids), (best, _) = near.search(queries, k=10), truth.search(queries, k=10)
    assert (found == best).mean() > 0.9
    row_of = {int(i): row for row, i in enumerate(truth.ids)}
    distances = queries.hamming(truth._codes)
    for q in range(len(queries)):
        rows = [row_of[int(i)] for i in ids[q]]
        assert distances[q, rows].tolist() == found[q].tolist()
        assert sorted(zip(found[q], rows)) == list(zip(found[q], rows))
    allow = truth.ids[::50]
    assert_same(near.search(queries, k=10, allow=allow), truth.search(queries, k=10, allow=allow))
    within, _ = near.search(queries, radius=12)
    assert within.max() <= 12
    assert (within >= 0).sum() > 0.9 * (truth.search(queries, radius=12)[0] >= 0).sum()


def test_the_approximate_index_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependency, match=r"bitfuse\[faiss\]"):
        FaissIndex(64)
