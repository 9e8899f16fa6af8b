"""The nearest rows among some nodes of a segment: by their rows, or first by their sketches.

    scan_nodes       exactly: all rows are scored in float32
    scan_sketches    ordered by sketches; the best are scored again in float32
    mask_others      the delete bitmap that leaves matching nodes only
    list_live        the nodes that a delete bitmap leaves

A row takes one memory access of some cache lines, so as many as possible are asked for ahead.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

from vecdb.engine.kernels.candidates import NO_BOUND, insert, node_of, pack, score_of
from vecdb.engine.kernels.compiling import BYTES, FLOAT, FLOATS, INT, kernel, read, written
from vecdb.engine.kernels.distance import pair_score
from vecdb.engine.kernels.inputs import check_results, check_shapes, is_deleted
from vecdb.engine.kernels.instructions import prefetch_row
from vecdb.engine.kernels.scan import keep_nearest
from vecdb.engine.kernels.sketch_walk import score_again
from vecdb.engine.kernels.sketches import (
    HEADS_OF_LINE,
    check_sketches,
    estimate,
    prefetch_sketch,
    prepare_query,
)

__all__ = ["list_live", "mask_others", "scan_nodes", "scan_nodes_by_sketches", "scan_sketches"]

_ROWS_AHEAD: Final = 8
_LINES_AHEAD: Final = 16
_SKETCHES_AHEAD: Final = 24

_DE_BRUIJN: Final = np.uint64(0x03F7_9D71_B4CB_0A89)
_BIT_OF: Final = np.array([
    0, 1, 48, 2, 57, 49, 28, 3, 61, 58, 50, 42, 38, 29, 17, 4,
    62, 55, 59, 36, 53, 51, 43, 22, 45, 39, 33, 30, 24, 18, 12, 5,
    63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21, 44, 32, 23, 11,
    46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9, 13, 8, 7, 6,
], np.int64)  # fmt: skip
"""The bit of a power of two: the top six bits of its product with ``_DE_BRUIJN`` tell it."""

NODES: Final = read(types.int32, 1)


@kernel(types.void(
    FLOATS, NODES, INT, INT, FLOATS, INT, INT, INT, INT,
    written(types.float32, 2), written(types.int64, 2), written(types.int64, 1),
))  # fmt: skip
def scan_nodes(
    vectors, nodes, start, stop, queries, first, last, metric, k,
    heap_scores, heap_nodes, heap_counts,
):  # fmt: skip
    """Score the rows of nodes[start:stop] for queries first to last - 1, and keep the k best.

    Args:
        nodes: int32, without duplicates; nodes outside the rows are left out.
        vectors, queries, first, last, metric, k, heap_…: as for ``scan_rows``.
    """
    nothing = np.empty(0, np.uint8)
    check_shapes(vectors, 0, nothing, queries)
    check_results(first, last, k, queries, heap_scores, heap_nodes, heap_counts)
    if start < 0 or stop > nodes.shape[0] or k < 1:
        raise ValueError("scan_nodes: nodes or k past the end of the arrays")
    n = vectors.shape[0]
    for query in range(first, last):
        size = heap_counts[query]
        worst = heap_scores[query, 0] if size >= k else np.float32(np.inf)
        for at in range(start, stop):
            if at + _ROWS_AHEAD < stop:
                ahead = np.int64(nodes[at + _ROWS_AHEAD])
                if 0 <= ahead < n:
                    prefetch_row(vectors, ahead, _LINES_AHEAD)
            node = np.int64(nodes[at])
            if node < 0 or node >= n:
                continue
            score = pair_score(vectors, node, queries, query, metric)
            if not score <= worst:
                continue
            size = keep_nearest(heap_scores, heap_nodes, query, size, k, score, node)
            if size >= k:
                worst = heap_scores[query, 0]
        heap_counts[query] = size


@kernel(types.void(
    FLOATS, read(types.uint8, 2), read(types.float32, 1), read(types.uint8, 2),
    read(types.float32, 1), FLOAT, NODES, FLOATS, INT, INT, INT, INT, INT,
    written(types.int64, 2), written(types.float32, 2), written(types.int64, 1),
))  # fmt: skip
def scan_sketches(
    vectors, sketches, mean, basis, basis_steps, slope, nodes, queries, first, last, metric, k,
    rescored, out_nodes, out_scores, out_counts,
):  # fmt: skip
    """Find the k nearest of some nodes, for queries first to last - 1.

    Args:
        nodes: int32, without duplicates; nodes outside the rows are left out.
        rescored: nodes that are scored again in float32; raised to k if it is smaller.
        The others: as for ``walk_sketches``.
    """
    n, lines = vectors.shape[0], sketches.shape[1] >> 6
    check_shapes(vectors, 0, np.empty(0, np.uint8), queries)
    check_results(first, last, k, queries, out_scores, out_nodes, out_counts)
    check_sketches(sketches, queries, mean, basis, basis_steps)
    if sketches.shape[0] != n:
        raise ValueError("scan_sketches: vectors and sketches that don't belong together")
    heads, width = basis.shape
    floats = np.zeros(max(width, heads), np.float32)
    query_bytes, head_bytes = np.zeros(width, np.int8), np.zeros(heads + 1, np.int8)
    query_heads = np.zeros(lines * HEADS_OF_LINE, np.int8)
    most = min(max(rescored, k), nodes.shape[0])
    pool, exact = np.empty(most + 1, np.uint64), np.empty(most + 1, np.uint64)
    for query in range(first, last):
        out_counts[query] = 0
        if k < 1 or most < 1:
            continue
        offset, weight, _ = prepare_query(
            queries, query, mean, basis, basis_steps, lines, slope, floats, query_bytes,
            head_bytes, query_heads,
        )  # fmt: skip
        data = (sketches, query_heads, lines, offset, weight)
        count, bound = 0, NO_BOUND
        for at in range(nodes.shape[0]):
            if at + _SKETCHES_AHEAD < nodes.shape[0]:
                ahead = np.int64(nodes[at + _SKETCHES_AHEAD])
                if 0 <= ahead < n:
                    prefetch_sketch(data, ahead)
            node = np.int64(nodes[at])
            if node < 0 or node >= n:
                continue
            key = pack(estimate(data, node), node)
            if key >= bound:
                continue
            insert(pool, count, key)
            count = min(count + 1, most)
            if count == most:
                bound = pool[most - 1]
        score_again(vectors, queries, query, metric, pool, count, exact)
        for i in range(min(count, k)):
            out_nodes[query, i], out_scores[query, i] = node_of(exact[i]), score_of(exact[i])
        out_counts[query] = min(count, k)


@kernel(types.int64(BYTES, BYTES, INT, written(types.uint8, 1)))
def mask_others(matching, dead, n, out):
    """Write a delete bitmap: of the nodes that a delete bitmap marks, and of those that do not
    match. Return how many of n nodes it leaves.

    Args:
        matching: uint8 ((n + 7) // 8,), the bits of nodes that match.
        dead: the delete bitmap, (0,) if no node is deleted.
        out: uint8 ((n + 7) // 8,), written; bits past the last node are set.
    """
    size = (n + 7) >> 3
    if matching.shape[0] != size or out.shape[0] != size or 0 < dead.shape[0] < size:
        raise ValueError("mask_others: bitmaps that don't belong together")
    has_deleted, live = dead.shape[0] > 0, np.int64(0)
    for at in range(size):
        left = matching[at] & ~dead[at] if has_deleted else matching[at]
        if at == size - 1 and n & 7:
            left &= np.uint8((1 << (n & 7)) - 1)
        out[at] = ~left
        pairs = left - ((left >> np.uint8(1)) & np.uint8(0x55))
        fours = (pairs & np.uint8(0x33)) + ((pairs >> np.uint8(2)) & np.uint8(0x33))
        live += np.int64((fours + (fours >> np.uint8(4))) & np.uint8(0x0F))
    return live


@kernel(types.int64(BYTES, INT, written(types.int32, 1)))
def list_live(dead, n, out):
    """Write the nodes below n that a delete bitmap does not mark, ascending; return their number.

    Args:
        dead: uint8 ((n + 7) // 8,) at least.
        out: int32, at most as many as it has room for are written.
    """
    if n < 0 or n >= 1 << 31 or dead.shape[0] < (n + 7) >> 3:
        raise ValueError("list_live: a bitmap that is too short")
    count, room, whole = 0, out.shape[0], n >> 6
    words = dead[: whole << 3].view(np.uint64)
    for at in range(whole):
        live = ~words[at]
        while live != np.uint64(0) and count < room:
            low = live & (np.uint64(0) - live)
            out[count] = np.int32((at << 6) + _BIT_OF[(low * _DE_BRUIJN) >> np.uint64(58)])
            count += 1
            live ^= low
    for node in range(whole << 6, n):
        if count < room and not is_deleted(dead, node):
            out[count] = np.int32(node)
            count += 1
    return count


def scan_nodes_by_sketches(
    vectors: npt.NDArray[np.float32], sketch: Any, nodes: npt.NDArray[np.int32],
    queries: npt.NDArray[np.float32], first: int, last: int, metric: int, k: int, *results: Any,
) -> None:  # fmt: skip
    """Call ``scan_sketches`` with the arrays of a ``segments.codecs.Sketch``."""
    scan_sketches(
        vectors, sketch.codes, sketch.query_mean, sketch.basis, sketch.basis_steps,
        np.float32(sketch.slope), nodes, queries, first, last, metric, k, sketch.rescored_for(k),
        *results,
    )  # fmt: skip
