"""Every node of every built graph is reachable from its entry point, in every space, for every M,
for rows of any shape, and after any number of extensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from vecdb.engine.hnsw import finishing
from vecdb.engine.hnsw.builder import Builder, Space
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.graph_checks import graph_faults
from vecdb.engine.hnsw.reachability import connect, reachable_nodes

ROWS, DIM = 600, 16
SPACES: tuple[Space, ...] = ("ip", "l2", "dot")


def shapes(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    normal = random.standard_normal((ROWS, DIM))
    line, copies, outliers = np.zeros((ROWS, DIM)), normal.copy(), 1e-3 * normal
    line[:, 0] = normal[:, 0]
    copies[ROWS // 3 :] = copies[0]
    outliers[:30] *= 1e5
    return {
        "normal": normal,
        "positive": np.abs(normal) + 0.5,
        "lengths": normal * np.exp(1.5 * random.standard_normal((ROWS, 1))),
        "line": line,
        "copies": copies,
        "near copies": normal[0] + 1e-3 * normal,
        "one hot": np.eye(DIM)[random.integers(0, DIM, ROWS)] * random.uniform(1, 2, (ROWS, 1)),
        "outliers": outliers,
    }


def prepared(rows: Any, space: Space) -> Any:
    if space == "ip":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows, np.float32)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("M", [2, 3, 4, 16])
@pytest.mark.parametrize("space", SPACES)
def test_every_node_of_built_and_extended_graphs_is_reachable(
    space: Space, M: int, seed: int, tmp_path: Path
) -> None:
    lost = 0

    def counted(graph: Graph, *arguments: Any, **options: Any) -> int:
        nonlocal lost
        lost += int(np.count_nonzero(~reachable_nodes(graph)))
        return connect(graph, *arguments, **options)

    for name, raw in shapes(seed).items():
        rows, half = prepared(raw, space), ROWS // 2
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finishing, "connect", counted)
            builder = Builder(space, DIM, M, 4, ROWS)
            builder.add(rows[:half])
            graph = builder.graph(tmp_path)
            assert reachable_nodes(graph).all(), name
            builder = Builder.from_graph(
                graph, rows[:half], space=space, M=M, ef_construction=4, capacity=ROWS,
                work_dir=tmp_path,
            )  # fmt: skip
            builder.add(rows[half:])
            graph = builder.graph(tmp_path)
        assert reachable_nodes(graph).all(), name
        assert graph_faults(graph, M) == []
    assert lost > 0 or M == 16, "hnswlib loses some at small M"


def test_replacing_links_keeps_reached_nodes_reachable() -> None:
    """All lists are full: three links each, one of them along a ring."""
    n = 50
    links = (np.arange(n)[:, None] + np.array([1, 2, 3, 4])) % (n - 10)
    links[n - 10 :] = np.arange(n - 10, n)[:, None]  # Only links to themselves: unreachable.
    graph = Graph(
        links.astype(np.int32), np.zeros(n + 1, np.int32), np.empty((0, 2), np.int32), 0, 0
    )
    assert np.count_nonzero(reachable_nodes(graph)) == n - 10
    assert connect(graph) == 10
    assert connect(graph, distances=lambda node, others: np.abs(others - node).astype(float)) == 0
    assert reachable_nodes(graph).all()


@pytest.mark.parametrize(
    "metric",
    [
        "cosine",
        pytest.param("euclidean", marks=pytest.mark.slow),
        pytest.param("dot", marks=pytest.mark.slow),
    ],
)
def test_published_graphs_with_deletions_are_fully_reachable(metric: str, tmp_path: Path) -> None:
    """As counted by ``check`` after building, deleting, extending and optimising with M = 2."""
    random = np.random.default_rng(3)
    rows = (np.abs(random.standard_normal((900, DIM))) + 0.5).astype(np.float32)
    names = [str(i) for i in range(len(rows))]
    folder = tmp_path / "data"
    with vecdb.open(folder, indexer=False) as database:
        docs = database.create_collection("docs", DIM, metric, M=2)
        for part in range(3):
            chosen = slice(300 * part, 300 * (part + 1))
            docs.upsert(names[chosen], rows[chosen])
            docs.delete(names[300 * part : 300 * part + 40])
            flush_now(docs)
            index_now(docs)
        assert {s.kind for s in docs.stats().segments} == {"graph"}
    assert vecdb.check(folder).problems == ()
