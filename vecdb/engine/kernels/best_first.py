"""The walk of level 0, whatever its nodes are scored by, and the memory that a walk needs.

    make_best_first  the walk for a way of scoring: float32 rows (``walk.py``), or sketches
                     (``sketch_walk.py``)
    Scratch          its memory, reused from one call to the next

The walk is Malkov & Yashunin 2018, algorithm 2. Two rules end it, whichever holds first:

    ef      ef live candidates are nearer than the nearest one that is not expanded
    gamma   that one is farther than gamma times the k-th nearest live candidate, in squared
            distances (Al-Jazzazi et al. 2025, arXiv 2505.15636)

Gamma is measured with some queries. For a query whose k-th candidate is farther than theirs
(``far``), it says little, so at least ``ef_far`` candidates must be nearer, too.

With gamma a walk goes on for as long as its query needs: one whose neighbours are all about equally
far visits more nodes than one with few near neighbours, for the same recall.

The speed of a walk is limited by memory latency. So it first gathers a node's unvisited neighbours,
then scores them while it prefetches what is scored next, and what is scored first if the next
candidate is expanded. Where nodes are small, as sketches are, it expands one candidate ahead: it
asks for the neighbours of the nearest candidate, and while these arrive, it scores those of the
candidate before. Few are expanded in vain. The visited marks are a bitmap that fits into the cache;
the list of visited nodes clears it. The pool is one sorted array of integers that combine score,
node and "expanded" (``candidates.py``).

Data read from a file are not trusted: a neighbour outside the arrays is skipped.

The walk is a function of these arguments:

    data                of the scoring function
    n, links, dead      number of nodes, their neighbours on level 0, the delete bitmap
    node, score         where it begins
    k, ef, gamma        see above; ``NO_GAMMA`` leaves the end to ef
    shift, slack        a score plus shift is a squared distance; slack, in squared distances, is
                        added to gamma times the k-th: about the error of one score
    far, ef_far         see above; far is compared with a score plus shift; inf for no such rule
    deleted_max         deleted candidates after which it gives up, with 0 live ones
    probe, share, end_max
                        it also gives up after end_max visited nodes, or after probe of them, if
                        for each deleted candidate there are fewer live ones than share
    visited, seen, pool the arrays of a ``Scratch``

The last entries of the pool hold the keys of neighbours that are scored before they are put in.

It leaves the nearest live candidates in pool, ascending. Deleted candidates are in a heap behind
them, from pool[ef + 1] on, until they are expanded, so that they never displace a live one. It
returns the number of live candidates, of visited nodes, and of expanded deleted candidates.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.candidates import (
    NO_BOUND,
    add_waiting,
    insert,
    nearest_of,
    node_of,
    pack,
    remove_nearest,
    score_of,
)
from vecdb.engine.kernels.compiling import inlined
from vecdb.engine.kernels.inputs import is_deleted
from vecdb.engine.kernels.instructions import prefetch_row

__all__ = [
    "DELETED_MIN",
    "LISTS",
    "NO_GAMMA",
    "NO_LIMITS",
    "Scratch",
    "make_best_first",
    "walk_limits",
]

NO_GAMMA: Final = 1e30
"""A gamma that never ends a walk, as every larger one."""

NO_LIMITS: Final = (-1, 0.0, -1)
"""Limits of a walk that has none but those beside deleted nodes; see ``walk_graph``."""

DELETED_MIN: Final = 500
"""Deleted nodes that a walk may meet in any graph before it gives up."""

LISTS: Final = 2
"""Lists of neighbours for which a pool has room besides its candidates: one that is scored, and
one whose nodes are all deleted and wait."""

_LINKS_LINES: Final = 8  # Cache lines of a list of neighbours to prefetch.
_PEEK_BEFORE_END: Final = 2  # Nodes left to score when the next candidate's are prefetched.
_LAST_NODE: Final = np.int64(0x7FFF_FFFF)


@inlined
def gather(links, node, n, visited, seen, end):
    """Append the unvisited neighbours of node to seen and mark them; return the new end."""
    for j in range(links.shape[1]):
        neighbour = np.int64(np.uint32(links[node, j]))
        if neighbour >= n:  # The padding, -1, or a damaged value.
            break
        word, bit = neighbour >> 6, np.uint64(1) << np.uint64(neighbour & 63)
        marks = visited[word]
        visited[word] = marks | bit
        seen[end] = np.int32(neighbour)
        end += np.int64((marks & bit) == np.uint64(0))  # No branch: it would be unpredictable.
    return end


def make_peek(prefetch_node: Callable[..., Any], most: int) -> Callable[..., Any]:
    """Return an inlined function that prefetches what is scored first if node is expanded next."""

    @inlined
    def peek(data, links, node, n, visited):
        left = most
        for j in range(links.shape[1]):
            neighbour = np.int64(np.uint32(links[node, j]))
            if neighbour >= n or left == 0:
                break
            if visited[neighbour >> 6] >> np.uint64(neighbour & 63) & np.uint64(1) == np.uint64(0):
                prefetch_node(data, neighbour)
                left -= 1

    return peek


def make_key_of(
    score_node: Callable[..., Any], prefetch_node: Callable[..., Any], ahead: int,
    peek: Callable[..., Any],
) -> Callable[..., Any]:  # fmt: skip
    """Return an inlined function that returns the key of seen[i], and prefetches later ones."""

    @inlined
    def key_of(data, links, n, visited, seen, i, end, pool, cursor, count):
        if i + ahead < end:
            prefetch_node(data, np.int64(seen[i + ahead]))
        if i + _PEEK_BEFORE_END == end and cursor < count:
            peek(data, links, node_of(pool[cursor]), n, visited)
        return pack(score_node(data, np.int64(seen[i])), np.int64(seen[i]))

    return key_of


@inlined
def bound_of(pool, count, k, ef, gamma, shift, slack, far, ef_far):
    """Return the key behind which candidates are not expanded, by all rules."""
    bound = pool[count - 1] if count >= ef else NO_BOUND
    if count >= k and gamma < np.float32(NO_GAMMA):
        kth = score_of(pool[k - 1]) + shift
        near = pack(gamma * kth - shift + slack, _LAST_NODE)
        if kth > far:
            least = min(ef_far, ef)
            near = max(near, pool[least - 1]) if count >= least else NO_BOUND
        bound = min(bound, near)
    return bound


@inlined
def walk_limits(n, dead, scan_max, probe, end_max):
    """Return deleted_max, probe and end_max of a walk; scan_max: deleted nodes from which a scan of
    all rows costs less. end_max below 0: no other limit than that."""
    if dead.shape[0] > 0 and end_max >= 0:
        return DELETED_MIN + (n >> 2), probe, end_max
    return (scan_max if dead.shape[0] > 0 else 0), n + 1, n + 1


@inlined
def meets_too_few(count, deleted, share):
    """Return whether there are fewer live candidates for each deleted one than share."""
    return np.float32(count) < share * np.float32(deleted)


@inlined
def expand(links, n, visited, seen, end, pool, key, cursor, count, heap, waiting, passed):
    """Append the unvisited neighbours of the nearest candidate, which is key, to seen; prefetch the
    links of the next one. Return the new cursor, waiting, passed and end."""
    if cursor < count and key == pool[cursor]:
        pool[cursor] = key | np.uint64(1)
    else:
        remove_nearest(pool, heap, waiting)
        waiting, passed = waiting - 1, passed + 1
    while cursor < count and pool[cursor] & np.uint64(1):
        cursor += 1
    following = nearest_of(pool, cursor, count, heap, waiting)
    if following != NO_BOUND:
        prefetch_row(links, node_of(following), _LINKS_LINES)
    return cursor, waiting, passed, gather(links, node_of(key), n, visited, seen, end)


@inlined
def start(visited, seen, pool, heap, key, is_live):
    """Visit the first node; return the number of live candidates."""
    node, count = node_of(key), np.int64(is_live)
    visited[node >> 6] |= np.uint64(1) << np.uint64(node & 63)
    seen[0] = node
    pool[0 if is_live else heap] = key
    return count


@inlined
def add_live(links, pool, key, cursor, count, ef):
    """Insert a live candidate, and prefetch its links if it is the nearest one not expanded; return
    its place, and the new cursor and count."""
    place = insert(pool, count, key)
    if place <= cursor:
        prefetch_row(links, node_of(key), _LINKS_LINES)
    return place, min(cursor, place), min(count + 1, ef)


@inlined
def score_none(data, seen, unscored, stop, pool, keys):
    """Stand in for ``score_all`` where nodes are scored one by one."""


@inlined
def has_bits(dead):
    """Return whether a delete bitmap may mark a node."""
    return dead.shape[0] > 0


def make_best_first(
    score_node: Callable[..., Any], prefetch_node: Callable[..., Any], ahead: int, peeked: int,
    score_all: Callable[..., Any] = score_none, hides: Callable[..., Any] = has_bits,
    is_hidden: Callable[..., Any] = is_deleted,
) -> Callable[..., Any]:  # fmt: skip
    """Return the walk as an inlined function; the module docstring has its arguments and result.

    Args:
        score_node, prefetch_node: inlined (data, node): returns the score of a node, float32; asks
            for the memory that this reads.
        ahead, peeked: nodes to ask for before they are scored; of the probable next candidate.
        score_all: inlined (data, nodes, first, end, keys, out): writes the keys of nodes[first:end]
            to keys[out:]. With it the next candidate is expanded before these are scored.
        hides, is_hidden: inlined (dead), (dead, node): return whether any node counts as deleted,
            and whether one does; by default ``dead`` is a delete bitmap.
    """
    key_of = make_key_of(score_node, prefetch_node, ahead, make_peek(prefetch_node, peeked))
    one_ahead = score_all is not score_none

    @inlined
    def best_first(
        data, n, links, dead, node, score, k, ef, gamma, shift, slack, far, ef_far, deleted_max,
        probe, share, end_max, visited, seen, pool
    ):  # fmt: skip
        has_deleted, heap = hides(dead), ef + 1
        keys = pool.shape[0] - links.shape[1]
        bounding = max(k, ef_far)  # The first so many candidates decide where a walk by gamma ends.
        key = pack(score, node)
        is_live = not (has_deleted and is_hidden(dead, node))
        count, end, unscored = start(visited, seen, pool, heap, key, is_live), 1, 1
        cursor, passed, waiting, deleted = 0, 0, 1 - count, 1 - count
        bound = NO_BOUND if count < ef else key
        while True:
            asked_for = end  # The nodes in seen from unscored to here are on their way.
            if key <= bound and key != NO_BOUND:
                cursor, waiting, passed, end = expand(
                    links, n, visited, seen, end, pool, key, cursor, count, heap, waiting, passed
                )
                for i in range(asked_for, min(asked_for + ahead, end)):
                    prefetch_node(data, np.int64(seen[i]))
            elif unscored == end:
                break
            stop = asked_for if one_ahead else end
            if one_ahead:
                score_all(data, seen, unscored, stop, pool, keys)
            for i in range(unscored, stop):
                node = np.int64(seen[i])
                if one_ahead:
                    key = pool[keys + i - unscored]
                else:
                    key = key_of(data, links, n, visited, seen, i, end, pool, cursor, count)
                if key >= bound:
                    continue
                if has_deleted and is_hidden(dead, node):
                    add_waiting(pool, heap, waiting, key)
                    waiting, deleted = waiting + 1, deleted + 1
                    continue
                place, cursor, count = add_live(links, pool, key, cursor, count, ef)
                if place < bounding or count >= ef:
                    bound = bound_of(pool, count, k, ef, gamma, shift, slack, far, ef_far)
            unscored = stop
            if deleted > deleted_max or end > end_max or (
                end > probe and meets_too_few(count, deleted, share)
            ):  # fmt: skip
                return 0, end, passed
            probe = end_max if end > probe else probe
            key = nearest_of(pool, cursor, count, heap, waiting)
        return count, end, passed

    return best_first


class Scratch:
    """The memory of one walk. A thread must own it exclusively while it walks.

    A walk leaves the visited marks clear, so a Scratch can be used for graphs of any size
    in turn. It takes n/8 bytes, 4 bytes per visited node, 8 bytes per candidate of ef, and with
    deleted nodes 8 bytes for up to a quarter of all nodes, as many as the walk meets.
    """

    def __init__(self) -> None:
        self.visited: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.seen: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self.pool: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self.reserved: tuple[int, int, int, bool] | None = None
        """The last arguments of ``reserve``."""

    def reserve(self, n: int, ef: int, slots: int, has_deleted: bool) -> Scratch:
        """Grow for a graph of n nodes with lists of ``slots`` neighbours and for ef, which must be
        at least k. Return self."""
        if self.seen.size <= n:
            self.visited = np.zeros((n + 63) // 64, np.uint64)
            self.seen = np.empty(n + 1, np.int32)
        entries = min(ef, n) + LISTS * slots + 1
        if has_deleted:
            entries += (n >> 2) + DELETED_MIN
        if self.pool.size < entries:
            self.pool = np.empty(entries, np.uint64)
        self.reserved = n, ef, slots, has_deleted
        return self
