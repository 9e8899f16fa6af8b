"""Checks the arrays of a graph against each other: what walks and extensions of it rely on.

``reachability.py`` finds out which nodes a walk can reach.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph

__all__ = ["graph_faults", "self_links"]

_SLICE_NODES = 50_000
"""Lists of neighbours per slice: a few megabytes."""


def graph_faults(graph: Graph, M: int) -> list[str]:
    """Return the faults of a graph's arrays, one sentence each.

    Args:
        M: links of a node on the upper levels; twice as many on level 0.
    """
    n, offsets = len(graph.links), graph.upper_offsets
    if n == 0:
        empty = graph.entry == graph.top_level == -1 and len(graph.upper_links) == 0
        return [] if empty else ["it has an entry point or upper levels, but no nodes"]
    if graph.links.shape != (n, 2 * M) or graph.upper_links.shape[1:] != (M,):
        return [
            f"expected {2 * M} and {M} links per node, got {graph.links.shape[1]} and "
            f"{graph.upper_links.shape[-1]}"
        ]
    levels = np.diff(offsets)
    if offsets[0] != 0 or levels.min() < 0 or offsets[-1] != len(graph.upper_links):
        return ["the offsets of the upper levels do not fit its upper links"]
    faults = []
    if not 0 <= graph.entry < n:
        return [f"the entry point is node {graph.entry}, expected 0 to {n - 1}"]
    if not graph.top_level == levels[graph.entry] == levels.max():
        faults.append(
            f"its top level is {graph.top_level}, but its entry point reaches level "
            f"{levels[graph.entry]} and its highest node level {levels.max()}"
        )
    wrong = sum(_wrong_lists(lists, n) for _, lists in _slices(graph.links))
    if wrong:
        faults.append(f"{wrong:,} nodes have neighbours on level 0 outside of 0 to {n - 1:,}")
    wrong, misplaced = _wrong_upper_lists(graph, levels)
    if wrong:
        faults.append(f"{wrong:,} lists of upper levels have neighbours outside of 0 to {n - 1:,}")
    if misplaced:
        faults.append(f"{misplaced:,} neighbours do not reach the level of the list they are in")
    return faults


def self_links(graph: Graph) -> int:
    """Return how many nodes are their own neighbour on level 0; this only wastes a link."""
    total = 0
    for start, lists in _slices(graph.links):
        own = np.arange(start, start + len(lists))[:, None]
        total += int(np.count_nonzero((lists == own).any(axis=1)))
    return total


def _wrong_lists(lists: npt.NDArray[np.int32], n: int) -> int:
    """Return the number of lists with an entry that is neither a node nor padding at the end."""
    node = (lists >= 0) & (lists < n)
    gap = ~node[:, :-1] & node[:, 1:]
    wrong = (~node & (lists != -1)).any(axis=1) | gap.any(axis=1)
    return int(np.count_nonzero(wrong))


def _wrong_upper_lists(graph: Graph, levels: npt.NDArray[np.int32]) -> tuple[int, int]:
    """Return the numbers of wrong upper lists, and of neighbours that don't reach their level."""
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
