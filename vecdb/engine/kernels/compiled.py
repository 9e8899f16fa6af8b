"""All compiled code of vecdb: graph walk, scan, preparation of vectors.

    walk_graph    nearest rows through a graph: greedy descent, then best-first on level 0
    scan_rows     exact nearest rows, in slices; sort_heaps sorts the result
    prepare_rows  vectors as given -> padded to whole cache lines, of unit length under cosine
    relink_lists  lists of neighbours without deleted nodes
    Scratch       the memory that a walk needs, reused from one call to the next

A **score** is smaller for nearer rows: the squared Euclidean distance, or the negated inner
product. Every kernel computes it by ``pair_score``, which always adds in the same order, so a pair
has the same score, bit for bit, in all kernels. Equal scores are ordered by row number.

The walk is Malkov & Yashunin 2018, algorithms 2 and 5, as in hnswlib: it returns the same rows at
the same ef. Its speed is limited by memory latency. So it first gathers a node's unvisited
neighbours, then scores them while it prefetches the rows a few places ahead and the first rows of
the next candidate. The visited marks are a bitmap that fits into the cache; the list of visited
nodes clears it. The pool is one sorted array of integers that combine score, node and "expanded".

Data read from a file are not trusted: a neighbour, offset or entry outside the arrays is skipped.
Each kernel has one signature (read-only C arrays match writable ones too) and releases the GIL.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.types import Type
from numba.extending import intrinsic

__all__ = [
    "EUCLIDEAN",
    "INNER",
    "KERNELS",
    "LANES",
    "Scratch",
    "find_levels",
    "hash_rows",
    "prepare_rows",
    "relink_lists",
    "scan_rows",
    "sort_heaps",
    "walk",
    "walk_graph",
]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EUCLIDEAN: Final = 0
"""Metric code: the score is the squared Euclidean distance."""
INNER: Final = 1
"""Metric code: the score is the negated inner product."""
LANES: Final = 16
"""Floats in a cache line; rows are padded with zeros to a multiple of this."""

_LEVELS_MAX: Final = 64  # A level above this has probability 2**-64 even at M = 2.
_TILE_BYTES: Final = 16 * 1024  # Rows that scan_rows scores against all queries while in L1.
_ROWS_AHEAD: Final = 4  # Rows to prefetch before they are scored; more rows,
_LINES_AHEAD: Final = 8  # or more cache lines of each, stall the prefetching.
_PEEK_BEFORE_END: Final = 2  # Rows left to score when the next candidate's rows are prefetched.
_NO_BOUND: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_DELETED_MIN: Final = 500  # Deleted nodes that a walk may meet in any graph before it gives up.


# ---------------------------------------------------------------------------------------------
# Compiling


def _compiled(signature: Any) -> Callable[[Callable[..., None]], Any]:
    """Compile at once for one signature; use numba's cache if its folder is writable."""

    def decorate(function: Callable[..., None]) -> Any:
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            _warn_uncached(error)
            return njit(signature, nogil=True)(function)

    return decorate


def _warn_uncached(error: Exception) -> None:
    if not _warned:
        _warned.append(True)
        warnings.warn(
            "vecdb compiles its kernels in each process, since numba's cache is not usable "
            f"({error}); set NUMBA_CACHE_DIR to a writable folder",
            RuntimeWarning,
            stacklevel=2,
        )


_warned: list[bool] = []
_inlined = njit(forceinline=True, nogil=True)


def _read(dtype: types.Type, ndim: int) -> types.Array:
    """Return the type of an input: a C array, which may be read-only."""
    return types.Array(dtype, ndim, "C", readonly=True)


def _written(dtype: types.Type, ndim: int) -> types.Array:
    return types.Array(dtype, ndim, "C")


_INT: Final = types.int64
_FLOATS: Final = _read(types.float32, 2)
_INTS: Final = _read(types.int32, 2)
_BYTES: Final = _read(types.uint8, 1)


# ---------------------------------------------------------------------------------------------
# Instructions that numba does not emit. All are generic LLVM, valid on any processor.

_INT32, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR, _POINTER = ir.VectorType(_FLOAT, LANES), ir.PointerType()


def _row_pointer(
    context: Any, builder: Any, array_type: types.Array, array: ir.Value, row: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Emit the address and the length of a row of a C array, without a bounds check."""
    struct = context.make_array(array_type)(context, builder, array)
    length = builder.extract_value(struct.shape, array_type.ndim - 1)
    element = context.get_data_type(array_type.dtype)
    offset = builder.mul(row, length)
    data = builder.bitcast(struct.data, _POINTER)
    return builder.gep(data, [offset], source_etype=element), length


def _emit_accumulation(builder: Any, row: Any, query: Any, length: Any, squared: bool) -> ir.Value:
    """Emit a sum over a row: 16 lanes at a time into four accumulators, added in a fixed order."""
    fused = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), "llvm.fmuladd.v16f32"
    )
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(4)]

    def load(base: ir.Value, index: ir.Value) -> ir.Value:
        return builder.load(builder.gep(base, [index], source_etype=_FLOAT), align=4, typ=_VECTOR)

    def add(index: ir.Value, total: ir.Value) -> None:
        left, right = load(row, index), load(query, index)
        if squared:
            left = right = builder.fsub(left, right)
        builder.store(builder.call(fused, [left, right, builder.load(total, typ=_VECTOR)]), total)

    def constant(value: int) -> ir.Value:
        return ir.Constant(_INT64, value)

    whole = builder.and_(length, constant(~(4 * LANES - 1)))
    with cgutils.for_range_slice(builder, constant(0), whole, constant(4 * LANES)) as (index, _):
        for part, total in enumerate(sums):
            add(builder.add(index, constant(part * LANES)), total)
    with cgutils.for_range_slice(builder, whole, length, constant(LANES)) as (index, _):
        add(index, sums[0])
    a, b, c, d = (builder.load(total, typ=_VECTOR) for total in sums)
    vector = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        low, high = (
            ir.Constant(ir.VectorType(_INT32, lanes), list(range(start, start + lanes)))
            for start in (0, lanes)
        )
        vector = builder.fadd(
            builder.shuffle_vector(vector, vector, low),
            builder.shuffle_vector(vector, vector, high),
        )
    return builder.extract_element(vector, ir.Constant(_INT32, 0))


def _pairwise(squared: bool) -> Callable[..., Any]:
    def declare(typing_context: object, rows: Type, row: Type, queries: Type, query: Type) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> ir.Value:
            rows_, row_, queries_, query_ = arguments
            left, length = _row_pointer(context, builder, signature.args[0], rows_, row_)
            right, _ = _row_pointer(context, builder, signature.args[2], queries_, query_)
            return _emit_accumulation(builder, left, right, length, squared)

        return types.float32(rows, types.int64, queries, types.int64), generate

    return declare


inner_product = intrinsic(_pairwise(squared=False))
squared_distance = intrinsic(_pairwise(squared=True))


@intrinsic
def prefetch_row(typing_context: object, array: Type, row: Type, lines_max: Type) -> Any:
    """Prefetch the first cache lines of a row of a two-dimensional array; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> ir.Value:
        pointer, length = _row_pointer(
            context, builder, signature.args[0], arguments[0], arguments[1]
        )
        ask = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_POINTER, _INT32, _INT32, _INT32]),
            "llvm.prefetch.p0",
        )
        limit = builder.mul(arguments[2], ir.Constant(_INT64, LANES))
        stop = builder.select(builder.icmp_signed("<", length, limit), length, limit)
        read_keep_data = [ir.Constant(_INT32, value) for value in (0, 3, 1)]
        start, step = ir.Constant(_INT64, 0), ir.Constant(_INT64, LANES)
        with cgutils.for_range_slice(builder, start, stop, step) as (index, _):
            builder.call(ask, [builder.gep(pointer, [index], source_etype=_FLOAT), *read_keep_data])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def move(typing_context: object, array: Type, target: Type, source: Type, count: Type) -> Any:
    """Assign array[target : target + count] = array[source : source + count]; they may overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> ir.Value:
        array_, target_, source_, count_ = arguments
        data = context.make_array(signature.args[0])(context, builder, array_).data
        element = context.get_data_type(signature.args[0].dtype)
        data = builder.bitcast(data, _POINTER)
        memmove = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, _INT64, ir.IntType(1)]),
            "llvm.memmove.p0.p0.i64",
        )
        size = ir.Constant(_INT64, signature.args[0].dtype.bitwidth // 8)
        builder.call(
            memmove,
            [
                builder.gep(data, [target_], source_etype=element),
                builder.gep(data, [source_], source_etype=element),
                builder.mul(count_, size),
                ir.Constant(ir.IntType(1), 0),
            ],
        )
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, types.int64), generate


@_inlined
def pair_score(vectors, node, queries, query, metric):
    """Return the score of one row for one query. No other function computes scores."""
    if metric == INNER:
        return np.float32(0) - inner_product(vectors, node, queries, query)  # 0 - x is never -0.
    return squared_distance(vectors, node, queries, query)


# ---------------------------------------------------------------------------------------------
# Candidates as integers
#
#     63            32 31                1          0
#     | score, ordered | node, below 2**31 | expanded |
#
# Flip the sign bit of a positive float, or all bits of a negative one: the resulting integers are
# ordered as the floats are. So the packed integers compare as (score, node).


@_inlined
def pack(score, node):
    bits = np.uint64(np.float32(score).view(np.uint32))
    flip = np.uint64(0xFFFF_FFFF) if bits >> np.uint64(31) else np.uint64(0x8000_0000)
    return ((bits ^ flip) << np.uint64(32)) | (np.uint64(node) << np.uint64(1))


@_inlined
def score_of(key):
    bits = key >> np.uint64(32)
    flip = np.uint64(0x8000_0000) if bits >> np.uint64(31) else np.uint64(0xFFFF_FFFF)
    return np.uint32(bits ^ flip).view(np.float32)


@_inlined
def node_of(key):
    return np.int64((key & np.uint64(0xFFFF_FFFF)) >> np.uint64(1))


@_inlined
def is_deleted(dead, node):
    return (dead[node >> 3] >> np.uint8(node & 7)) & np.uint8(1) != 0


@_inlined
def position_of(pool, count, key):
    """Return the position of key among the first count entries of the pool, which ascend."""
    low, size = 0, count
    while size > 0:
        half = size >> 1
        below = pool[low + half] < key
        low = low + half + 1 if below else low
        size = size - half - 1 if below else half
    return low


# ---------------------------------------------------------------------------------------------
# The walk


@_inlined
def descend(vectors, upper_offsets, upper_links, entry, top_level, queries, query, metric):
    """Descend greedily from the entry to level 1; return the node found and its score."""
    n, node = vectors.shape[0], entry
    best = pair_score(vectors, node, queries, query, metric)
    for level in range(min(top_level, _LEVELS_MAX), 0, -1):
        moved = True
        while moved:  # Terminates, since the score strictly decreases.
            moved = False
            row = np.int64(upper_offsets[node]) + level - 1
            if row < 0 or row >= upper_links.shape[0] or row >= np.int64(upper_offsets[node + 1]):
                break
            for j in range(upper_links.shape[1]):
                neighbour = np.int64(np.uint32(upper_links[row, j]))
                if neighbour >= n:
                    break
                score = pair_score(vectors, neighbour, queries, query, metric)
                if score < best:
                    best, node, moved = score, neighbour, True
    return node, best


@_inlined
def gather(links, node, n, visited, seen, end):
    """Append the unvisited neighbours of node to seen and mark them; return the new end."""
    for j in range(links.shape[1]):
        neighbour = np.int64(np.uint32(links[node, j]))
        if neighbour >= n:  # The padding, -1, or a damaged value.
            break
        word, bit = neighbour >> 6, np.uint64(1) << np.uint64(neighbour & 63)
        marks = visited[word]
        visited[word] = marks | bit
        seen[end] = np.int32(neighbour)
        end += np.int64((marks & bit) == np.uint64(0))  # No branch: it would be unpredictable.
    return end


@_inlined
def peek(vectors, links, node, n, visited):
    """Prefetch the first rows to score if node is expanded next, which is usually the case."""
    left = _ROWS_AHEAD
    for j in range(links.shape[1]):
        neighbour = np.int64(np.uint32(links[node, j]))
        if neighbour >= n or left == 0:
            break
        if visited[neighbour >> 6] >> np.uint64(neighbour & 63) & np.uint64(1) == np.uint64(0):
            prefetch_row(vectors, neighbour, _LINES_AHEAD)
            left -= 1


@_inlined
def nearest_of(pool, cursor, count, heap, waiting):
    """Return the nearest candidate that is not expanded, live or deleted; _NO_BOUND if none."""
    key = pool[cursor] if cursor < count else _NO_BOUND
    return min(key, pool[heap]) if waiting > 0 else key


@_inlined
def best_first(
    vectors, links, dead, node, score, queries, query, metric, ef, deleted_max, visited, seen, pool
):  # fmt: skip
    """Search level 0 from node: expand the nearest candidate until ef live ones are nearer.

    pool[: ef + 1] holds the nearest live candidates, ascending. Deleted candidates are in a heap
    behind them until they are expanded, so that they never displace a live one.

    Return the number of live candidates in the pool, of visited nodes, and of expanded deleted
    candidates. After deleted_max deleted candidates give up with 0 live ones.
    """
    n, has_deleted, heap = vectors.shape[0], dead.shape[0] > 0, ef + 1
    visited[node >> 6] |= np.uint64(1) << np.uint64(node & 63)
    seen[0], end = node, 1
    key = pack(score, node)
    count = 0 if has_deleted and is_deleted(dead, node) else 1
    pool[heap if count == 0 else 0] = key
    waiting = deleted = 1 - count
    cursor = passed = 0
    bound = _NO_BOUND if count < ef else key
    while key <= bound and key != _NO_BOUND:
        node = node_of(key)
        if cursor < count and key == pool[cursor]:
            pool[cursor] = key | np.uint64(1)
        else:
            remove_nearest(pool, heap, waiting)
            waiting, passed = waiting - 1, passed + 1
        while cursor < count and pool[cursor] & np.uint64(1):
            cursor += 1
        key = nearest_of(pool, cursor, count, heap, waiting)
        if key != _NO_BOUND:
            prefetch_row(links, node_of(key), _LINES_AHEAD)
        unscored = end
        end = gather(links, node, n, visited, seen, end)
        for i in range(unscored, min(unscored + _ROWS_AHEAD, end)):
            prefetch_row(vectors, np.int64(seen[i]), _LINES_AHEAD)
        for i in range(unscored, end):
            if i + _ROWS_AHEAD < end:
                prefetch_row(vectors, np.int64(seen[i + _ROWS_AHEAD]), _LINES_AHEAD)
            if i + _PEEK_BEFORE_END == end and cursor < count:
                peek(vectors, links, node_of(pool[cursor]), n, visited)
            node = np.int64(seen[i])
            key = pack(pair_score(vectors, node, queries, query, metric), node)
            if key >= bound:
                continue
            if has_deleted and is_deleted(dead, node):
                add_waiting(pool, heap, waiting, key)
                waiting, deleted = waiting + 1, deleted + 1
                continue
            place = position_of(pool, count, key)
            move(pool, place + 1, place, count - place)
            pool[place] = key
            cursor = min(cursor, place)
            count = min(count + 1, ef)
            bound = pool[count - 1] if count >= ef else _NO_BOUND
        if deleted > deleted_max:
            return 0, end, passed
        key = nearest_of(pool, cursor, count, heap, waiting)
    return count, end, passed


@_inlined
def add_waiting(pool, heap, size, key):
    """Add a key to the min-heap of that size that begins at pool[heap]."""
    hole = size
    while hole > 0 and key < pool[heap + ((hole - 1) >> 1)]:
        pool[heap + hole] = pool[heap + ((hole - 1) >> 1)]
        hole = (hole - 1) >> 1
    pool[heap + hole] = key


@_inlined
def remove_nearest(pool, heap, size):
    """Remove the least key of the min-heap of that size that begins at pool[heap]."""
    hole, key = np.int64(0), pool[heap + size - 1]
    while 2 * hole + 2 < size:
        child = 2 * hole + 1
        child += np.int64(pool[heap + child + 1] < pool[heap + child])
        if key <= pool[heap + child]:
            break
        pool[heap + hole] = pool[heap + child]
        hole = child
    pool[heap + hole] = key


@_inlined
def check_shapes(vectors, stop, dead, queries):
    n, width = vectors.shape
    if (
        n >= 1 << 31
        or width % LANES != 0
        or queries.shape[1] != width
        or 0 < dead.shape[0] < (stop + 7) >> 3
    ):
        raise ValueError("kernels: vectors, dead and queries that don't belong together")


@_inlined
def check_results(first, last, k, queries, scores, nodes, counts):
    if first < 0 or last > min(queries.shape[0], scores.shape[0], nodes.shape[0], counts.shape[0]):
        raise ValueError("kernels: queries past the end of the arrays")
    if k > min(scores.shape[1], nodes.shape[1]):
        raise ValueError("kernels: k past the end of the arrays")


@_compiled(types.void(
    _FLOATS, _INTS, _read(types.int32, 1), _INTS, _INT, _INT, _BYTES, _FLOATS, _INT, _INT, _INT,
    _INT, _INT, _written(types.uint64, 1), _written(types.int32, 1), _written(types.uint64, 1),
    _written(types.int64, 2), _written(types.float32, 2), _written(types.int64, 1),
    _written(types.int64, 1), _written(types.int64, 1),
))  # fmt: skip
def walk_graph(
    vectors, links, upper_offsets, upper_links, entry, top_level, dead, queries, first, last,
    metric, k, ef, visited, seen, pool, out_nodes, out_scores, out_counts, out_visited, out_deleted,
):  # fmt: skip
    """Find the k nearest live rows by a graph walk, for queries first to last - 1.

    Args:
        vectors: float32 (n, width), width a multiple of 16; n below 2**31.
        links: int32 (n, 2M), neighbours on level 0, then -1.
        upper_offsets, upper_links: int32 (n + 1,) and (u, M). Row upper_offsets[i] + L - 1 has the
            neighbours of node i on level L, 1 to upper_offsets[i + 1] - upper_offsets[i].
        entry, top_level: where a walk begins; with an entry outside the rows it finds nothing.
        dead: uint8, the delete bitmap: bit i & 7 of byte i >> 3 is set if node i is deleted; (0,)
            if none is. Deleted nodes are walked through, never returned.
        queries: float32 (q, width).
        metric: EUCLIDEAN or INNER.
        ef: live candidates kept; raised to k if it is smaller.
        visited, seen, pool: the arrays of a ``Scratch`` reserved for these arguments.
        out_nodes, out_scores: int64 and float32 (q, k), ascending by (score, node).
        out_counts: int64 (q,), number of rows found; the rest of a row is not written. 0 also if
            the walk gave up, since it met so many deleted nodes that a scan costs less.
        out_visited: int64 (q,), number of nodes scored on level 0.
        out_deleted: int64 (q,), number of deleted nodes walked through.
    """
    n, width = vectors.shape
    ef = min(max(ef, k), n)
    # The cost of a walk per deleted node and of a scan per row, measured at widths 16, 96 and 768.
    deleted_max = 0 if dead.shape[0] == 0 else _DELETED_MIN + 2 * n * width // (1800 + 9 * width)
    check_shapes(vectors, n, dead, queries)
    if links.shape[0] != n or upper_offsets.shape[0] != n + 1:
        raise ValueError("walk_graph: arrays that don't belong together")
    pool_size = ef + 1 + deleted_max + links.shape[1]
    if visited.shape[0] << 6 < n or seen.shape[0] <= n or pool.shape[0] < pool_size:
        raise ValueError("walk_graph: too little scratch memory")
    check_results(first, last, k, queries, out_scores, out_nodes, out_counts)
    if last > min(out_visited.shape[0], out_deleted.shape[0]):
        raise ValueError("walk_graph: queries past the end of out_visited or out_deleted")
    for query in range(first, last):
        out_counts[query] = out_visited[query] = out_deleted[query] = 0
        if entry < 0 or entry >= n or k < 1:
            continue
        node, score = descend(
            vectors, upper_offsets, upper_links, entry, top_level, queries, query, metric
        )
        count, end, passed = best_first(
            vectors, links, dead, node, score, queries, query, metric, ef, deleted_max,
            visited, seen, pool,
        )  # fmt: skip
        for i in range(end):
            visited[np.int64(seen[i]) >> 6] = np.uint64(0)
        for i in range(min(count, k)):
            out_nodes[query, i], out_scores[query, i] = node_of(pool[i]), score_of(pool[i])
        out_counts[query], out_visited[query], out_deleted[query] = min(count, k), end, passed


class Scratch:
    """The memory of one walk. A thread must own it exclusively while it walks.

    ``walk_graph`` leaves the visited marks clear, so a Scratch can be used for graphs of any size
    in turn. It takes n/8 bytes, 4 bytes per visited node, 8 bytes per candidate of ef, and with
    deleted nodes 8 bytes for up to a quarter of all nodes, as many as the walk meets.
    """

    def __init__(self) -> None:
        self.visited: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.seen: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self.pool: npt.NDArray[np.uint64] = np.empty(0, np.uint64)

    def reserve(self, n: int, ef: int, slots: int, has_deleted: bool) -> Scratch:
        """Grow for a graph of n nodes with lists of ``slots`` neighbours and for ef, which must be
        at least k. Return self."""
        if self.seen.size <= n:
            self.visited = np.zeros((n + 63) // 64, np.uint64)
            self.seen = np.empty(n + 1, np.int32)
        entries = min(ef, n) + slots + 1
        if has_deleted:
            entries += (n >> 2) + _DELETED_MIN
        if self.pool.size < entries:
            self.pool = np.empty(entries, np.uint64)
        return self


def walk(
    scratch: Scratch, vectors: Floats, graph: Any, dead: npt.NDArray[np.uint8], queries: Floats,
    first: int, last: int, metric: int, k: int, ef: int, out_nodes: Ints, out_scores: Floats,
    out_counts: Ints, out_visited: Ints, out_deleted: Ints | None = None,
) -> None:  # fmt: skip
    """Call ``walk_graph`` with the arrays of a Scratch and the fields of a graph."""
    out_deleted = np.zeros_like(out_visited) if out_deleted is None else out_deleted
    scratch.reserve(len(vectors), max(ef, k), graph.links.shape[1], len(dead) > 0)
    walk_graph(
        vectors, graph.links, graph.upper_offsets, graph.upper_links, graph.entry, graph.top_level,
        dead, queries, first, last, metric, k, ef, scratch.visited, scratch.seen, scratch.pool,
        out_nodes, out_scores, out_counts, out_visited, out_deleted,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------
# The scan: a binary max-heap of (score, node) per query


@_inlined
def comes_after(score, node, other_score, other_node):
    return score > other_score or (score == other_score and node > other_node)


@_inlined
def sift_down(scores, nodes, query, size, score, node):
    """Replace the root of a heap of that size by (score, node)."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        if child + 1 < size and comes_after(
            scores[query, child + 1],
            nodes[query, child + 1],
            scores[query, child],
            nodes[query, child],
        ):
            child += 1
        if not comes_after(scores[query, child], nodes[query, child], score, node):
            break
        scores[query, hole], nodes[query, hole] = scores[query, child], nodes[query, child]
        hole = child
    scores[query, hole], nodes[query, hole] = score, node


@_inlined
def sift_up(scores, nodes, query, size, score, node):
    """Add (score, node) to a heap of that size."""
    hole = size
    while hole > 0:
        parent = (hole - 1) >> 1
        if not comes_after(score, node, scores[query, parent], nodes[query, parent]):
            break
        scores[query, hole], nodes[query, hole] = scores[query, parent], nodes[query, parent]
        hole = parent
    scores[query, hole], nodes[query, hole] = score, node


@_compiled(types.void(
    _FLOATS, _BYTES, _INT, _INT, _FLOATS, _INT, _INT, _INT, _INT,
    _written(types.float32, 2), _written(types.int64, 2), _written(types.int64, 1),
))  # fmt: skip
def scan_rows(
    vectors, dead, start, stop, queries, first, last, metric, k,
    heap_scores, heap_nodes, heap_counts,
):  # fmt: skip
    """Score rows start to stop - 1 for queries first to last - 1, and keep the k best in heaps.

    Arguments as for ``walk_graph``. heap_scores float32 (q, k), heap_nodes int64 (q, k) and
    heap_counts int64 (q,) continue from the previous slice; set the counts to 0 before the first.
    """
    check_shapes(vectors, stop, dead, queries)
    check_results(first, last, k, queries, heap_scores, heap_nodes, heap_counts)
    if start < 0 or stop > vectors.shape[0] or k < 1:
        raise ValueError("scan_rows: rows or k past the end of the arrays")
    tile = max(1, _TILE_BYTES // (4 * max(vectors.shape[1], 1)))
    for begin in range(start, stop, tile):
        for query in range(first, last):
            size = heap_counts[query]
            worst = heap_scores[query, 0] if size >= k else np.float32(np.inf)
            for node in range(begin, min(begin + tile, stop)):
                score = pair_score(vectors, node, queries, query, metric)
                if not score <= worst or (dead.shape[0] > 0 and is_deleted(dead, node)):
                    continue
                if size < k:
                    sift_up(heap_scores, heap_nodes, query, size, score, node)
                    size += 1
                elif comes_after(heap_scores[query, 0], heap_nodes[query, 0], score, node):
                    sift_down(heap_scores, heap_nodes, query, size, score, node)
                if size >= k:
                    worst = heap_scores[query, 0]
            heap_counts[query] = size


@_compiled(types.void(
    _written(types.float32, 2), _written(types.int64, 2), _read(types.int64, 1), _INT, _INT
))  # fmt: skip
def sort_heaps(heap_scores, heap_nodes, heap_counts, first, last):
    """Sort the heaps of queries first to last - 1 in place, ascending by (score, node)."""
    for query in range(first, last):
        for size in range(heap_counts[query] - 1, 0, -1):
            score, node = heap_scores[query, size], heap_nodes[query, size]
            heap_scores[query, size], heap_nodes[query, size] = (
                heap_scores[query, 0],
                heap_nodes[query, 0],
            )
            sift_down(heap_scores, heap_nodes, query, size, score, node)


# ---------------------------------------------------------------------------------------------
# Preparation of vectors for the kernels


@_compiled(types.void(_FLOATS, _written(types.float32, 2), types.boolean))  # fmt: skip
def prepare_rows(raw, out, normalise):
    """Copy raw to out, padded with zeros; divide each row by its length if normalise.

    Args:
        raw: float32 (n, dim).
        out: float32 (n, width), written; width at least dim.
        normalise: scale rows to unit length; a row of zeros is left unchanged. Lengths are computed
            in float64, where the square of a float32 neither overflows nor underflows.
    """
    n, dim = raw.shape
    if out.shape[0] != n or out.shape[1] < dim:
        raise ValueError("prepare_rows: arrays that don't belong together")
    for i in range(n):
        length = 1.0
        if normalise:
            square = 0.0
            for j in range(dim):
                square += np.float64(raw[i, j]) * np.float64(raw[i, j])
            length = np.sqrt(square) if square > 0.0 else 1.0
        for j in range(dim):
            out[i, j] = np.float32(np.float64(raw[i, j]) / length)
        out[i, dim:] = np.float32(0)


@_compiled(types.boolean(
    _read(types.uint32, 1), _INT, _written(types.int64, 1), _written(types.int32, 1)
))  # fmt: skip
def find_levels(words, each, starts, levels):
    """Find each node's data in hnswlib's upper levels; see ``vecdb.engine.hnsw.builder``.

    Args:
        words: uint32, for each node its size in bytes, then that many bytes.
        each: words per level.
        starts, levels: int64 and int32 (n,), written: index of the first word after the size, and
            the number of levels.

    Returns:
        False if the words do not contain exactly n nodes.
    """
    at = 0
    for node in range(starts.shape[0]):
        if at >= words.shape[0]:
            return False
        level = np.int64(words[at]) // (4 * each)
        starts[node], levels[node] = at + 1, level
        at += 1 + level * each
    return at == words.shape[0]


@_compiled(types.void(_read(types.uint32, 2), _written(types.uint64, 1)))
def hash_rows(words, out):
    """Compute a 64-bit hash of each row.

    Args:
        words: uint32 (n, width), the bits of the rows.
        out: uint64 (n,), written.
    """
    for i in range(words.shape[0]):
        bits = np.uint64(words.shape[1])
        for j in range(words.shape[1]):
            bits = (bits ^ np.uint64(words[i, j])) * np.uint64(0x9E37_79B9_7F4A_7C15)
            bits ^= bits >> np.uint64(32)
        out[i] = bits


@_compiled(types.void(
    _FLOATS, _INTS, _read(types.int64, 1), _read(types.int64, 1), _BYTES, _INT,
    _written(types.int32, 2),
))  # fmt: skip
def relink_lists(vectors, lists, places, owners, dead, metric, out):
    """Compute lists of neighbours without deleted nodes: live neighbours stay, and each deleted one
    is replaced by its own live neighbours, closest to the owner first.

    Args:
        vectors: float32 (n, width).
        lists: int32 (…, slots), of one level, each read up to its first number outside [0, n).
        places: int64 (n,), index of each node's list, -1 if it has none on this level.
        owners: int64 (m,), nodes whose lists to compute.
        dead: the delete bitmap.
        metric: metric code.
        out: int32 (m, slots), written; padded with -1.
    """
    n, slots = vectors.shape[0], lists.shape[1]
    pool = np.empty(slots * slots + 1, np.uint64)
    for k in range(owners.shape[0]):
        node, count, size = owners[k], 0, 0
        out[k, :] = -1
        for neighbour in lists[places[node]]:
            if neighbour < 0 or neighbour >= n:
                break
            if not is_deleted(dead, np.int64(neighbour)):
                out[k, count] = neighbour
                count += 1
                continue
            if places[neighbour] < 0:
                continue
            for beyond in lists[places[neighbour]]:
                if beyond < 0 or beyond >= n:
                    break
                if beyond == node or is_deleted(dead, np.int64(beyond)):
                    continue
                score = pair_score(vectors, np.int64(beyond), vectors, node, metric)
                key = pack(score, np.int64(beyond))
                at = position_of(pool, size, key)
                if at == size or pool[at] != key:
                    move(pool, at + 1, at, size - at)
                    pool[at] = key
                    size += 1
        for at in range(size):
            if count == slots:
                break
            found = node_of(pool[at])
            known = False
            for place in range(count):
                known = known or out[k, place] == found
            if not known:
                out[k, count] = found
                count += 1


KERNELS: Final = (
    *(walk_graph, scan_rows, sort_heaps, prepare_rows, find_levels, hash_rows, relink_lists),
)
"""All kernels. Each has one signature; a test checks that no call adds another."""
