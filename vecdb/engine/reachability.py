"""Which nodes of a graph a search can come to, and links to those that it could not.

A search goes down the upper levels and then walks level 0. Which nodes it passes above level 0
depends on the query, so every node that some query could pass counts as a place where the walk may
begin. What can't be reached from all of them together can't be reached at all: such a node is in no
answer, unless its segment is scanned. Like the kernels, this reads a list of neighbours up to its
first number that is none of a node.

hnswlib leaves such nodes behind: when a list of neighbours is full, the ones that are dropped from
it may have been in no other. It is rare at M = 16 and not at M = 4. They know their own neighbours,
though, and most lists have room: ``connect`` adds a link there, and takes none away. (At M = 2 and
3 it may find no room; a search is of little use there.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vecdb.engine.graph import Graph

__all__ = ["connect", "reachable_nodes"]

_SLICE_NODES = 50_000
"""Lists of neighbours looked at in one go: a few megabytes each."""

Nodes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def reachable_nodes(graph: Graph) -> Mask:
    """Which nodes a search may come to: bool (n,). The shape of the graph must be right."""
    n = len(graph.links)
    seen = np.zeros(n, bool)
    if n == 0:
        return seen
    starts = np.array([graph.entry], np.int64)
    for level in range(graph.top_level, 0, -1):
        starts = _closure_above(graph, level, starts)
    _walk(graph.links, starts, seen)
    return seen


def connect(
    graph: Graph, passes_max: int | None = None, check: Callable[[], None] = lambda: None
) -> int:
    """Make nodes reachable that are not, in place, by links from neighbours of theirs (or these
    ones' neighbours) that have room for one; how many are left. Nothing else changes.

    Args:
        passes_max: of a graph from elsewhere, as one may be made to need a pass for each node.
        check: called for each node that could not be reached, to raise if it is to end.
    """
    seen = reachable_nodes(graph)
    lost, passes = np.flatnonzero(~seen), 0
    while len(lost) and passes != passes_max:
        passes += 1
        for node in lost.tolist():
            check()
            if not seen[node] and _connect(graph.links, node, seen):
                _walk(graph.links, np.array([node]), seen)
        # Neighbours of those that are left may have been reached by now.
        before, lost = len(lost), np.flatnonzero(~seen)
        if len(lost) == before:
            break
    return len(lost)


def _connect(links: npt.NDArray[np.int32], node: int, seen: Mask) -> bool:
    """Add one link to a node, if there is room for it near by."""
    near = _of(links[node])
    for around in (near, _of(links[near])):
        hosts = around[seen[around]]
        hosts = hosts[links[hosts, -1] < 0]
        if len(hosts):
            host = hosts[0]
            links[host, np.count_nonzero(links[host] >= 0)] = node
            return True
    return False


def _of(lists: npt.NDArray[np.int32]) -> Nodes:
    """The nodes in lists, without the padding."""
    return lists[lists >= 0].astype(np.int64)


def _walk(links: npt.NDArray[np.int32], starts: Nodes, seen: Mask) -> None:
    """Mark on level 0 what can be reached from nodes, these included."""
    seen[starts] = True
    frontier = starts
    while len(frontier):
        parts = [
            _unseen(links[frontier[at : at + _SLICE_NODES]], seen)
            for at in range(0, len(frontier), _SLICE_NODES)
        ]
        frontier = np.concatenate(parts)


def _closure_above(graph: Graph, level: int, starts: Nodes) -> Nodes:
    """All nodes that links of an upper level lead to from ``starts``, these included."""
    n, offsets = len(graph.links), graph.upper_offsets
    seen = np.zeros(n, bool)
    seen[starts] = True
    frontier = starts
    while len(frontier):
        at = offsets[frontier].astype(np.int64) + level - 1
        at = at[at < offsets[frontier + 1]]
        frontier = _unseen(graph.upper_links[at], seen)
    return np.flatnonzero(seen)


def _unseen(lists: npt.NDArray[np.int32], seen: Mask) -> Nodes:
    """Neighbours in these lists that were not seen yet, each once; from now on they are."""
    usable = np.logical_and.accumulate((lists >= 0) & (lists < len(seen)), axis=1)
    found = lists[usable]
    fresh = np.unique(found[~seen[found]]).astype(np.int64)
    seen[fresh] = True
    return fresh
