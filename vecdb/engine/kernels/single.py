"""One query of a few search units, from the vector as given to distances, rows and ids.

A call of a kernel from Python costs more than preparing a query or gathering ten ids. So there is
one call for each unit, in turn, by the kernel that fits it:

    find_by_graph, find_by_sketches  walk its graph
    find_by_scan                     compares all its rows

Each does what is due at its turn:

    the first  unchanged: whether the store had no commit since the units were known to be current;
               ready: the query's check, and its preparation
    each       the unit's nearest rows are merged with those of the units before, by (score, row),
               and the ids of those among the k nearest so far are gathered
    the last   scores become distances

Whatever is unusual, such as a damaged id, is left to the general path, which finds and reports it:
then a kernel returns UNUSUAL, and what was written is of no use.

What stays the same for many queries is in two arrays for each unit:

    whole  int64: dim, rows of the unit, k, hits to find at least, ef, rescored, ef_far, metric of
           the scores and of the distances, places of the two numbers in the store's file, rows ever
           added; k is at most that of the search
    parts  float32: gamma, shift, slope, slack, far, least and greatest squared length of a query

The results, for k rows in all:

    numbers    int64 (6 + 3 k,): nodes visited and deleted ones passed, whether all ids are ASCII,
               hits without an id in the text, hits so far, bytes of text; then the rows, and where
               their ids begin and end in the text, -1 for rows whose ids are in the store only
    text       uint8, ids one after the other
    distances  float32 (k,); scores before the last turn
"""
# numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def, call-overload"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from vecdb.engine.kernels.code_scan import scan_codes
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
from vecdb.engine.kernels.scan import comes_after, scan_rows, sort_heaps
from vecdb.engine.kernels.sketch_walk import walk_sketches
from vecdb.engine.kernels.walk import walk_graph

__all__ = [
    "CHANGED",
    "COSINE",
    "CURRENT",
    "DELETED",
    "DOT",
    "EF",
    "EF_FAR",
    "FAR",
    "FIRST",
    "FOUND",
    "GAMMA",
    "GIVEN",
    "LAST",
    "NUMBERS",
    "PARTS",
    "RESCORED",
    "SCORES",
    "SLACK",
    "SLOPE",
    "SQUARED",
    "UNUSUAL",
    "VISITED",
    "WHOLE",
    "K",
    "begun",
    "check_given",
    "ended",
    "find_by_graph",
    "find_by_scan",
    "find_by_sketches",
]

SQUARED: Final = 0
"""Distances are square roots of scores."""
COSINE: Final = 1
"""Distances are 1 + score."""
DOT: Final = 2
"""Distances are scores."""

FIRST: Final = 1
"""Turn of the first unit."""
LAST: Final = 2
"""Turn of the last unit; of a single one: FIRST + LAST."""

CURRENT: Final = -1
"""In place of the number of a commit: the units are current, without a comparison."""

FOUND: Final = 0
CHANGED: Final = 1
"""There was a commit since the units were known to be current."""
UNUSUAL: Final = 2
"""The general path has to do it."""

VISITED, DELETED, _IS_ASCII, _OUTSIDE, _HELD, _TEXT = range(6)
NUMBERS: Final = 6
"""Numbers before the rows."""

_DIM, _ROWS, K, _EXPECTED, EF, RESCORED, EF_FAR, SCORES, _DISTANCES = range(9)
_FIRST_COMMIT_AT, _SECOND_COMMIT_AT, _NEXT_ROW, WHOLE = range(9, 13)
GAMMA, _SHIFT, SLOPE, SLACK, FAR, _LEAST, _MOST, PARTS = range(8)

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
def begun(turn, descriptor, size, commit, raw, whole, parts, query, numbers):
    """Prepare the query and the results at the first turn; return FOUND if the search goes on."""
    if turn & FIRST == 0:
        return FOUND
    if commit != CURRENT and not unchanged(
        descriptor, size, commit, whole[_FIRST_COMMIT_AT], whole[_SECOND_COMMIT_AT]
    ):  # fmt: skip
        return CHANGED
    if not ready(raw, parts[_LEAST], parts[_MOST], whole[_DISTANCES] == COSINE, query):
        return UNUSUAL
    numbers[:NUMBERS] = 0
    numbers[_IS_ASCII] = 1
    return FOUND


@inlined
def put_id(node, place, k, id_offsets, id_bytes, numbers, text):
    """Append the id of a node to the text as that of a place; return False if it is damaged."""
    begins, ends = NUMBERS + k + place, NUMBERS + 2 * k + place
    if id_offsets.shape[0] == 0:
        numbers[begins] = numbers[ends] = -1
        return True
    start, stop, end = id_offsets[node], id_offsets[node + 1], numbers[_TEXT]
    if start < 0 or stop < start or stop > id_bytes.shape[0] or stop - start > len(text) - end:
        return False
    numbers[begins], all_bits = end, np.uint8(0)
    for at in range(start, stop):
        text[end] = id_bytes[at]
        all_bits |= id_bytes[at]
        end += 1
    if all_bits >= 128:
        numbers[_IS_ASCII] = 0
    numbers[ends] = numbers[_TEXT] = end
    return True


@inlined
def shared_out(nodes, scores, found, rows, numbers, distances):
    """Return how many of the hits so far, and of a unit's, are among the k nearest of both."""
    k, held = distances.shape[0], numbers[_HELD]
    old, new = 0, 0
    while old + new < k and (old < held or new < found):
        if new == found or (old < held and not comes_after(
            distances[old], numbers[NUMBERS + old], scores[0, new], rows[nodes[0, new]]
        )):  # fmt: skip
            old += 1
        else:
            new += 1
    return old, new


@inlined
def merged(nodes, scores, found, rows, id_offsets, id_bytes, next_row, numbers, text, distances):
    """Merge a unit's hits, ascending, into those so far; return False if a row or an id is
    damaged."""
    k = distances.shape[0]
    for i in range(found):
        if rows[nodes[0, i]] < 0 or rows[nodes[0, i]] >= next_row:
            return False
    old, new = shared_out(nodes, scores, found, rows, numbers, distances)
    numbers[_HELD] = place = old + new
    while new > 0:  # From the last place on, so that no hit is overwritten before it has moved.
        place -= 1
        node = nodes[0, new - 1]
        if old > 0 and comes_after(
            distances[old - 1], numbers[NUMBERS + old - 1], scores[0, new - 1], rows[node]
        ):
            old -= 1
            distances[place] = distances[old]
            for column in range(NUMBERS, NUMBERS + 3 * k, k):
                numbers[column + place] = numbers[column + old]
            continue
        new -= 1
        distances[place], numbers[NUMBERS + place] = scores[0, new], rows[node]
        if not put_id(node, place, k, id_offsets, id_bytes, numbers, text):
            return False
    return True


@inlined
def finished(kind, numbers, distances):
    """Turn scores into distances; return False if there are fewer hits than expected."""
    k = distances.shape[0]
    for i in range(k):
        if kind == SQUARED:
            distances[i] = np.sqrt(max(distances[i], np.float32(0)))
        elif kind == COSINE:
            distances[i] = max(distances[i] + np.float32(1), np.float32(0))
        numbers[_OUTSIDE] += np.int64(numbers[NUMBERS + k + i] < 0)
    return numbers[_HELD] == k


@inlined
def ended(
    turn, nodes, scores, counts, whole, rows, id_offsets, id_bytes, numbers, text, distances
):  # fmt: skip
    """Merge a unit's hits; counts: of hits, visited nodes, and deleted ones passed."""
    if counts[0] < whole[_EXPECTED]:
        return UNUSUAL
    numbers[VISITED] += counts[1]
    numbers[DELETED] += counts[2]
    if not merged(
        nodes, scores, counts[0], rows, id_offsets, id_bytes, whole[_NEXT_ROW], numbers, text,
        distances,
    ):  # fmt: skip
        return UNUSUAL
    if turn & LAST != 0 and not finished(whole[_DISTANCES], numbers, distances):
        return UNUSUAL
    return FOUND


_OUT = (written(types.int64, 1), written(types.uint8, 1), written(types.float32, 1))
GIVEN = (
    *(INT, INT, INT, INT, read(types.float32, 1), written(types.float32, 2)),
    *(written(types.uint64, 1), written(types.int32, 1), written(types.uint64, 1)),
    *_OUT,
    *(read(types.int64, 1), read(types.float32, 1), FLOATS, BYTES),
    *(read(types.int64, 1), read(types.int64, 1), BYTES),
)
"""Types of the arguments that all these kernels have."""


@inlined
def check_given(
    turn, raw, query, numbers, text, distances, whole, parts, vectors, rows, id_offsets
):  # fmt: skip
    """Raise ValueError unless these arrays belong together; walks and scans check the others."""
    n, k = vectors.shape[0], distances.shape[0]
    if whole.shape[0] != WHOLE or parts.shape[0] != PARTS or numbers.shape[0] != NUMBERS + 3 * k:
        raise ValueError("single: numbers that don't belong together")
    if raw.shape[0] != whole[_DIM] or query.shape != (1, vectors.shape[1]):
        raise ValueError("single: a query of another size")
    if raw.shape[0] > query.shape[1] or whole[_ROWS] > n or whole[K] > whole[_ROWS]:
        raise ValueError("single: a query, rows or k past the end of the arrays")
    if rows.shape[0] != n or id_offsets.shape[0] not in (0, n + 1):
        raise ValueError("single: arrays that don't belong together")
    if turn & FIRST == 0 and not (
        0 <= numbers[_HELD] <= k and 0 <= numbers[_TEXT] <= text.shape[0]
    ):
        raise ValueError("single: more hits or text than there is room for")


@kernel(types.int64(*GIVEN, INTS, read(types.int32, 1), INTS, INT, INT))
def find_by_graph(
    turn, descriptor, size, commit, raw, query, visited, seen, pool, numbers, text, distances,
    whole, parts, vectors, dead, rows, id_offsets, id_bytes, links, upper_offsets, upper_links,
    entry, top_level,
):  # fmt: skip
    """Find the nearest rows of a unit by ``walk_graph``; return FOUND, CHANGED or UNUSUAL.

    Args:
        turn: FIRST, LAST, their sum or 0.
        descriptor, size, commit: the store's open file, its size, and the number of the commit that
            the units are known to be current at, or CURRENT.
        raw: float32 (dim,), the query as given.
        query: float32 (1, width), written at the first turn.
        visited, seen, pool: the arrays of a ``Scratch`` reserved for the walk.
        numbers, text, distances, whole, parts: see the module docstring.
        vectors, dead, links, upper_offsets, upper_links, entry, top_level: as for
            ``walk_graph``.
        rows, id_offsets, id_bytes: int64 (n,), int64 (n + 1,) and uint8, of the segment; offsets
            (0,) if the ids are in the store only.
    """
    check_given(turn, raw, query, numbers, text, distances, whole, parts, vectors, rows, id_offsets)
    status = begun(turn, descriptor, size, commit, raw, whole, parts, query, numbers)
    if status != FOUND:
        return status
    k, counts = whole[K], np.empty(3, np.int64)
    nodes, scores = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
    walk_graph(
        vectors, links, upper_offsets, upper_links, entry, top_level, dead, query, 0, 1,
        whole[SCORES], k, whole[EF], parts[GAMMA], parts[_SHIFT], parts[FAR], whole[EF_FAR],
        -1, np.float32(0), -1, visited, seen, pool, nodes, scores, counts[:1], counts[1:2],
        counts[2:],
    )  # fmt: skip
    return ended(
        turn, nodes, scores, counts, whole, rows, id_offsets, id_bytes, numbers, text, distances
    )


@kernel(types.int64(
    *GIVEN, INTS, read(types.uint8, 2), read(types.int32, 1), read(types.uint8, 2),
    read(types.float32, 1), read(types.uint8, 2), read(types.float32, 1),
))  # fmt: skip
def find_by_sketches(
    turn, descriptor, size, commit, raw, query, visited, seen, pool, numbers, text, distances,
    whole, parts, vectors, dead, rows, id_offsets, id_bytes, links, sketches, hubs, hub_sketches,
    mean, basis, basis_steps,
):  # fmt: skip
    """Find the nearest rows of a unit by ``walk_sketches``; return FOUND, CHANGED or UNUSUAL.

    Args:
        sketches, hubs, hub_sketches, mean, basis, basis_steps: as for ``walk_sketches``.
        The others: as for ``find_by_graph``.
    """
    check_given(turn, raw, query, numbers, text, distances, whole, parts, vectors, rows, id_offsets)
    status = begun(turn, descriptor, size, commit, raw, whole, parts, query, numbers)
    if status != FOUND:
        return status
    k, counts = whole[K], np.empty(3, np.int64)
    nodes, scores = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
    walk_sketches(
        vectors, links, sketches, hubs, hub_sketches, mean, basis, basis_steps, parts[SLOPE], dead,
        query, 0, 1, whole[SCORES], k, whole[EF], parts[GAMMA], parts[SLACK], parts[FAR],
        whole[EF_FAR], whole[RESCORED], -1, np.float32(0), -1, visited, seen, pool, nodes, scores,
        counts[:1], counts[1:2], counts[2:],
    )  # fmt: skip
    return ended(
        turn, nodes, scores, counts, whole, rows, id_offsets, id_bytes, numbers, text, distances
    )


@kernel(types.int64(
    *GIVEN, read(types.uint8, 2), read(types.float32, 3), read(types.float32, 1)
))  # fmt: skip
def find_by_scan(
    turn, descriptor, size, commit, raw, query, visited, seen, pool, numbers, text, distances,
    whole, parts, vectors, dead, rows, id_offsets, id_bytes, codes, factors, mean,
):  # fmt: skip
    """Find the nearest rows of a unit by ``scan_codes``, or by ``scan_rows`` if there are no codes;
    return FOUND, CHANGED or UNUSUAL.

    Args:
        codes, factors, mean: as for ``scan_codes``; codes (0, 0) if there are none.
        The others: as for ``find_by_graph``.
    """
    check_given(turn, raw, query, numbers, text, distances, whole, parts, vectors, rows, id_offsets)
    status = begun(turn, descriptor, size, commit, raw, whole, parts, query, numbers)
    if status != FOUND:
        return status
    count, k, counts = whole[_ROWS], whole[K], np.zeros(3, np.int64)
    nodes, scores = np.empty((1, k), np.int64), np.empty((1, k), np.float32)
    if codes.shape[0] > 0:
        scan_codes(
            vectors, codes, factors, mean, dead, 0, count, query, 0, 1, whole[SCORES], k, scores,
            nodes, counts[:1], counts[1:2],
        )  # fmt: skip
    else:
        scan_rows(vectors, dead, 0, count, query, 0, 1, whole[SCORES], k, scores, nodes, counts[:1])
    sort_heaps(scores, nodes, counts[:1], 0, 1)
    counts[1] = count
    return ended(
        turn, nodes, scores, counts, whole, rows, id_offsets, id_bytes, numbers, text, distances
    )
