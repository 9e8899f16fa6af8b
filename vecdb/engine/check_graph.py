"""Checking a graph: that its arrays fit each other, and that a search can come to every node.

A search goes down the upper levels and then walks level 0. Which nodes it passes above level 0
depends on the query, so every node that some query could pass counts as a place where the walk may
begin. What can't be reached from all of them together can't be reached at all: such a node is in no
answer, unless its segment is scanned. Like the kernels, this reads a list of neighbours up to its
first number that is none of a node.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vecdb.engine.graph import Graph

__all__ = ["graph_faults", "reachable_nodes", "self_links"]

_SLICE_NODES = 50_000
"""Lists of neighbours looked at in one go: a few megabytes each."""

Nodes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def graph_faults(graph: Graph, M: int) -> list[str]:
    """What is wrong with the shape of a graph, a sentence each; empty if nothing is.

    M: links a node on the upper levels, twice as many on level 0.
    """
    n, offsets = len(graph.links), graph.upper_offsets
    if n == 0:
        empty = graph.entry == graph.top_level == -1 and len(graph.upper_links) == 0
        return [] if empty else ["it has no nodes, and yet an entry point or upper levels"]
    if graph.links.shape != (n, 2 * M) or graph.upper_links.shape[1:] != (M,):
        return [
            f"expected {2 * M} and {M} links a node, got {graph.links.shape[1]} and "
            f"{graph.upper_links.shape[-1]}"
        ]
    levels = np.diff(offsets)
    if offsets[0] != 0 or levels.min() < 0 or offsets[-1] != len(graph.upper_links):
        return ["the offsets of the upper levels are not those of its upper links"]
    faults = []
    if not 0 <= graph.entry < n:
        return [f"the entry point is node {graph.entry}, of {n} nodes"]
    if not graph.top_level == levels[graph.entry] == levels.max():
        faults.append(
            f"its top level is said to be {graph.top_level}, that of its entry point is "
            f"{levels[graph.entry]} and the highest {levels.max()}"
        )
    wrong = sum(_wrong_lists(lists, n) for _, lists in _slices(graph.links))
    if wrong:
        faults.append(f"{wrong:,} nodes have neighbours on level 0 that are no nodes of {n:,}")
    wrong, misplaced = _wrong_upper_lists(graph, levels)
    if wrong:
        faults.append(f"{wrong:,} lists of upper levels have neighbours that are no nodes")
    if misplaced:
        faults.append(f"{misplaced:,} neighbours are not on the level on which they are named")
    return faults


def self_links(graph: Graph) -> int:
    """How many nodes have themselves for a neighbour on level 0: a slot wasted, no more."""
    total = 0
    for start, lists in _slices(graph.links):
        own = np.arange(start, start + len(lists))[:, None]
        total += int(np.count_nonzero((lists == own).any(axis=1)))
    return total


def reachable_nodes(graph: Graph) -> Mask:
    """Which nodes a search may come to: bool (n,). The shape of the graph must be right."""
    n = len(graph.links)
    seen = np.zeros(n, bool)
    if n == 0:
        return seen
    starts = np.array([graph.entry], np.int64)
    for level in range(graph.top_level, 0, -1):
        starts = _closure_above(graph, level, starts)
    seen[starts] = True
    frontier = starts
    while len(frontier):
        parts = [
            _unseen(graph.links[frontier[at : at + _SLICE_NODES]], seen)
            for at in range(0, len(frontier), _SLICE_NODES)
        ]
        frontier = np.concatenate(parts)
    return seen


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


def _wrong_lists(lists: npt.NDArray[np.int32], n: int) -> int:
    """Lists with a number that is neither a node nor the padding at the end."""
    node = (lists >= 0) & (lists < n)
    gap = ~node[:, :-1] & node[:, 1:]
    wrong = (~node & (lists != -1)).any(axis=1) | gap.any(axis=1)
    return int(np.count_nonzero(wrong))


def _wrong_upper_lists(graph: Graph, levels: npt.NDArray[np.int32]) -> tuple[int, int]:
    """Upper lists with numbers that are no nodes, and neighbours that do not reach so high."""
    n = len(graph.links)
    owners = np.repeat(np.arange(n), levels)
    wrong = misplaced = 0
    for start, lists in _slices(graph.upper_links):
        owner = owners[start : start + len(lists)]
        level = np.arange(start, start + len(lists)) - graph.upper_offsets[owner] + 1
        wrong += _wrong_lists(lists, n)
        node = (lists >= 0) & (lists < n)
        too_low = levels[np.where(node, lists, 0)] < level[:, None]
        misplaced += int(np.count_nonzero(node & too_low))
    return wrong, misplaced


def _slices(
    lists: npt.NDArray[np.int32],
) -> Iterator[tuple[int, npt.NDArray[np.int32]]]:
    for start in range(0, len(lists), _SLICE_NODES):
        yield start, lists[start : start + _SLICE_NODES]
