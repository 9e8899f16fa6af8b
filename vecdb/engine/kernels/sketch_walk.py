"""The graph walk that is ordered by sketches; the best rows found are scored again in float32."""
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type, call-overload"

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from vecdb.engine.kernels.best_first import (
    DELETED_MIN,
    LISTS,
    NO_LIMITS,
    Scratch,
    make_best_first,
    walk_limits,
)
from vecdb.engine.kernels.candidates import insert, node_of, pack, position_of, score_of
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
from vecdb.engine.kernels.sketches import (
    HEADS_OF_LINE,
    check_sketches,
    estimate,
    estimate_all,
    prefetch_sketch,
    prepare_query,
)

__all__ = [
    "SKETCHES_AHEAD",
    "effort_by_sketches",
    "nearest_hub",
    "rank_by_sketch",
    "score_again",
    "walk_by_sketches",
    "walk_sketches",
]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SKETCHES_AHEAD = 64
_ROWS_AHEAD, _LINES_AHEAD = 4, 16

_PAGE_BYTES = mmap.PAGESIZE
_WILL_NEED = int(mmap.MADV_WILLNEED)
_madvise = types.ExternalFunction("madvise", types.int32(types.int64, types.int64, types.int32))


best_first = make_best_first(estimate, prefetch_sketch, SKETCHES_AHEAD, 0, estimate_all)


@inlined
def nearest_hub(hub_data, hubs, n):
    """Return the nearest hub by its sketch, and its estimate; node -1 if there is none."""
    best, node = np.float32(np.inf), np.int64(-1)
    for i in range(hubs.shape[0]):
        score = estimate(hub_data, np.int64(i))
        hub = np.int64(np.uint32(hubs[i]))
        if (score < best or node < 0) and hub < n:
            best, node = score, hub
    return node, best


@inlined
def ask_for_rows(vectors, pool, count):
    """Ask the system to read the rows of the first nodes of the pool, all at the same time."""
    bytes_of_row = vectors.shape[1] * 4
    for i in range(count):
        begin = np.int64(vectors.ctypes.data) + node_of(pool[i]) * bytes_of_row
        page = begin & ~np.int64(_PAGE_BYTES - 1)
        _madvise(page, begin + bytes_of_row - page, _WILL_NEED)


@inlined
def score_again(vectors, queries, query, metric, pool, count, exact):
    """Write the keys of the first nodes of the pool by their true scores, ascending."""
    for i in range(min(_ROWS_AHEAD, count)):
        prefetch_row(vectors, node_of(pool[i]), _LINES_AHEAD)
    for i in range(count):
        if i + _ROWS_AHEAD < count:
            prefetch_row(vectors, node_of(pool[i + _ROWS_AHEAD]), _LINES_AHEAD)
        node = node_of(pool[i])
        insert(exact, i, pack(pair_score(vectors, node, queries, query, metric), node))


@kernel(types.void(
    FLOATS, INTS, read(types.uint8, 2), read(types.int32, 1), read(types.uint8, 2),
    read(types.float32, 1), read(types.uint8, 2), read(types.float32, 1), FLOAT, BYTES,
    FLOATS, INT, INT, INT, INT, INT, FLOAT, FLOAT, FLOAT, INT, INT, INT, FLOAT, INT,
    written(types.uint64, 1), written(types.int32, 1), written(types.uint64, 1),
    written(types.int64, 2), written(types.float32, 2), written(types.int64, 1),
    written(types.int64, 1), written(types.int64, 1),
))  # fmt: skip
def walk_sketches(
    vectors, links, sketches, hubs, hub_sketches, mean, basis, basis_steps, slope, dead, queries,
    first, last, metric, k, ef, gamma, slack, far, ef_far, rescored, probe, share, end_max,
    visited, seen, pool, out_nodes, out_scores, out_counts, out_visited, out_deleted,
):  # fmt: skip
    """Find the k nearest live rows by a graph walk over sketches, for queries first to last - 1.

    Args:
        vectors, links, dead, queries, metric, k, ef, visited, seen, pool, out_…: as for
            ``walk_graph``; out_visited counts sketches scored.
        sketches: uint8 (n, 64 * lines).
        hubs, hub_sketches: int32 (h,) and uint8 (h, 64 * lines), where a walk may begin.
        mean: float32 (width,), subtracted from rows and queries; (0,) for inner products, where
            queries stay as they are.
        basis, basis_steps: uint8 (heads, width) and float32 (heads,), directions of the heads:
            basis_steps[i] * (basis[i] - 128).
        slope: by which estimated products are multiplied.
        gamma, far, ef_far, probe, share, end_max: as for ``walk_graph``, in squared distances.
        slack: added to the distance at which gamma ends a walk, for the error of estimates.
        rescored: candidates that are scored again in float32; raised to k if they are fewer.
            Negative: as many, and the system is asked for all their rows first.
    """
    n, lines = vectors.shape[0], sketches.shape[1] >> 6
    ef = min(max(ef, k), n)
    scan_max = DELETED_MIN + min(n >> 2, 2 * n * vectors.shape[1] // (1800 + 144 * lines))
    deleted_max, probe, end_max = walk_limits(n, dead, scan_max, probe, end_max)
    check_shapes(vectors, n, dead, queries)
    check_sketches(sketches, queries, mean, basis, basis_steps)
    heads, width = basis.shape
    if (
        links.shape[0] != n or sketches.shape[0] != n or hub_sketches.shape[0] != hubs.shape[0]
        or hub_sketches.shape[1] != sketches.shape[1]
    ):  # fmt: skip
        raise ValueError("walk_sketches: arrays that don't belong together")
    pool_size = ef + 1 + deleted_max + LISTS * links.shape[1]
    if visited.shape[0] << 6 < n or seen.shape[0] <= n or pool.shape[0] < pool_size:
        raise ValueError("walk_sketches: too little scratch memory")
    check_results(first, last, k, queries, out_scores, out_nodes, out_counts)
    if last > min(out_visited.shape[0], out_deleted.shape[0]):
        raise ValueError("walk_sketches: queries past the end of out_visited or out_deleted")
    floats = np.zeros(max(width, heads), np.float32)
    query_bytes, head_bytes = np.zeros(width, np.int8), np.zeros(heads + 1, np.int8)
    query_heads = np.zeros(lines * HEADS_OF_LINE, np.int8)
    asks, rescored = rescored < 0, min(max(abs(rescored), k), ef)
    exact = np.empty(rescored + 1, np.uint64)
    for query in range(first, last):
        out_counts[query] = out_visited[query] = out_deleted[query] = 0
        offset, weight, length = prepare_query(
            queries, query, mean, basis, basis_steps, lines, slope, floats, query_bytes,
            head_bytes, query_heads,
        )  # fmt: skip
        node, score = nearest_hub((hub_sketches, query_heads, lines, offset, weight), hubs, n)
        if node < 0 or k < 1:
            continue
        data = (sketches, query_heads, lines, offset, weight)
        count, end, passed = best_first(
            data, n, links, dead, node, score, k, ef, gamma, length, slack, far, ef_far,
            deleted_max, probe, share, end_max, visited, seen, pool,
        )  # fmt: skip
        for i in range(end):
            visited[np.int64(seen[i]) >> 6] = np.uint64(0)
        count = min(count, rescored)
        if asks:
            ask_for_rows(vectors, pool, count)
        score_again(vectors, queries, query, metric, pool, count, exact)
        for i in range(min(count, k)):
            out_nodes[query, i], out_scores[query, i] = node_of(exact[i]), score_of(exact[i])
        out_counts[query], out_visited[query], out_deleted[query] = min(count, k), end, passed


@kernel(types.void(
    read(types.uint8, 2), read(types.float32, 1), read(types.uint8, 2), read(types.float32, 1),
    FLOAT, FLOATS, read(types.int64, 1), read(types.int64, 2), written(types.int64, 2),
))  # fmt: skip
def rank_by_sketch(sketches, mean, basis, basis_steps, slope, queries, left_out, nodes, out_ranks):
    """Find the places of nodes when all rows are ordered by their sketches, for each query.

    Args:
        sketches, mean, basis, basis_steps, slope, queries: as for ``walk_sketches``.
        left_out: int64 (q,), a node for each query that does not count, or -1.
        nodes: int64 (q, k).
        out_ranks: int64 (q, k), written, ascending: of the first, the second … of the nodes in
            that order; 0 is the nearest row.
    """
    check_sketches(sketches, queries, mean, basis, basis_steps)
    n, lines, (heads, width) = sketches.shape[0], sketches.shape[1] >> 6, basis.shape
    if (
        nodes.shape[0] != queries.shape[0] or out_ranks.shape != nodes.shape
        or left_out.shape[0] != queries.shape[0]
    ):  # fmt: skip
        raise ValueError("rank_by_sketch: arrays that don't belong together")
    k = nodes.shape[1]
    floats = np.zeros(max(width, heads), np.float32)
    query_bytes, head_bytes = np.zeros(width, np.int8), np.zeros(heads + 1, np.int8)
    query_heads = np.zeros(lines * HEADS_OF_LINE, np.int8)
    keys, before = np.empty(k + 1, np.uint64), np.empty(k + 1, np.int64)
    for query in range(queries.shape[0]):
        offset, weight, _ = prepare_query(
            queries, query, mean, basis, basis_steps, lines, slope, floats, query_bytes,
            head_bytes, query_heads,
        )  # fmt: skip
        data = (sketches, query_heads, lines, offset, weight)
        for i in range(k):
            node = nodes[query, i]
            if node < 0 or node >= n:
                raise ValueError("rank_by_sketch: a node outside the rows")
            insert(keys, i, pack(estimate(data, node), node))
        before[:] = 0
        for node in range(n):
            if node != left_out[query]:
                before[position_of(keys, k, pack(estimate(data, node), node))] += 1
        rank = 0
        for i in range(k):
            rank += before[i]
            out_ranks[query, i] = rank


def effort_by_sketches(sketch: Any, k: int, ef: int) -> tuple[int, int]:
    """Return the ef of a walk over a ``segments.codecs.Sketch``, and how many rows it rescores.

    ef is raised a little, so that rows whose sketches look too far stay among the candidates.
    Recall is then that of float32 rows at the given ef.
    """
    rescored: int = sketch.rescored_for(k)
    return max(ef + (rescored - k) // 2, rescored), rescored


def walk_by_sketches(
    scratch: Scratch, vectors: Floats, links: npt.NDArray[np.int32], sketch: Any,
    dead: npt.NDArray[np.uint8], queries: Floats, first: int, last: int, metric: int, k: int,
    ef: int, gamma: float, *results: Ints | Floats, far: float = np.inf, ef_far: int = 0,
    limits: tuple[int, float, int] = NO_LIMITS, asks: bool = False,
) -> None:  # fmt: skip
    """Call ``walk_sketches`` with the arrays of a Scratch and of a ``segments.codecs.Sketch``.

    asks: ask the system for the rows to score again first, since they are not in memory.
    """
    ef, rescored = effort_by_sketches(sketch, k, ef)
    rescored = -rescored if asks else rescored
    scratch.reserve(len(vectors), ef, links.shape[1], len(dead) > 0)
    walk_sketches(
        vectors, links, sketch.codes, sketch.hubs, sketch.hub_codes, sketch.query_mean,
        sketch.basis, sketch.basis_steps, np.float32(sketch.slope), dead, queries, first, last,
        metric, k, ef, gamma, sketch.slack, far, ef_far, rescored, *limits, scratch.visited,
        scratch.seen, scratch.pool, *results,
    )  # fmt: skip
