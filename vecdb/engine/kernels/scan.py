"""The exact nearest rows, by a scan in slices.

    scan_rows   scores rows for queries, and keeps the k best of each query in a heap
    sort_heaps  sorts the heaps

The heaps are binary max-heaps of (score, node), one per query. Rows are scored in tiles, against
all queries while a tile is in the L1 cache.
"""
# numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from vecdb.engine.kernels.compiling import BYTES, FLOATS, INT, inlined, kernel, read, written
from vecdb.engine.kernels.distance import pair_score
from vecdb.engine.kernels.inputs import check_results, check_shapes, is_deleted

__all__ = ["keep_nearest", "scan_rows", "sort_heaps"]

_TILE_BYTES: Final = 16 * 1024  # Rows that scan_rows scores against all queries while in L1.


@inlined
def comes_after(score, node, other_score, other_node):
    return score > other_score or (score == other_score and node > other_node)


@inlined
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


@inlined
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


@inlined
def keep_nearest(scores, nodes, query, size, k, score, node):
    """Keep (score, node), which is not NaN, in a heap of that size if it is among the k best.
    Return the new size."""
    if size < k:
        sift_up(scores, nodes, query, size, score, node)
        return size + 1
    if comes_after(scores[query, 0], nodes[query, 0], score, node):
        sift_down(scores, nodes, query, size, score, node)
    return size


@kernel(types.void(
    FLOATS, BYTES, INT, INT, FLOATS, INT, INT, INT, INT,
    written(types.float32, 2), written(types.int64, 2), written(types.int64, 1),
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
                size = keep_nearest(heap_scores, heap_nodes, query, size, k, score, node)
                if size >= k:
                    worst = heap_scores[query, 0]
            heap_counts[query] = size


@kernel(types.void(
    written(types.float32, 2), written(types.int64, 2), read(types.int64, 1), INT, INT
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
