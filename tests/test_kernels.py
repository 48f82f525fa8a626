"""The search kernels against brute force: the bit-sliced mask itself, both scans, grouping; and life without numba."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import pytest
from tests.oracles.search import below

from bitfuse import kernels

NONE = np.empty(0, np.bool_)
RNG = np.random.default_rng(7)


def random_words(n: int, n_words: int, share: float = 0.5) -> np.ndarray:
    bits = RNG.random((n, n_words, 64)) < share
    return np.packbits(bits, axis=2).view(np.uint64).reshape(n, n_words)


def in_strips(words: np.ndarray) -> np.ndarray:
    strips = kernels.new_strips(len(words), words.shape[1])
    kernels.put_rows(strips, 0, words)
    return strips


def reference(words: np.ndarray, queries: np.ndarray, k: int, bound: int, allow: np.ndarray) -> Any:
    return kernels._nearest_numpy(in_strips(words), 0, len(words), queries, k, bound, allow)


@numba.njit  # not cached: a cached test would not notice a changed kernel
def network(
    codes: Any, picks: Any, planes: Any, tables: Any, bounds: Any, valid: Any, masks: Any, some: Any, ranks: Any,
    reached: Any, tag: Any,
) -> None:  # fmt: skip
    kernels._slice_block(codes, 0, len(tag), planes, tables)
    for bound in range(len(some)):
        some[bound] = kernels._sliced_closer(
            tables, picks, 0, bounds, bound * bounds.shape[1], valid, masks, 4 * bound, tag
        )
    for i in range(len(ranks)):
        reached[i] = kernels._sliced_rank(tables, picks, 0, ranks[i], tag)


@pytest.mark.parametrize("n_words", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
def test_the_adder_network_is_exact_for_every_bound_and_rank(n_words: int) -> None:
    """False positives would be measured again and dropped: right answers, five times slower. So test the mask."""
    words = np.concatenate([random_words(200, n_words), random_words(52, n_words, 0.05), random_words(4, n_words, 1)])
    words[0] = 0
    codes = [int.from_bytes(row.tobytes(), "little") for row in words]
    ranks, valid, n_groups = np.array([1, 2, 3, 17, 128, 255, 256]), np.full(4, ~np.uint64(0)), -(-64 * n_words // 3)
    bounds, picks = kernels._bounds(n_words), np.zeros((1, n_groups), np.uint16)
    planes, tables = np.zeros(12 * n_groups, np.uint64), np.zeros(64 * n_groups, np.uint64)
    for query in (words[3], words[0], ~words[0]):
        masks, some, reached = np.zeros((len(bounds), 4), np.uint64), np.zeros(len(bounds), np.int64), ranks.copy()
        kernels._set_picks(query, n_words, picks)
        strips = in_strips(words).reshape(-1)
        network(strips, picks, planes, tables, bounds, valid, masks, some, ranks, reached, (0,) * n_words)
        asked = int.from_bytes(query.tobytes(), "little")
        for bound in range(64 * n_words + 2):
            bits = np.unpackbits(masks[bound].view(np.uint8), bitorder="little").reshape(4, 64)  # lane, column
            expected = below(asked, codes, bound)
            assert bits.T.ravel().astype(bool).tolist() == expected, f"bound {bound}"
            assert some[bound] == any(expected)
        assert reached.tolist() == np.sort([(asked ^ code).bit_count() for code in codes])[ranks - 1].tolist()


@numba.njit
def sort_some(numbers: Any, start: int, tag: Any) -> None:
    kernels._sort_some(numbers, start, tag)


@pytest.mark.parametrize("size", [64, 128])
def test_the_sorting_network_sorts(size: int) -> None:
    """A network that sorts all sequences of zeros and ones sorts everything; so many of those, and others."""
    rows = [np.arange(size) < cut for cut in range(size + 1)]
    rows += [RNG.permutation(row) for row in rows for _ in range(30)]
    rows += [RNG.integers(-(2**31), 2**31, size) for _ in range(200)]
    for row in rows:
        numbers = np.concatenate([[9, 9, 9], row, [9, 9]]).astype(np.int32)
        expected = np.concatenate([[9, 9, 9], np.sort(row.astype(np.int32)), [9, 9]])
        sort_some(numbers, 3, (0,) * (size // 8))
        np.testing.assert_array_equal(numbers, expected)


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize(
    ("n_words", "n"),
    [(1, 1), (1, 255), (1, 256), (1, 257), (1, 3000), (2, 700), (2, 5), pytest.param(8, 600, marks=pytest.mark.slow)],
)
def test_nearest_equals_brute_force_with_ties(n_words: int, n: int, sliced: bool) -> None:
    words = random_words(n, n_words)
    words[:, 0] &= np.uint64(0xF0F)  # few values: ties everywhere
    queries = np.concatenate([words[: min(n, 4)], random_words(13, n_words)])
    everything = 64 * n_words + 1
    for k, bound in ((1, everything), (7, everything), (n + 3, everything), (50, 30), (5, 1)):
        for allow in (NONE, RNG.random(n) < 0.5, np.zeros(n, np.bool_)):
            answer = kernels.nearest(in_strips(words), 0, n, queries, k, bound, allow, sliced=sliced)
            for got, expected in zip(answer, reference(words, queries, k, bound, allow), strict=True):
                np.testing.assert_array_equal(got, expected, f"k {k}, bound {bound}")


@pytest.mark.parametrize("sliced", [False, True])
def test_a_full_candidate_buffer_loses_nothing(sliced: bool) -> None:
    """Rows come nearer and nearer, so that every one is a candidate and the buffer fills many times over."""
    distances = np.sort(RNG.integers(0, 65, 9000))[::-1]
    words = np.array([(1 << int(d)) - 1 for d in distances], np.uint64)[:, None]
    queries = np.zeros((1, 1), np.uint64)
    answer = kernels.nearest(in_strips(words), 0, len(words), queries, 100, 65, NONE, sliced=sliced)
    for got, expected in zip(answer, reference(words, queries, 100, 65, NONE), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("sliced", [False, True])
def test_a_range_of_rows_is_respected(sliced: bool) -> None:
    words, queries = random_words(1000, 1), random_words(5, 1)
    _, found, _ = kernels.nearest(in_strips(words), 256, 700, queries, 444, 65, NONE, sliced=sliced)
    assert (np.sort(found, axis=1) == np.arange(256, 700)).all()


def test_groups_are_numbered_by_first_occurrence_and_list_their_rows() -> None:
    words = random_words(40, 2)[RNG.integers(0, 40, 500)]
    groups, count = kernels.group_codes(words, 400)
    seen: dict[bytes, int] = {}
    assert groups.tolist() == [seen.setdefault(row.tobytes(), len(seen)) for row in words]
    assert count == len(seen)
    assert kernels.group_codes(words, count - 1)[1] == 0  # more than asked for: given up
    for allow in (NONE, RNG.random(500) < 0.1):
        allowed = np.flatnonzero(allow) if len(allow) else np.arange(500)
        order, starts, rows = kernels.list_members(groups, count, allow)
        expected: dict[int, list[int]] = {}
        for row in allowed.tolist():
            expected.setdefault(int(groups[row]), []).append(row)
        assert order.tolist() == list(expected)
        assert [rows[a:b].tolist() for a, b in pairwise(starts)] == list(expected.values())


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("distinct", [3, 60, 700])
@pytest.mark.parametrize("k", [1, 7, 30, 400, 2000])
def test_groups_stand_for_the_nearest_rows(k: int, distinct: int, sliced: bool) -> None:
    """Few large groups, of which the last distance is cut within, and many small ones that interleave."""
    words = random_words(distinct, 1)[RNG.integers(0, distinct, 3000)] & np.uint64(0xFFF)
    queries = np.concatenate([words[:3], random_words(9, 1)])
    groups, count = kernels.group_codes(words, 3000)
    _, starts, members = kernels.list_members(groups, count, NONE)
    together = in_strips(words[members[starts[:-1]]])
    answer = kernels.nearest(together, 0, count, queries, k, 65, NONE, starts, members, sliced=sliced)
    for got, expected in zip(answer, reference(words, queries, k, 65, NONE), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("k", [1, 2, 7, 10, 12, 20, 39, 64, 65, 100, 128, 500])
def test_hundreds_of_groups_at_one_distance_are_merged_in_their_room(k: int) -> None:
    """All members of most groups before the first of the last one, descending from group to group: many short runs."""
    distinct = np.array([(1 << i) | (1 << j) for i in range(64) for j in range(i)], np.uint64)[:400, None]
    for length in (2, 3, 13):
        most = np.arange(max(1, min(k, 400) - 1))
        order = np.concatenate([most, *[most[::-1]] * (length - 1), np.arange(400)])
        words = np.concatenate([distinct[order], distinct[RNG.integers(0, 400, 99)]])
        queries = np.zeros((13, 1), np.uint64)
        groups, count = kernels.group_codes(words, len(words))
        _, starts, members = kernels.list_members(groups, count, NONE)
        together, size = in_strips(words[members[starts[:-1]]]), 3 * k + 2 * 128 + 8
        answer = kernels.nearest(together, 0, count, queries, k, 65, NONE, starts, members, sliced=True)
        for got, expected in zip(answer, reference(words, queries, k, 65, NONE), strict=True):
            np.testing.assert_array_equal(got, expected)
        room, edges = np.full((2, size + 264), -7, np.int32), np.full(size + 264, -7)  # nothing beyond is written
        ordered = np.arange(min(count, k)) | 2 << 32
        kernels._finish_groups(
            k, 65, *one_query_that_kept(ordered, k), np.empty((1, k), np.int32), np.empty((1, k), np.int64),
            np.empty(k, np.int64), starts, members, room, edges,
        )  # fmt: skip
        assert (room[:, size:] == -7).all()
        assert (edges[size:] == -7).all()


def one_query_that_kept(candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State, counts and candidates of a query as a scan leaves them: all groups at one distance, k of them in reach."""
    counts = np.zeros((1, 65, 2), np.int32)
    counts[0, 2, 0] = len(candidates)
    return np.array([[2], [0], [len(candidates)], [0]]), counts, candidates[None].copy()


@pytest.mark.parametrize("n_words", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("k", [1, 30, 300, 6000])
def test_groups_of_very_unequal_size_begin_with_bounds_that_hold(k: int, n_words: int) -> None:
    """Enough blocks of groups to sample, most groups of one row and a few of thousands, near the query or far away."""
    distinct = random_words(5000, n_words)
    shares = 1.0 / np.arange(1, 5001)
    for order in (np.arange(5000), np.argsort(np.bitwise_count(distinct ^ distinct[:1]).sum(axis=1))[::-1]):
        rows = np.concatenate([RNG.choice(5000, 20_000, p=shares / shares.sum()), np.arange(5000)])
        words = distinct[order][rows]
        queries = np.concatenate([distinct[:7], random_words(9, n_words)])
        groups, count = kernels.group_codes(words, len(words))
        _, starts, members = kernels.list_members(groups, count, NONE)
        together = in_strips(words[members[starts[:-1]]])
        answer = kernels.nearest(together, 0, count, queries, k, 64 * n_words + 1, NONE, starts, members, sliced=True)
        for got, expected in zip(answer, reference(words, queries, k, 64 * n_words + 1, NONE), strict=True):
            np.testing.assert_array_equal(got, expected)


SEARCH = """
import numpy as np
from bitfuse import Codes, ScanIndex, kernels
from bitfuse.index.linear import LinearIndex
rng = np.random.default_rng(0)
codes = Codes.from_bits(rng.integers(0, 2, (5000, 20)))
indexes = ScanIndex(20), LinearIndex(20)
for index in indexes:
    index.add(codes)
(d, i), (e, j) = (index.search(codes[:3], k=40, allow=np.arange(0, 4000, 3)) for index in indexes)
assert (d == e).all()
print(kernels.COMPILED, (i == j).all())
"""


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        pytest.param({"NUMBA_DISABLE_JIT": "1"}, "False True", id="numba switched off"),
        pytest.param(
            {"NUMBA_CACHE_LOCATORS": "InTreeCacheLocator"},
            "True True",
            id="a cache that cannot be written",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_search_works_without(setting: dict[str, str], expected: str, tmp_path: Any) -> None:
    """The second: with a file in place of the cache directory no locator is left, whoever runs the test."""
    package = tmp_path / "site" / "bitfuse"
    package.parent.mkdir()
    source = os.path.dirname(kernels.__file__)
    subprocess.run(["cp", "-r", source, str(package)], check=True)
    if "NUMBA_CACHE_LOCATORS" in setting:
        subprocess.run(["rm", "-rf", str(package / "__pycache__")], check=True)
        (package / "__pycache__").write_text("in the way")
    environment = {**os.environ, **setting, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", SEARCH], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == expected, done.stderr
