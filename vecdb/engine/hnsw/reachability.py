"""Find the nodes of a graph that no search can reach, and add links to them.

A search descends the upper levels and then walks level 0. Which nodes it visits above level 0
depends on the query, so every node that some query could visit there counts as a start of the walk.
A node that cannot be reached from any of these starts is in no result unless its segment is
scanned. Like the kernels, this module reads a list of neighbours only up to its first invalid
number.

hnswlib leaves such nodes: when a full list drops a neighbour, that neighbour may be in no other
list. This is rare at M = 16 and common at M = 4. An unreachable node still has its own neighbours,
and most of their lists have room, so ``connect`` adds a link there. If no list has room, it can
replace a link that no node depends on. Every reached node depends on the one link over which it was
first reached. A list has 2M places and each node depends on one link, so with M >= 2 some list
always has a link to spare, and every node can be linked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph

__all__ = ["connect", "distances_of", "reachable_nodes", "unreached_starts"]

_SLICE_NODES = 50_000
"""Lists of neighbours handled at a time, a few megabytes."""

_HOSTS_MAX: Final = 2_000
"""Nodes visited along a node's links to find one to link it from; after that, distances decide."""

_COMPARED_MAX: Final = 10_000
"""Nodes in the sample whose distances are compared first."""

Nodes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Distances = Callable[[int, Nodes], npt.NDArray[np.float64]]
"""Function of a node and other nodes, int64 (m,), to their distances, float64 (m,). Only the order
of the distances matters."""


def reachable_nodes(graph: Graph) -> Mask:
    """Return which nodes a search may reach, bool (n,). The shapes of the arrays must be valid."""
    n = len(graph.links)
    seen = np.zeros(n, bool)
    if n:
        _walk(graph.links, _starts(graph), seen)
    return seen


def _starts(graph: Graph) -> Nodes:
    """Return the nodes at which a walk of level 0 may begin."""
    starts = np.array([graph.entry], np.int64)
    for level in range(graph.top_level, 0, -1):
        starts = _closure_above(graph, level, starts)
    return starts


def unreached_starts(links: npt.NDArray[np.int32], starts: Nodes, count_max: int) -> Nodes | None:
    """Return nodes from which, with ``starts``, a walk of level 0 reaches all nodes.

    Returns:
        int64 (m,), empty if ``starts`` are enough; None if it takes more than ``count_max``.
    """
    seen = np.zeros(len(links), bool)
    _walk(links, starts, seen)
    more: list[int] = []
    for node in np.flatnonzero(~seen).tolist():
        if not seen[node]:
            if len(more) == count_max:
                return None
            more.append(node)
            _walk(links, np.array([node], np.int64), seen)
    return np.array(more, np.int64)


def connect(
    graph: Graph,
    passes_max: int | None = None,
    check: Callable[[], None] = lambda: None,
    *,
    distances: Distances | None = None,
) -> int:
    """Link unreachable nodes, in place, from neighbours (or their neighbours) that have room.

    Returns:
        The number of nodes that are still unreachable.

    Args:
        graph: changed in place.
        passes_max: bound for graphs of unknown origin, which may need one pass for each node.
        check: called for each unreachable node; may raise to end the work.
        distances: if given, the nodes still unreachable replace the longest nearby links that no
            node depends on, and none is left. Without it no link is replaced.
    """
    seen = reachable_nodes(graph)
    lost, passes = np.flatnonzero(~seen), 0
    while len(lost) and passes != passes_max:
        passes += 1
        for node in lost.tolist():
            check()
            if not seen[node] and _connect(graph.links, node, seen):
                _walk(graph.links, np.array([node]), seen)
        # The neighbours of the remaining nodes may have become reachable in this pass.
        before, lost = len(lost), np.flatnonzero(~seen)
        if len(lost) == before:
            break
    if len(lost) and distances is not None:
        _Replacing(graph, distances).connect(lost, check)
        return 0
    return len(lost)


def distances_of(
    row: npt.NDArray[np.float32], rows: npt.NDArray[np.float32], *, euclidean: bool
) -> npt.NDArray[np.float64]:
    """Return the scores of rows, float64 (n,), smaller for rows nearer to ``row``.

    row: float32 (width,). rows: float32 (n, width). Double precision avoids infinite scores.
    """
    wide = rows.astype(np.float64)
    if euclidean:
        return np.asarray(np.square(wide - row).sum(axis=1))
    return np.asarray(-(wide @ row))


class _Replacing:
    """Links unreachable nodes, if necessary in place of links that no node depends on.

    Attributes:
        parent: int64 (n,), for each node the one over whose link it was first reached; itself if a
            walk may begin there, -1 if it was not reached. These links are never replaced.
    """

    def __init__(self, graph: Graph, distances: Distances) -> None:
        self._links, self._distances = graph.links, distances
        starts = _starts(graph)
        self._seen = np.zeros(len(graph.links), bool)
        self.parent = np.full(len(graph.links), -1, np.int64)
        self.parent[starts] = starts
        _walk(self._links, starts, self._seen, self.parent)

    def connect(self, lost: Nodes, check: Callable[[], None]) -> None:
        """Link the unreachable nodes ``lost``; ``check`` is called for each and may raise."""
        for node in lost.tolist():
            check()
            if not self._seen[node]:
                host = self._host_of(node)
                self._links[host, self._place_in(host)] = node
                self.parent[node] = host
                _walk(self._links, np.array([node]), self._seen, self.parent)

    def _host_of(self, node: int) -> int:
        """Return a reached node with a free or replaceable link for an unreachable ``node``: one
        close by along its links, else the nearest of all."""
        around = np.array([node])
        known = {node}
        while len(around) and len(known) < _HOSTS_MAX:
            found = [n for n in dict.fromkeys(_of(self._links[around]).tolist()) if n not in known]
            around = np.array([n for n in found if n < len(self._seen)], np.int64)
            known.update(found)
            for host in around[self._seen[around]].tolist():
                if len(self._places(host)):
                    return int(host)
        reached = np.flatnonzero(self._seen)
        stride = -(-len(reached) // _COMPARED_MAX)
        # Try a sample first: it contains near nodes too, and nearly always one with a place.
        for some in (reached[node % stride :: stride], reached):
            nearest = some[np.argsort(self._distances(node, some), kind="stable")]
            for host in nearest.tolist():
                if len(self._places(host)):
                    return int(host)
        raise AssertionError("no list has a free or replaceable link, which M >= 2 rules out")

    def _places(self, host: int) -> Nodes:
        """Return the first free place of a list, else the places of links that can be replaced."""
        used = self._used(host)
        if used < self._links.shape[1]:
            return np.array([used])
        return np.flatnonzero(self.parent[self._links[host]] != host)

    def _used(self, host: int) -> int:
        usable = (self._links[host] >= 0) & (self._links[host] < len(self._seen))
        return int(np.count_nonzero(np.logical_and.accumulate(usable)))

    def _place_in(self, host: int) -> int:
        places = self._places(host)
        if len(places) == 1:
            return int(places[0])
        lengths = self._distances(host, self._links[host][places].astype(np.int64))
        return int(places[np.argmax(lengths)])


def _connect(links: npt.NDArray[np.int32], node: int, seen: Mask) -> bool:
    """Add a link to ``node`` from a reached neighbour, or a neighbour's neighbour, with room.

    Returns:
        False if none of them has room.
    """
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
    """Return the nodes in lists, int64, without the padding."""
    return lists[lists >= 0].astype(np.int64)


def _walk(
    links: npt.NDArray[np.int32], starts: Nodes, seen: Mask, parent: Nodes | None = None
) -> None:
    """Mark the nodes reachable on level 0 from ``starts``, these included, and set their parents.

    Nodes already marked in ``seen`` are not walked again. Updates ``seen`` and ``parent`` in place.
    """
    seen[starts] = True
    frontier = starts
    while len(frontier):
        slices = (frontier[at : at + _SLICE_NODES] for at in range(0, len(frontier), _SLICE_NODES))
        parts = [_unseen(links[some], seen, some, parent) for some in slices]
        frontier = np.concatenate(parts)


def _closure_above(graph: Graph, level: int, starts: Nodes) -> Nodes:
    """Return all nodes reachable over links of one upper level from ``starts``, these included."""
    n, offsets = len(graph.links), graph.upper_offsets
    seen = np.zeros(n, bool)
    seen[starts] = True
    frontier = starts
    while len(frontier):
        at = offsets[frontier].astype(np.int64) + level - 1
        at = at[at < offsets[frontier + 1]]
        frontier = _unseen(graph.upper_links[at], seen)
    return np.flatnonzero(seen)


def _unseen(
    lists: npt.NDArray[np.int32],
    seen: Mask,
    owners: Nodes | None = None,
    parent: Nodes | None = None,
) -> Nodes:
    """Return the neighbours in these lists that are not marked yet, each once, and mark them."""
    usable = np.logical_and.accumulate((lists >= 0) & (lists < len(seen)), axis=1)
    found = lists[usable]
    unseen = ~seen[found]
    new, at = np.unique(found[unseen].astype(np.int64), return_index=True)
    seen[new] = True
    if parent is not None and owners is not None:
        parent[new] = np.repeat(owners, usable.sum(axis=1))[unseen][at]
    return new
