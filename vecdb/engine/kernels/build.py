"""Links of a batch of rows, for graphs that are built in batches.

    find_links  the neighbours of new rows in a graph, pruned
    link_back   adds the new rows to the lists of their neighbours

Both only read what other threads do not write at that moment, so the links do not depend on the
number of threads. Rows are coded (``build_codes.py``).

Pruning is the heuristic of Malkov & Yashunin 2018, algorithm 4, without extended candidates and
without keeping pruned ones, as in hnswlib: of ascending candidates, one is kept if it is not nearer
to a kept one than to the row.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from vecdb.engine.kernels.best_first import make_best_first
from vecdb.engine.kernels.build_codes import CODES, code_score, prefetch_code, to_signed
from vecdb.engine.kernels.candidates import insert, node_of, pack, score_of
from vecdb.engine.kernels.compiling import FLOAT, INT, INTS, inlined, kernel, read, written

__all__ = ["find_links", "link_back"]

_ROWS_AHEAD: Final = 8

best_first = make_best_first(code_score, prefetch_code, _ROWS_AHEAD, _ROWS_AHEAD)


@inlined
def prune(codes, dim, length, pool, count, links_max, signed, out, row):
    """Write the kept ones of ``count`` candidates to out[row], then -1.

    length: squared length of the row, which makes its scores distances.
    signed: scratch, as for ``to_signed``.
    """
    kept = 0
    for i in range(count):
        node, distance = node_of(pool[i]), score_of(pool[i]) + length
        offset, weight, own = to_signed(codes, node, dim, signed)
        data = (codes, signed, offset, weight)
        keep = True
        for j in range(kept):
            if code_score(data, np.int64(out[row, j])) + own < distance:
                keep = False
                break
        if keep:
            out[row, kept] = node
            kept += 1
            if kept == links_max:
                break
    out[row, kept:] = -1


@kernel(types.void(
    CODES, INTS, INT, INT, CODES, INT, read(types.int32, 1), INT, INT, INT, INT, FLOAT, INT,
    written(types.uint64, 1), written(types.int32, 1), written(types.uint64, 1),
    written(types.int32, 2), written(types.int32, 1),
))  # fmt: skip
def find_links(
    codes, links, n, dim, queries, base, starts, first, last, k, ef, gamma, links_max, visited,
    seen, pool, out, nearest,
):  # fmt: skip
    """Find the neighbours of rows first to last - 1 of a batch.

    Args:
        codes, links: uint8 (≥ n, width) and int32 (≥ n, slots): a graph, its lists padded with -1.
            With links_max > 0 the codes of the batch follow, as nodes n and up: a row sees those
            before it.
        n: nodes of the graph, without the batch.
        dim: components of a row.
        queries: uint8 (…, width), codes too: row i of the batch is queries[base + i].
        starts: int32 (m,), the node at which the walk for each row begins.
        k, ef, gamma: as for ``best_first``.
        links_max: most neighbours; 0: only ``nearest`` is wanted.
        visited, seen, pool: the arrays of a ``Scratch`` reserved for n, ef and slots.
        out: int32 (m, slots), written; padded with -1.
        nearest: int32 (m,), written: the nearest node.
    """
    slots, width = links.shape[1], codes.shape[1]
    if (
        codes.shape[0] < n + (last if links_max > 0 else 0) or links.shape[0] < n
        or queries.shape[1] != width or first < 0
        or last > min(starts.shape[0], nearest.shape[0]) or base + last > queries.shape[0]
        or (links_max > 0 and (last > out.shape[0] or out.shape[1] != slots))
        or links_max > slots or dim + 8 > width or ef < k or k < 1
    ):  # fmt: skip
        raise ValueError("find_links: arrays that don't belong together")
    if visited.shape[0] << 6 < n or seen.shape[0] <= n or pool.shape[0] < ef + slots + 1:
        raise ValueError("find_links: too little scratch memory")
    nothing = np.zeros(0, np.uint8)
    mine, other = np.zeros(width, np.int8), np.zeros(width, np.int8)
    for i in range(first, last):
        node = np.int64(starts[i])
        if node < 0 or node >= n:
            raise ValueError("find_links: a start outside of the graph")
        offset, weight, length = to_signed(queries, base + i, dim, mine)
        data = (codes, mine, offset, weight)
        score = code_score(data, node)
        count, end, _ = best_first(
            data, n, links, nothing, node, score, k, ef, gamma, length, np.float32(0),
            np.float32(np.inf), 0, 0, visited.shape[0] << 6, np.float32(0), visited.shape[0] << 6,
            visited, seen, pool,
        )  # fmt: skip
        for j in range(end):
            visited[np.int64(seen[j]) >> 6] = np.uint64(0)
        nearest[i] = node_of(pool[0])
        if links_max > 0:
            for j in range(i):
                key = pack(code_score(data, n + j), n + j)
                if count < ef:
                    insert(pool, count, key)
                    count += 1
                elif key < pool[count - 1]:
                    insert(pool, count - 1, key)
            prune(codes, dim, length, pool, count, links_max, other, out, i)


@kernel(types.void(
    CODES, written(types.int32, 2), INT, INT, read(types.int32, 1), read(types.int64, 1),
    read(types.int32, 1), INT, INT, written(types.uint64, 1),
))  # fmt: skip
def link_back(codes, links, n, dim, targets, begins, sources, first, last, pool):
    """Add sources to the lists of targets first to last - 1; a list that gets too long is pruned.

    Args:
        codes, links, n, dim: as for ``find_links``; links is changed.
        targets: int32 (t,), each once.
        begins: int64 (t + 1,); target i gets sources begins[i] to begins[i + 1] - 1.
        sources: int32, nodes that are not in these lists.
        pool: uint64, room for a list and the sources of a target.
    """
    slots, width = links.shape[1], codes.shape[1]
    if (
        codes.shape[0] < n or links.shape[0] < n or first < 0 or last > targets.shape[0]
        or last + 1 > begins.shape[0] or dim + 8 > width
    ):  # fmt: skip
        raise ValueError("link_back: arrays that don't belong together")
    mine, other = np.zeros(width, np.int8), np.zeros(width, np.int8)
    for i in range(first, last):
        target, degree = np.int64(targets[i]), 0
        begin, end = begins[i], begins[i + 1]
        if target < 0 or target >= n or begin < 0 or end > sources.shape[0]:
            raise ValueError("link_back: a target outside of the graph")
        while degree < slots and links[target, degree] >= 0:
            degree += 1
        if degree + end - begin <= slots:
            for e in range(begin, end):
                links[target, degree] = sources[e]
                degree += 1
            continue
        if pool.shape[0] < degree + end - begin:
            raise ValueError("link_back: too little scratch memory")
        offset, weight, length = to_signed(codes, target, dim, mine)
        data, count = (codes, mine, offset, weight), 0
        for j in range(degree):
            node = np.int64(links[target, j])
            insert(pool, count, pack(code_score(data, node), node))
            count += 1
        for e in range(begin, end):
            node = np.int64(sources[e])
            insert(pool, count, pack(code_score(data, node), node))
            count += 1
        prune(codes, dim, length, pool, count, slots, other, links, target)
