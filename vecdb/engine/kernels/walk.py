"""The nearest rows through a graph: greedy descent, then best-first on level 0.

    walk_graph  the kernel
    walk        walk_graph with the arrays of a Scratch and the fields of a graph
    Scratch     the memory that a walk needs, reused from one call to the next

The walk is Malkov & Yashunin 2018, algorithms 2 and 5, as in hnswlib: it returns the same rows at
the same ef. Its speed is limited by memory latency. So it first gathers a node's unvisited
neighbours, then scores them while it prefetches the rows a few places ahead and the first rows of
the next candidate. The visited marks are a bitmap that fits into the cache; the list of visited
nodes clears it. The pool is one sorted array of integers that combine score, node and "expanded"
(``candidates.py``).

Data read from a file are not trusted: a neighbour, offset or entry outside the arrays is skipped.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

from vecdb.engine.kernels.candidates import (
    NO_BOUND,
    add_waiting,
    nearest_of,
    node_of,
    pack,
    position_of,
    remove_nearest,
    score_of,
)
from vecdb.engine.kernels.compiling import BYTES, FLOATS, INT, INTS, inlined, kernel, read, written
from vecdb.engine.kernels.distance import pair_score
from vecdb.engine.kernels.inputs import check_results, check_shapes, is_deleted
from vecdb.engine.kernels.instructions import move, prefetch_row

__all__ = ["Scratch", "walk", "walk_graph"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_LEVELS_MAX: Final = 64  # A level above this has probability 2**-64 even at M = 2.
_ROWS_AHEAD: Final = 4  # Rows to prefetch before they are scored; more rows,
_LINES_AHEAD: Final = 8  # or more cache lines of each, stall the prefetching.
_PEEK_BEFORE_END: Final = 2  # Rows left to score when the next candidate's rows are prefetched.
_DELETED_MIN: Final = 500  # Deleted nodes that a walk may meet in any graph before it gives up.


@inlined
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


@inlined
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


@inlined
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


@inlined
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
    bound = NO_BOUND if count < ef else key
    while key <= bound and key != NO_BOUND:
        node = node_of(key)
        if cursor < count and key == pool[cursor]:
            pool[cursor] = key | np.uint64(1)
        else:
            remove_nearest(pool, heap, waiting)
            waiting, passed = waiting - 1, passed + 1
        while cursor < count and pool[cursor] & np.uint64(1):
            cursor += 1
        key = nearest_of(pool, cursor, count, heap, waiting)
        if key != NO_BOUND:
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
            bound = pool[count - 1] if count >= ef else NO_BOUND
        if deleted > deleted_max:
            return 0, end, passed
        key = nearest_of(pool, cursor, count, heap, waiting)
    return count, end, passed


@kernel(types.void(
    FLOATS, INTS, read(types.int32, 1), INTS, INT, INT, BYTES, FLOATS, INT, INT, INT,
    INT, INT, written(types.uint64, 1), written(types.int32, 1), written(types.uint64, 1),
    written(types.int64, 2), written(types.float32, 2), written(types.int64, 1),
    written(types.int64, 1), written(types.int64, 1),
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
