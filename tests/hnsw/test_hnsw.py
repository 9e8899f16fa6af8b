"""Graphs built by hnswlib: recall, order of rows, growth, duplicates, damage and a full disk."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecdb.engine.hnsw.builder import Builder, Graph
from vecdb.engine.kernels import compiled as kernels
from vecdb.errors import DataLossError

NOTHING_DELETED = np.zeros(0, np.uint8)
K = 10


def clustered(n: int, dim: int, seed: int) -> Any:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((100, dim))
    rows = centres[random.integers(0, 100, n)] + 0.6 * random.standard_normal((n, dim))
    return rows.astype(np.float32)


def metric_of(space: str) -> int:
    return kernels.INNER if space == "ip" else kernels.EUCLIDEAN


def prepared(raw: Any, space: str) -> Any:
    rows = np.empty((len(raw), -(-raw.shape[1] // 16) * 16), np.float32)
    kernels.prepare_rows(raw, rows, space == "ip")
    return rows


def built(space: str, rows: Any, work_dir: Path, M: int = 16, ef_construction: int = 128) -> Graph:
    builder = Builder(space, rows.shape[1], M, ef_construction, len(rows))  # type: ignore[arg-type]
    builder.add(rows)
    assert builder.count == len(rows)
    return builder.graph(work_dir)


def exact(rows: Any, queries: Any, metric: int, k: int = K) -> Any:
    q = len(queries)
    scores, nodes = np.empty((q, k), np.float32), np.empty((q, k), np.int64)
    counts = np.zeros(q, np.int64)
    kernels.scan_rows(
        rows, NOTHING_DELETED, 0, len(rows), queries, 0, q, metric, k, scores, nodes, counts
    )
    kernels.sort_heaps(scores, nodes, counts, 0, q)
    return nodes


def recall(graph: Graph, rows: Any, queries: Any, metric: int, ef: int = 128) -> float:
    q = len(queries)
    nodes, scores = np.full((q, K), -1), np.empty((q, K), np.float32)
    counts, visited = np.zeros(q, np.int64), np.zeros(q, np.int64)
    kernels.walk(
        kernels.Scratch(), rows, graph, NOTHING_DELETED, queries, 0, q, metric, K, ef,
        nodes, scores, counts, visited,
    )  # fmt: skip
    truth = exact(rows, queries, metric)
    return sum(len(np.intersect1d(a, b)) for a, b in zip(nodes, truth, strict=True)) / truth.size


def check_layout(graph: Graph, n: int, M: int) -> None:
    assert graph.links.shape == (n, 2 * M) and graph.links.dtype == np.int32
    assert graph.upper_offsets.shape == (n + 1,) and graph.upper_offsets.dtype == np.int32
    assert graph.upper_links.shape == (graph.upper_offsets[-1], M)
    assert graph.upper_links.dtype == np.int32
    for lists in (graph.links, graph.upper_links):
        assert lists.min(initial=0) >= -1 and lists.max(initial=0) < max(n, 1)
        assert np.all(np.diff((lists >= 0).astype(np.int8), axis=1) <= 0), "padding is at the end"
    if n:
        assert graph.top_level == np.diff(graph.upper_offsets).max()
        assert graph.top_level == np.diff(graph.upper_offsets)[graph.entry]


@pytest.mark.slow
@pytest.mark.parametrize("space", ["ip", "l2"])
def test_recall_of_new_and_extended_graphs_has_a_floor(space: str, tmp_path: Path) -> None:
    n, metric = 20_000, metric_of(space)
    raw = clustered(n + 200, 48, seed=1)
    rows, queries = prepared(raw[:n], space), prepared(raw[n:], space)
    fresh = built(space, rows, tmp_path)
    check_layout(fresh, n, 16)
    assert (found := recall(fresh, rows, queries, metric)) >= 0.95

    half = built(space, rows[: n // 2], tmp_path)
    builder = Builder.from_graph(
        half, rows[: n // 2], space=space, M=16, ef_construction=128, capacity=n, work_dir=tmp_path
    )  # type: ignore[arg-type]
    builder.add(rows[n // 2 :])
    extended = builder.graph(tmp_path)
    check_layout(extended, n, 16)
    assert recall(extended, rows, queries, metric) >= found - 0.02
    assert list(tmp_path.iterdir()) == []


def test_graph_is_in_row_order(tmp_path: Path) -> None:
    """With two threads hnswlib's order of insertion is random; the graph must be in row order."""
    rows = clustered(3_000, 16, seed=2)
    graph = built("l2", rows, tmp_path)
    nearest = exact(rows, rows, kernels.EUCLIDEAN, k=2)[:, 1]  # The first is the row itself.
    assert np.mean(np.any(graph.links == nearest[:, None], axis=1)) > 0.8


@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize("space", ["ip", "l2"])
def test_graph_of_few_rows_is_valid(space: str, n: int, tmp_path: Path) -> None:
    rows = prepared(clustered(n, 5, seed=3), space)
    graph = built(space, rows, tmp_path, M=4, ef_construction=20)
    check_layout(graph, n, 4)
    if n == 0:
        assert (graph.entry, graph.top_level) == (-1, -1)
    builder = Builder.from_graph(
        graph, rows, space=space, M=4, ef_construction=20, capacity=0, work_dir=tmp_path
    )  # type: ignore[arg-type]
    more = prepared(clustered(50, 5, seed=4), space)
    builder.add(more)
    everything = np.concatenate([rows, more])
    assert recall(builder.graph(tmp_path), everything, everything, metric_of(space)) > 0.9


def test_graph_loaded_and_saved_is_unchanged(tmp_path: Path) -> None:
    rows = clustered(5_000, 16, seed=5)
    graph = built("l2", rows, tmp_path, M=4, ef_construction=20)
    again = Builder.from_graph(
        graph, rows, space="l2", M=4, ef_construction=20, capacity=0, work_dir=tmp_path
    ).graph(tmp_path)
    for field in dataclasses.fields(Graph):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(graph, field.name))


def test_capacity_grows_with_the_rows(tmp_path: Path) -> None:
    builder = Builder("l2", 16, 8, 40, capacity=0)
    rows = clustered(700, 16, seed=6)
    for start in range(0, 700, 70):
        builder.add(rows[start : start + 70])
    builder.add(rows[:0])
    assert builder.count == 700
    assert recall(builder.graph(tmp_path), rows, rows[:50], kernels.EUCLIDEAN) > 0.98
    with pytest.raises(ValueError, match=r"\(m, 16\)"):
        builder.add(np.zeros((3, 32), np.float32))


def test_identical_rows_do_not_lower_recall(tmp_path: Path) -> None:
    """hnswlib alone has a recall of 0.475 here."""
    rows = clustered(2_000, 16, seed=7)
    rows[:500], rows[900:1_400:7], rows[1_900] = rows[0], rows[900], rows[1_901]
    builder = Builder("l2", 16, 16, 128, 100)
    for part in np.array_split(rows, 3):
        builder.add(part)
    assert builder.count == 2_000
    graph = builder.graph(tmp_path)
    check_layout(graph, 2_000, 16)
    assert recall(graph, rows, rows[600:900], kernels.EUCLIDEAN) > 0.97
    assert reached(graph, rows, 250) >= set(range(500))
    again = Builder.from_graph(
        graph, rows, space="l2", M=16, ef_construction=128, capacity=0, work_dir=tmp_path
    )
    for field in dataclasses.fields(Graph):
        same = getattr(again.graph(tmp_path), field.name)
        np.testing.assert_array_equal(same, getattr(graph, field.name))
    again.add(rows[:600])
    grown = again.graph(tmp_path)
    rows = np.concatenate([rows, rows[:600]])
    check_layout(grown, 2_600, 16)
    assert reached(grown, rows, 250) >= {*range(500), *range(2_000, 2_500)}
    assert reached(grown, rows, 550) >= {550, 2_550}


def reached(graph: Graph, rows: Any, query: int) -> set[int]:
    """Return the rows at distance zero that a walk finds."""
    k = 1_500
    nodes, scores = np.full((1, k), -1), np.full((1, k), np.inf, np.float32)
    counts, visited = np.zeros(1, np.int64), np.zeros(1, np.int64)
    kernels.walk(
        kernels.Scratch(), rows, graph, NOTHING_DELETED, rows[query : query + 1], 0, 1,
        kernels.EUCLIDEAN, k, k, nodes, scores, counts, visited,
    )  # fmt: skip
    return set(nodes[scores == 0].tolist())


def test_graph_of_one_repeated_vector_is_searchable(tmp_path: Path) -> None:
    rows = np.ones((3_000, 16), np.float32)
    graph = built("ip", rows, tmp_path)
    check_layout(graph, 3_000, 16)
    assert len(reached(graph, rows, 0)) == 1_500


@pytest.mark.parametrize("kept", [0, 60, 0.5, 0.999])
def test_short_file_is_reported_as_a_full_disk(
    kept: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder("l2", 16, 4, 20, 1_000)
    builder.add(clustered(1_000, 16, seed=8))

    class Cut:
        def __init__(self, index: Any) -> None:
            self._index = index

        def save_index(self, path: str) -> None:
            self._index.save_index(path)
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: int(kept if kept > 1 else kept * len(content))])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._index, name)

    monkeypatch.setattr(builder, "index", Cut(builder.index))
    with pytest.raises(OSError) as caught:
        builder.graph(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def damaged(field: str, graph: Graph) -> Graph:
    if field in ("entry", "top_level"):
        return dataclasses.replace(graph, **{field: 10_000})  # type: ignore[arg-type]
    array = getattr(graph, field).copy()
    array.ravel()[array.size // 2] = 2_000_000
    return dataclasses.replace(graph, **{field: array})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["links", "upper_offsets", "upper_links", "entry", "top_level"])
def test_damaged_graph_is_refused_before_hnswlib_loads_it(field: str, tmp_path: Path) -> None:
    rows = clustered(1_000, 16, seed=9)
    graph = damaged(field, built("l2", rows, tmp_path, M=4, ef_construction=20))
    with pytest.raises(DataLossError):
        Builder.from_graph(
            graph, rows, space="l2", M=4, ef_construction=20, capacity=0, work_dir=tmp_path
        )


def test_neighbour_missing_from_its_level_is_refused(tmp_path: Path) -> None:
    rows = clustered(1_000, 16, seed=10)
    graph = built("l2", rows, tmp_path, M=4, ef_construction=20)
    upper = graph.upper_links.copy()
    upper[0, 0] = np.flatnonzero(np.diff(graph.upper_offsets) == 0)[0]
    with pytest.raises(DataLossError, match="missing from the level"):
        Builder.from_graph(
            dataclasses.replace(graph, upper_links=upper), rows,
            space="l2", M=4, ef_construction=20, capacity=0, work_dir=tmp_path,
        )  # fmt: skip


@pytest.mark.parametrize("space", ["ip", "l2"])
def test_benchmark_compares_equal_work(space: str, tmp_path: Path) -> None:
    from vecdb_bench.scenarios import walk

    raw = clustered(3_100, 20, seed=11)
    rows, queries = prepared(raw[:3_000], space), prepared(raw[3_000:], space)
    graph, truth = built(space, rows, tmp_path), exact(rows, queries, metric_of(space))
    ours = walk.kernel_search(graph, rows, queries, metric_of(space))(64)
    theirs = walk.hnswlib_search(graph, rows[:, :20], queries[:, :20], space, 16, tmp_path)(64)  # type: ignore[arg-type]
    # Floats are summed in another order and each graph differs, so near ties may swap.
    assert np.mean(ours == theirs) >= 0.995
    shared = [len(np.intersect1d(a, b)) for a, b in zip(ours, truth, strict=True)]
    assert sum(shared) / truth.size > 0.95
