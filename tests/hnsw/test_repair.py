"""Repair after deletions: recall equals that of a new build, and all nodes are reachable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hnsw.test_hnsw import built, check_layout, clustered, metric_of, prepared, recall
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.reachability import reachable_nodes
from vecdb.engine.hnsw.repair import LOST_FRACTION_MAX, deleted_together, live_nodes, repaired
from vecdb.types import Metric

SPACES = {Metric.EUCLIDEAN: "l2", Metric.DOT: "ip"}


def bitmap(n: int, deleted: Any) -> Any:
    bits = np.zeros(n, np.uint8)
    bits[deleted] = 1
    return np.packbits(bits, bitorder="little")


@pytest.mark.parametrize(("metric", "M"), [(Metric.EUCLIDEAN, 8), (Metric.DOT, 16)])
def test_recall_after_a_repair_equals_that_of_a_new_build(
    metric: Metric, M: int, tmp_path: Path
) -> None:
    n, space = 3_000, SPACES[metric]
    raw = clustered(n + 200, 32, seed=1)
    rows, queries = prepared(raw[:n], space), prepared(raw[n:], space)
    graph = built(space, rows, tmp_path, M=M)
    for fraction in (0.02, 0.1, 0.25):
        deleted = np.random.default_rng(2).choice(n, int(fraction * n), replace=False)
        live = live_nodes(n, bitmap(n, deleted))
        after = repaired(graph, rows, bitmap(n, deleted), metric)
        check_layout(after, len(live), M)
        assert reachable_nodes(after).all()
        afresh = built(space, rows[live], tmp_path, M=M)
        found = recall(after, rows[live], queries, metric_of(space), ef=64)
        assert found >= recall(afresh, rows[live], queries, metric_of(space), ef=64) - 0.01
        untouched = ~np.isin(graph.links[live], deleted).any(axis=1)
        number = np.full(n + 1, -1)
        number[live] = np.arange(len(live))
        # Except for links added at the end to make other nodes reachable.
        same = after.links[untouched] == number[graph.links[live][untouched]]
        assert (same | (number[graph.links[live][untouched]] < 0)).all()


@pytest.mark.parametrize(("metric", "M"), [(Metric.EUCLIDEAN, 8), (Metric.DOT, 16)])
def test_deleted_regions_are_repaired_only_while_recall_stays_high(
    metric: Metric, M: int, tmp_path: Path
) -> None:
    n, dim, space = 5_000, 24, SPACES[metric]
    random = np.random.default_rng(12)
    centres = 2 * random.standard_normal((6, dim))
    raw = centres[random.integers(0, 6, n)] + random.standard_normal((n, dim))
    rows = prepared(raw.astype(np.float32), space)
    graph = built(space, rows, tmp_path, M=M)
    near = np.argsort(np.square(rows - rows[0]).sum(axis=1))
    scattered = random.permutation(n)
    queries = rows[near[:150]] + np.float32(0.02)
    for fraction in (0.02, 0.06, 0.25):
        deleted = bitmap(n, near[: int(fraction * n)])
        assert deleted_together(graph, deleted) == (fraction == 0.25)
        assert not deleted_together(graph, bitmap(n, scattered[: int(fraction * n)]))
        if fraction < 0.25:
            live = live_nodes(n, deleted)
            after, afresh = (
                repaired(graph, rows, deleted, metric),
                built(space, rows[live], tmp_path, M=M),
            )
            assert after is not None
            found, expected = (
                recall(each, rows[live], queries, metric_of(space)) for each in (after, afresh)
            )
            assert found >= expected - 0.01
    assert not deleted_together(graph, np.zeros(0, np.uint8))
    graph.links[5, 0], graph.links[6, 1] = 2_000_000_000, -7  # Damaged lists are read in bounds.
    deleted_together(graph, bitmap(n, np.arange(50)))


def test_repair_without_deleted_nodes_returns_the_same_graph(tmp_path: Path) -> None:
    rows = prepared(clustered(500, 8, seed=3), "l2")
    graph = built("l2", rows, tmp_path)
    assert repaired(graph, rows, np.zeros(0, np.uint8), Metric.EUCLIDEAN) is graph


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_repair_that_leaves_few_nodes_is_valid(left: int, tmp_path: Path) -> None:
    n = 400
    rows = prepared(clustered(n, 8, seed=4), "l2")
    graph = built("l2", rows, tmp_path, M=4)
    deleted = np.delete(np.arange(n), np.arange(left) * 100)
    after = repaired(graph, rows, bitmap(n, deleted), Metric.EUCLIDEAN)
    check_layout(after, left, 4)
    assert reachable_nodes(after).all()
    assert (after.entry, after.top_level) == (-1, -1) or 0 <= after.entry < left


def test_node_whose_neighbours_are_all_deleted_stays_reachable(tmp_path: Path) -> None:
    """One live node is left of a distant group: it has no live neighbour, and no list has it."""
    rows = prepared(clustered(2_000, 8, seed=5), "l2")
    rows[:100] += np.float32(1_000)
    graph = built("l2", rows, tmp_path, M=4)
    after = repaired(graph, rows, bitmap(2_000, np.arange(1, 100)), Metric.EUCLIDEAN)
    check_layout(after, 1_901, 4)
    assert reachable_nodes(after).all()
    assert after.links[0, 0] > 0


def test_repair_without_entry_and_top_level_chooses_new_ones(tmp_path: Path) -> None:
    rows = prepared(clustered(3_000, 8, seed=6), "l2")
    graph = built("l2", rows, tmp_path, M=4)
    levels = np.diff(graph.upper_offsets)
    deleted = np.flatnonzero(levels >= graph.top_level - 1)
    after = repaired(graph, rows, bitmap(3_000, deleted), Metric.EUCLIDEAN)
    check_layout(after, 3_000 - len(deleted), 4)
    assert after.top_level == graph.top_level - 2
    assert reachable_nodes(after).all()


def test_damaged_lists_are_read_within_bounds(tmp_path: Path) -> None:
    """An invalid neighbour number ends its list, as in a walk."""
    rows = prepared(clustered(300, 8, seed=7), "l2")
    graph = built("l2", rows, tmp_path, M=4)
    links = graph.links.copy()
    links[5, 0], links[6, 1] = 2_000_000_000, -7
    damaged = Graph(links, graph.upper_offsets, graph.upper_links, graph.entry, graph.top_level)
    after = repaired(damaged, rows, bitmap(300, [1, 2, 3]), Metric.EUCLIDEAN)
    check_layout(after, 297, 4)


SIDE = 200
"""Nodes in each half of a graph whose halves are connected by two nodes."""


def two_clouds() -> tuple[Any, Graph]:
    """Return rows in two clouds, and a graph with a ring of full lists in each cloud and a single
    path between them over the last two nodes."""
    random = np.random.default_rng(8)
    rows = random.standard_normal((2 * SIDE + 2, 16)).astype(np.float32)
    rows[SIDE : 2 * SIDE, 0] += 6
    rows[0, 0] -= 6  # The only node with room is far from all others.
    ring = (np.arange(SIDE)[:, None] + np.arange(1, 9)) % SIDE
    links = np.concatenate([ring, SIDE + ring, np.zeros((2, 8), np.int64)]).astype(np.int32)
    links[0, 7] = 2 * SIDE
    links[2 * SIDE] = [2 * SIDE + 1, *range(1, 8)]
    links[2 * SIDE + 1] = [2 * SIDE, *range(SIDE, SIDE + 7)]
    no_upper = np.zeros(len(rows) + 1, np.int32), np.empty((0, 4), np.int32)
    return rows, Graph(links, *no_upper, 0, 0)


def test_graph_that_would_be_disconnected_is_not_repaired() -> None:
    rows, graph = two_clouds()
    n = len(rows)
    assert reachable_nodes(graph).all()
    one = repaired(graph, rows, bitmap(n, [n - 2]), Metric.EUCLIDEAN)
    assert one is not None and reachable_nodes(one).all()
    assert repaired(graph, rows, bitmap(n, [n - 2, n - 1]), Metric.EUCLIDEAN) is None


def test_nodes_unreachable_before_the_repair_may_stay_unreachable() -> None:
    """One node in two thousand, which no list has room for."""
    n = 2_000
    rows = np.random.default_rng(9).standard_normal((n, 16)).astype(np.float32)
    links = ((np.arange(n)[:, None] + np.arange(1, 9)) % (n - 1)).astype(np.int32)
    graph = Graph(links, np.zeros(n + 1, np.int32), np.empty((0, 4), np.int32), 0, 0)
    assert np.flatnonzero(~reachable_nodes(graph)).tolist() == [n - 1]
    after = repaired(graph, rows, bitmap(n, [700]), Metric.EUCLIDEAN)
    assert after is not None
    assert np.count_nonzero(~reachable_nodes(after)) <= LOST_FRACTION_MAX * n
