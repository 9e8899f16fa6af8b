"""Recall with deleted rows equals that of a graph built from the live rows only, whatever share of
a graph is deleted and in whatever shape.

No indexer runs, so no segment is rebuilt: this is the state between a deletion and a rebuild.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now, recall
from tests.serving import running_server
from vecdb.types import SearchInfo

ROWS, DIM, QUERIES = 3_000, 8, 100
LESS_MAX = 0.01
METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])


def names_of(rows: Any) -> list[str]:
    return [str(i) for i in rows]


def filled(database: Any, name: str, metric: str, rows: Any, vectors: np.ndarray) -> Any:
    docs = database.create_collection(name, vectors.shape[1], metric)
    docs.upsert_many(names_of(rows), vectors[rows])
    flush_now(docs)
    index_now(docs)
    assert [s.kind for s in docs.stats().segments] == ["graph"]
    return docs


def measured(docs: Any, queries: np.ndarray, k: int) -> float:
    return recall(docs.search(queries, k=k), docs.search(queries, k=k, exact=True))


def shapes(vectors: np.ndarray, share: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return rows to delete: those nearest to row 0, whole clusters, each m-th row, random rows."""
    n, count = len(vectors), int(len(vectors) * share)
    order = np.argsort(np.square(vectors - vectors[0]).sum(axis=1))
    centers = vectors[rng.choice(n, 10, replace=False)]
    distance = np.square(vectors[:, None] - centers).sum(axis=2)
    by_cluster = np.argsort(distance.argmin(axis=1), kind="stable")
    return {
        "nearest": order[:count],
        "clusters": by_cluster[:count],
        "tenant": np.arange(n)[np.arange(n) * share % 1 < share][:count],
        "random": rng.choice(n, count, replace=False),
    }


@pytest.mark.slow
@METRICS
def test_recall_with_deleted_rows_equals_that_of_a_new_build(tmp_path: Path, metric: str) -> None:
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    with vecdb.open(tmp_path / "whole", indexer=False) as database:
        filled(database, "docs", metric, np.arange(ROWS), vectors)
    for share in (0.15, 1 / 3):
        for shape, gone in shapes(vectors, share, rng).items():
            data = tmp_path / f"{shape}-{share:.2f}"
            shutil.copytree(tmp_path / "whole", data)
            with vecdb.open(data, indexer=False) as database:
                docs = database.collection("docs")
                docs.delete(names_of(gone))
                live = np.setdiff1d(np.arange(ROWS), gone)
                fresh = filled(database, "fresh", metric, live, vectors)
                # Queries among the deleted rows, and everywhere.
                everywhere = vectors[rng.choice(ROWS, QUERIES)]
                for queries in vectors[:1], vectors[gone[:QUERIES]], everywhere:
                    for k in (10, 100):
                        floor = measured(fresh, queries, k) - LESS_MAX
                        assert measured(docs, queries, k) >= floor, (shape, share, k)


def test_deleted_first_duplicate_does_not_hide_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((1_000, DIM), dtype=np.float32)
    vectors[100:160] = vectors[100]
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = filled(database, "docs", "euclidean", np.arange(1_000), vectors)
        docs.delete(names_of(range(100, 150)))
        hits = docs.search(vectors[100], k=10)
        assert set(hits.ids) == set(names_of(range(150, 160)))
        assert not hits.info.exact


@METRICS
def test_k_above_the_live_rows_returns_all_of_them_once(tmp_path: Path, metric: str) -> None:
    """Two segments: updated rows are deleted in the first one and live in the second."""
    rng = np.random.default_rng(11)
    vectors = rng.standard_normal((2_000, DIM), dtype=np.float32)
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = filled(database, "docs", metric, np.arange(2_000), vectors)
        moved = np.argsort(np.square(vectors - vectors[0]).sum(axis=1))[:600]
        now = vectors.copy()
        now[moved] = rng.standard_normal((len(moved), DIM), dtype=np.float32)
        docs.upsert_many(names_of(moved), now[moved])
        flush_now(docs)
        assert [s.kind for s in docs.stats().segments] == ["graph", "flat"]
        for queries in vectors[moved[:QUERIES]], now[moved[:QUERIES]]:
            assert measured(docs, queries, 10) >= 0.97
        docs.delete(names_of(range(5, 2_000)))
        for hits in docs.search(vectors[:20], k=10):
            assert sorted(hits.ids) == names_of(range(5))


def test_search_info_counts_deleted_rows_visited(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    vectors = rng.standard_normal((2_000, DIM), dtype=np.float32)
    near = np.argsort(np.square(vectors - vectors[0]).sum(axis=1))[:200]
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = filled(database, "docs", "euclidean", np.arange(2_000), vectors)
        assert docs.search(vectors[0], k=5).info.deleted_visited == 0
        docs.delete(names_of(near))
        inside, far = docs.search(np.stack([vectors[0], vectors[0] * 0 + 9]), k=5)
        # All of them are nearer than any live row.
        assert inside.info.deleted_visited == 200 and inside.info.visited > 200
        assert far.info.deleted_visited < 200
        assert docs.search(vectors[0], k=5, exact=True).info.deleted_visited == 0
        embedded = inside.info
    with (
        running_server(tmp_path / "data", indexer=False) as address,
        vecdb.connect(address) as client,
    ):
        remote: SearchInfo = client.collection("docs").search(vectors[0], k=5).info
        assert remote.deleted_visited == embedded.deleted_visited
