"""Compiled loops over packed codes: exact Hamming search and the evaluation's histograms. The only file with numba.

Everything here has a slow twin: `index.linear` for search, loops in `tests/oracles`. Callers ask `COMPILED` first and
take the numpy twin where it is False (`NUMBA_DISABLE_JIT=1`). Functions release the GIL: threads are the caller's.
It is one long file because numba's cache on disk does not notice a change in another one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
Words = NDArray[np.uint64]

COMPILED = not vars(numba.config)["DISABLE_JIT"]


def _jit(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`numba.njit` without the GIL, kept in the on-disk cache where one can be written, compiled anew where not."""

    def compile_lazily(function: Callable[P, R]) -> Callable[P, R]:
        try:
            compiled: Callable[P, R] = numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba found no directory it can write to
            compiled = numba.njit(nogil=True, **options)(function)
        return compiled

    return compile_lazily


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.extending.intrinsic`, with a type."""
    wrapped: Callable[..., Any] = intrinsic(function)
    return wrapped


# --- Search -----------------------------------------------------------------------------------------------------------
#
# Codes lie in strips of 16, `strips[row // 16, word, row % 16]`, so that memory is read strictly in order; 16 make
# a block of 256. A vector of four 64-bit lanes holds rows 4i to 4i + 3: both kernels meet rows in ascending order.
# `tag` is a tuple of n_words zeros: its *type* selects the machine code, so functions stay at module level (cacheable).

STRIP, BLOCK = 16, 256
_GROUP = 3  # bit positions whose 8 query patterns share one table: 3 beat 1, 4, 5 and 7
_u: Any = np.uint64  # of places: a signed one is first asked whether it counts from the end
_i: Any = np.int64
NO_GROUPS = np.empty(0, np.int32)
_AHEAD = 512  # words that the direct scan fetches ahead: long codes then wait for memory half as long
_SAMPLED = 1 << 18  # rows from which a sample pays for one query too
_SORTED = 128  # numbers that one network sorts, at most
_ENTRIES = 8 << _GROUP  # words of a group's table: 8 patterns, two planes of 4 words each
_I64, _I32 = ir.IntType(64), ir.IntType(32)
_LANES, _EIGHT = ir.VectorType(_I64, 4), ir.VectorType(_I32, 8)


class _Lanes:
    """Writes LLVM instructions on vectors of four 64-bit lanes: AVX2, AVX-512 and NEON come out of the same text."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder

    def constant(self, pattern: int) -> Any:
        return ir.Constant(_LANES, [pattern] * 4)

    def pointer(self, array_type: Any, array: Any) -> Any:
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def at(self, offset: Any, words: int) -> Any:
        return self.builder.add(offset, ir.Constant(_I64, words))

    def load(self, pointer: Any, offset: Any) -> Any:
        place = self.builder.bitcast(self.builder.gep(pointer, [offset]), _LANES.as_pointer())
        return self.builder.load(place, align=8)

    def store(self, value: Any, pointer: Any, offset: Any) -> None:
        place = self.builder.bitcast(self.builder.gep(pointer, [offset]), _LANES.as_pointer())
        self.builder.store(value, place, align=8)

    def splat(self, value: Any) -> Any:
        undefined = ir.Constant(_LANES, ir.Undefined)
        single = self.builder.insert_element(undefined, value, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_I32, 4), [0] * 4))

    def count_ones(self, value: Any) -> Any:
        module, name = self.builder.module, "llvm.ctpop.v4i64"  # by name: declare_intrinsic rejects vector types
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(_LANES, [_LANES]), name)
        return self.builder.call(function, [value])

    def prefetch(self, pointer: Any, offset: Any) -> None:
        byte = ir.IntType(8).as_pointer()
        signature = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        function = self.builder.module.declare_intrinsic("llvm.prefetch", [byte], signature)
        place = self.builder.bitcast(self.builder.gep(pointer, [offset]), byte)
        self.builder.call(function, [place, _I32(0), _I32(3), _I32(1)])  # to read, into every level, data

    def full_adder(self, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
        b_ = self.builder
        half = b_.xor(a, b)
        return b_.xor(half, c), b_.or_(b_.and_(a, b), b_.and_(half, c))

    def not_zero(self, value: Any) -> Any:
        whole = self.builder.bitcast(value, ir.IntType(256))
        return self.builder.icmp_unsigned("!=", whole, ir.Constant(ir.IntType(256), 0))


@_intrinsic
def _any_closer(typing: Any, codes: Any, start: Any, query: Any, query_start: Any, bound: Any, tag: Any) -> Any:
    """Whether a code of the strip, `start` words into `codes`, differs from the query in fewer than `bound` bits."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Lanes(context, builder)
        strips = lanes.pointer(signature.args[0], arguments[0])
        words = lanes.pointer(signature.args[2], arguments[2])
        asked = [
            lanes.splat(builder.load(builder.gep(words, [lanes.at(arguments[3], word)]))) for word in range(tag.count)
        ]
        for line in range(STRIP * tag.count // 8):
            lanes.prefetch(strips, lanes.at(arguments[1], _AHEAD + 8 * line))
        limit, signs = lanes.splat(arguments[4]), lanes.constant(0)
        for vector in range(4):
            distance = lanes.constant(0)
            for word in range(tag.count):
                code = lanes.load(strips, lanes.at(arguments[1], word * STRIP + 4 * vector))
                distance = builder.add(distance, lanes.count_ones(builder.xor(code, asked[word])))
            signs = builder.or_(signs, builder.sub(distance, limit))
        return lanes.not_zero(builder.and_(signs, lanes.constant(1 << 63)))

    return types.boolean(codes, types.int64, query, types.int64, types.int64, tag), emit


@_intrinsic
def _transpose(typing: Any, codes: Any, start: Any, stride: Any, planes: Any, plane_start: Any) -> Any:
    """One word of a block as 64 bit planes: lane l, bit i of a plane is row 4i + l; strips are `stride` words apart."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Lanes(context, builder)
        source = lanes.pointer(signature.args[0], arguments[0])
        target = lanes.pointer(signature.args[3], arguments[3])
        rows = []
        for strip in range(BLOCK // STRIP):
            start = builder.add(arguments[1], builder.mul(arguments[2], ir.Constant(_I64, strip)))
            rows += [lanes.load(source, lanes.at(start, 4 * i)) for i in range(STRIP // 4)]
        for step in (32, 16, 8, 4, 2, 1):
            low = sum(1 << bit for bit in range(64) if not bit & step)
            for i in (i for i in range(64) if not i & step):
                upper = builder.lshr(rows[i], lanes.constant(step))
                swapped = builder.and_(builder.xor(upper, rows[i + step]), lanes.constant(low))
                rows[i] = builder.xor(rows[i], builder.shl(swapped, lanes.constant(step)))
                rows[i + step] = builder.xor(rows[i + step], swapped)
        for i, row in enumerate(rows):
            lanes.store(row, target, lanes.at(arguments[4], 4 * i))
        return context.get_dummy_value()

    return types.void(codes, types.int64, types.int64, planes, types.int64), emit


@_intrinsic
def _tabulate(typing: Any, planes: Any, plane_start: Any, tables: Any, table_start: Any) -> Any:
    """For three planes and each of the 8 patterns of query bits: sum and carry of the bits that differ."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Lanes(context, builder)
        source = lanes.pointer(signature.args[0], arguments[0])
        target = lanes.pointer(signature.args[2], arguments[2])
        bits = [lanes.load(source, lanes.at(arguments[1], 4 * i)) for i in range(_GROUP)]
        for pattern in range(1 << _GROUP):
            ones = lanes.constant((1 << 64) - 1)
            differ = [builder.xor(bit, ones) if pattern >> i & 1 else bit for i, bit in enumerate(bits)]
            for part, value in enumerate(lanes.full_adder(*differ)):
                lanes.store(value, target, lanes.at(arguments[3], 8 * pattern + 4 * part))
        return context.get_dummy_value()

    return types.void(planes, types.int64, tables, types.int64), emit


def _planes(lanes: _Lanes, builder: Any, tables: Any, picks: Any, start: Any, n_words: int) -> list[Any]:
    """The bit planes of a block's distances, the lowest first.

    Each group of three bits contributes a sum plane (weight 1) and a carry plane (weight 2), picked by the query's
    `picks`; full adders reduce them to one plane for each weight.
    """
    n_planes = (64 * n_words).bit_length()
    waiting: list[list[Any]] = [[] for _ in range(n_planes + 1)]  # the last takes carries that are always zero

    def put(weight: int, plane: Any) -> None:
        waiting[weight].append(plane)
        if len(waiting[weight]) == 3 and weight < n_planes:
            total, carry = lanes.full_adder(*waiting[weight])
            waiting[weight] = [total]
            put(weight + 1, carry)

    for group in range(-(-64 * n_words // _GROUP)):
        picked = builder.load(builder.gep(picks, [lanes.at(start, group)]))
        entry = builder.zext(picked, _I64)
        for weight in (0, 1):
            put(weight, lanes.load(tables, lanes.at(entry, _ENTRIES * group + 4 * weight)))
    for weight in range(n_planes):
        if len(waiting[weight]) == 2:
            a, b = waiting[weight]
            waiting[weight] = [builder.xor(a, b)]
            put(weight + 1, builder.and_(a, b))
    return [planes[0] if planes else lanes.constant(0) for planes in waiting[:n_planes]]


@_intrinsic
def _sliced_closer(
    typing: Any, tables: Any, picks: Any, pick_start: Any, bounds: Any, bound_start: Any, valid: Any, closer: Any,
    place: Any, tag: Any,
) -> Any:  # fmt: skip
    """Writes the mask of the block's valid codes closer than the bound to `closer`; 1 if there is one, else 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Lanes(context, builder)
        array = {i: lanes.pointer(signature.args[i], arguments[i]) for i in (0, 1, 3, 5, 6)}
        below = lanes.constant(0)
        for weight, plane in enumerate(_planes(lanes, builder, array[0], array[1], arguments[2], tag.count)):
            limit = lanes.splat(builder.load(builder.gep(array[3], [lanes.at(arguments[4], weight)])))
            smaller = builder.and_(builder.not_(plane), builder.or_(limit, below))
            below = builder.or_(smaller, builder.and_(limit, below))
        below = builder.and_(below, lanes.load(array[5], ir.Constant(_I64, 0)))
        lanes.store(below, array[6], arguments[7])
        return builder.zext(lanes.not_zero(below), _I64)

    index = types.int64
    return types.int64(tables, picks, index, bounds, index, valid, closer, index, tag), emit


@_intrinsic
def _sliced_rank(typing: Any, tables: Any, picks: Any, pick_start: Any, rank: Any, tag: Any) -> Any:
    """The distance of the block's code that is `rank`-th by distance, 1 to 256: from the highest plane down."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Lanes(context, builder)
        tables_, picks_ = (lanes.pointer(signature.args[i], arguments[i]) for i in (0, 1))
        left, distance, among = arguments[3], ir.Constant(_I64, 0), lanes.constant((1 << 64) - 1)
        planes = _planes(lanes, builder, tables_, picks_, arguments[2], tag.count)
        for weight, plane in reversed(list(enumerate(planes))):
            zeros, count = builder.and_(among, builder.not_(plane)), ir.Constant(_I64, 0)
            for lane in range(4):
                count = builder.add(count, builder.ctpop(builder.extract_element(zeros, _I32(lane))))
            enough = builder.icmp_signed(">=", count, left)
            among = builder.select(enough, zeros, builder.and_(among, plane))
            left = builder.select(enough, left, builder.sub(left, count))
            distance = builder.select(enough, distance, lanes.at(distance, 1 << weight))
        return distance

    return types.int64(tables, picks, types.int64, types.int64, tag), emit


@_intrinsic
def _sort_some(typing: Any, numbers: Any, start: Any, tag: Any) -> Any:
    """Sort 8 len(tag) numbers (int32) from `start` on; len(tag) is a power of two.

    A bitonic network: number lane * len(tag) + row stands in that lane of that row, a row being a vector, so that most
    comparisons are of whole rows. `flip` are the bits in which the places of two compared numbers differ.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, height = _Lanes(context, builder), tag.count
        source = lanes.pointer(signature.args[0], arguments[0])

        def mix(a: Any, b: Any, picks: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(_EIGHT, picks))

        def ordered(a: Any, b: Any) -> tuple[Any, Any]:
            less = builder.icmp_signed("<", a, b)
            return builder.select(less, a, b), builder.select(less, b, a)

        places = [
            builder.bitcast(builder.gep(source, [lanes.at(arguments[1], 8 * r)]), _EIGHT.as_pointer())
            for r in range(height)
        ]
        rows = [builder.load(place, align=4) for place in places]
        width = 2
        while width <= 8 * height:  # two sorted runs become one: the second is met from its end
            flips = [width - 1]
            while width >> len(flips) > 1:
                flips.append(width >> len(flips) + 1)
            for flip in flips:
                across, along = flip % height, flip // height
                old = list(rows)
                for r in range(height):
                    if along:
                        met = mix(old[r ^ across], old[r], [lane ^ along for lane in range(8)])
                        least = [lane if lane < lane ^ along else 8 + lane for lane in range(8)]
                        rows[r] = mix(*ordered(old[r], met), least)
                    elif r < r ^ across:
                        rows[r], rows[r ^ across] = ordered(old[r], old[r ^ across])
            width *= 2
        for _ in range(height.bit_length() - 1):  # lanes become rows
            halves = [(rows[r], rows[r + height // 2]) for r in range(height // 2)]
            rows = [mix(*half, [first + i // 2 + 8 * (i % 2) for i in range(8)]) for half in halves for first in (0, 4)]
        for row, place in zip(rows, places):
            builder.store(row, place, align=4)
        return context.get_dummy_value()

    return types.void(numbers, types.int64, tag), emit


@_intrinsic
def _copy_8(typing: Any, source: Any, start: Any, stop: Any, limit: Any, target: Any, place: Any) -> Any:
    """Copy 8 numbers (int32); returns how many of the first stop - start are below the limit."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Lanes(context, builder)
        undefined = ir.Constant(_EIGHT, ir.Undefined)

        def splat(value: Any) -> Any:
            single = builder.insert_element(undefined, builder.trunc(value, _I32), _I32(0))
            return builder.shuffle_vector(single, undefined, ir.Constant(_EIGHT, [0] * 8))

        pointers = [lanes.pointer(signature.args[i], arguments[i]) for i in (0, 4)]
        offsets = zip(pointers, (1, 5))
        origin, goal = (builder.bitcast(builder.gep(p, [arguments[i]]), _EIGHT.as_pointer()) for p, i in offsets)
        numbers = builder.load(origin, align=4)
        builder.store(numbers, goal, align=4)
        room, order = splat(builder.sub(arguments[2], arguments[1])), ir.Constant(_EIGHT, list(range(8)))
        below = builder.icmp_signed("<", numbers, splat(arguments[3]))
        taken = builder.and_(below, builder.icmp_signed("<", order, room))
        return builder.zext(builder.ctpop(builder.bitcast(taken, ir.IntType(8))), _I64)

    return types.int64(source, types.int64, types.int64, types.int64, target, types.int64), emit


@_intrinsic
def _fetch(typing: Any, numbers: Any, place: Any) -> Any:
    """Bring the cache line of a number nearer."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Lanes(context, builder)
        lanes.prefetch(lanes.pointer(signature.args[0], arguments[0]), arguments[1])
        return context.get_dummy_value()

    return types.void(numbers, types.int64), emit


@_intrinsic
def _popcount(typing: Any, word: Any) -> Any:
    """Bits that are set in a uint64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), emit


@_intrinsic
def _lowest_bit(typing: Any, word: Any) -> Any:
    """Position of the lowest bit that is set in a uint64 other than 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


@_jit(no_cpython_wrapper=True, inline="always")
def _offer(
    row: int, distance: int, k: int, starts: NDArray[np.int32], q: int, state: NDArray[np.int64],
    counts: NDArray[np.int32], kept: NDArray[np.int64],
) -> None:  # fmt: skip
    """Keep a candidate that is closer than the bound; let the bound fall; make room when the buffer is full.

    `state[:, q]` holds the bound, the candidates below it (fewer than k), those in the buffer, and the members of the
    candidates below bound - 1. Rows arrive in ascending order, so that of candidates at the bound itself the first are
    the ones to keep. Groups may not be weighed by their members there: a later group may hold earlier rows than the
    second member of this one. `counts[q, d]` are the candidates at a distance, and for groups also their members.
    """
    zero, one = _u(0), _u(1)
    bound, below, size, members = state[0, _u(q)], state[1, _u(q)] + 1, state[2, _u(q)] + 1, state[3, _u(q)]
    kept[_u(q), _u(size - 1)] = distance << 32 | row
    counts[_u(q), _u(distance), zero] += 1
    if len(starts):
        weight = starts[_u(row) + one] - starts[_u(row)]
        counts[_u(q), _u(distance), one] += weight
        if distance < bound - 1:
            members += weight
        while members >= k:
            bound -= 1
            below -= counts[_u(q), _u(bound), zero]
            members -= counts[_u(q), _u(bound - 1), one]
    while below >= k:
        bound -= 1
        below -= counts[_u(q), _u(bound), zero]
        if len(starts) and bound:
            members -= counts[_u(q), _u(bound - 1), one]
    if size == kept.shape[1]:
        ties, full, size = k - below, size, 0
        for i in range(full):
            at = kept[q, i] >> 32
            if at < bound or (at == bound and ties > 0):
                ties -= at == bound
                kept[q, size] = kept[q, i]
                size += 1
    state[0, _u(q)], state[1, _u(q)], state[2, _u(q)], state[3, _u(q)] = bound, below, size, members


@_jit(no_cpython_wrapper=True)
def _order(
    k: int, first_bound: int, q: int, state: NDArray[np.int64], counts: NDArray[np.int32], kept: NDArray[np.int64],
    ordered: NDArray[np.int64],
) -> int:  # fmt: skip
    """Order a buffer by (distance, row), a stable counting sort, into `ordered`; the number of answers."""
    bound, below = state[0, q], state[1, q]
    ties = k - below if bound < first_bound else 0
    if counts.shape[2] > 1 and bound > 0 and state[3, q] + counts[q, bound - 1, 1] >= k:
        ties = 0  # the groups below the bound have enough members
    size, reach = _u(0), bound + (ties > 0)
    for i in range(state[2, q]):  # drop those beyond reach, without a branch: the processor could not guess them
        candidate = kept[_u(q), _u(i)]
        kept[_u(q), size] = candidate
        size += _u(candidate >> 32 < reach)
    place = 0
    for d in range(bound):  # no candidate below the bound was ever dropped: the counts tell where each goes
        place += counts[q, d, 0]
        counts[q, d, 0] = place - counts[q, d, 0]
    last: int = below
    for i in range(size):
        d = kept[q, i] >> 32
        if d < bound:
            place = counts[q, d, 0]
            counts[q, d, 0] += 1
        elif ties > 0:
            ties -= 1
            place = last
            last += 1
        else:
            continue
        ordered[place] = kept[q, i]
    return last


@_jit()
def _finish(
    k: int, first_bound: int, state: NDArray[np.int64], counts: NDArray[np.int32], kept: NDArray[np.int64],
    distances: NDArray[np.int32], found: NDArray[np.int64], ordered: NDArray[np.int64],
) -> None:  # fmt: skip
    """Each query's answers in their order; `state[2]` becomes the number of answers."""
    for q in range(state.shape[1]):
        size = _order(k, first_bound, q, state, counts, kept, ordered)
        for i in range(size):
            distances[q, i] = ordered[i] >> 32
            found[q, i] = ordered[i] & 0xFFFFFFFF
        for i in range(size, k):
            distances[q, i] = found[q, i] = -1
        state[2, q] = size


@_jit()
def _finish_groups(
    k: int, first_bound: int, state: NDArray[np.int64], counts: NDArray[np.int32], kept: NDArray[np.int64],
    distances: NDArray[np.int32], found: NDArray[np.int64], ordered: NDArray[np.int64], starts: NDArray[np.int32],
    members: NDArray[np.int32], room: NDArray[np.int32], edges: NDArray[np.int64],
) -> None:  # fmt: skip
    """`_finish` with members in place of groups. On its own: what compiles in a first search should be little."""
    for q in range(state.shape[1]):
        later = q + 2  # whose members come into the cache meanwhile
        for i in range(state[2, later] if later < state.shape[1] else 0):
            if kept[later, i] >> 32 < state[0, later]:
                _fetch(members, _span(starts, kept[later, i])[0])
        size = _order(k, first_bound, q, state, counts, kept, ordered)
        size = _expand(ordered, size, starts, members, distances[q], found[q], room, edges)
        for i in range(size, k):
            distances[q, i] = found[q, i] = -1
        state[2, q] = size


@_jit(no_cpython_wrapper=True)
def _expand(
    ordered: NDArray[np.int64], size: int, starts: NDArray[np.int32], members: NDArray[np.int32],
    distances: NDArray[np.int32], found: NDArray[np.int64], room: NDArray[np.int32], edges: NDArray[np.int64],
) -> int:  # fmt: skip
    """The nearest members of groups ordered by (distance, number), by (distance, row); how many there are.

    Groups are numbered by first row, so the k nearest groups by (distance, number) hold the k nearest rows. The members
    of each group ascend: those at one distance are runs to merge, of which only the smallest are of use.
    """
    k, done, i = len(found), 0, 0
    while i < size and done < k:
        distance, need, runs, filled, side = ordered[i] >> 32, k - done, 0, 0, 0
        end = i + 1
        while end < size and ordered[end] >> 32 == distance:
            end += 1
        limit = 0x7FFFFFFF
        if end > i + 1:
            share = -(-need // (end - i))
            reach, sure = 0, 0  # enough rows are below the limit: the first few of every group
            for j in range(i, end):
                start, stop = _span(starts, ordered[j])
                length = min(stop - start, share)
                reach, sure = max(reach, _at(members, start + length - 1) + 1), sure + length
            if sure >= need:
                limit = reach
        for j in range(i, end):
            start, stop = _span(starts, ordered[j])
            stop = min(stop, start + need)
            first = _at(members, start)
            if first >= limit:
                break  # so do all later groups at this distance
            if runs == 0 or first < room[side, filled - 1]:
                edges[runs] = filled
                runs += 1
            filled = _take_below(members, start, stop, limit, room, side, filled)
            if filled >= max(2 * need, _SORTED):
                filled, side = _merge_runs(room, side, edges, runs, filled, need)
                runs, limit = 1, room[side, need - 1]
        i = end
        filled, side = _merge_runs(room, side, edges, runs, filled, need)
        for j in range(_u(filled)):
            distances[_u(done) + j] = distance
            found[_u(done) + j] = room[_u(side), j]
        done += filled
    return done


@_jit(no_cpython_wrapper=True, inline="always")
def _at(numbers: NDArray[np.int32], place: int) -> int:
    """`numbers[place]` of a place that is not negative."""
    number: int = _i(numbers[_u(place)])
    return number


@_jit(no_cpython_wrapper=True, inline="always")
def _span(starts: NDArray[np.int32], group: int) -> tuple[int, int]:
    """Where the members of a group, the lower half of a word, begin and end."""
    place = _u(group) & _u(0xFFFFFFFF)
    return _i(starts[place]), _i(starts[place + _u(1)])


@_jit(no_cpython_wrapper=True, inline="always")
def _take_below(
    members: NDArray[np.int32], start: int, stop: int, limit: int, room: NDArray[np.int32], side: int, filled: int
) -> int:
    """Copy ascending members below a limit into one side of `room`; how much of it is filled then."""
    while start < stop and start + 8 <= len(members):
        taken = _copy_8(members, start, stop, limit, room, side * room.shape[1] + filled)
        filled += taken
        start += 8
        if taken < 8:
            return filled
    while start < stop and members[start] < limit:
        room[side, filled] = members[start]
        filled += 1
        start += 1
    return filled


@_jit(no_cpython_wrapper=True)
def _merge_runs(
    room: NDArray[np.int32], side: int, edges: NDArray[np.int64], runs: int, filled: int, need: int
) -> tuple[int, int]:
    """Merge ascending runs, which begin at `edges` of one side of `room`, into one of the `need` smallest."""
    length = 64 if filled <= 64 else _SORTED
    pieces = -(-filled // length)
    if 2 * pieces <= runs:  # many short runs: a few longer ones are made faster than those are merged
        runs = pieces
        for i in range(_u(runs * length - filled)):
            room[_u(side), _u(filled) + i] = 0x7FFFFFFF
        for run in range(runs):
            edges[run] = run * length
            place = side * room.shape[1] + run * length
            if length == 64:
                _sort_some(room, place, (0,) * 8)
            else:
                _sort_some(room, place, (0,) * 16)
    edges[runs] = filled
    while runs > 1:
        source, target = room[side], room[1 - side]
        end, merged = _u(0), 0
        for run in range(0, runs, 2):
            i, last = _u(edges[run]), _u(edges[run + 1])
            j, stop = last, _u(edges[min(run + 2, runs)])
            most = end + min(_u(need), stop - i)
            while i < last and j < stop and end < most:
                first, second = source[i], source[j]
                target[end] = min(first, second)
                i += _u(first < second)
                j += _u(second < first)
                end += _u(1)
            while i < last and end < most:
                target[end] = source[i]
                i += _u(1)
                end += _u(1)
            while j < stop and end < most:
                target[end] = source[j]
                j += _u(1)
                end += _u(1)
            edges[merged + 1] = end
            merged += 1
        runs, side, filled = merged, 1 - side, _i(end)
    return min(filled, need), side


@_jit(no_cpython_wrapper=True)
def _distance(codes: Words, row: int, queries: Words, q: int, n_words: int) -> int:
    total = 0
    for word in range(n_words):
        at, words = _u(row), _u(n_words)
        place = ((at >> _u(4)) * words + _u(word)) * _u(STRIP) + (at & _u(15))
        total += _popcount(codes[place] ^ queries[_u(q) * words + _u(word)])
    return total


@_jit()
def _scan_direct(
    codes: Words, first: int, last: int, queries: Words, tag: tuple[int, ...], k: int, allow: NDArray[np.bool_],
    starts: NDArray[np.int32], state: NDArray[np.int64], counts: NDArray[np.int32], kept: NDArray[np.int64],
) -> None:  # fmt: skip
    """Measure every code, sixteen at a time; a run of blocks stays in the cache while all queries pass over it."""
    n_words = len(tag)
    length = 16 * BLOCK // min(n_words, 16)  # 32 kB
    for begin in range(first, last, length):
        for q in range(state.shape[1]):
            bound = state[0, q]
            for start in range(begin, min(begin + length, last), STRIP):
                if _any_closer(codes, start * n_words, queries, q * n_words, bound, tag):
                    for row in range(start, min(start + STRIP, last)):
                        distance = _distance(codes, row, queries, q, n_words)
                        if distance < bound and (len(allow) == 0 or allow[row]):
                            _offer(row, distance, k, starts, q, state, counts, kept)
                            bound = state[0, q]


@_jit()
def _sample(
    codes: Words, first: int, last: int, queries: Words, tag: tuple[int, ...], k: int, allow: NDArray[np.bool_],
    starts: NDArray[np.int32], state: NDArray[np.int64], counts: NDArray[np.int32],
) -> None:  # fmt: skip
    """Begin with bounds that enough codes of a sample keep: fewer of those that are met first become candidates."""
    n_words, n_strips = len(tag), (last - first) // STRIP
    weight = (starts[last] - starts[first]) // max(1, last - first) if len(starts) else 1
    wanted = min(max(n_strips // 256, 4 * k // (STRIP * max(1, weight))), n_strips // 16, 256)
    if wanted * STRIP * weight < k:
        return
    for q in range(state.shape[1]):
        for i in range(wanted):
            start = first + i * n_strips // wanted * STRIP
            for row in range(start, start + STRIP):
                if len(allow) == 0 or allow[row]:
                    distance = _distance(codes, row, queries, q, n_words)
                    counts[q, distance, 0] += starts[row + 1] - starts[row] if len(starts) else 1
        total = 0
        for d in range(counts.shape[1]):
            total += counts[q, d, 0]
            counts[q, d, 0] = 0
            if total >= k and d + 1 < state[0, q]:
                state[0, q] = d + 1


@_jit()
def _set_picks(queries: Words, n_words: int, picks: NDArray[np.uint16]) -> None:
    """Per query and group of bit positions, its pattern: the entry of the group's table."""
    for q in range(len(picks)):
        for word in range(n_words):
            low = queries[q * n_words + word]
            high = queries[q * n_words + word + 1] if word + 1 < n_words else _u(0)
            begin, end = -(-64 * word // _GROUP), -(-64 * (word + 1) // _GROUP)
            for group in range(end - begin):
                shift = _u(_GROUP * (begin + group) - 64 * word)
                pattern = (low >> shift | high << _u(1) << (_u(63) - shift)) & _u(7)
                picks[_u(q), _u(begin + group)] = pattern << _u(3)


@_jit(no_cpython_wrapper=True)
def _slice_block(codes: Words, block: int, n_words: int, planes: Words, tables: Words) -> None:
    """Bit planes and tables of one block; `planes` ends in zeros that fill the last group."""
    for word in range(n_words):
        _transpose(codes, block * BLOCK * n_words + word * STRIP, STRIP * n_words, planes, word * BLOCK)
    for group in range(len(tables) // _ENTRIES):
        _tabulate(planes, group * 4 * _GROUP, tables, group * _ENTRIES)


@_jit(no_cpython_wrapper=True)
def _set_valid(block: int, last: int, allow: NDArray[np.bool_], valid: Words) -> None:
    """The mask of the block's rows that exist and are allowed."""
    everything = (block + 1) * BLOCK <= last and len(allow) == 0
    for lane in range(4):
        valid[lane] = ~_u(0) if everything else _u(0)
    if not everything:
        for row in range(block * BLOCK, min((block + 1) * BLOCK, last)):
            if len(allow) == 0 or allow[row]:
                valid[row & 3] |= _u(1) << _u((row & 255) >> 2)


@_jit()
def _set_bounds(bounds: Words) -> None:
    """Row b: the planes of the number b, every plane all ones or all zeros."""
    for bound in range(len(bounds)):
        for bit in range(bounds.shape[1]):
            bounds[bound, bit] = ~_u(0) if bound >> bit & 1 else _u(0)


@_jit(no_cpython_wrapper=True)
def _sample_groups(
    codes: Words, first: int, last: int, tag: tuple[int, ...], k: int, starts: NDArray[np.int32],
    state: NDArray[np.int64], picks: NDArray[np.uint16], planes: Words, tables: Words,
) -> None:  # fmt: skip
    """`_sample` of whole blocks of groups, in their bit planes: a quarter of the time."""
    n_words, n_blocks = len(tag), (last - first) // BLOCK
    sampled = min((last - first) * k // (4 * (starts[last] - starts[first])) + 1, n_blocks // 16, 16)
    sizes = np.zeros(k + 1, np.int64)
    for i in range(sampled):
        begin = first + i * n_blocks // sampled * BLOCK
        for group in range(begin, begin + BLOCK):
            sizes[min(k, starts[group + 1] - starts[group])] += 1
    rows, fewest, size = 0, 0, 0  # any so many of these groups hold k rows
    while rows < k and size < k:
        size += 1
        taken = min(sizes[size], -(-(k - rows) // size))
        rows, fewest = rows + taken * size, fewest + taken
    if rows < k:
        return
    reached = state[3]  # a counter that is still zero, and is again
    for i in range(sampled):
        _slice_block(codes, first // BLOCK + i * n_blocks // sampled, n_words, planes, tables)
        for q in range(len(reached)):
            distance = _sliced_rank(tables, picks, q * picks.shape[1], -(-fewest // sampled), tag)
            reached[q] = max(reached[q], distance)
    for q in range(len(reached)):
        state[0, q] = min(state[0, q], reached[q] + 1)
        reached[q] = 0


@_jit()
def _scan_sliced(
    codes: Words, first: int, last: int, queries: Words, tag: tuple[int, ...], k: int, allow: NDArray[np.bool_],
    starts: NDArray[np.int32], state: NDArray[np.int64], counts: NDArray[np.int32], kept: NDArray[np.int64],
    bounds: Words,
) -> None:  # fmt: skip
    """Bit-sliced: tables of a block of 256 codes are built once and shared by all queries; only hits are measured."""
    n_words, one = len(tag), _u(1)
    n_groups, n_queries = -(-64 * n_words // _GROUP), state.shape[1]
    picks, asking = np.empty((n_queries, n_groups), np.uint16), np.empty(n_queries + 1, np.uint64)
    planes, tables = np.zeros(4 * _GROUP * n_groups, np.uint64), np.empty(n_groups * _ENTRIES, np.uint64)
    valid, closer = np.empty(4, np.uint64), np.empty((n_queries + 1, 4), np.uint64)
    _set_picks(queries, n_words, picks)
    if len(starts) and len(allow) == 0:
        _sample_groups(codes, first, last, tag, k, starts, state, picks, planes, tables)
    else:
        _sample(codes, first, last, queries, tag, k, allow, starts, state, counts)
    for block in range(first // BLOCK, -(-last // BLOCK)):
        _set_valid(block, last, allow, valid)
        _slice_block(codes, block, n_words, planes, tables)
        n_hits = 0
        for q in range(state.shape[1]):  # no branch on a hit: each would be a wrong guess, in the midst of the scan
            limit = state[0, q] * bounds.shape[1]
            asking[n_hits] = q
            n_hits += _sliced_closer(tables, picks, q * picks.shape[1], bounds, limit, valid, closer, 4 * n_hits, tag)
        for hit in range(n_hits):
            q, words = asking[hit], closer[hit]
            lanes = words[0], words[1], words[2], words[3]
            columns = lanes[0] | lanes[1] | lanes[2] | lanes[3]
            while columns:
                column = _u(_lowest_bit(columns))
                columns &= columns - one
                in_column = lanes[0] >> column & one | (lanes[1] >> column & one) << one
                in_column |= (lanes[2] >> column & one) << _u(2) | (lanes[3] >> column & one) << _u(3)
                while in_column:  # one branch a candidate: asking each lane cost three guesses that often go wrong
                    row = _u(block * BLOCK) + (column << _u(2)) + _u(_lowest_bit(in_column))
                    in_column &= in_column - one
                    distance = _distance(codes, row, queries, q, n_words)
                    if distance < state[_u(0), q]:
                        _offer(_i(row), distance, k, starts, q, state, counts, kept)


def nearest(
    strips: Words, first: int, last: int, queries: Words, k: int, bound: int, allow: NDArray[np.bool_],
    starts: NDArray[np.int32] = NO_GROUPS, members: NDArray[np.int32] = NO_GROUPS, *, sliced: bool,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """The k nearest rows of `first` to `last` that are allowed and closer than `bound`, by (distance, row).

    Args:
        strips: (n_strips, n_words, 16) uint64, of `new_strips`.
        first: a multiple of 256, where the rows begin.
        last: one past the last row.
        queries: (q, n_words) uint64.
        k: at least 1.
        bound: distances from here on are left out; at most 64 n_words + 1.
        allow: empty, or per row of `strips` whether it may be found.
        starts, members: empty, or groups as of `list_members`, in whose order `strips` holds one code each: the rows
            that are found are then members.
        sliced: scan bit planes, which pays for a dozen queries and more, or code by code.

    Returns:
        Distances int32 and rows int64, both (q, k), of which each query's first (third array, (q,)) entries are set;
        the rest are -1.
    """
    if not COMPILED:
        return _nearest_numpy(strips, first, last, queries, k, bound, allow)
    n_queries, n_words = queries.shape
    state = np.zeros((4, n_queries), np.int64)
    state[0] = bound
    counts = np.zeros((n_queries, 64 * n_words + 1, 2 if len(starts) else 1), np.int32)
    lines = max(4 * k, 256 if len(starts) else 1024) // 8 | 1  # odd: or rows that share a set of the cache
    kept = np.empty((n_queries, min(8 * lines, last - first + 1)), np.int64)
    codes, asked, tag = strips.reshape(-1), np.ascontiguousarray(queries).reshape(-1), (0,) * n_words
    given = (codes, first, last, asked, tag, k, allow, starts, state, counts)
    if sliced:
        _scan_sliced(*given, kept, _bounds(n_words))
    else:
        if last - first >= _SAMPLED:
            _sample(*given)
        _scan_direct(*given, kept)
    distances, found = np.empty((n_queries, k), np.int32), np.empty((n_queries, k), np.int64)
    ordered = np.empty(k, np.int64)
    if len(starts):
        size = 3 * k + 2 * _SORTED + 8  # what waits, a group more, up to a whole piece, and what `_copy_8` adds
        room, edges = np.empty((2, size), np.int32), np.empty(size, np.int64)
        _finish_groups(k, bound, state, counts, kept, distances, found, ordered, starts, members, room, edges)
    else:
        _finish(k, bound, state, counts, kept, distances, found, ordered)
    return distances, found, state[2].copy()


@lru_cache
def _bounds(n_words: int) -> Words:
    """Every bound as planes, (64 n_words + 2, number of planes)."""
    bounds = np.empty((64 * n_words + 2, (64 * n_words).bit_length()), np.uint64)
    _set_bounds(bounds)
    return bounds


def _nearest_numpy(
    strips: Words, first: int, last: int, queries: Words, k: int, bound: int, allow: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """`nearest` where nothing compiles."""
    distances, found = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), -1, np.int64)
    words = take_rows(strips, np.arange(first, last))
    for q, query in enumerate(queries):
        measured = np.bitwise_count(words ^ query).sum(axis=1, dtype=np.int32)
        rows = np.flatnonzero((measured < bound) & (allow[first:last] if len(allow) else True))
        rows = rows[np.argsort(measured[rows], kind="stable")[:k]]
        distances[q, : len(rows)], found[q, : len(rows)] = measured[rows], first + rows
    return distances, found, (found >= 0).sum(axis=1)


def new_strips(n_rows: int, n_words: int) -> Words:
    """Zeroed room for codes, beginning on a cache line: (n_strips, n_words, 16) uint64, whole blocks of 16 strips."""
    n_blocks = -(-n_rows // BLOCK)
    raw = np.empty(n_blocks * BLOCK * n_words + 8, np.uint64)
    raw.fill(0)  # not np.zeros: numpy asks for huge pages only for memory that it does not zero
    start = -(raw.ctypes.data // 8) % 8  # a vector that straddles two lines takes twice as long to load
    return raw[start : start + n_blocks * BLOCK * n_words].reshape(n_blocks * (BLOCK // STRIP), n_words, STRIP)


def put_rows(strips: Words, start: int, words: Words) -> None:
    """Write codes, (n, n_words), into the rows from `start` on."""
    head = min(-start % STRIP, len(words))  # up to the next whole strip
    if head:
        strips[start // STRIP, :, start % STRIP : start % STRIP + head] = words[:head].T
    whole, first = (len(words) - head) // STRIP, -(-start // STRIP)
    body = words[head : head + whole * STRIP].reshape(whole, STRIP, words.shape[1])
    strips[first : first + whole] = body.transpose(0, 2, 1)
    rest = words[head + whole * STRIP :]
    if len(rest):
        strips[first + whole, :, : len(rest)] = rest.T


def take_rows(strips: Words, rows: NDArray[np.integer[Any]]) -> Words:
    """Read codes, (n, n_words), back from rows."""
    n_words = strips.shape[1]
    places = (rows >> 4) * (n_words * STRIP) + (rows & 15)
    taken: Words = strips.reshape(-1)[places[:, None] + np.arange(0, n_words * STRIP, STRIP)]
    return taken


def group_codes(words: Words, most: int) -> tuple[NDArray[np.int32], int]:
    """Number the distinct codes by first occurrence.

    Args:
        words: (n, n_words) uint64.
        most: give up when there are more distinct codes than this.

    Returns:
        The group of each code, (n,) int32, and the number of groups; 0 groups after giving up.
    """
    slots = np.full(1 << (2 * min(len(words), most + 1) + 15).bit_length(), -1, np.int32)
    firsts, groups = np.empty(most, np.int32), np.empty(len(words), np.int32)
    return groups, _group_codes(np.ascontiguousarray(words), slots, firsts, groups)


@_jit()
def _group_codes(words: Words, slots: NDArray[np.int32], firsts: NDArray[np.int32], groups: NDArray[np.int32]) -> int:
    """Open addressing: `slots` holds groups, `firsts` the first row of each, which stands for its code."""
    n_words = words.shape[1]
    count = 0
    for row in range(len(words)):
        mixed = np.uint64(0)
        for word in range(n_words):
            mixed = (mixed ^ words[row, word]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(32)
        slot = np.int64(mixed & np.uint64(len(slots) - 1))
        while True:
            group = slots[slot]
            if group < 0:
                if count == len(firsts):
                    return 0
                slots[slot] = count
                firsts[count] = row
                group = count
                count += 1
            differ = np.uint64(0)
            for word in range(n_words):
                differ |= words[row, word] ^ words[firsts[group], word]
            if differ == np.uint64(0):
                groups[row] = group
                break
            slot = (slot + 1) & (len(slots) - 1)
    return count


def list_members(
    groups: NDArray[np.int32], n_groups: int, allow: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """The allowed rows of each group, in order, groups by their first allowed row.

    Args:
        groups: the group of each row, (n,).
        n_groups: how many groups there are.
        allow: empty, or whether a row counts, (n,).

    Returns:
        The groups that have an allowed row, (g,); where each one's rows begin and end, (g + 1,); the rows.
    """
    sizes, order = np.zeros(n_groups, np.int32), np.empty(n_groups, np.int32)
    starts, rows = np.zeros(n_groups + 1, np.int32), np.empty(len(groups), np.int32)
    count = _list_members(groups, allow, sizes, order, starts, rows)
    return order[:count], starts[: count + 1], rows[: starts[count]]


@_jit()
def _list_members(
    groups: NDArray[np.int32], allow: NDArray[np.bool_], sizes: NDArray[np.int32], order: NDArray[np.int32],
    starts: NDArray[np.int32], rows: NDArray[np.int32],
) -> int:  # fmt: skip
    count = 0
    for row in range(len(groups)):
        if len(allow) == 0 or allow[row]:
            group = groups[row]
            if sizes[group] == 0:
                order[count] = group
                count += 1
            sizes[group] += 1
    for i in range(count):
        starts[i + 1] = starts[i] + sizes[order[i]]
        sizes[order[i]] = starts[i]
    for row in range(len(groups)):
        if len(allow) == 0 or allow[row]:
            rows[sizes[groups[row]]] = row
            sizes[groups[row]] += 1
    return count


# --- Sums of costs ----------------------------------------------------------------------------------------------------


def lightest(
    packed: NDArray[np.uint8], table: NDArray[np.float32], k: int, bound: float, allow: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k allowed rows of least cost below `bound`, by (cost, row): costs and rows, (m,) each, m <= k.

    Args:
        packed: (n, w) uint8, codes.
        table: (w, 256) float32, what each value of each byte costs.
        k: at least 1.
        bound: costs from here on are left out.
        allow: (n,) whether a row may be found.
    """
    if COMPILED:
        room = min(len(packed), max(4 * k, 4096)) + 1
        costs, rows = np.empty(room, np.float32), np.empty(room, np.int64)
        size = _lightest(packed, table, min(k, len(packed)), bound, allow, costs, rows)
        costs, rows = costs[:size], rows[:size]
    else:
        costs = np.zeros(len(packed), np.float32)
        for i in range(packed.shape[1]):
            costs += table[i, packed[:, i]]
        rows = np.flatnonzero(allow & (costs < bound))
        costs = costs[rows]
    order = np.argsort(costs, kind="stable")[:k]  # rows ascend
    return costs[order], rows[order]


@_jit()
def _lightest(
    packed: NDArray[np.uint8], table: NDArray[np.float32], k: int, bound: float, allow: NDArray[np.bool_],
    costs: NDArray[np.float32], rows: NDArray[np.int64],
) -> int:  # fmt: skip
    """Keep rows below the bound; when the room is full the k best stay, and the bound falls to the last of them."""
    size = 0
    for row in range(len(packed)):
        cost = np.float32(0)
        for i in range(packed.shape[1]):
            cost += table[i, packed[row, i]]
        if cost < bound and allow[row]:
            costs[size] = cost
            rows[size] = row
            size += 1
            if size == len(costs):
                bound = np.partition(costs, k - 1)[k - 1]
                ties, full, size = k, size, 0
                for i in range(full):
                    ties -= costs[i] < bound
                for i in range(full):
                    if costs[i] < bound or (costs[i] == bound and ties > 0):
                        ties -= costs[i] == bound
                        costs[size] = costs[i]
                        rows[size] = rows[i]
                        size += 1
    return size


# --- Evaluation -------------------------------------------------------------------------------------------------------


@_jit()
def _tally_two(
    codes: tuple[tuple[np.uint64, ...], ...], marks: tuple[tuple[np.uint64, ...], ...], gallery: Words,
    gallery_marks: Words, first: NDArray[np.uint32], second: NDArray[np.uint32],
) -> None:  # fmt: skip
    # Query words come as tuples: their number is then part of the type, and they stay in registers in the loop. Two
    # queries share each load and do not wait for each other's counters.
    one, other = codes
    mark, other_mark = marks
    for i in range(gallery.shape[0]):
        distance = other_distance = shared = other_shared = 0
        for w in range(len(one)):
            word = gallery[i, w]
            distance += _popcount(one[w] ^ word)
            other_distance += _popcount(other[w] ^ word)
        for w in range(len(mark)):
            word = gallery_marks[i, w]
            shared += _popcount(mark[w] & word)
            other_shared += _popcount(other_mark[w] & word)
        first[np.uint64(distance), np.uint64(shared)] += np.uint32(1)
        second[np.uint64(other_distance), np.uint64(other_shared)] += np.uint32(1)


def tally(query: Words, marks: Words, gallery: Words, gallery_marks: Words, counts: NDArray[np.uint32]) -> None:
    """Add, for every query, each item of the gallery to the count of its distance and number of shared labels.

    Args:
        query, gallery: (q, w) and (n, w) uint64, codes as `Codes.words()`.
        marks, gallery_marks: (q, l) and (n, l) uint64, labels packed into words in any one order.
        counts: (q, n_bits + 1, g) uint32, added to; g is larger than any number of labels that two items share.
    """
    for i in range(0, len(query), 2):
        j = min(i + 1, len(query) - 1)
        codes, both = (tuple(query[i]), tuple(query[j])), (tuple(marks[i]), tuple(marks[j]))
        second = counts[j] if j > i else np.empty_like(counts[i])  # a last query without a partner is counted twice
        _tally_two(codes, both, gallery, gallery_marks, counts[i], second)
