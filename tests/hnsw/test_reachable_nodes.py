"""Which nodes of a graph a search can reach, and links for those that it can't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.checking import (
    vectors_of,
)
from vecdb.engine.hnsw.builder import Builder
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.graph_checks import graph_faults
from vecdb.engine.hnsw.reachability import connect, reachable_nodes


def small_graph() -> Graph:
    """0 → 1 → 2 → 3, and node 4 on level 1, from which 5 is reached on level 0."""
    links = np.full((6, 4), -1, np.int32)
    for node, neighbour in ((0, 1), (1, 2), (2, 3), (4, 5)):
        links[node, 0] = neighbour
    offsets = np.array([0, 1, 1, 1, 1, 2, 2], np.int32)
    upper = np.array([[4, -1], [0, -1]], np.int32)
    return Graph(links, offsets, upper, 0, 1)


def test_reachable_nodes_are_those_that_a_search_can_reach() -> None:
    graph = small_graph()
    assert graph_faults(graph, 2) == []
    assert reachable_nodes(graph).all()
    graph.upper_links[0, 0] = -1
    assert reachable_nodes(graph).tolist() == [True] * 4 + [False] * 2
    # Like a walk, it reads a list up to the first number that is not a node.
    graph.links[1] = (-1, 2, -1, -1)
    assert reachable_nodes(graph).tolist() == [True] * 2 + [False] * 4
    (fault,) = graph_faults(graph, 2)
    assert fault == "1 nodes have neighbours on level 0 outside of 0 to 5"
    graph.upper_links[1, 0] = 3
    assert graph_faults(graph, 2)[-1] == (
        "1 neighbours do not reach the level of the list they are in"
    )


def test_unreachable_nodes_are_linked() -> None:
    graph = small_graph()
    graph.links[4, 0] = -1
    graph.links[5, 0] = 2
    assert np.flatnonzero(~reachable_nodes(graph)).tolist() == [5]
    assert connect(graph) == 0
    assert graph.links[2].tolist() == [3, 5, -1, -1] and reachable_nodes(graph).all()
    # Its only neighbour has no free link, but the neighbour's neighbour has.
    graph.links[2] = (3, 0, 1, 1)
    assert connect(graph) == 0
    assert 5 in graph.links[[0, 1, 3]] and reachable_nodes(graph).all()


def test_sparse_graph_is_reachable_as_built(tmp_path: Path) -> None:
    """hnswlib drops some nodes from all lists; the builder links them again."""
    builder = Builder("l2", 16, 4, 4, 2_000, threads=1)
    builder.add(vectors_of(0, 2_000, 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vecdb.engine.hnsw.finishing.connect", lambda *_, **__: 0)
        bare = builder.graph(tmp_path)
    lost = np.count_nonzero(~reachable_nodes(bare))
    graph = builder.graph(tmp_path)
    assert lost > 0 and reachable_nodes(graph).all()
    assert graph_faults(graph, 4) == []
    assert np.count_nonzero(bare.links != graph.links) <= lost, "a link each at most"
