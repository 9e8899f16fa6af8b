"""Work on whole graphs and segments, outside of searches.

    find_levels   each node's data in the upper levels of hnswlib's index
    hash_rows     hashes, by which duplicates are found
    relink_lists  lists of neighbours without deleted nodes

Data read from a file are not trusted: a neighbour outside the arrays ends its list.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

import numpy as np
from numba import types

from vecdb.engine.kernels.candidates import insert, node_of, pack, position_of
from vecdb.engine.kernels.compiling import BYTES, FLOATS, INT, INTS, kernel, read, written
from vecdb.engine.kernels.distance import pair_score
from vecdb.engine.kernels.inputs import is_deleted

__all__ = ["find_levels", "hash_rows", "relink_lists"]


@kernel(types.boolean(
    read(types.uint32, 1), INT, written(types.int64, 1), written(types.int32, 1)
))  # fmt: skip
def find_levels(words, each, starts, levels):
    """Find each node's data in hnswlib's upper levels; see ``vecdb.engine.hnsw.builder``.

    Args:
        words: uint32, for each node its size in bytes, then that many bytes.
        each: words per level.
        starts, levels: int64 and int32 (n,), written: index of the first word after the size, and
            the number of levels.

    Returns:
        False if the words do not contain exactly n nodes.
    """
    at = 0
    for node in range(starts.shape[0]):
        if at >= words.shape[0]:
            return False
        level = np.int64(words[at]) // (4 * each)
        starts[node], levels[node] = at + 1, level
        at += 1 + level * each
    return at == words.shape[0]


@kernel(types.void(read(types.uint32, 2), written(types.uint64, 1)))
def hash_rows(words, out):
    """Compute a 64-bit hash of each row.

    Args:
        words: uint32 (n, width), the bits of the rows.
        out: uint64 (n,), written.
    """
    for i in range(words.shape[0]):
        bits = np.uint64(words.shape[1])
        for j in range(words.shape[1]):
            bits = (bits ^ np.uint64(words[i, j])) * np.uint64(0x9E37_79B9_7F4A_7C15)
            bits ^= bits >> np.uint64(32)
        out[i] = bits


@kernel(types.void(
    FLOATS, INTS, read(types.int64, 1), read(types.int64, 1), BYTES, INT,
    written(types.int32, 2),
))  # fmt: skip
def relink_lists(vectors, lists, places, owners, dead, metric, out):
    """Compute lists of neighbours without deleted nodes: live neighbours stay, and each deleted one
    is replaced by its own live neighbours, closest to the owner first.

    Args:
        vectors: float32 (n, width).
        lists: int32 (…, slots), of one level, each read up to its first number outside [0, n).
        places: int64 (n,), index of each node's list, -1 if it has none on this level.
        owners: int64 (m,), nodes whose lists to compute.
        dead: the delete bitmap.
        metric: metric code.
        out: int32 (m, slots), written; padded with -1.
    """
    n, slots = vectors.shape[0], lists.shape[1]
    pool = np.empty(slots * slots + 1, np.uint64)
    for k in range(owners.shape[0]):
        node, count, size = owners[k], 0, 0
        out[k, :] = -1
        for neighbour in lists[places[node]]:
            if neighbour < 0 or neighbour >= n:
                break
            if not is_deleted(dead, np.int64(neighbour)):
                out[k, count] = neighbour
                count += 1
                continue
            if places[neighbour] < 0:
                continue
            for beyond in lists[places[neighbour]]:
                if beyond < 0 or beyond >= n:
                    break
                if beyond == node or is_deleted(dead, np.int64(beyond)):
                    continue
                score = pair_score(vectors, np.int64(beyond), vectors, node, metric)
                key = pack(score, np.int64(beyond))
                at = position_of(pool, size, key)
                if at == size or pool[at] != key:
                    insert(pool, size, key)
                    size += 1
        for at in range(size):
            if count == slots:
                break
            found = node_of(pool[at])
            known = False
            for place in range(count):
                known = known or out[k, place] == found
            if not known:
                out[k, count] = found
                count += 1
