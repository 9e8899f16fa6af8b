"""Which nodes of a graph a search can come to, and links to those that it could not.

A search goes down the upper levels and then walks level 0. Which nodes it passes above level 0
depends on the query, so every node that some query could pass counts as a place where the walk may
begin. What can't be reached from all of them together can't be reached at all: such a node is in no
answer, unless its segment is scanned. Like the kernels, this reads a list of neighbours up to its
first number that is none of a node.

hnswlib leaves such nodes behind: when a list of neighbours is full, the ones that are dropped from
it may have been in no other. It is rare at M = 16 and not at M = 4. They know their own neighbours,
though, and most lists have room: ``connect`` adds a link there. Where none has, it may replace one
that nothing depends on: all nodes that are reached keep the link over which they were first
reached, and nodes are more than those links leave room for in no graph with M of 2 or more, since a
list has 2M places and a node takes one. So every node can be given a link.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph

__all__ = ["connect", "distances_of", "reachable_nodes"]

_SLICE_NODES = 50_000
"""Lists of neighbours looked at in one go: a few megabytes each."""

_HOSTS_MAX: Final = 2_000
"""Nodes looked at along a node's links for one to link it from, before all are compared with it."""

_COMPARED_MAX: Final = 10_000
"""Nodes compared with it then, one for each so many of them."""

Nodes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Distances = Callable[[int, Nodes], npt.NDArray[np.float64]]
"""From a node to others; only their order matters."""


def reachable_nodes(graph: Graph) -> Mask:
    """Which nodes a search may come to: bool (n,). The shape of the graph must be right."""
    n = len(graph.links)
    seen = np.zeros(n, bool)
    if n:
        _walk(graph.links, _starts(graph), seen)
    return seen


def _starts(graph: Graph) -> Nodes:
    """Where a walk of level 0 may begin."""
    starts = np.array([graph.entry], np.int64)
    for level in range(graph.top_level, 0, -1):
        starts = _closure_above(graph, level, starts)
    return starts


def connect(
    graph: Graph,
    passes_max: int | None = None,
    check: Callable[[], None] = lambda: None,
    *,
    distances: Distances | None = None,
) -> int:
    """Make nodes reachable that are not, in place, by links from neighbours of theirs (or these
    ones' neighbours) that have room for one; how many are left.

    Args:
        passes_max: of a graph from elsewhere, as one may be made to need a pass for each node.
        check: called for each node that could not be reached, to raise if it is to end.
        distances: if given, what is left takes the place of the longest link near by that no other
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
        # Neighbours of those that are left may have been reached by now.
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
    """Scores of rows for one of them, smaller for nearer ones, in double: none is infinite."""
    wide = rows.astype(np.float64)
    if euclidean:
        return np.asarray(np.square(wide - row).sum(axis=1))
    return np.asarray(-(wide @ row))


class _Replacing:
    """Gives nodes links in the place of others.

    Attributes:
        parent: the node over whose link each was first reached; itself where a walk may begin, and
            -1 if it was not reached. These links are never replaced.
    """

    def __init__(self, graph: Graph, distances: Distances) -> None:
        self._links, self._distances = graph.links, distances
        starts = _starts(graph)
        self._seen = np.zeros(len(graph.links), bool)
        self.parent = np.full(len(graph.links), -1, np.int64)
        self.parent[starts] = starts
        _walk(self._links, starts, self._seen, self.parent)

    def connect(self, lost: Nodes, check: Callable[[], None]) -> None:
        for node in lost.tolist():
            check()
            if not self._seen[node]:
                host = self._host_of(node)
                self._links[host, self._place_in(host)] = node
                self.parent[node] = host
                _walk(self._links, np.array([node]), self._seen, self.parent)

    def _host_of(self, node: int) -> int:
        """A node that is reached and has a place, close by the links of the one that is not, or
        the nearest of all."""
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
        # Of many a part first: it holds near ones too, and hardly ever none that has a place.
        for some in (reached[node % stride :: stride], reached):
            nearest = some[np.argsort(self._distances(node, some), kind="stable")]
            for host in nearest.tolist():
                if len(self._places(host)):
                    return int(host)
        raise AssertionError("more nodes are reached than links lead to")

    def _places(self, host: int) -> Nodes:
        """The first place of a list that is free, or those of links that nothing depends on."""
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


def _walk(
    links: npt.NDArray[np.int32], starts: Nodes, seen: Mask, parent: Nodes | None = None
) -> None:
    """Mark on level 0 what can be reached from nodes, these included, and note from where."""
    seen[starts] = True
    frontier = starts
    while len(frontier):
        slices = (frontier[at : at + _SLICE_NODES] for at in range(0, len(frontier), _SLICE_NODES))
        parts = [_unseen(links[some], seen, some, parent) for some in slices]
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


def _unseen(
    lists: npt.NDArray[np.int32],
    seen: Mask,
    owners: Nodes | None = None,
    parent: Nodes | None = None,
) -> Nodes:
    """Neighbours in these lists that were not seen yet, each once; from now on they are."""
    usable = np.logical_and.accumulate((lists >= 0) & (lists < len(seen)), axis=1)
    found = lists[usable]
    unseen = ~seen[found]
    memtable, at = np.unique(found[unseen].astype(np.int64), return_index=True)
    seen[memtable] = True
    if parent is not None and owners is not None:
        parent[memtable] = np.repeat(owners, usable.sum(axis=1))[unseen][at]
    return memtable
