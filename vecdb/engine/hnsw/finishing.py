"""What both builders do with a whole graph, before it is extended and when it is built.

finish              add the duplicates, and links to unreachable nodes
check_extendable    check the arrays of a graph to extend
without_duplicates  the graph of the first of equal rows
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.build_rows import BuildRows
from vecdb.engine.hnsw.build_space import Space, chain_duplicates, fill_lists, scatter
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.reachability import connect, distances_of
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["check_extendable", "empty_graph", "finish", "without_duplicates"]

_PASSES_MAX: Final = 8


def empty_graph(M: int) -> Graph:
    """Return the graph of no rows."""
    nothing = np.empty((0, 2 * M), np.int32)
    return Graph(nothing, np.zeros(1, np.int32), np.empty((0, M), np.int32), -1, -1)


def finish(
    graph: Graph,
    rows: BuildRows,
    space: Space,
    *,
    seed: int,
    by_angle: Callable[[], npt.NDArray[np.int32]] | None,
) -> Graph:
    """Return the graph with duplicates and with links to all nodes; changes its arrays.

    Args:
        graph: of the first of equal rows; the lists of the others are empty.
        seed: of random links.
        by_angle: for "dot", returns the links of level 0 by angle; see ``build_space.py``.
    """
    chain_duplicates(graph.links, rows.first_of)
    if by_angle is not None:
        # Connect before filling the lists, while links still follow the inner product.
        connect(graph, _PASSES_MAX)
        fill_lists(graph.links, by_angle())
        scatter(graph.links, rows.firsts_from(0), graph.links.shape[1] // 2, seed)

    def distances(node: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        row = rows.gathered(np.array([node]))[0]
        return distances_of(row, rows.gathered(others), euclidean=space == "l2")

    connect(graph, _PASSES_MAX, distances=distances)
    return graph


def check_extendable(graph: Graph, n: int, M: int) -> None:
    """Check what extending a graph relies on: each neighbour is on the level of the list it is in.

    Raises:
        DataLossError: GRAPH.
    """
    offsets, levels = graph.upper_offsets, np.diff(graph.upper_offsets)
    if (
        graph.links.shape != (n, 2 * M)
        or offsets.shape != (n + 1,)
        or offsets[0] != 0
        or levels.min() < 0
        or graph.upper_links.shape != (offsets[-1], M)
        or not 0 <= graph.entry < n
        or graph.top_level != levels[graph.entry]
        or graph.top_level != levels.max()
        or not -1 <= graph.links.min() <= graph.links.max() < n
    ):
        raise DataLossError(
            f"the graph's arrays do not describe a graph of {n} nodes with M {M}", Reason.GRAPH
        )
    lists = graph.upper_links
    if lists.size == 0:
        return
    owner = np.repeat(np.arange(n), levels)
    level = np.arange(len(lists)) - offsets[owner] + 1
    outside = (lists < -1) | (lists >= n)
    if outside.any() or np.any((lists >= 0) & (levels[lists] < level[:, None])):
        raise DataLossError("a neighbour is missing from the level of its list", Reason.GRAPH)


def without_duplicates(graph: Graph, rows: npt.NDArray[np.int64]) -> Graph:
    """Return the graph of these rows only, renumbered. The other rows must be on level 0 only."""
    n, levels = len(graph.links), np.diff(graph.upper_offsets)
    if np.delete(levels, rows).any() or graph.entry not in rows:
        raise DataLossError("a duplicate row is on an upper level of the graph", Reason.GRAPH)
    number = np.full(n + 1, -1, np.int32)  # The last one is for the padding, -1.
    number[rows] = np.arange(len(rows))

    def renumbered(lists: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        lists = number[lists]
        order = np.argsort(lists < 0, axis=1, kind="stable")
        return np.take_along_axis(lists, order, axis=1)

    offsets = np.concatenate([[0], np.cumsum(levels[rows])]).astype(np.int32)
    return Graph(
        renumbered(graph.links[rows]),
        offsets,
        renumbered(graph.upper_links),
        int(number[graph.entry]),
        graph.top_level,
    )
