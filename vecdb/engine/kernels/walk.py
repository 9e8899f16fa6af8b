"""The nearest rows through a graph, scored in float32: greedy descent, then best-first on level 0.

    walk_graph  the kernel
    walk        walk_graph with the arrays of a Scratch and the fields of a graph

The walk is Malkov & Yashunin 2018, algorithms 2 and 5, as in hnswlib: it returns the same rows at
the same ef. ``best_first.py`` has its second half, and what makes it fast.

Data read from a file are not trusted: a neighbour, offset or entry outside the arrays is skipped.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

from vecdb.engine.kernels.best_first import (
    DELETED_MIN,
    LISTS,
    NO_GAMMA,
    NO_LIMITS,
    Scratch,
    make_best_first,
    walk_limits,
)
from vecdb.engine.kernels.candidates import node_of, score_of
from vecdb.engine.kernels.compiling import (
    BYTES,
    FLOAT,
    FLOATS,
    INT,
    INTS,
    inlined,
    kernel,
    read,
    written,
)
from vecdb.engine.kernels.distance import pair_score
from vecdb.engine.kernels.inputs import check_results, check_shapes
from vecdb.engine.kernels.instructions import prefetch_row

__all__ = ["walk", "walk_graph"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_LEVELS_MAX: Final = 64  # A level above this has probability 2**-64 even at M = 2.
_ROWS_AHEAD: Final = 4  # Rows to prefetch before they are scored; more rows,
_LINES_AHEAD: Final = 8  # or more cache lines of each, stall the prefetching.


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
def score_row(data, node):
    vectors, queries, query, metric = data
    return pair_score(vectors, node, queries, query, metric)


@inlined
def prefetch_vector(data, node):
    prefetch_row(data[0], node, _LINES_AHEAD)


best_first = make_best_first(score_row, prefetch_vector, _ROWS_AHEAD, _ROWS_AHEAD)


@kernel(types.void(
    FLOATS, INTS, read(types.int32, 1), INTS, INT, INT, BYTES, FLOATS, INT, INT, INT,
    INT, INT, FLOAT, FLOAT, FLOAT, INT, INT, FLOAT, INT,
    written(types.uint64, 1), written(types.int32, 1),
    written(types.uint64, 1), written(types.int64, 2), written(types.float32, 2),
    written(types.int64, 1), written(types.int64, 1), written(types.int64, 1),
))  # fmt: skip
def walk_graph(
    vectors, links, upper_offsets, upper_links, entry, top_level, dead, queries, first, last,
    metric, k, ef, gamma, shift, far, ef_far, probe, share, end_max, visited, seen, pool, out_nodes,
    out_scores, out_counts, out_visited, out_deleted,
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
        gamma: ends a walk at candidates farther than gamma times the k-th nearest, in squared
            distances; ``NO_GAMMA`` or more leaves that to ef.
        shift: a score plus this is a squared distance: 0 under Euclidean; 1 for inner products of
            unit vectors, of which the score plus 1 is half of it.
        far, ef_far: for a query whose k-th candidate has a score plus shift above far, at least
            ef_far candidates must be nearer than the one at which the walk ends.
        probe, share, end_max: beside many nodes that do not match: the walk also gives up after
            end_max visited nodes; or after probe of them, if for each deleted candidate there were
            fewer live ones than share. end_max below 0: no such limits.
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
    scan_max = DELETED_MIN + 2 * n * width // (1800 + 9 * width)
    deleted_max, probe, end_max = walk_limits(n, dead, scan_max, probe, end_max)
    check_shapes(vectors, n, dead, queries)
    if links.shape[0] != n or upper_offsets.shape[0] != n + 1:
        raise ValueError("walk_graph: arrays that don't belong together")
    pool_size = ef + 1 + deleted_max + LISTS * links.shape[1]
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
        data = (vectors, queries, query, metric)
        count, end, passed = best_first(
            data, n, links, dead, node, score, k, ef, gamma, shift, np.float32(0), far, ef_far,
            deleted_max, probe, share, end_max, visited, seen, pool,
        )  # fmt: skip
        for i in range(end):
            visited[np.int64(seen[i]) >> 6] = np.uint64(0)
        for i in range(min(count, k)):
            out_nodes[query, i], out_scores[query, i] = node_of(pool[i]), score_of(pool[i])
        out_counts[query], out_visited[query], out_deleted[query] = min(count, k), end, passed


def walk(
    scratch: Scratch, vectors: Floats, graph: Any, dead: npt.NDArray[np.uint8], queries: Floats,
    first: int, last: int, metric: int, k: int, ef: int, out_nodes: Ints, out_scores: Floats,
    out_counts: Ints, out_visited: Ints, out_deleted: Ints | None = None,
    gamma: float = NO_GAMMA, shift: float = 0, far: float = np.inf, ef_far: int = 0,
    limits: tuple[int, float, int] = NO_LIMITS,
) -> None:  # fmt: skip
    """Call ``walk_graph`` with the arrays of a Scratch and the fields of a graph.

    limits: its probe, share and end_max.
    """
    out_deleted = np.zeros_like(out_visited) if out_deleted is None else out_deleted
    scratch.reserve(len(vectors), max(ef, k), graph.links.shape[1], len(dead) > 0)
    walk_graph(
        vectors, graph.links, graph.upper_offsets, graph.upper_links, graph.entry, graph.top_level,
        dead, queries, first, last, metric, k, ef, gamma, shift, far, ef_far, *limits,
        scratch.visited, scratch.seen, scratch.pool, out_nodes, out_scores, out_counts,
        out_visited, out_deleted,
    )  # fmt: skip
