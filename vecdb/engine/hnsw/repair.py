"""Repair: remove the deleted nodes of a graph and link their neighbours to each other.

A snapshot walks through deleted nodes without returning them, but an index of FAISS or hnswlib that
is exported has no such delete bitmap. So a repair keeps only the live nodes, in their order,
and renumbers them. In each list of neighbours a deleted node is replaced by its own live neighbours
on the same level, closest first, as far as there is room. Nodes that cannot be reached after that
get a link (``reachability``).

A repair computes a few distances per link, far less than a build. A new build is needed instead

- if more than a quarter of the nodes is deleted (``REPAIRED_FRACTION_MAX``): too much of the graph
  would consist of replaced links;
- if the deleted nodes connected the graph, so that too many live nodes would be unreachable
  (``LOST_FRACTION_MAX``): ``repaired`` returns None;
- if a whole region was deleted: no live neighbours are left to link across it, and recall around it
  would be lower than after a build. ``deleted_together`` detects this beforehand.
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
"""Largest fraction of deleted nodes at which a graph is repaired."""

LOST_FRACTION_MAX: Final = 0.001
"""Largest fraction of live nodes that a repair may make unreachable."""

_SURROUNDED_FRACTION_MAX: Final = 1 / 16
"""Largest fraction of nodes that are deleted and surrounded by deleted ones, at which a graph is
repaired: below it recall equals that of a build, at one sixth it does not."""

_LOST_IN_ALL_MAX: Final = 0.01
"""Largest fraction of live nodes that may be unreachable after a repair, in total."""

_BLOCK_NODES = 8_192
_CONNECT_PASSES_MAX = 8
_ATTACHED_MAX = 100
"""Most unreachable nodes that are linked after an exact scan each."""

_NEAR = 4
"""Nearest nodes in which ``_attach`` looks for one with room, as a multiple of a list's length."""


def live_nodes(count: int, delete_bitmap: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the nodes that are not deleted, int64, ascending.

    delete_bitmap: uint8, bit i & 7 of byte i >> 3; empty if no node is deleted.
    """
    if len(delete_bitmap) == 0:
        return np.arange(count)
    return np.flatnonzero(np.unpackbits(delete_bitmap, count=count, bitorder="little") == 0)


def deleted_together(graph: Graph, delete_bitmap: npt.NDArray[np.uint8]) -> bool:
    """Return whether too many deleted nodes are surrounded by deleted ones to repair the graph.

    A node is surrounded if more than half of its neighbours on level 0 are deleted.

    delete_bitmap: uint8, bit i & 7 of byte i >> 3; empty if no node is deleted.
    """
    n = len(graph.links)
    if len(delete_bitmap) == 0:
        return False
    # The last element stands for padding and for invalid numbers.
    is_deleted = np.append(
        np.unpackbits(delete_bitmap, count=n, bitorder="little"), np.uint8(0)
    ).astype(bool)
    nodes, surrounded = np.flatnonzero(is_deleted), 0
    for first in range(0, len(nodes), _BLOCK_NODES):
        lists = graph.links[nodes[first : first + _BLOCK_NODES]]
        known = (lists >= 0) & (lists < n)
        among = is_deleted[np.where(known, lists, n)].sum(axis=1)
        surrounded += int(np.count_nonzero(2 * among > known.sum(axis=1)))
    return surrounded > _SURROUNDED_FRACTION_MAX * n


def repaired(
    graph: Graph,
    vectors: npt.NDArray[np.float32],
    delete_bitmap: npt.NDArray[np.uint8],
    metric: Metric,
    check: Callable[[], None] = lambda: None,
) -> Graph | None:
    """Return the graph of the live nodes, renumbered in their order.

    Args:
        vectors: float32 (n, width), of all nodes.
        delete_bitmap: uint8, bit i & 7 of byte i >> 3; empty if no node is deleted.
        metric: of the collection.
        check: called every few milliseconds; may raise to end the repair.

    Returns:
        None if a graph must be built instead, since too many live nodes could not be reached: more
        than ``LOST_FRACTION_MAX`` beyond those unreachable in ``graph``, or 1 % in all.
    """
    live = live_nodes(len(graph.links), delete_bitmap)
    if len(live) == len(graph.links):
        return graph
    M = graph.upper_links.shape[1]
    if len(live) == 0:
        empty = np.empty((0, 2 * M), np.int32), np.zeros(1, np.int32), np.empty((0, M), np.int32)
        return Graph(*empty, -1, -1)
    repairer = _Repairer(vectors, delete_bitmap, live, metric, check)
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
    """Return whether the repair has made too many nodes unreachable."""
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
    """Link unreachable nodes, whose neighbours were all deleted, from the nearest nodes with room.

    The nearest nodes are found by an exact scan, so at most ``_ATTACHED_MAX`` nodes are linked.
    """
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
    """Repairs the lists of all levels of one graph.

    Attributes:
        number: int32 (n + 1,), new number of each node, -1 for deleted ones; the last element
            stands for the padding.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.float32],
        delete_bitmap: npt.NDArray[np.uint8],
        live: npt.NDArray[np.int64],
        metric: Metric,
        check: Callable[[], None],
    ) -> None:
        self._vectors, self._delete_bitmap, self._check = vectors, delete_bitmap, check
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
        """Return the repaired lists of the nodes ``owners`` on one level, in new numbers.

        places: see ``relink_lists``.
        """
        relinked_lists = np.empty((len(owners), lists.shape[1]), np.int32)
        for first in range(0, len(owners), _BLOCK_NODES):
            self._check()
            out = relinked_lists[first : first + _BLOCK_NODES]
            some = owners[first : first + _BLOCK_NODES]
            self._relink(self._vectors, lists, places, some, self._delete_bitmap, self._metric, out)
            out[:] = self.number[out]
        return relinked_lists
