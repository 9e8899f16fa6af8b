"""One query of one graph segment, from the vector as given to distances, rows and ids.

A call of a kernel from Python costs more than preparing a query or gathering ten ids, so all of it
is one kernel:

    unchanged   whether the store had no commit since the segment was known to be current
    ready       the query's check, and its preparation
    walk        of ``walk`` or ``sketch_walk``
    gathered    distances, row numbers, and the bytes of the ids

Whatever is unusual, such as a damaged id, is left to the general path, which finds and reports it:
then the kernel returns False, and what it has written is of no use.

What stays the same for many queries is in two arrays:

    whole  int64: dim, k, ef, rescored, metric of the scores and of the distances, places of the two
           numbers in the store's file, rows ever added, ef_far
    parts  float32: gamma, shift, slope, slack, far, least and greatest squared length of a query

The results, for k rows:

    numbers    int64 (2 k + 4,): nodes visited and deleted ones passed, whether all ids are ASCII;
               from 3 on the rows; from 3 + k on k + 1 bounds of ids within the text
    text       uint8, the ids one after the other
    distances  float32 (k,)
"""
# numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def, call-overload"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

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
from vecdb.engine.kernels.distance import prepare_rows
from vecdb.engine.kernels.sketch_walk import walk_sketches
from vecdb.engine.kernels.walk import walk_graph

__all__ = [
    "COSINE",
    "DOT",
    "GIVEN",
    "SQUARED",
    "check_given",
    "find_by_graph",
    "find_by_sketches",
    "gathered",
    "ready",
    "unchanged",
]

SQUARED: Final = 0
"""Distances are square roots of scores."""
COSINE: Final = 1
"""Distances are 1 + score."""
DOT: Final = 2
"""Distances are scores."""

_SEEK_END: Final = 2

_lseek = types.ExternalFunction("lseek", types.int64(types.int32, types.int64, types.int32))
_pread = types.ExternalFunction(
    "pread", types.int64(types.int32, types.voidptr, types.uint64, types.int64)
)


@inlined
def unchanged(descriptor, size, commit, first_at, second_at):
    """Return whether a file has this size, and the greater of two numbers in it is commit."""
    if _lseek(descriptor, 0, _SEEK_END) != size:
        return False
    first, second = np.empty(1, np.int64), np.empty(1, np.int64)
    if (
        _pread(descriptor, first.ctypes, 8, first_at) != 8
        or _pread(descriptor, second.ctypes, 8, second_at) != 8
    ):
        return False
    return max(first[0], second[0]) == commit


@inlined
def ready(raw, least, most, normalise, out):
    """Write the prepared query to out, float32 (1, width), if its squared length is in bounds."""
    square = 0.0
    for j in range(raw.shape[0]):
        square += np.float64(raw[j]) * np.float64(raw[j])
    if not least < square <= most:
        return False
    prepare_rows(raw.reshape((1, raw.shape[0])), out, normalise)
    return True


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
GIVEN = (
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
        raise ValueError("single: numbers that don't belong together")
    if raw.shape[0] != whole[0] or raw.shape[0] > vectors.shape[1] or k != whole[1]:
        raise ValueError("single: a query or results of another size")
    if rows.shape[0] != n or id_offsets.shape[0] != n + 1:
        raise ValueError("single: arrays that don't belong together")


@kernel(types.boolean(*GIVEN, read(types.int32, 1), INTS, INT, INT))
def find_by_graph(
    descriptor, size, commit, raw, visited, seen, pool, numbers, text, distances, whole, parts,
    vectors, links, dead, rows, id_offsets, id_bytes, upper_offsets, upper_links,
    entry, top_level,
):  # fmt: skip
    """Find the nearest rows by ``walk_graph``; return False to leave it to the general path.

    Args:
        descriptor, size, commit: the store's open file, its size, and the number of the commit that
            the segment is known to be current at.
        raw: float32 (dim,), the query as given.
        visited, seen, pool: the arrays of a ``Scratch`` reserved for the walk.
        numbers, text, distances, whole, parts: see the module docstring.
        vectors, links, dead, upper_offsets, upper_links, entry, top_level: as for
            ``walk_graph``.
        rows, id_offsets, id_bytes: int64 (n,), int64 (n + 1,) and uint8, of the segment.
    """
    check_given(raw, numbers, distances, whole, parts, vectors, rows, id_offsets)
    query = np.empty((1, vectors.shape[1]), np.float32)
    if not (
        unchanged(descriptor, size, commit, whole[6], whole[7])
        and ready(raw, parts[5], parts[6], whole[5] == COSINE, query)
    ):
        return False
    k = distances.shape[0]
    nodes, scores, found = np.empty((1, k), np.int64), np.empty((1, k), np.float32), numbers[:1]
    counts = np.empty(1, np.int64)
    walk_graph(
        vectors, links, upper_offsets, upper_links, entry, top_level, dead, query, 0, 1, whole[4],
        k, whole[2], parts[0], parts[1], parts[4], whole[9], -1, np.float32(0), -1, visited, seen,
        pool, nodes, scores, counts, found, numbers[1:2],
    )  # fmt: skip
    return counts[0] == k and gathered(
        nodes, scores, whole[5], rows, id_offsets, id_bytes, whole[8], numbers, text, distances
    )


@kernel(types.boolean(
    *GIVEN, read(types.uint8, 2), read(types.int32, 1), read(types.uint8, 2),
    read(types.float32, 1), read(types.uint8, 2), read(types.float32, 1),
))  # fmt: skip
def find_by_sketches(
    descriptor, size, commit, raw, visited, seen, pool, numbers, text, distances, whole, parts,
    vectors, links, dead, rows, id_offsets, id_bytes, sketches, hubs, hub_sketches, mean, basis,
    basis_steps,
):  # fmt: skip
    """Find the nearest rows by ``walk_sketches``; return False to leave it to the general path.

    Args:
        sketches, hubs, hub_sketches, mean, basis, basis_steps: as for ``walk_sketches``.
        The others: as for ``find_by_graph``.
    """
    check_given(raw, numbers, distances, whole, parts, vectors, rows, id_offsets)
    query = np.empty((1, vectors.shape[1]), np.float32)
    if not (
        unchanged(descriptor, size, commit, whole[6], whole[7])
        and ready(raw, parts[5], parts[6], whole[5] == COSINE, query)
    ):
        return False
    k = distances.shape[0]
    nodes, scores, found = np.empty((1, k), np.int64), np.empty((1, k), np.float32), numbers[:1]
    counts = np.empty(1, np.int64)
    walk_sketches(
        vectors, links, sketches, hubs, hub_sketches, mean, basis, basis_steps, parts[2], dead,
        query, 0, 1, whole[4], k, whole[2], parts[0], parts[3], parts[4], whole[9], whole[3],
        -1, np.float32(0), -1, visited, seen, pool, nodes, scores, counts, found, numbers[1:2],
    )  # fmt: skip
    return counts[0] == k and gathered(
        nodes, scores, whole[5], rows, id_offsets, id_bytes, whole[8], numbers, text, distances
    )
