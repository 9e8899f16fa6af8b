"""One query of one graph segment for rows that match a filter, from the vector as given to ids.

As in ``single``, which has the steps and the form of arguments and results. Which nodes match is
told by a gate (``code_ranges``), or by a list of them, in any order. The graph is walked through
nodes that do not match, or the list is scanned, both ordered by sketches. A walk that gives up is
followed by a scan.

``whole`` ends with three more numbers: whether to walk, probe and end_max; ``parts`` with share:
the limits of ``walk_graph``.
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
    INTS,
    inlined,
    kernel,
    read,
)
from vecdb.engine.kernels.inputs import check_shapes
from vecdb.engine.kernels.node_scan import nearest_sketches
from vecdb.engine.kernels.single import (
    DELETED,
    EF,
    EF_FAR,
    FAR,
    FOUND,
    GAMMA,
    GIVEN,
    PARTS,
    RESCORED,
    SCORES,
    SLACK,
    SLOPE,
    UNUSUAL,
    VISITED,
    WHOLE,
    K,
    begun,
    check_given,
    ended,
)
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
_WALKS, _PROBE, _END_MAX = range(WHOLE, WHOLE + 3)
_SHARE: Final = PARTS

best_first = make_best_first(
    estimate, prefetch_sketch, SKETCHES_AHEAD, 0, estimate_all, may_hide, is_outside
)


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
    if whole.shape[0] != WHOLE + 3 or parts.shape[0] != PARTS + 1 or gate.shape[0] != _GATE:
        raise ValueError("find_matching: numbers that don't belong together")
    start, stop, k, probe = gate[3], gate[4], whole[K], whole[_PROBE]
    if start < 0 or stop < start or stop > nodes.shape[0] or k < 1 or probe < 0:
        raise ValueError("find_matching: nodes past the end, or no hits")


@inlined
def check_scratch(visited, seen, pool, n, pool_size):
    """Raise ValueError if the arrays of a ``Scratch`` are too small."""
    if visited.shape[0] << 6 < n or seen.shape[0] <= n or pool.shape[0] < pool_size:
        raise ValueError("find_matching: too little scratch memory")


@inlined
def put_best(exact, count, found, scores):
    """Write nodes and scores of the first keys."""
    for i in range(count):
        found[0, i], scores[0, i] = node_of(exact[i]), score_of(exact[i])


@kernel(types.int64(
    *GIVEN, INTS, read(types.uint8, 2), read(types.int32, 1), read(types.uint8, 2),
    read(types.float32, 1), read(types.uint8, 2), read(types.float32, 1),
    BYTES, BYTES, read(types.int32, 1), read(types.int64, 1),
))  # fmt: skip
def find_matching(
    turn, descriptor, size, commit, raw, query, visited, seen, pool, numbers, text, distances,
    whole, parts, vectors, dead, rows, id_offsets, id_bytes, links, sketches, hubs, hub_sketches,
    mean, basis, basis_steps, mask, codes, nodes, gate,
):  # fmt: skip
    """Find the nearest rows of a unit that match. Return FOUND, CHANGED or UNUSUAL; or NO_LIST,
    with the nodes visited and passed in ``numbers``.

    Args:
        mask, codes: of the gate; mask is not used with a span above 0, codes are otherwise not.
        nodes: int32, of the list; nodes outside the rows and deleted ones are left out.
        gate: int64 (5,): shift, low and span, and where in ``nodes`` the list begins and ends.
        The others: as for ``find_by_sketches``.
    """
    check_numbers(whole, parts, gate, nodes)
    check_given(
        turn, raw, query, numbers, text, distances, whole[:WHOLE], parts[:PARTS], vectors, rows,
        id_offsets,
    )  # fmt: skip
    check_graph(vectors, links, sketches, hubs, hub_sketches, mean, basis, basis_steps)
    n, k, lines = vectors.shape[0], whole[K], sketches.shape[1] >> 6
    walks, start, stop = whole[_WALKS] != 0, gate[3], gate[4]
    if walks:
        check_gate(mask, codes, dead, gate[0], gate[1], gate[2], n)
    ef, deleted_max = min(max(whole[EF], k), n), DELETED_MIN + (n >> 2)
    check_scratch(visited, seen, pool, n, ef + 1 + deleted_max + LISTS * links.shape[1])
    check_shapes(vectors, n, dead, query)
    status = begun(turn, descriptor, size, commit, raw, whole, parts, query, numbers)
    if status != FOUND:
        return status

    heads, width = basis.shape
    floats = np.zeros(max(width, heads), np.float32)
    query_bytes, head_bytes = np.zeros(width, np.int8), np.zeros(heads + 1, np.int8)
    query_heads = np.zeros(lines * HEADS_OF_LINE, np.int8)
    offset, weight, length = prepare_query(
        query, 0, mean, basis, basis_steps, lines, parts[SLOPE], floats, query_bytes, head_bytes,
        query_heads,
    )  # fmt: skip
    rescored = min(max(whole[RESCORED], k), ef)
    data = (sketches, query_heads, lines, offset, weight)
    count, counts = 0, np.zeros(3, np.int64)
    if walks:
        node, score = nearest_hub((hub_sketches, query_heads, lines, offset, weight), hubs, n)
        if node < 0:
            return UNUSUAL
        check = (mask, codes, dead, gate[0], np.uint32(gate[1]), np.uint32(gate[2]))
        count, counts[1], counts[2] = best_first(
            data, n, links, check, node, score, k, ef, parts[GAMMA], length, parts[SLACK],
            parts[FAR], whole[EF_FAR], deleted_max, whole[_PROBE], parts[_SHARE], whole[_END_MAX],
            visited, seen, pool,
        )  # fmt: skip
        for i in range(counts[1]):
            visited[np.int64(seen[i]) >> 6] = np.uint64(0)
    if count < k:
        if start == stop:
            numbers[VISITED], numbers[DELETED] = counts[1], counts[2]
            return NO_LIST
        count = nearest_sketches(data, nodes, start, stop, n, dead, rescored, pool)
        counts[1] += stop - start
    count = min(count, rescored)
    exact = np.empty(rescored + 1, np.uint64)
    score_again(vectors, query, 0, whole[SCORES], pool, count, exact)
    found, scores = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
    counts[0] = min(count, k)
    put_best(exact, counts[0], found, scores)
    return ended(
        turn, found, scores, counts, whole, rows, id_offsets, id_bytes, numbers, text, distances
    )
