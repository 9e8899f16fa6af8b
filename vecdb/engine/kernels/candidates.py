"""Candidates as integers, in a sorted array and a heap.

    63            32 31                1          0
    | score, ordered | node, below 2**31 | expanded |

Flip the sign bit of a positive float, or all bits of a negative one: the resulting integers are
ordered as the floats are. So the packed integers (keys) compare as (score, node).

The pool of a walk holds keys in ascending order, and behind them a binary min-heap of the deleted
candidates that wait to be expanded.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Final

import numpy as np

from vecdb.engine.kernels.compiling import inlined
from vecdb.engine.kernels.instructions import BLOCK, insert_into_block

__all__ = [
    "NO_BOUND",
    "add_waiting",
    "insert",
    "nearest_of",
    "node_of",
    "pack",
    "position_of",
    "remove_nearest",
    "score_of",
]

NO_BOUND: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
"""Greater than every key."""


@inlined
def pack(score, node):
    """Return the key of a candidate that is not expanded."""
    bits = np.uint64(np.float32(score).view(np.uint32))
    flip = np.uint64(0xFFFF_FFFF) if bits >> np.uint64(31) else np.uint64(0x8000_0000)
    return ((bits ^ flip) << np.uint64(32)) | (np.uint64(node) << np.uint64(1))


@inlined
def score_of(key):
    """Return the score, a float32 with the same bits as the one packed."""
    bits = key >> np.uint64(32)
    flip = np.uint64(0x8000_0000) if bits >> np.uint64(31) else np.uint64(0xFFFF_FFFF)
    return np.uint32(bits ^ flip).view(np.float32)


@inlined
def node_of(key):
    """Return the node, whether expanded or not."""
    return np.int64((key & np.uint64(0xFFFF_FFFF)) >> np.uint64(1))


@inlined
def position_of(pool, count, key):
    """Return the position of key among the first count entries of the pool, which ascend."""
    low, size = 0, count
    while size > 0:
        half = size >> 1
        below = pool[low + half] < key
        low = low + half + 1 if below else low
        size = size - half - 1 if below else half
    return low


@inlined
def insert(pool, count, key):
    """Put a key in its place among the first count entries, which ascend; return the place.

    The entries behind it move by one, from the last on, in blocks of eight.
    """
    if count == 0 or pool[count - 1] < key:
        pool[count] = key
        return count
    pool[count] = pool[count - 1]
    end = count  # From here on, the entries have moved.
    while end > BLOCK:
        end -= BLOCK
        place = end - 1 + insert_into_block(pool, end, key)
        if place >= end:
            return place
    place = end - 1
    while place > 0 and pool[place - 1] > key:
        pool[place] = pool[place - 1]
        place -= 1
    pool[place] = key
    return place


@inlined
def nearest_of(pool, cursor, count, heap, waiting):
    """Return the nearest candidate that is not expanded, live or deleted; NO_BOUND if none."""
    key = pool[cursor] if cursor < count else NO_BOUND
    return min(key, pool[heap]) if waiting > 0 else key


@inlined
def add_waiting(pool, heap, size, key):
    """Add a key to the min-heap of that size that begins at pool[heap]."""
    hole = size
    while hole > 0 and key < pool[heap + ((hole - 1) >> 1)]:
        pool[heap + hole] = pool[heap + ((hole - 1) >> 1)]
        hole = (hole - 1) >> 1
    pool[heap + hole] = key


@inlined
def remove_nearest(pool, heap, size):
    """Remove the least key of the min-heap of that size that begins at pool[heap]."""
    hole, key = np.int64(0), pool[heap + size - 1]
    while 2 * hole + 2 < size:
        child = 2 * hole + 1
        child += np.int64(pool[heap + child + 1] < pool[heap + child])
        if key <= pool[heap + child]:
            break
        pool[heap + hole] = pool[heap + child]
        hole = child
    pool[heap + hole] = key
