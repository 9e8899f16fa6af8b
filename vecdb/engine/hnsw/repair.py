"""A graph without its dead nodes: their neighbours are linked to each other instead.

Neither FAISS nor hnswlib's index can be told of nodes that are walked through and not returned as
our views do. So what is live is taken out, in its order, and renumbered; where a list of neighbours
named a dead node, that one's own live neighbours on the same level take its place, closest first,
as long as there is room. What then can't be reached any more gets a link (``reachability``).

It costs a few distances a link, far less than building. Past a quarter of dead nodes too much of
the graph would be such patches: build anew. And so where what died held the graph together, and
rows would be left that no walk comes to: bounds of both say when. Where a whole region died, no
live neighbours are left to link across it, and recall around it would be below that of a graph
that is built: ``deleted_together`` says so beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.reachability import connect, distances_of, reachable_nodes
from vecdb.engine.kernels.loading import load_kernels
from vecdb.types import Metric

__all__ = [
    "LOST_FRACTION_MAX",
    "REPAIRED_FRACTION_MAX",
    "deleted_together",
    "live_nodes",
    "repaired",
]

REPAIRED_FRACTION_MAX: Final = 0.25
"""Dead nodes as a fraction of all up to which a graph is healed."""

LOST_FRACTION_MAX: Final = 0.001
"""Nodes that healing may leave out of reach which were within it, as a fraction of those that
live."""

_BURIED_FRACTION_MAX: Final = 1 / 16
"""Dead nodes among dead neighbours, as a fraction of all nodes, up to which a graph is healed: with
fewer of them recall stays that of a build, with a sixth it does not."""

_LOST_IN_ALL_MAX: Final = 0.01
_BLOCK_NODES = 8_192
_CONNECT_PASSES_MAX = 8
_ATTACHED_MAX = 100
_NEAR = 4
"""Lists' lengths of near nodes that are looked at for one with room."""


def live_nodes(count: int, dead: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Nodes that are not dead, int64, ascending. dead: bitmap of ``SegmentSnapshot``."""
    if len(dead) == 0:
        return np.arange(count)
    return np.flatnonzero(np.unpackbits(dead, count=count, bitorder="little") == 0)


def deleted_together(graph: Graph, dead: npt.NDArray[np.uint8]) -> bool:
    """Whether too many dead nodes lie among dead ones, more than half of their neighbours on level
    0, for the graph to be healed. dead: bitmap."""
    n = len(graph.links)
    if len(dead) == 0:
        return False
    # The last one stands for the padding, and for what is no node.
    is_deleted = np.append(np.unpackbits(dead, count=n, bitorder="little"), np.uint8(0)).astype(
        bool
    )
    nodes, buried = np.flatnonzero(is_deleted), 0
    for first in range(0, len(nodes), _BLOCK_NODES):
        lists = graph.links[nodes[first : first + _BLOCK_NODES]]
        known = (lists >= 0) & (lists < n)
        among = is_deleted[np.where(known, lists, n)].sum(axis=1)
        buried += int(np.count_nonzero(2 * among > known.sum(axis=1)))
    return buried > _BURIED_FRACTION_MAX * n


def repaired(
    graph: Graph,
    vectors: npt.NDArray[np.float32],
    dead: npt.NDArray[np.uint8],
    metric: Metric,
    check: Callable[[], None] = lambda: None,
) -> Graph | None:
    """The graph of the nodes that are not dead, numbered in their order; None if too many of them
    could no longer be reached, and a graph is to be built instead: more than ``LOST_FRACTION_MAX``
    beyond those that can't be reached in ``graph``, or a hundredth in all.

    Args:
        vectors: float32 (n, width), of all nodes.
        dead: bitmap, bit i & 7 of byte i >> 3; empty if there are none.
        check: called between pieces of a few milliseconds, to raise if it is to end.
    """
    live = live_nodes(len(graph.links), dead)
    if len(live) == len(graph.links):
        return graph
    M = graph.upper_links.shape[1]
    if len(live) == 0:
        empty = np.empty((0, 2 * M), np.int32), np.zeros(1, np.int32), np.empty((0, M), np.int32)
        return Graph(*empty, -1, -1)
    repairer = _Repairer(vectors, dead, live, metric, check)
    levels = np.diff(graph.upper_offsets)
    offsets = np.zeros(len(live) + 1, np.int32)
    np.cumsum(levels[live], out=offsets[1:])
    links = repairer.lists(graph.links, np.arange(len(graph.links)), live)
    upper = np.empty((int(offsets[-1]), M), np.int32)
    top_level = int(levels[live].max())
    for level in range(1, top_level + 1):
        places = np.where(levels >= level, graph.upper_offsets[:-1] + level - 1, -1)
        inside = np.flatnonzero(levels[live] >= level)
        upper[offsets[inside] + level - 1] = repairer.lists(
            graph.upper_links, places.astype(np.int64), live[inside]
        )
    entry = int(repairer.number[graph.entry])
    if entry < 0 or levels[graph.entry] < top_level:
        entry = int(np.argmax(levels[live]))
    result = Graph(links, offsets, upper, entry, top_level)
    if connect(result, _CONNECT_PASSES_MAX, check):
        _attach(result, vectors, live, metric, check)
        if _is_disconnected(graph, live, result):
            return None

        def distances(node: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
            rows = vectors[live[others]]
            euclidean = metric is Metric.EUCLIDEAN
            return distances_of(vectors[live[node]], rows, euclidean=euclidean)

        connect(result, _CONNECT_PASSES_MAX, check, distances=distances)
    return result


def _is_disconnected(graph: Graph, live: npt.NDArray[np.int64], result: Graph) -> bool:
    """Whether healing has lost more nodes than it may."""
    lost = int(np.count_nonzero(~reachable_nodes(result)))
    if lost <= LOST_FRACTION_MAX * len(live):
        return False
    before = int(np.count_nonzero(~reachable_nodes(graph)[live]))
    return lost > before + LOST_FRACTION_MAX * len(live) or lost > _LOST_IN_ALL_MAX * len(live)


def _attach(
    graph: Graph,
    vectors: npt.NDArray[np.float32],
    live: npt.NDArray[np.int64],
    metric: Metric,
    check: Callable[[], None],
) -> None:
    """Link nodes in that have lost all around them, with the nearest ones by an exact scan, as far
    as these have room."""
    seen = reachable_nodes(graph)
    for node in np.flatnonzero(~seen)[:_ATTACHED_MAX].tolist():
        check()
        scores = np.empty(len(live), np.float32)
        query = vectors[live[node]]
        for first in range(0, len(live), _BLOCK_NODES):
            rows = vectors[live[first : first + _BLOCK_NODES]]
            if metric is Metric.EUCLIDEAN:
                scores[first : first + len(rows)] = np.square(rows - query).sum(axis=1)
            else:
                scores[first : first + len(rows)] = -(rows @ query)
        scores[~seen] = np.inf
        near = np.argsort(scores, kind="stable")[: _NEAR * graph.links.shape[1]]
        near = near[seen[near]]
        if graph.links[node, 0] < 0:
            some = near[: graph.upper_links.shape[1]]
            graph.links[node, : len(some)] = some
        roomy = near[graph.links[near, -1] < 0]
        if len(roomy):
            host = roomy[0]
            graph.links[host, np.count_nonzero(graph.links[host] >= 0)] = node
            seen[node] = True


class _Repairer:
    """What the levels of a graph have in common.

    Attributes:
        number: int32 (n + 1,), new numbers of the nodes, -1 for those that are dead; the last one
            stands for the padding.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.float32],
        dead: npt.NDArray[np.uint8],
        live: npt.NDArray[np.int64],
        metric: Metric,
        check: Callable[[], None],
    ) -> None:
        self._vectors, self._dead, self._check = vectors, dead, check
        kernels = load_kernels()
        self._relink = kernels.relink_lists
        self._metric = kernels.EUCLIDEAN if metric is Metric.EUCLIDEAN else kernels.INNER
        self.number = np.full(len(vectors) + 1, -1, np.int32)
        self.number[live] = np.arange(len(live), dtype=np.int32)

    def lists(
        self,
        lists: npt.NDArray[np.int32],
        places: npt.NDArray[np.int64],
        owners: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int32]:
        """The lists of some nodes on one level, in new numbers. places: see ``relink_lists``."""
        relinked_lists = np.empty((len(owners), lists.shape[1]), np.int32)
        for first in range(0, len(owners), _BLOCK_NODES):
            self._check()
            out = relinked_lists[first : first + _BLOCK_NODES]
            some = owners[first : first + _BLOCK_NODES]
            self._relink(self._vectors, lists, places, some, self._dead, self._metric, out)
            out[:] = self.number[out]
        return relinked_lists
