"""The walk of level 0, whatever its nodes are scored by.

``make_best_first`` returns the walk for a way of scoring: float32 rows (``walk.py``) or sketches
(``sketch_walk.py``). It is Malkov & Yashunin 2018, algorithm 2, with two rules for its end, of
which the first that holds ends it:

    ef      ef live candidates are nearer than the nearest one that is not expanded
    gamma   that one is farther than gamma times the k-th nearest live candidate, in squared
            distances (Al-Jazzazi et al. 2025, arXiv 2505.15636)

A walk with gamma goes on for as long as its query needs: a query whose neighbours are all equally
far visits more nodes than one with near neighbours, for the same recall.
"""
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vecdb.engine.kernels.compiled import (
    _NO_BOUND,
    _inlined,
    add_waiting,
    gather,
    is_deleted,
    move,
    nearest_of,
    node_of,
    pack,
    position_of,
    prefetch_row,
    remove_nearest,
    score_of,
)

NO_GAMMA = np.float32(1e30)
_LAST_NODE = np.int64(0x7FFF_FFFF)


def make_best_first(
    score_node: Callable[..., Any], prefetch_node: Callable[..., Any], ahead: int
) -> Callable[..., Any]:
    """Return the walk as an inlined function.

    Args:
        score_node: compiled (data, node) -> float32, the score of a node.
        prefetch_node: compiled (data, node), asks for the memory that ``score_node`` reads.
        ahead: nodes whose memory is asked for before they are scored.
    """

    @_inlined
    def best_first(
        data, n, links, dead, node, score, k, ef, gamma, shift, deleted_max, visited, seen, pool
    ):  # fmt: skip
        """Expand the nearest candidate, beginning with node, until a rule ends the walk.

        pool[: ef + 1] holds the nearest live candidates, ascending. Deleted candidates are in a
        heap behind them until they are expanded, so that they never displace a live one.

        Args:
            data: of ``score_node``.
            shift: what makes a score a squared distance when added.

        Return the number of live candidates in the pool, of visited nodes, and of expanded deleted
        candidates. After deleted_max deleted candidates give up with 0 live ones.
        """
        has_deleted, heap = dead.shape[0] > 0, ef + 1
        visited[node >> 6] |= np.uint64(1) << np.uint64(node & 63)
        seen[0], end = node, 1
        key = pack(score, node)
        count = 0 if has_deleted and is_deleted(dead, node) else 1
        pool[heap if count == 0 else 0] = key
        waiting = deleted = 1 - count
        cursor = passed = 0
        near = _NO_BOUND
        bound = _NO_BOUND if count < ef else key
        while key <= bound and key != _NO_BOUND:
            node = node_of(key)
            if cursor < count and key == pool[cursor]:
                pool[cursor] = key | np.uint64(1)
            else:
                remove_nearest(pool, heap, waiting)
                waiting, passed = waiting - 1, passed + 1
            while cursor < count and pool[cursor] & np.uint64(1):
                cursor += 1
            key = nearest_of(pool, cursor, count, heap, waiting)
            if key != _NO_BOUND:
                prefetch_row(links, node_of(key), 8)
            unscored = end
            end = gather(links, node, n, visited, seen, end)
            for i in range(unscored, min(unscored + ahead, end)):
                prefetch_node(data, np.int64(seen[i]))
            for i in range(unscored, end):
                if i + ahead < end:
                    prefetch_node(data, np.int64(seen[i + ahead]))
                node = np.int64(seen[i])
                key = pack(score_node(data, node), node)
                if key >= bound:
                    continue
                if has_deleted and is_deleted(dead, node):
                    add_waiting(pool, heap, waiting, key)
                    waiting, deleted = waiting + 1, deleted + 1
                    continue
                place = position_of(pool, count, key)
                move(pool, place + 1, place, count - place)
                pool[place] = key
                cursor = min(cursor, place)
                count = min(count + 1, ef)
                if place < k and count >= k and gamma < NO_GAMMA:
                    near = pack(gamma * (score_of(pool[k - 1]) + shift) - shift, _LAST_NODE)
                bound = min(near, pool[count - 1]) if count >= ef else near
            if deleted > deleted_max:
                return 0, end, passed
            key = nearest_of(pool, cursor, count, heap, waiting)
        return count, end, passed

    return best_first
