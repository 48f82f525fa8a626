"""Compiled loops over packed codes: exact Hamming search and the evaluation's histograms. The only file with numba.

Everything here has a slow twin: `index.linear` for search, loops in `tests/oracles`. Callers ask `COMPILED` first and
take the numpy twin where it is False (`NUMBA_DISABLE_JIT=1`). Functions release the GIL: threads are the caller's.
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
NO_GROUPS = np.empty(0, np.int32)
_AHEAD = 512  # words that the direct scan fetches ahead: long codes then wait for memory half as long
_SAMPLED = 1 << 18  # rows from which a sample pays for one query too; below, a first search need not compile it
_ENTRIES = 8 << _GROUP  # words of a group's table: 8 patterns, two planes of 4 words each
_I64, _I32 = ir.IntType(64), ir.IntType(32)
_LANES = ir.VectorType(_I64, 4)


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


@_intrinsic
def _sliced_closer(
    typing: Any, tables: Any, picks: Any, pick_start: Any, bounds: Any, bound_start: Any, valid: Any, closer: Any,
    tag: Any,
) -> Any:  # fmt: skip
    """Writes the mask of the block's valid codes closer than the bound to `closer`; returns whether there is one.

    Each group of three bits contributes a sum plane (weight 1) and a carry plane (weight 2), picked by the query's
    `picks`; full adders reduce them to one plane for each weight, compared with the bound's planes from below.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Lanes(context, builder)
        array = {i: lanes.pointer(signature.args[i], arguments[i]) for i in (0, 1, 3, 5, 6)}
        n_planes = (64 * tag.count).bit_length()
        waiting: list[list[Any]] = [[] for _ in range(n_planes + 1)]  # the last takes carries that are always zero

        def put(weight: int, plane: Any) -> None:
            waiting[weight].append(plane)
            if len(waiting[weight]) == 3 and weight < n_planes:
                total, carry = lanes.full_adder(*waiting[weight])
                waiting[weight] = [total]
                put(weight + 1, carry)

        for group in range(-(-64 * tag.count // _GROUP)):
            picked = builder.load(builder.gep(array[1], [lanes.at(arguments[2], group)]))
            entry = builder.zext(picked, _I64)
            for weight in (0, 1):
                put(weight, lanes.load(array[0], lanes.at(entry, _ENTRIES * group + 4 * weight)))
        below = lanes.constant(0)
        for weight in range(n_planes):
            if len(waiting[weight]) == 2:
                a, b = waiting[weight]
                waiting[weight] = [builder.xor(a, b)]
                put(weight + 1, builder.and_(a, b))
            plane = waiting[weight][0] if waiting[weight] else lanes.constant(0)
            limit = lanes.splat(builder.load(builder.gep(array[3], [lanes.at(arguments[4], weight)])))
            smaller = builder.and_(builder.not_(plane), builder.or_(limit, below))
            below = builder.or_(smaller, builder.and_(limit, below))
        below = builder.and_(below, lanes.load(array[5], ir.Constant(_I64, 0)))
        lanes.store(below, array[6], ir.Constant(_I64, 0))
        return lanes.not_zero(below)

    index = types.int64
    return types.boolean(tables, picks, index, bounds, index, valid, closer, tag), emit


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

    `state[q]` holds the bound, the candidates below it (fewer than k), those in the buffer, and the members of the
    candidates below bound - 1. Rows arrive in ascending order, so that of candidates at the bound itself the first are
    the ones to keep. Groups may not be weighed by their members there: a later group may hold earlier rows than the
    second member of this one. `counts[q, d]` are the candidates at a distance, and for groups also their members.
    """
    bound, below, size, members = state[q, 0], state[q, 1] + 1, state[q, 2] + 1, state[q, 3]
    kept[q, size - 1] = distance << 32 | row
    counts[q, distance, 0] += 1
    if len(starts):
        weight = starts[row + 1] - starts[row]
        counts[q, distance, 1] += weight
        if distance < bound - 1:
            members += weight
        while members >= k:
            bound -= 1
            below -= counts[q, bound, 0]
            members -= counts[q, bound - 1, 1]
    while below >= k:
        bound -= 1
        below -= counts[q, bound, 0]
        if len(starts) and bound:
            members -= counts[q, bound - 1, 1]
    if size == kept.shape[1]:
        ties, full, size = k - below, size, 0
        for i in range(full):
            at = kept[q, i] >> 32
            if at < bound or (at == bound and ties > 0):
                ties -= at == bound
                kept[q, size] = kept[q, i]
                size += 1
    state[q, 0], state[q, 1], state[q, 2], state[q, 3] = bound, below, size, members


@_jit(no_cpython_wrapper=True)
def _order(
    k: int, first_bound: int, q: int, state: NDArray[np.int64], counts: NDArray[np.int32], kept: NDArray[np.int64],
    ordered: NDArray[np.int64],
) -> int:  # fmt: skip
    """Order a buffer by (distance, row), a stable counting sort, into `ordered`; the number of answers."""
    bound, below = state[q, 0], state[q, 1]
    ties = k - below if bound < first_bound else 0
    place = 0
    for d in range(bound):  # no candidate below the bound was ever dropped: the counts tell where each goes
        place += counts[q, d, 0]
        counts[q, d, 0] = place - counts[q, d, 0]
    last: int = below
    for i in range(state[q, 2]):
        d = kept[q, i] >> 32
        if d < bound:
            place = counts[q, d, 0]
            counts[q, d, 0] += 1
        elif d == bound and ties > 0:
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
    """Each query's answers in their order; `state[:, 2]` becomes the number of answers."""
    for q in range(len(state)):
        size = _order(k, first_bound, q, state, counts, kept, ordered)
        for i in range(size):
            distances[q, i] = ordered[i] >> 32
            found[q, i] = ordered[i] & 0xFFFFFFFF
        state[q, 2] = size


@_jit()
def _finish_groups(
    k: int, first_bound: int, state: NDArray[np.int64], counts: NDArray[np.int32], kept: NDArray[np.int64],
    distances: NDArray[np.int32], found: NDArray[np.int64], ordered: NDArray[np.int64], starts: NDArray[np.int32],
    members: NDArray[np.int32], room: NDArray[np.int32], edges: NDArray[np.int64],
) -> None:  # fmt: skip
    """`_finish` with members in place of groups. On its own: what compiles in a first search should be little."""
    for q in range(len(state)):
        size = _order(k, first_bound, q, state, counts, kept, ordered)
        state[q, 2] = _expand(ordered, size, starts, members, distances[q], found[q], room, edges)


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
        end = i
        while end < size and ordered[end] >> 32 == distance:
            end += 1
        if end == i + 1:  # a group alone at its distance: nothing to merge
            start = starts[ordered[i] & 0xFFFFFFFF]
            length = min(starts[(ordered[i] & 0xFFFFFFFF) + 1] - start, need)
            for j in range(length):
                distances[done + j] = distance
                found[done + j] = members[start + j]
            done, i = done + length, end
            continue
        share = -(-need // (end - i))
        limit, sure = 0, 0  # enough rows are below the limit: the first few of every group
        for j in range(i, end):
            start = starts[ordered[j] & 0xFFFFFFFF]
            length = min(starts[(ordered[j] & 0xFFFFFFFF) + 1] - start, share)
            limit, sure = max(limit, members[start + length - 1] + 1), sure + length
        if sure < need:
            limit = 0x7FFFFFFF
        for j in range(i, end):
            group = ordered[j] & 0xFFFFFFFF
            start = starts[group]
            stop = min(starts[group + 1], start + need)
            if members[start] >= limit:
                break  # so do all later groups at this distance
            if runs == 0 or members[start] < room[side, filled - 1]:
                edges[runs] = filled
                runs += 1
            while start < stop and members[start] < limit:
                room[side, filled] = members[start]
                filled += 1
                start += 1
            if filled >= 2 * need:
                filled, side = _merge_runs(room, side, edges, runs, filled, need)
                runs, limit = 1, room[side, need - 1]
        i = end
        filled, side = _merge_runs(room, side, edges, runs, filled, need)
        for j in range(filled):
            distances[done + j] = distance
            found[done + j] = room[side, j]
        done += filled
    return done


@_jit(no_cpython_wrapper=True)
def _merge_runs(
    room: NDArray[np.int32], side: int, edges: NDArray[np.int64], runs: int, filled: int, need: int
) -> tuple[int, int]:
    """Merge ascending runs, which begin at `edges` of one side of `room`, into one of the `need` smallest."""
    edges[runs] = filled
    while runs > 1:
        source, target = room[side], room[1 - side]
        end, merged = 0, 0
        for run in range(0, runs, 2):
            i, last = edges[run], edges[run + 1]
            j, stop = last, edges[min(run + 2, runs)]
            edges[merged] = end
            most = end + min(need, stop - i)
            while i < last and j < stop and end < most:
                first, second = source[i], source[j]
                target[end] = min(first, second)
                i += first < second
                j += second < first
                end += 1
            while i < last and end < most:
                target[end] = source[i]
                i += 1
                end += 1
            while j < stop and end < most:
                target[end] = source[j]
                j += 1
                end += 1
            merged += 1
        edges[merged] = end
        runs, side, filled = merged, 1 - side, end
    return min(filled, need), side


@_jit(no_cpython_wrapper=True)
def _distance(codes: Words, row: int, queries: Words, q: int, n_words: int) -> int:
    total = 0
    for word in range(n_words):
        total += _popcount(codes[((row >> 4) * n_words + word) * STRIP + (row & 15)] ^ queries[q * n_words + word])
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
        for q in range(len(state)):
            bound = state[q, 0]
            for start in range(begin, min(begin + length, last), STRIP):
                if _any_closer(codes, start * n_words, queries, q * n_words, bound, tag):
                    for row in range(start, min(start + STRIP, last)):
                        distance = _distance(codes, row, queries, q, n_words)
                        if distance < bound and (len(allow) == 0 or allow[row]):
                            _offer(row, distance, k, starts, q, state, counts, kept)
                            bound = state[q, 0]


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
    for q in range(len(state)):
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
            if total >= k and d + 1 < state[q, 0]:
                state[q, 0] = d + 1


@_jit()
def _set_picks(queries: Words, n_words: int, picks: NDArray[np.uint16]) -> None:
    """Per query and group of bit positions, where in the group's table its pattern stands, in words."""
    for q in range(len(picks)):
        for group in range(picks.shape[1]):
            word, shift = _GROUP * group >> 6, _GROUP * group & 63
            pattern = queries[q * n_words + word] >> np.uint64(shift)
            if shift > 64 - _GROUP and word + 1 < n_words:
                pattern |= queries[q * n_words + word + 1] << np.uint64(64 - shift)
            picks[q, group] = 8 * (pattern & np.uint64((1 << _GROUP) - 1))


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
        valid[lane] = ~np.uint64(0) if everything else np.uint64(0)
    if not everything:
        for row in range(block * BLOCK, min((block + 1) * BLOCK, last)):
            if len(allow) == 0 or allow[row]:
                valid[row & 3] |= np.uint64(1) << np.uint64((row & 255) >> 2)


@_jit()
def _set_bounds(bounds: Words) -> None:
    """Row b: the planes of the number b, every plane all ones or all zeros."""
    for bound in range(len(bounds)):
        for bit in range(bounds.shape[1]):
            bounds[bound, bit] = ~np.uint64(0) if bound >> bit & 1 else np.uint64(0)


@_jit()
def _scan_sliced(
    codes: Words, first: int, last: int, queries: Words, tag: tuple[int, ...], k: int, allow: NDArray[np.bool_],
    starts: NDArray[np.int32], state: NDArray[np.int64], counts: NDArray[np.int32], kept: NDArray[np.int64],
    picks: NDArray[np.uint16], planes: Words, tables: Words, bounds: Words, masks: Words,
) -> None:  # fmt: skip
    """Bit-sliced: tables of a block of 256 codes are built once and shared by all queries; only hits are measured."""
    n_words = len(tag)
    valid, closer = masks[0], masks[1]
    for block in range(first // BLOCK, -(-last // BLOCK)):
        _set_valid(block, last, allow, valid)
        _slice_block(codes, block, n_words, planes, tables)
        for q in range(len(state)):
            limit = state[q, 0] * bounds.shape[1]
            if not _sliced_closer(tables, picks, q * picks.shape[1], bounds, limit, valid, closer, tag):
                continue
            columns = closer[0] | closer[1] | closer[2] | closer[3]
            while columns:
                column = np.uint64(_lowest_bit(columns))
                columns &= columns - np.uint64(1)
                in_column = closer[3] >> column & np.uint64(1)
                for lane in (2, 1, 0):
                    in_column = in_column << np.uint64(1) | (closer[lane] >> column & np.uint64(1))
                while in_column:  # one branch a candidate: asking each lane cost three guesses that often go wrong
                    row = block * BLOCK + 4 * np.int64(column) + _lowest_bit(in_column)
                    in_column &= in_column - np.uint64(1)
                    distance = _distance(codes, row, queries, q, n_words)
                    if distance < state[q, 0]:
                        _offer(row, distance, k, starts, q, state, counts, kept)


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
    state = np.zeros((n_queries, 4), np.int64)
    state[:, 0] = bound
    counts = np.zeros((n_queries, 64 * n_words + 1, 2 if len(starts) else 1), np.int32)
    lines = max(4 * k, 1024) // 8 | 1  # odd: rows a power of two apart would share one set of the cache
    kept = np.empty((n_queries, min(8 * lines, last - first + 1)), np.int64)
    codes, asked, tag = strips.reshape(-1), np.ascontiguousarray(queries).reshape(-1), (0,) * n_words
    if sliced or last - first >= _SAMPLED:
        _sample(codes, first, last, asked, tag, k, allow, starts, state, counts)
    given = (codes, first, last, asked, tag, k, allow, starts, state, counts, kept)
    if sliced:
        n_groups = -(-64 * n_words // _GROUP)
        picks = np.empty((n_queries, n_groups), np.uint16)
        _set_picks(asked, n_words, picks)
        planes, tables = np.zeros(4 * _GROUP * n_groups, np.uint64), _aligned(n_groups * _ENTRIES)
        _scan_sliced(*given, picks, planes, tables, _bounds(n_words), np.empty((2, 4), np.uint64))
    else:
        _scan_direct(*given)
    distances, found = np.full((n_queries, k), -1, np.int32), np.full((n_queries, k), -1, np.int64)
    ordered = np.empty(k, np.int64)
    if len(starts):
        room, edges = np.empty((2, 3 * k), np.int32), np.empty(3 * k + 2, np.int64)
        _finish_groups(k, bound, state, counts, kept, distances, found, ordered, starts, members, room, edges)
    else:
        _finish(k, bound, state, counts, kept, distances, found, ordered)
    return distances, found, state[:, 2].copy()


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
    return _aligned(n_blocks * BLOCK * n_words).reshape(n_blocks * (BLOCK // STRIP), n_words, STRIP)


def _aligned(size: int) -> Words:
    """Zeros that begin on a cache line: a vector that straddles two takes twice as long to load."""
    raw = np.empty(size + 8, np.uint64)
    raw.fill(0)  # not np.zeros: numpy asks for huge pages only for memory that it does not zero
    start = -(raw.ctypes.data // 8) % 8
    return raw[start : start + size]


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
