"""Graphs without their dead nodes: all that lives is found as well as in a graph built anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_hnsw import built, check_layout, clustered, metric_of, prepared, recall
from vecdb.engine.export.healing import healed, live_nodes
from vecdb.engine.graph import Graph
from vecdb.engine.reachability import reachable_nodes
from vecdb.types import Metric

SPACES = {Metric.EUCLIDEAN: "l2", Metric.DOT: "ip"}


def bitmap(n: int, dead: Any) -> Any:
    bits = np.zeros(n, np.uint8)
    bits[dead] = 1
    return np.packbits(bits, bitorder="little")


@pytest.mark.parametrize("metric", SPACES)
@pytest.mark.parametrize("M", [8, 16])
def test_recall_is_that_of_a_fresh_build(metric: Metric, M: int, tmp_path: Path) -> None:
    n, space = 10_000, SPACES[metric]
    raw = clustered(n + 200, 32, seed=1)
    rows, queries = prepared(raw[:n], space), prepared(raw[n:], space)
    graph = built(space, rows, tmp_path, M=M)
    for fraction in (0.02, 0.1, 0.25):
        dead = np.random.default_rng(2).choice(n, int(fraction * n), replace=False)
        live = live_nodes(n, bitmap(n, dead))
        after = healed(graph, rows, bitmap(n, dead), metric)
        check_layout(after, len(live), M)
        assert reachable_nodes(after).all()
        afresh = built(space, rows[live], tmp_path, M=M)
        found = recall(after, rows[live], queries, metric_of(space), ef=64)
        assert found >= recall(afresh, rows[live], queries, metric_of(space), ef=64) - 0.01
        untouched = ~np.isin(graph.links[live], dead).any(axis=1)
        number = np.full(n + 1, -1)
        number[live] = np.arange(len(live))
        # But for links that were added at the end so that others can be reached.
        same = after.links[untouched] == number[graph.links[live][untouched]]
        assert (same | (number[graph.links[live][untouched]] < 0)).all()


def test_nothing_dead_changes_nothing(tmp_path: Path) -> None:
    rows = prepared(clustered(500, 8, seed=3), "l2")
    graph = built("l2", rows, tmp_path)
    assert healed(graph, rows, np.zeros(0, np.uint8), Metric.EUCLIDEAN) is graph


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_hardly_anything_is_left(left: int, tmp_path: Path) -> None:
    n = 400
    rows = prepared(clustered(n, 8, seed=4), "l2")
    graph = built("l2", rows, tmp_path, M=4)
    dead = np.delete(np.arange(n), np.arange(left) * 100)
    after = healed(graph, rows, bitmap(n, dead), Metric.EUCLIDEAN)
    check_layout(after, left, 4)
    assert reachable_nodes(after).all()
    assert (after.entry, after.top_level) == (-1, -1) or 0 <= after.entry < left


def test_all_around_a_node_has_died(tmp_path: Path) -> None:
    """Of a group far from everything one node lives on: nobody knows it, and it knows nobody."""
    rows = prepared(clustered(2_000, 8, seed=5), "l2")
    rows[:100] += np.float32(1_000)
    graph = built("l2", rows, tmp_path, M=4)
    after = healed(graph, rows, bitmap(2_000, np.arange(1, 100)), Metric.EUCLIDEAN)
    check_layout(after, 1_901, 4)
    assert reachable_nodes(after).all()
    assert after.links[0, 0] > 0


def test_the_entry_and_the_top_go(tmp_path: Path) -> None:
    rows = prepared(clustered(3_000, 8, seed=6), "l2")
    graph = built("l2", rows, tmp_path, M=4)
    levels = np.diff(graph.upper_offsets)
    dead = np.flatnonzero(levels >= graph.top_level - 1)
    after = healed(graph, rows, bitmap(3_000, dead), Metric.EUCLIDEAN)
    check_layout(after, 3_000 - len(dead), 4)
    assert after.top_level == graph.top_level - 2
    assert reachable_nodes(after).all()


def test_lists_are_read_within_bounds(tmp_path: Path) -> None:
    """A neighbour that does not exist ends its list, as in a walk."""
    rows = prepared(clustered(300, 8, seed=7), "l2")
    graph = built("l2", rows, tmp_path, M=4)
    links = graph.links.copy()
    links[5, 0], links[6, 1] = 2_000_000_000, -7
    damaged = Graph(links, graph.upper_offsets, graph.upper_links, graph.entry, graph.top_level)
    after = healed(damaged, rows, bitmap(300, [1, 2, 3]), Metric.EUCLIDEAN)
    check_layout(after, 297, 4)
