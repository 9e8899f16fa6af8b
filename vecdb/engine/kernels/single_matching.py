"""One query of one graph segment for rows that match a filter, from the vector as given to ids.

As in ``single``, which has the steps, one kernel does it all. Which nodes match is told by a gate
(``code_ranges``), or by a list of them, in any order. The graph is walked through nodes that do not
match, or the list is scanned, both ordered by sketches. A walk that gives up is followed by a scan.

What stays the same for many queries is in two arrays:

    whole  int64: dim, k, ef, rescored, metric of the scores and of the distances, places of the two
           numbers in the store's file, rows ever added, ef_far, whether to walk, probe, end_max
    parts  float32: gamma, shift, slope, slack, far, least and greatest squared length of a query,
           share

with the limits of ``walk_graph``. The results, for k rows:

    numbers    int64 (2 k + 4,): nodes visited by the walk and the scan, and deleted ones passed,
               whether all ids are ASCII; from 3 on the rows; from 3 + k on k + 1 bounds of ids
               within the text
    text       uint8, the ids one after the other
    distances  float32 (k,)
"""
# numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def, call-overload, arg-type, call-arg"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from vecdb.engine.kernels.best_first import DELETED_MIN, LISTS, make_best_first
from vecdb.engine.kernels.candidates import node_of, score_of
from vecdb.engine.kernels.code_ranges import check_gate, is_outside, may_hide
from vecdb.engine.kernels.compiling import (
    BYTES,
    FLOATS,
    INT,
    INTS,
    inlined,
    kernel,
    read,
    written,
)
from vecdb.engine.kernels.inputs import check_shapes
from vecdb.engine.kernels.node_scan import nearest_sketches
from vecdb.engine.kernels.single import COSINE, FOUND, SQUARED, UNUSUAL, ready, unchanged
from vecdb.engine.kernels.sketch_walk import (
    SKETCHES_AHEAD,
    nearest_hub,
    score_again,
)
from vecdb.engine.kernels.sketches import (
    HEADS_OF_LINE,
    check_sketches,
    estimate,
    estimate_all,
    prefetch_sketch,
    prepare_query,
)

__all__ = ["NO_LIST", "find_matching"]

NO_LIST: Final = 3
"""The walk gave up, and there is no list of nodes to scan."""

_GATE: Final = 5
_WHOLE, _PARTS = 13, 8

best_first = make_best_first(
    estimate, prefetch_sketch, SKETCHES_AHEAD, 0, estimate_all, may_hide, is_outside
)


@inlined
def gathered(
    nodes, scores, kind, rows, id_offsets, id_bytes, next_row, numbers, text, distances
):  # fmt: skip
    """Write distances, rows and ids of nodes; return False if a row or an id is damaged."""
    k, end, ascii_only = distances.shape[0], 0, True
    numbers[3 + k] = 0
    for i in range(k):
        score = scores[0, i]
        if kind == SQUARED:
            distances[i] = np.sqrt(max(score, np.float32(0)))
        elif kind == COSINE:
            distances[i] = max(score + np.float32(1), np.float32(0))
        else:
            distances[i] = score
        row, node = rows[nodes[0, i]], nodes[0, i]
        start, stop = id_offsets[node], id_offsets[node + 1]
        if row < 0 or row >= next_row or start < 0 or stop < start or stop > id_bytes.shape[0]:
            return False
        if stop - start > text.shape[0] - end:
            return False
        for at in range(start, stop):
            text[end] = id_bytes[at]
            ascii_only &= id_bytes[at] < 128
            end += 1
        numbers[3 + i], numbers[4 + k + i] = row, end
    numbers[2] = ascii_only
    return True


_OUT = (written(types.int64, 1), written(types.uint8, 1), written(types.float32, 1))
_GIVEN = (
    *(INT, INT, INT, read(types.float32, 1)),
    *(written(types.uint64, 1), written(types.int32, 1), written(types.uint64, 1)),
    *_OUT,
    *(read(types.int64, 1), read(types.float32, 1), FLOATS, INTS, BYTES),
    *(read(types.int64, 1), read(types.int64, 1), BYTES),
)
"""Types of the arguments that all these kernels have."""


@inlined
def check_given(raw, numbers, distances, whole, parts, vectors, rows, id_offsets):
    """Raise ValueError unless these arrays belong together; the walk checks the others."""
    n, k = vectors.shape[0], distances.shape[0]
    if whole.shape[0] != 10 or parts.shape[0] != 7 or numbers.shape[0] < 2 * k + 4:
        raise ValueError("find_matching: numbers that don't belong together")
    if raw.shape[0] != whole[0] or raw.shape[0] > vectors.shape[1] or k != whole[1]:
        raise ValueError("find_matching: a query or results of another size")
    if rows.shape[0] != n or id_offsets.shape[0] != n + 1:
        raise ValueError("find_matching: arrays that don't belong together")


@inlined
def check_graph(vectors, links, sketches, hubs, hub_sketches, mean, basis, basis_steps):
    """Raise ValueError unless these arrays belong together."""
    n = vectors.shape[0]
    if (
        links.shape[0] != n or sketches.shape[0] != n
        or hub_sketches.shape[0] != hubs.shape[0] or hub_sketches.shape[1] != sketches.shape[1]
    ):  # fmt: skip
        raise ValueError("find_matching: arrays that don't belong together")
    check_sketches(sketches, vectors, mean, basis, basis_steps)


@inlined
def check_numbers(whole, parts, gate, nodes):
    """Raise ValueError unless these have the sizes and bounds that the kernel relies on."""
    if whole.shape[0] != _WHOLE or parts.shape[0] != _PARTS or gate.shape[0] != _GATE:
        raise ValueError("find_matching: numbers that don't belong together")
    start, stop, k, probe = gate[3], gate[4], whole[1], whole[11]
    if start < 0 or stop < start or stop > nodes.shape[0] or k < 1 or probe < 0:
        raise ValueError("find_matching: nodes past the end, or no hits")


@inlined
def check_scratch(visited, seen, pool, n, pool_size):
    """Raise ValueError if the arrays of a ``Scratch`` are too small."""
    if visited.shape[0] << 6 < n or seen.shape[0] <= n or pool.shape[0] < pool_size:
        raise ValueError("find_matching: too little scratch memory")


@inlined
def put_best(exact, found, scores):
    """Write nodes and scores of the first keys."""
    for i in range(found.shape[1]):
        found[0, i], scores[0, i] = node_of(exact[i]), score_of(exact[i])


@kernel(types.int64(
    *_GIVEN, read(types.uint8, 2), read(types.int32, 1), read(types.uint8, 2),
    read(types.float32, 1), read(types.uint8, 2), read(types.float32, 1),
    BYTES, BYTES, read(types.int32, 1), read(types.int64, 1),
))  # fmt: skip
def find_matching(
    descriptor, size, commit, raw, visited, seen, pool, numbers, text, distances, whole, parts,
    vectors, links, dead, rows, id_offsets, id_bytes, sketches, hubs, hub_sketches, mean, basis,
    basis_steps, mask, codes, nodes, gate,
):  # fmt: skip
    """Find the nearest rows that match. Return FOUND; NO_LIST; or UNUSUAL, to leave it to the
    general path.

    Args:
        mask, codes: of the gate; mask is not used with a span above 0, codes are otherwise not.
        nodes: int32, of the list; nodes outside the rows and deleted ones are left out.
        gate: int64 (5,): shift, low and span, and where in ``nodes`` the list begins and ends.
        numbers, text, distances, whole, parts: see the module docstring.
        The others: as for ``find_by_sketches``.
    """
    check_numbers(whole, parts, gate, nodes)
    check_given(raw, numbers, distances, whole[:10], parts[:7], vectors, rows, id_offsets)
    check_graph(vectors, links, sketches, hubs, hub_sketches, mean, basis, basis_steps)
    n, k, lines = vectors.shape[0], distances.shape[0], sketches.shape[1] >> 6
    walks, start, stop = whole[10] != 0, gate[3], gate[4]
    if walks:
        check_gate(mask, codes, dead, gate[0], gate[1], gate[2], n)
    ef, deleted_max = min(max(whole[2], k), n), DELETED_MIN + (n >> 2)
    check_scratch(visited, seen, pool, n, ef + 1 + deleted_max + LISTS * links.shape[1])
    query = np.empty((1, vectors.shape[1]), np.float32)
    check_shapes(vectors, n, dead, query)
    if not (
        unchanged(descriptor, size, commit, whole[6], whole[7])
        and ready(raw, parts[5], parts[6], whole[5] == COSINE, query)
    ):
        return UNUSUAL

    heads, width = basis.shape
    floats = np.zeros(max(width, heads), np.float32)
    query_bytes, head_bytes = np.zeros(width, np.int8), np.zeros(heads + 1, np.int8)
    query_heads = np.zeros(lines * HEADS_OF_LINE, np.int8)
    offset, weight, length = prepare_query(
        query, 0, mean, basis, basis_steps, lines, parts[2], floats, query_bytes, head_bytes,
        query_heads,
    )  # fmt: skip
    rescored = min(max(whole[3], k), ef)
    data = (sketches, query_heads, lines, offset, weight)
    count, end, passed = 0, 0, 0
    if walks:
        node, score = nearest_hub((hub_sketches, query_heads, lines, offset, weight), hubs, n)
        if node < 0:
            return UNUSUAL
        check = (mask, codes, dead, gate[0], np.uint32(gate[1]), np.uint32(gate[2]))
        count, end, passed = best_first(
            data, n, links, check, node, score, k, ef, parts[0], length, parts[3], parts[4],
            whole[9], deleted_max, whole[11], parts[7], whole[12], visited, seen, pool,
        )  # fmt: skip
        for i in range(end):
            visited[np.int64(seen[i]) >> 6] = np.uint64(0)
    if count < k:
        if start == stop:
            return NO_LIST
        count = nearest_sketches(data, nodes, start, stop, n, dead, rescored, pool)
        end += stop - start
    numbers[0], numbers[1], count = end, passed, min(count, rescored)
    exact = np.empty(rescored + 1, np.uint64)
    score_again(vectors, query, 0, whole[4], pool, count, exact)
    if count < k:
        return UNUSUAL
    found, scores = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
    put_best(exact, found, scores)
    is_whole = gathered(
        found, scores, whole[5], rows, id_offsets, id_bytes, whole[8], numbers, text, distances
    )
    return FOUND if is_whole else UNUSUAL
