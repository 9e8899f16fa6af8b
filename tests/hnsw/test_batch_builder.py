"""Graphs built in batches: determinism, recall beside hnswlib's, duplicates, growth, few rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import pytest

from tests.hnsw.test_hnsw import (
    NOTHING_DELETED,
    K,
    check_layout,
    clustered,
    damaged,
    exact,
    metric_of,
    prepared,
    reached,
    recall,
)
from tests.places import override
from vecdb.engine.hnsw.batch_builder import BatchBuilder
from vecdb.engine.hnsw.build_space import Space
from vecdb.engine.hnsw.builder import Builder, file_pieces
from vecdb.engine.hnsw.choice import Curve, excess_of, run_trial
from vecdb.engine.hnsw.graph import BATCHES, HNSWLIB_BY_TRIAL, Graph
from vecdb.engine.hnsw.graph_checks import graph_faults, self_links
from vecdb.engine.hnsw.reachability import reachable_nodes
from vecdb.engine.kernels import compiled as kernels
from vecdb.errors import DataLossError

SPACES: tuple[Space, ...] = ("ip", "l2", "dot")


def built(
    space: Space, *parts: Any, M: int = 16, ef_construction: int = 64, threads: int = 2
) -> Graph:
    builder = BatchBuilder(space, parts[0].shape[1], M, ef_construction, 0, threads)
    for part in parts:
        builder.add(part)
    return builder.graph()


def check_sound(graph: Graph, n: int, M: int) -> None:
    check_layout(graph, n, M)
    assert graph_faults(graph, M) == []
    assert self_links(graph) == 0
    assert reachable_nodes(graph).all()
    assert graph.built_by == BATCHES


def same(one: Graph, other: Graph) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(Graph)
    )


def inner_metric(space: Space) -> int:
    return kernels.INNER if space == "dot" else metric_of(space)


@pytest.mark.parametrize("space", SPACES)
def test_graph_does_not_depend_on_threads(space: Space) -> None:
    rows = prepared(clustered(4_000, 20, seed=1), space)
    graphs = [built(space, rows[:2_500], rows[2_500:], threads=t) for t in (1, 2, 3, 2)]
    assert all(same(graphs[0], graph) for graph in graphs[1:])
    check_sound(graphs[0], 4_000, 16)


@pytest.mark.parametrize("dim", [7, 56, 57, 128])
@pytest.mark.parametrize("space", SPACES)
def test_recall_is_hnswlibs_at_equal_visited_nodes(space: Space, dim: int, tmp_path: Path) -> None:
    raw = clustered(3_300, dim, seed=dim)
    rows, queries = prepared(raw[:3_000], space), prepared(raw[3_000:], space)
    reference = Builder(space, rows.shape[1], 16, 64, len(rows))
    reference.add(rows)
    graph = built(space, rows)
    check_sound(graph, 3_000, 16)
    metric = inner_metric(space)
    ours, visited = recall_and_cost(graph, rows, queries, metric)
    theirs, visited_there = recall_and_cost(reference.graph(tmp_path), rows, queries, metric)
    assert ours >= theirs - 0.02
    assert visited <= 1.15 * visited_there


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("space", SPACES)
def test_rows_of_few_components_are_found(space: Space, dim: int) -> None:
    """Here many rows are nearer to each other than the steps of their codes."""
    raw = clustered(3_300, dim, seed=dim)
    rows, queries = prepared(raw[:3_000], space), prepared(raw[3_000:], space)
    graph = built(space, rows)
    check_sound(graph, 3_000, 16)
    found, _ = recall_and_cost(graph, rows, queries, inner_metric(space))
    assert found > 0.9


def recall_and_cost(graph: Graph, rows: Any, queries: Any, metric: int) -> tuple[float, float]:
    q = len(queries)
    nodes, scores = np.full((q, K), -1), np.full((q, K), np.inf, np.float32)
    counts, visited = np.zeros(q, np.int64), np.zeros(q, np.int64)
    kernels.walk(
        kernels.Scratch(), rows, graph, NOTHING_DELETED, queries, 0, q, metric, K, 40,
        nodes, scores, counts, visited,
    )  # fmt: skip
    truth = exact(rows, queries, metric)
    kth = np.empty(q, np.float32)
    for i in range(q):
        if metric == kernels.INNER:
            kth[i] = -np.min(rows[truth[i]] @ queries[i])
        else:
            kth[i] = np.max(np.square(rows[truth[i]] - queries[i]).sum(axis=1))
    near = scores <= kth[:, None] + 1e-5 * np.abs(kth[:, None]) + 1e-7
    return float(near.mean()), float(visited.mean())


@pytest.mark.parametrize("n", [0, 1, 2, 3, 33])
@pytest.mark.parametrize("space", SPACES)
def test_graph_of_few_rows_is_valid_and_grows(space: Space, n: int, tmp_path: Path) -> None:
    rows = prepared(clustered(n, 5, seed=3), space)
    graph = built(space, rows, M=4, ef_construction=20)
    check_sound(graph, n, 4)
    if n == 0:
        assert (graph.entry, graph.top_level) == (-1, -1)
    more = prepared(clustered(50, 5, seed=4), space)
    everything = np.concatenate([rows, more])
    for maker in (BatchBuilder, Builder):
        builder = maker.from_graph(
            graph, rows, space=space, M=4, ef_construction=20, capacity=0, work_dir=tmp_path
        )
        builder.add(more)
        grown = builder.graph(tmp_path)
        check_layout(grown, n + 50, 4)
        assert reachable_nodes(grown).all()
        assert recall(grown, everything, everything, inner_metric(space)) > 0.9


def test_rows_of_zeros_and_of_extreme_lengths_are_linked() -> None:
    rows = clustered(600, 16, seed=5)
    for scale in (0.0, 1e-30, 1e-12, 1e12, 1e18):
        for space in ("l2", "dot"):
            parts = rows[:300], rows[300:] * np.float32(scale)
            check_sound(built(space, *parts), 600, 16)  # type: ignore[arg-type]


def test_identical_rows_do_not_lower_recall(tmp_path: Path) -> None:
    rows = clustered(2_000, 16, seed=7)
    rows[:500], rows[900:1_400:7], rows[1_900] = rows[0], rows[900], rows[1_901]
    graph = built("l2", *np.array_split(rows, 3), ef_construction=128)
    check_sound(graph, 2_000, 16)
    assert recall(graph, rows, rows[600:900], kernels.EUCLIDEAN) > 0.97
    assert reached(graph, rows, 250) >= set(range(500))
    for maker in (BatchBuilder, Builder):
        again = maker.from_graph(
            graph, rows, space="l2", M=16, ef_construction=128, capacity=0, work_dir=tmp_path
        )
        again.add(rows[:600])
        grown = again.graph(tmp_path)
        every = np.concatenate([rows, rows[:600]])
        check_layout(grown, 2_600, 16)
        assert reached(grown, every, 250) >= {*range(500), *range(2_000, 2_500)}
        assert reached(grown, every, 550) >= {550, 2_550}


def test_graph_of_one_repeated_vector_is_searchable() -> None:
    rows = np.ones((3_000, 16), np.float32)
    graph = built("ip", rows)
    check_sound(graph, 3_000, 16)
    assert len(reached(graph, rows, 0)) == 1_500


@pytest.mark.parametrize("space", SPACES)
def test_graph_extended_by_either_builder_keeps_its_recall(space: Space, tmp_path: Path) -> None:
    raw = clustered(4_200, 24, seed=8)
    rows, queries = prepared(raw[:4_000], space), prepared(raw[4_000:], space)
    metric = inner_metric(space)
    found = recall(built(space, rows), rows, queries, metric)
    first = Builder(space, rows.shape[1], 16, 64, 2_000)
    first.add(rows[:2_000])
    for maker, half in (
        (Builder, built(space, rows[:2_000])),
        (BatchBuilder, built(space, rows[:2_000])),
        (BatchBuilder, first.graph(tmp_path)),
    ):
        builder = maker.from_graph(
            half, rows[:2_000], space=space, M=16, ef_construction=64, capacity=0,
            work_dir=tmp_path,
        )  # fmt: skip
        builder.add(rows[2_000:])
        graph = builder.graph(tmp_path)
        check_layout(graph, 4_000, 16)
        assert reachable_nodes(graph).all()
        assert recall(graph, rows, queries, metric) >= found - 0.02


def test_graph_loaded_and_returned_has_the_same_links(tmp_path: Path) -> None:
    rows = clustered(3_000, 16, seed=9)
    graph = built("l2", rows, M=4)
    again = BatchBuilder.from_graph(
        graph, rows, space="l2", M=4, ef_construction=64, capacity=0, work_dir=tmp_path
    ).graph()
    for name in ("links", "upper_offsets", "upper_links", "top_level"):
        np.testing.assert_array_equal(getattr(again, name), getattr(graph, name))


@pytest.mark.parametrize("field", ["links", "upper_offsets", "upper_links", "entry", "top_level"])
def test_damaged_graph_is_refused(field: str, tmp_path: Path) -> None:
    rows = clustered(1_000, 16, seed=10)
    with pytest.raises(DataLossError):
        BatchBuilder.from_graph(
            damaged(field, built("l2", rows, M=4)), rows,
            space="l2", M=4, ef_construction=20, capacity=0, work_dir=tmp_path,
        )  # fmt: skip


def test_hnswlib_reads_a_file_of_the_graph_and_finds_the_same_rows(tmp_path: Path) -> None:
    raw = clustered(3_100, 16, seed=11)
    rows, queries = raw[:3_000], raw[3_000:]
    graph, path = built("l2", rows), tmp_path / "graph.hnsw"
    pieces = file_pieces(
        graph, [rows], np.arange(3_000), width=16, M=16, ef_construction=64, capacity=3_000
    )
    with open(path, "wb") as file:
        file.writelines(pieces)
    index = hnswlib.Index("l2", 16)
    index.load_index(str(path))
    index.set_ef(128)
    theirs, _ = index.knn_query(queries, K)
    nodes, scores = np.full((100, K), -1), np.empty((100, K), np.float32)
    counts, visited = np.zeros(100, np.int64), np.zeros(100, np.int64)
    kernels.walk(
        kernels.Scratch(), rows, graph, NOTHING_DELETED, queries, 0, 100, kernels.EUCLIDEAN, K,
        128, nodes, scores, counts, visited,
    )  # fmt: skip
    # Floats are summed in another order, so near ties may swap.
    assert np.mean(nodes == theirs.astype(np.int64)) >= 0.995


def test_block_of_another_width_is_refused() -> None:
    builder = BatchBuilder("l2", 16, 8, 40, 0)
    with pytest.raises(ValueError, match=r"\(m, 16\)"):
        builder.add(clustered(3, 16, seed=1), np.zeros((3, 32), np.float32))
    assert builder.count == 0


def test_steps_report_the_rows_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    override(monkeypatch, "batch_step_rows", 400)
    builder, steps = BatchBuilder("l2", 16, 8, 40, 0), list[int]()
    builder.add(clustered(1_000, 16, seed=12), on_step=steps.append)
    builder.add(clustered(500, 16, seed=13), on_step=steps.append)
    assert {400, 800, 1_000, 1_400, 1_500} <= set(steps)
    assert steps == sorted(set(steps)) and len(steps) > 5 and steps[-1] == 1_500


@pytest.fixture
def small_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    override(monkeypatch, "trial_rows", 2_000)
    override(monkeypatch, "trial_queries", 500)
    # Of so few rows the times are those of starting.
    override(monkeypatch, "trial_cpu_fraction_max", np.inf)


@pytest.mark.usefixtures("small_trials")
def test_trial_chooses_hnswlib_for_rows_nearer_than_the_steps_of_codes(tmp_path: Path) -> None:
    random = np.random.default_rng(14)
    rows = np.ones((3_000, 16), np.float32)
    rows[:, 0] = random.choice([-1e4, 1e4], 3_000)
    rows[:, 1:] += 0.1 * random.standard_normal((3_000, 15)).astype(np.float32)
    trial = run_trial([rows], space="l2", M=16, ef_construction=64, work_dir=tmp_path, threads=2)
    assert trial.built_by == HNSWLIB_BY_TRIAL
    assert trial.excess > 0.2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_trials")
def test_trial_chooses_batches_for_ordinary_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(15).standard_normal((3_000, 16)).astype(np.float32)
    blocks = np.array_split(rows, 4)
    trial = run_trial(blocks, space="l2", M=16, ef_construction=128, work_dir=tmp_path, threads=2)
    assert trial.built_by == BATCHES, trial


def testexcess_of_compares_what_is_missed_at_equal_cost() -> None:
    random = np.random.default_rng(16)
    visited = np.array([100.0, 200.0, 400.0, 800.0, 1_600.0])
    missed = np.array([0.4, 0.2, 0.1, 0.05, 0.025])[:, None] + 0.001 * random.random((5, 300))
    reference = Curve(visited, missed)
    assert excess_of(reference, reference) == (0.0, 0.0)
    twice, _ = excess_of(reference, Curve(visited, 2 * missed))
    assert twice == pytest.approx(2 / 3, abs=0.01)
    dearer, _ = excess_of(reference, Curve(2 * visited, missed))
    assert dearer > 0.3
    perfect = Curve(visited, np.zeros((5, 300)))
    assert excess_of(perfect, perfect) == (0.0, 0.0)
