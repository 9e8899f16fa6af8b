"""The exact nearest rows, by a scan over codes of 8 bits.

A row is ruled out only if the lower bound of its score (``byte_codes.py``) is over the worst score
in the heap of a query that has k rows already; ``scan_rows`` would not add it either. All others
are scored in float32, in the same order. So the heaps are those of ``scan_rows``, bit for bit,
after every row.
"""
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

from vecdb.engine.kernels.byte_codes import (
    BLOCK_ROWS,
    QUERY_NUMBERS,
    bound_by_high_bytes,
    numbers_of,
    prepare_coded_query,
    refine_bounds,
    score_limit,
)
from vecdb.engine.kernels.compiling import BYTES, FLOATS, INT, inlined, kernel, read, written
from vecdb.engine.kernels.distance import pair_score
from vecdb.engine.kernels.inputs import check_results, check_shapes, is_deleted
from vecdb.engine.kernels.instructions import prefetch_row
from vecdb.engine.kernels.scan import keep_nearest

__all__ = ["scan_by_codes", "scan_codes"]

_TILE_BYTES: Final = 16 * 1024  # Codes that are compared with all queries while in L1.
_LINES_AHEAD: Final = 16


@inlined
def needs_score(bounds, lane, limit, node, start, stop, dead):
    return (
        not bounds[lane] > limit
        and start <= node < stop
        and not (dead.shape[0] > 0 and is_deleted(dead, node))
    )


@inlined
def block_is_deleted(dead, block):
    """Return whether all 16 rows of a block are deleted; False for the last one if it is cut."""
    at = block * (BLOCK_ROWS >> 3)
    if at + 1 >= dead.shape[0]:
        return False
    return dead[at] & dead[at + 1] == np.uint8(0xFF)


@inlined
def rule_out_too_few(scored, seen, k):
    """Return whether bounds cost more than they spare: a query unlike the rows, for example.

    With perfect bounds, k * (1 + log(seen / k)) of the rows seen in a random order are scored.
    """
    return 4 * scored > seen + 16 * k


@inlined
def score_block(
    vectors, dead, start, stop, queries, query, metric, k, scores, nodes, size, block, bounds, limit
):  # fmt: skip
    """Score a block's rows that are not ruled out; return heap size, limit, and their number."""
    count = 0
    for lane in range(BLOCK_ROWS):
        node = block * BLOCK_ROWS + lane
        if needs_score(bounds, lane, limit, node, start, stop, dead):
            prefetch_row(vectors, node, _LINES_AHEAD)
    for lane in range(BLOCK_ROWS):
        node = block * BLOCK_ROWS + lane
        if not needs_score(bounds, lane, limit, node, start, stop, dead):
            continue
        count += 1
        score = pair_score(vectors, node, queries, query, metric)
        # As in scan_rows, NaN is never added: it would not compare with others.
        if not score <= np.float32(np.inf):
            continue
        size = keep_nearest(scores, nodes, query, size, k, score, node)
        if size >= k:
            limit = score_limit(scores[query, 0], metric, vectors.shape[1])
    return size, limit, count


@kernel(types.void(
    FLOATS, read(types.uint8, 2), read(types.float32, 3), read(types.float32, 1), BYTES, INT, INT,
    FLOATS, INT, INT, INT, INT, written(types.float32, 2), written(types.int64, 2),
    written(types.int64, 1), written(types.int64, 1),
))  # fmt: skip
def scan_codes(
    vectors, codes, factors, mean, dead, start, stop, queries, first, last, metric, k,
    heap_scores, heap_nodes, heap_counts, out_scored,
):  # fmt: skip
    """Do what ``scan_rows`` does, with the same result, and read few of the rows.

    Args:
        codes, factors, mean: the rows' codes, as ``encode_rows`` writes them: uint8
            (blocks, 16 * width), float32 (blocks, 4, 16) and (width,).
        vectors, dead, start, stop, queries, first, last, metric, k, heap_…: as for ``scan_rows``.
        out_scored: int64 (q,), the rows that were scored in float32 are added.
    """
    check_shapes(vectors, stop, dead, queries)
    check_results(first, last, k, queries, heap_scores, heap_nodes, heap_counts)
    n, width = vectors.shape
    blocks = (n + BLOCK_ROWS - 1) // BLOCK_ROWS
    if start < 0 or stop > n or k < 1 or last > out_scored.shape[0]:
        raise ValueError("scan_codes: rows, queries or k past the end of the arrays")
    if (
        codes.shape != (blocks, BLOCK_ROWS * width) or mean.shape[0] != width
        or factors.shape != (blocks, 4, BLOCK_ROWS)
    ):  # fmt: skip
        raise ValueError("scan_codes: arrays that don't belong together")
    count = max(last - first, 0)
    high, low = np.empty((count, width), np.int8), np.empty((count, width), np.int8)
    numbers = np.empty((count, QUERY_NUMBERS), np.float64)
    centred = np.empty(width, np.float64)
    for query in range(first, last):
        prepare_coded_query(
            queries, query, mean, metric, centred, high, low, numbers, query - first
        )
    products, low_products = np.empty(BLOCK_ROWS, np.int32), np.empty(BLOCK_ROWS, np.int32)
    bounds, scored = np.empty(BLOCK_ROWS, np.float64), np.zeros(count, np.int64)
    tile = max(1, _TILE_BYTES // (BLOCK_ROWS * max(width, 1)))
    end = (stop + BLOCK_ROWS - 1) // BLOCK_ROWS
    for begin in range(start // BLOCK_ROWS, end, tile):
        for query in range(first, last):
            place, size = query - first, heap_counts[query]
            worst = heap_scores[query, 0] if size >= k else np.float32(np.inf)
            limit = score_limit(worst, metric, width)
            query_numbers = numbers_of(numbers, place)
            useless = rule_out_too_few(scored[place], begin * BLOCK_ROWS - start, k)
            for block in range(begin, min(begin + tile, end)):
                if block_is_deleted(dead, block):
                    continue
                if useless:
                    bounds[:] = -np.inf
                elif bound_by_high_bytes(
                    codes, factors, block, high, place, query_numbers, limit, products, bounds
                ) == 0:  # fmt: skip
                    continue
                else:
                    refine_bounds(
                        codes, factors, block, low, place, query_numbers, products, low_products,
                        bounds,
                    )  # fmt: skip
                size, limit, added = score_block(
                    vectors, dead, start, stop, queries, query, metric, k, heap_scores,
                    heap_nodes, size, block, bounds, limit,
                )  # fmt: skip
                scored[place] += added
            heap_counts[query] = size
    for place in range(count):
        out_scored[first + place] += scored[place]


def scan_by_codes(vectors: npt.NDArray[np.float32], coded: Any, *arguments: Any) -> None:
    """Call ``scan_codes`` with the arrays of ``segments.codecs.ByteCodes``."""
    scan_codes(vectors, coded.codes, coded.factors, coded.mean, *arguments)
